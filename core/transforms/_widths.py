"""Widths of a block and what its channels and heads add: shared by the transforms that make a model narrower.

A channel counts by what it adds to the block's output over a calibration text: the norm of its activation times
the norm of its column in the output projection (the structured form of Wanda's score, arXiv 2306.11695; compare
Ma et al., "LLM-Pruner", arXiv 2305.11627). A head counts by the root of the sum of squares over its channels.
"""

from __future__ import annotations

from typing import Any

from core.transforms import _torch_model as torch_model
from core.types import Attention, Job, Linear, ModelSpec, Record, Source
from hardware.errors import ExplorerError

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "granite", "smollm3")


class Shape(Record):
    """Widths of a block."""

    d_ff: int
    n_heads: int
    n_kv_heads: int
    head_dim: int


def check_family(spec: ModelSpec, what: str) -> None:
    """Raises ExplorerError for a family whose blocks are not those known here."""
    if spec.architecture not in FAMILIES:
        raise ExplorerError(
            f"{what} does not know the family '{spec.architecture}'.", f"It knows {', '.join(FAMILIES)}."
        )


def shape_of(spec: ModelSpec) -> Shape:
    ops = {layer.name: layer.op for layer in spec.layers}
    core, down = ops["blocks.0.attn.core"], ops["blocks.0.mlp.down_proj"]
    assert isinstance(core, Attention) and isinstance(down, Linear), "a Llama block"
    return Shape(d_ff=down.d_in, n_heads=core.n_heads, n_kv_heads=core.n_kv_heads, head_dim=core.v_dim)


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


def narrow(matrices: dict[str, Any], energies: dict[str, Any], before: Shape, after: Shape, n_blocks: int) -> None:
    """Take the channels and heads that add least out of every block."""
    for i in range(n_blocks):
        block = f"blocks.{i}"
        channels, groups, heads = kept(energies, i, before, after)
        keep(matrices, (f"{block}.mlp.gate_proj", f"{block}.mlp.up_proj"), f"{block}.mlp.down_proj", channels)
        of_queries, of_keys = columns(heads, before.head_dim), columns(groups, before.head_dim)
        keep(matrices, (f"{block}.attn.q_proj",), f"{block}.attn.o_proj", of_queries)
        keep(matrices, (f"{block}.attn.k_proj", f"{block}.attn.v_proj"), None, of_keys)


def kept(energies: dict[str, Any], block: int, before: Shape, after: Shape) -> tuple[Any, Any, Any]:
    """(MLP channels, key/value heads, query heads) of a block that stay."""
    channels = best(energies[f"blocks.{block}.mlp.down_proj"], after.d_ff)
    groups, heads = best_heads(energies[f"blocks.{block}.attn.o_proj"], before, after)
    return channels, groups, heads


def widths_config(after: Shape) -> dict[str, int]:
    """What changes in config.json."""
    return {
        "intermediate_size": after.d_ff,
        "num_attention_heads": after.n_heads,
        "num_key_value_heads": after.n_kv_heads,
        "head_dim": after.head_dim,
    }


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
