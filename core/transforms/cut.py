"""A smaller dense model of a given shape: fewer blocks, MLP channels and heads, by importance, all in one go.

Blocks leave by their influence (ShortGPT, arXiv 2403.03853), channels and heads by what they add to a block's output,
each measured once on the whole model over the calibration text. With nothing taken out it is a copy of the model in
plain numbers, with which cut ones are compared.
"""

from __future__ import annotations

from pathlib import Path

from core.transforms import _cutting
from core.transforms import _torch_model as torch_model
from core.transforms._cutting import Cutting, left
from core.transforms._widths import check_family, shape_of
from core.types import Job, ModelSpec, Outcome, Source, Transform
from hardware.errors import ExplorerError


class Cut:
    name = "cut"
    label = "Cut to a shape"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = False
    Params = Cutting

    def unavailable(self) -> str | None:
        return torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Cutting) -> None:
        check_family(spec, self.label)
        before = shape_of(spec)
        there = {
            "blocks": (params.blocks, spec.n_blocks),
            "MLP channels": (params.d_ff, before.d_ff),
            "key/value heads": (params.kv_heads, before.n_kv_heads),
            "query heads on every key/value head": (params.queries, before.n_heads // before.n_kv_heads),
        }
        for what, (wanted, has) in there.items():
            if wanted > has:
                raise ExplorerError(
                    f"{spec.name} has {has} {what}, and {wanted} are to be left.", f"Choose {has} or less."
                )

    def suffix(self, params: Cutting) -> str:
        parts = (("b", params.blocks), ("f", params.d_ff), ("kv", params.kv_heads), ("q", params.queries))
        return "cut" + "".join(f"-{name}{value}" for name, value in parts if value)

    def run(self, source: Source, params: Cutting, out: Path, job: Job) -> Outcome:
        model = torch_model.load(source, job)
        before, n_blocks = shape_of(source.spec), source.spec.n_blocks
        after, n_kept = left(before, params), params.blocks or n_blocks
        if after == before and n_kept == n_blocks:
            torch_model.save(model, source, out, job)
            return Outcome(note="A copy in plain numbers: nothing was taken out.", facts={"kept": [*range(n_blocks)]})
        found = _cutting.importance(model, source, job)
        dropped = sorted(found.least(n_blocks - n_kept))
        torch_model.save(model, source, out, job, **_cutting.cut(model, source, found, dropped, after))
        return Outcome(
            note=(
                f"{n_kept} of {n_blocks} blocks, MLP channels {before.d_ff} to {after.d_ff}, query heads "
                f"{before.n_heads} to {after.n_heads} and key/value heads {before.n_kv_heads} to {after.n_kv_heads} "
                "in each, by importance on the calibration text."
            ),
            facts={
                "kept": [i for i in range(n_blocks) if i not in dropped],
                "dropped": dropped,
                "influence": found.influence,
                "intermediate_size": after.d_ff,
                "num_attention_heads": after.n_heads,
                "num_key_value_heads": after.n_kv_heads,
            },
        )


plugin: Transform = Cut()
