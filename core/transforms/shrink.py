"""A narrower dense model: MLP channels and attention heads taken out of every block by importance.

Which channels and heads count for how much is in _widths.

Grouped-query attention needs the same number of query heads on each key/value head, so heads leave in whole
groups, or one from every group. All blocks lose the same number, because a config.json has one width for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from msgspec import Meta

from core.transforms import _torch_model as torch_model
from core.transforms._widths import Shape, check_family, contributions, narrow, shape_of, widths_config
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

MULTIPLE = 32  # MLP widths stay multiples of it where they were: the blocks of 4-bit formats


class Shrinking(Record):
    """What goes from every block.

    mlp: share of the MLP's channels. groups: key/value heads, each with the query heads on it. queries: query heads
    of every key/value head that stays.
    """

    mlp: Annotated[float, Meta(ge=0, le=0.9)] = 0.25
    groups: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    queries: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Shrink:
    name = "shrink"
    label = "Drop channels and heads"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = False
    Params = Shrinking

    def unavailable(self) -> str | None:
        return torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Shrinking) -> None:
        check_family(spec, self.label)
        before, after = shape_of(spec), smaller(shape_of(spec), params)
        if params.groups >= before.n_kv_heads:
            raise ExplorerError(f"Each block has {before.n_kv_heads} key/value heads.", "Take fewer groups out.")
        if after.n_heads < after.n_kv_heads:
            per_group = before.n_heads // before.n_kv_heads
            raise ExplorerError(f"Each key/value head has {per_group} query heads.", "Take fewer queries out.")
        if before == after:
            raise ExplorerError("Nothing would be taken out.", "Choose a larger share of the MLP, or heads.")

    def suffix(self, params: Shrinking) -> str:
        parts = (("mlp", f"{100 * params.mlp:.3g}"), ("kv", str(params.groups)), ("q", str(params.queries)))
        return "shrink-" + "-".join(name + value for name, value in parts if value != "0")

    def run(self, source: Source, params: Shrinking, out: Path, job: Job) -> Outcome:
        model = torch_model.load(source, job)
        before = shape_of(source.spec)
        after = smaller(before, params)
        matrices = torch_model.matrices(model, source.spec)
        energies = contributions(model, matrices, source, job)
        narrow(matrices, energies, before, after, source.spec.n_blocks)
        torch_model.save(model, source, out, job, **widths_config(after))
        return Outcome(
            note=(
                f"MLP channels {before.d_ff} to {after.d_ff}, query heads {before.n_heads} to {after.n_heads} and "
                f"key/value heads {before.n_kv_heads} to {after.n_kv_heads} in every block, by importance on the "
                "calibration text."
            ),
            facts={
                "intermediate_size": [before.d_ff, after.d_ff],
                "num_attention_heads": [before.n_heads, after.n_heads],
                "num_key_value_heads": [before.n_kv_heads, after.n_kv_heads],
            },
        )


def smaller(before: Shape, params: Shrinking) -> Shape:
    multiple = MULTIPLE if before.d_ff % MULTIPLE == 0 else 1
    d_ff = max(multiple, round(before.d_ff * (1 - params.mlp) / multiple) * multiple)
    n_kv_heads = before.n_kv_heads - params.groups
    per_group = before.n_heads // before.n_kv_heads - params.queries
    return Shape(d_ff=d_ff, n_heads=n_kv_heads * per_group, n_kv_heads=n_kv_heads, head_dim=before.head_dim)


plugin: Transform = Shrink()
