"""Whole blocks left out: those that change their input least, or all after the first few.

Block influence of block i: 1 - E[cos(x_i, x_i+1)], x_i being what enters it and x_i+1 what leaves it, over the
tokens of a calibration text (Men et al., "ShortGPT", arXiv 2403.03853, equation 1). Measured once, on the whole
model. What is left is a dense model with fewer blocks, faster in proportion; the head's share stays.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from core.transforms import _blocks
from core.transforms import _torch_model as torch_model
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError


class Dropping(Record):
    """n: blocks to leave out, those of least influence. keep_first: instead, keep only this many from the start."""

    n: Annotated[int, Meta(ge=1, le=1_000_000)] = 4
    keep_first: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class DropLayers:
    name = "drop_layers"
    label = "Drop blocks"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = False
    Params = Dropping

    def unavailable(self) -> str | None:
        return torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Dropping) -> None:
        torch_model.check_dense(spec, self.label)
        what = f"Keeping {params.keep_first}" if params.keep_first else f"Dropping {params.n}"
        if (params.keep_first or params.n) >= spec.n_blocks:
            raise ExplorerError(
                f"{what} of {spec.n_blocks} blocks leaves {'all' if params.keep_first else 'none'}.",
                f"Choose a number below {spec.n_blocks}.",
            )

    def suffix(self, params: Dropping) -> str:
        return f"first{params.keep_first}" if params.keep_first else f"drop{params.n}"

    def run(self, source: Source, params: Dropping, out: Path, job: Job) -> Outcome:
        model = torch_model.load(source, job)
        n_blocks = source.spec.n_blocks
        if params.keep_first:
            kept, influence = list(range(params.keep_first)), []
        else:
            influence = _blocks.influences(model, source, job)
            least = sorted(range(n_blocks), key=influence.__getitem__)[: params.n]
            kept = [i for i in range(n_blocks) if i not in least]
        torch_model.save(model, source, out, job, **_blocks.keep(model, source, kept))
        dropped = [i for i in range(n_blocks) if i not in kept]
        return Outcome(
            note=_note(dropped, n_blocks, bool(influence)),
            facts={"kept": kept, "dropped": dropped, "influence": influence},
        )


def _note(dropped: list[int], n_blocks: int, measured: bool) -> str:
    which = ", ".join(map(str, dropped)) if len(dropped) < 9 else f"{dropped[0]} to {dropped[-1]}"
    if measured:
        return f"Without {len(dropped)} of {n_blocks} blocks, those of least influence on the calibration text."
    return f"The first {n_blocks - len(dropped)} of {n_blocks} blocks (without {which})."


plugin: Transform = DropLayers()
