"""A narrower dense model: MLP channels and attention heads taken out of every block by importance.

A channel counts by what it adds to the block's output over a calibration text: the norm of its activation times
the norm of its column in the output projection (the structured form of Wanda's score, arXiv 2306.11695; compare
Ma et al., "LLM-Pruner", arXiv 2305.11627). A head counts by the root of the sum of squares over its channels.

Grouped-query attention needs the same number of query heads on each key/value head, so heads leave in whole
groups, or one from every group. All blocks lose the same number, because a config.json has one width for all.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

from msgspec import Meta

from core.errors import ExplorerError
from core.transforms import _torch_model as torch_model
from core.types import Attention, Job, Linear, ModelSpec, Outcome, Record, Source, Transform

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "granite", "smollm3")
MULTIPLE = 32  # MLP widths stay multiples of it where they were: the blocks of 4-bit formats


class Shrinking(Record):
    """What goes from every block.

    mlp: share of the MLP's channels. groups: key/value heads, each with the query heads on it. queries: query heads
    of every key/value head that stays.
    """

    mlp: Annotated[float, Meta(ge=0, le=0.9)] = 0.25
    groups: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    queries: Annotated[int, Meta(ge=0, le=1_000_000)] = 0


class Shape(Record):
    """Widths of a block."""

    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int


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
        if spec.architecture not in FAMILIES:
            raise ExplorerError(
                f"{self.label} does not know the family '{spec.architecture}'.", f"It knows {', '.join(FAMILIES)}."
            )
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
        for i in range(source.spec.n_blocks):
            block = f"blocks.{i}"
            channels = best(energies[f"{block}.mlp.down_proj"], after.d_ff)
            keep(matrices, (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"), f"{block}.mlp.down_proj", channels)
            groups, heads = best_heads(energies[f"{block}.attn.o_proj"], before, after)
            of_queries, of_keys = columns(heads, before.head_dim), columns(groups, before.head_dim)
            keep(matrices, (f"{block}.attn.q_proj",), f"{block}.attn.o_proj", of_queries)
            keep(matrices, (f"{block}.attn.k_proj", f"{block}.attn.v_proj"), None, of_keys)
        torch_model.save(
            model,
            source,
            out,
            job,
            intermediate_size=after.d_ff,
            num_attention_heads=after.n_heads,
            num_key_value_heads=after.n_kv_heads,
            head_dim=after.head_dim,
        )
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


def shape_of(spec: ModelSpec) -> Shape:
    ops = {layer.name: layer.op for layer in spec.layers}
    core, down = ops["blocks.0.attn.core"], ops["blocks.0.mlp.down_proj"]
    assert isinstance(core, Attention) and isinstance(down, Linear), "a Llama block"
    return Shape(d_ff=down.d_in, n_heads=core.n_heads, n_kv_heads=core.n_kv_heads, head_dim=core.v_dim)


def smaller(before: Shape, params: Shrinking) -> Shape:
    multiple = MULTIPLE if before.d_ff % MULTIPLE == 0 else 1
    d_ff = max(multiple, round(before.d_ff * (1 - params.mlp) / multiple) * multiple)
    n_kv_heads = before.n_kv_heads - params.groups
    per_group = before.n_heads // before.n_kv_heads - params.queries
    return Shape(d_ff=d_ff, n_heads=n_kv_heads * per_group, n_kv_heads=n_kv_heads, head_dim=before.head_dim)


def contributions(model: Any, matrices: dict[str, Any], source: Source, job: Job) -> dict[str, Any]:
    """Output projection -> energy of each input channel: (||X_j||_2 * ||W_:j||_2)^2, shape (in,)."""
    found: dict[str, Any] = {}
    hooks = []
    for name, module in matrices.items():
        if name.endswith(("mlp.down_proj", "attn.o_proj")):

            def before(module: Any, inputs: tuple[Any, ...], name: str = name) -> None:
                x = inputs[0].reshape(-1, module.in_features)
                found[name] = x.square().sum(0) * module.weight.square().sum(0)

            hooks.append(module.register_forward_pre_hook(before))
    torch_model.calibrate(model, source, job, "Measuring channels and heads")
    for hook in hooks:
        hook.remove()
    return found


def best(energy: Any, n: int) -> Any:
    """Indices of the n largest, in their old order."""
    return energy.topk(n).indices.sort().values


def best_heads(energy: Any, before: Shape, after: Shape) -> tuple[Any, Any]:
    """(key/value heads, query heads) that stay, by their energies in the output projection."""
    per_group, kept_per_group = before.n_heads // before.n_kv_heads, after.n_heads // after.n_kv_heads
    heads = energy.reshape(before.n_kv_heads, per_group, before.head_dim).sum(-1)
    queries = heads.topk(kept_per_group, dim=1).indices.sort(dim=1).values
    groups = best(heads.gather(1, queries).sum(1), after.n_kv_heads)
    return groups, (groups[:, None] * per_group + queries[groups]).flatten()


def columns(heads: Any, head_dim: int) -> Any:
    """Channels of these heads."""
    import torch

    return (heads[:, None] * head_dim + torch.arange(head_dim)).flatten()


def keep(matrices: dict[str, Any], makers: tuple[str, ...], reader: str | None, channels: Any) -> None:
    """Keep these channels in the rows of the matrices that make them and the columns of the one that reads them."""
    for name in makers:
        module = matrices[name]
        module.weight.data = module.weight.data[channels]
        if module.bias is not None:
            module.bias.data = module.bias.data[channels]
    if reader is not None:
        matrices[reader].weight.data = matrices[reader].weight.data[:, channels]


plugin: Transform = Shrink()
