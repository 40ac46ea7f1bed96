"""The architecture of a shape that is cut from a model, before it is cut. Knows configurations; reads no file."""

from __future__ import annotations

from core.dtypes import retype
from core.models.spec import from_config
from core.types import Attention, Linear, ModelSpec
from hardware.errors import ExplorerError


def cut_spec(parent: ModelSpec, n_blocks: int, d_ff: int, n_kv_heads: int, queries: int) -> ModelSpec:
    """As `parent`, with so many blocks, MLP channels, key/value heads, and query heads on each; in the parent's dtype.

    Raises ExplorerError for a model whose blocks are not Llama's.
    """
    return retype(_made(parent, n_blocks, d_ff, n_kv_heads, queries), parent.dtype)


def check_cuttable(parent: ModelSpec) -> None:
    """Raises ExplorerError for a model whose blocks are not Llama's, or which its widths do not describe."""
    core, down = _block(parent)
    if _made(parent, parent.n_blocks, down.d_in, core.n_kv_heads, core.n_heads // core.n_kv_heads).n_params != (
        parent.n_params
    ):
        raise ExplorerError(
            f"{parent.name} is more than its widths say, so the cost of its shapes cannot be computed.",
            "Choose a Llama, Mistral, Qwen or SmolLM model.",
        )


def _made(parent: ModelSpec, n_blocks: int, d_ff: int, n_kv_heads: int, queries: int) -> ModelSpec:
    core, _ = _block(parent)
    layers = {layer.name: layer for layer in parent.layers}
    head = next(layer for layer in reversed(parent.layers) if layer.kind == "head")
    query, gate = layers["blocks.0.attn.q_proj"].op, layers["blocks.0.mlp.gate_proj"].op
    config = {
        "model_type": parent.architecture,
        "hidden_size": parent.d_model,
        "num_hidden_layers": n_blocks,
        "intermediate_size": d_ff,
        "num_attention_heads": n_kv_heads * queries,
        "num_key_value_heads": n_kv_heads,
        "head_dim": core.v_dim,
        "vocab_size": parent.vocab_size,
        "tie_word_embeddings": head.n_params == 0,
        "attention_bias": isinstance(query, Linear) and query.bias,
        "mlp_bias": isinstance(gate, Linear) and gate.bias,
        "sliding_window": core.window,
        "max_position_embeddings": parent.max_context or 2048,
    }
    return from_config(config, parent.name, parent.source)


def _block(parent: ModelSpec) -> tuple[Attention, Linear]:
    ops = {layer.name: layer.op for layer in parent.layers}
    core, down = ops.get("blocks.0.attn.core"), ops.get("blocks.0.mlp.down_proj")
    if not isinstance(core, Attention) or not isinstance(down, Linear) or "blocks.0.mlp.gate_proj" not in ops:
        raise ExplorerError(
            f"{parent.name} has no blocks of Llama's kind, from which shapes are cut.",
            "Choose a Llama, Mistral, Qwen or SmolLM model.",
        )
    return core, down
