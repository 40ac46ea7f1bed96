"""A model with some of its blocks only, and which of them change least what goes through them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from core.transforms import _torch_model
from core.types import Job, Source

PER_BLOCK = ("layer_types", "no_rope_layers")  # lists in a config.json with a value for each block
LENGTH = ("num_hidden_layers", "n_layer", "n_layers", "num_layers")


def keep(model: Any, source: Source, kept: Sequence[int]) -> dict[str, Any]:
    """Leave the other blocks out of `model`; returns what changes in its config.json."""
    from torch import nn

    holder, name = _torch_model.blocks(model, source.spec)
    every = getattr(holder, name)
    setattr(holder, name, nn.ModuleList(every[i] for i in kept))
    lists = {key: getattr(model.config, key, None) for key in PER_BLOCK}
    config: dict[str, Any] = {key: [values[i] for i in kept] for key, values in lists.items() if values}
    given = _torch_model.config_of(source)
    return config | {next(key for key in LENGTH if key in given): len(kept)}


def influences(model: Any, source: Source, job: Job) -> list[float]:
    """Influence of every block, 0 (leaves its input as it was) to 2."""
    from torch.nn.functional import cosine_similarity

    holder, name = _torch_model.blocks(model, source.spec)
    found: list[float] = []

    def after(_: Any, inputs: tuple[Any, ...], output: Any) -> None:
        leaving = output[0] if isinstance(output, tuple) else output
        found.append(1 - float(cosine_similarity(inputs[0], leaving, dim=-1).mean()))

    hooks = [block.register_forward_hook(after) for block in getattr(holder, name)]
    _torch_model.calibrate(model, source, job, "Measuring the blocks' influence")
    for hook in hooks:
        hook.remove()
    return found


def evenly(n_blocks: int, n_kept: int) -> list[int]:
    """n_kept of n_blocks at equal distances, the first and the last among them."""
    if n_kept == 1:
        return [0]
    return [round(i * (n_blocks - 1) / (n_kept - 1)) for i in range(n_kept)]
