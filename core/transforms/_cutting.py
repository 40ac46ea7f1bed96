"""Shapes cut from a model: what every block, channel and head counts for is measured once, on the whole model.

From that one measurement follows every shape, so that a shape may be tried by masking (`masked`: blocks passed over,
channels and heads multiplied by 0 or 1) before any file is written, and cut afterwards (`cut`), with equal outputs.
The importance is measured once because it ranks nearly as well as anew for each shape (Minitron, arXiv 2407.14679).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from msgspec import Meta

from core.transforms import _blocks, _widths
from core.transforms import _torch_model as torch_model
from core.transforms._widths import Shape
from core.types import Job, Record, Source

Size = Annotated[int, Meta(ge=0, le=1_000_000)]


class Cutting(Record):
    """What is left; 0 leaves as much as there is.

    blocks: how many, those of greatest influence. d_ff: MLP channels of each. kv_heads: key/value heads of each.
    queries: query heads on every key/value head.
    """

    blocks: Size = 0
    d_ff: Size = 0
    kv_heads: Size = 0
    queries: Size = 0


def left(before: Shape, params: Cutting) -> Shape:
    """The widths that these settings leave."""
    groups = params.kv_heads or before.n_kv_heads
    return Shape(
        d_ff=params.d_ff or before.d_ff,
        n_heads=groups * (params.queries or before.n_heads // before.n_kv_heads),
        n_kv_heads=groups,
        head_dim=before.head_dim,
    )


@dataclass(frozen=True)
class Importance:
    """influence: of every block. energies: output projection -> of each of its input channels."""

    influence: list[float]
    energies: dict[str, Any]

    def least(self, n: int) -> list[int]:
        """The n blocks of least influence, in rising order of it."""
        return sorted(range(len(self.influence)), key=self.influence.__getitem__)[:n]


def importance(model: Any, source: Source, job: Job) -> Importance:
    """Of the whole model, on the app's calibration text."""
    influence = _blocks.influences(model, source, job)
    energies = _widths.contributions(model, torch_model.matrices(model, source.spec), source, job)
    return Importance(influence, energies)


def cut(model: Any, source: Source, found: Importance, dropped: Sequence[int], after: Shape) -> dict[str, Any]:
    """Leave these blocks out and narrow the others; returns what changes in config.json."""
    before, n = _widths.shape_of(source.spec), source.spec.n_blocks
    config: dict[str, Any] = {}
    if after != before:
        _widths.narrow(torch_model.matrices(model, source.spec), found.energies, before, after, n)
        config |= _widths.widths_config(after)
    if dropped:
        config |= _blocks.keep(model, source, [i for i in range(n) if i not in dropped])
    return config


@contextmanager
def masked(model: Any, source: Source, found: Importance, dropped: Sequence[int], after: Shape) -> Iterator[None]:
    """Within it the model computes what `cut` would make of it; its weights stay."""
    import torch
    from torch import nn

    before = _widths.shape_of(source.spec)
    matrices = torch_model.matrices(model, source.spec)
    holder, name = torch_model.blocks(model, source.spec)
    every = getattr(holder, name)
    hooks = []
    for i in range(source.spec.n_blocks):
        if i in dropped or after == before:
            continue
        channels, _, heads = _widths.kept(found.energies, i, before, after)
        for matrix, stay in (("mlp.down_proj", channels), ("attn.o_proj", _widths.columns(heads, before.head_dim))):
            module = matrices[f"blocks.{i}.{matrix}"]
            mask = torch.zeros(module.in_features)
            mask[stay] = 1.0
            hooks.append(module.register_forward_pre_hook(lambda _, inputs, mask=mask: (inputs[0] * mask,)))
    try:
        if dropped:
            setattr(holder, name, nn.ModuleList(every[i] for i in range(len(every)) if i not in dropped))
        yield
    finally:
        setattr(holder, name, every)
        for hook in hooks:
            hook.remove()
