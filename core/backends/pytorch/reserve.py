"""What PyTorch will hold for a request: weights in the dtype they run in, a cache that grows, one forward's tensors.

While weights are read the pages of their file are resident, too; the system takes them back when it needs them, so
they do not count. Numbers were measured in processes of their own (see tests/backends/test_reserve.py).
"""

from __future__ import annotations

from core.backends import _reserve as sizes
from core.types import Embedding, Linear, ModelSpec, Request, Reserve
from hardware.detect import machine

PROCESS_BYTES = 465_000_000  # Python, torch, transformers, and what loading a model imports
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def reserve(spec: ModelSpec, request: Request, fused: bool, eager: bool, n_tokens: int) -> Reserve:
    """fused: its packed matrices are in place of the model's, but for a table that the head shares. eager: attention
    that writes its scores and weights out."""
    size = ELEMENT_BYTES.get(spec.dtype, 4)
    elements = sizes.cache_elements(spec, n_tokens) if spec.causal else 0
    kv = request.batch * (size * elements + sizes.state_bytes(spec))
    kept = 1 if spec.causal else n_tokens  # positions whose logits are computed
    work = size * n_tokens * sizes.block_elements(spec) + sizes.LOGIT_BYTES * kept * spec.vocab_size
    if eager:
        work += 2 * size * sizes.score_elements(spec, n_tokens, n_tokens)
    return Reserve(
        weights_bytes=spec.weight_bytes or 0,
        packed_bytes=_tied_bytes(spec) if fused and _packs(spec.dtype) else 0,
        kv_bytes=kv,
        workspace_bytes=request.batch * work,
        runtime_bytes=PROCESS_BYTES,
    )


def _packs(dtype: str) -> bool:
    """Whether oneDNN has a layout of its own for such weights on this processor (core.backends.pytorch.fused)."""
    return dtype == "fp32" or (dtype == "bf16" and bool({"avx512", "amx_bf16", "bf16"} & set(machine().isa)))


def _tied_bytes(spec: ModelSpec) -> int:
    """The token table of a model whose head multiplies with it."""
    tied = {layer.op.tied_to for layer in spec.layers if isinstance(layer.op, Linear)}
    return sum(x.weight_bytes or 0 for x in spec.layers if isinstance(x.op, Embedding) and x.name in tied)
