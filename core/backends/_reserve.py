"""Sizes that every backend needs to tell what it will hold in memory: of a cache, of a forward's activations.

Elements and bytes of an architecture, not of a library. Constants of one library are in its own folder.
"""

from __future__ import annotations

from core.types import Attention, Conv, Linear, ModelSpec, Scan

STATE_BYTES = 4  # convolution and scan states are fp32
LOGIT_BYTES = 4


def cache_elements(spec: ModelSpec, n_tokens: int, windowed: bool = True) -> int:
    """Keys and values of one sequence of `n_tokens`. windowed: a sliding window keeps no more than its width."""
    found = 0
    for layer in spec.layers:
        op = layer.op
        if isinstance(op, Attention) and op.causal and not op.borrows:
            width = op.n_kv_heads * (op.qk_dim + op.v_dim) if op.kv_width is None else op.kv_width
            kept = min(n_tokens, op.window) if windowed and op.window else n_tokens
            found += (width + op.index_width) * (op.source or kept)
    return found


def state_bytes(spec: ModelSpec) -> int:
    """Recurrent states of one sequence, whatever its length."""
    ops = [layer.op for layer in spec.layers]
    elements = sum(op.d_inner * op.d_state for op in ops if isinstance(op, Scan))
    elements += sum(op.channels * (op.kernel - 1) for op in ops if isinstance(op, Conv))
    return elements * STATE_BYTES


def block_elements(spec: ModelSpec) -> int:
    """What one token leaves behind within the widest block: the outputs of its matrices, and its hidden state fourfold.

    Libraries reuse buffers from block to block, and within one hardly.
    """
    widths: dict[str, int] = {}
    for layer in spec.layers:
        if isinstance(layer.op, Linear) and layer.kind != "head":
            block = ".".join(layer.name.split(".")[:2])
            widths[block] = widths.get(block, 0) + layer.op.n_active * layer.op.d_out
    return max(widths.values(), default=0) + 4 * spec.d_model


def score_elements(spec: ModelSpec, n_new: int, n_seen: int) -> int:
    """Attention scores of the layer with most heads, where they are written out."""
    return (
        max((layer.op.n_heads for layer in spec.layers if isinstance(layer.op, Attention)), default=0) * n_new * n_seen
    )
