"""What ONNX Runtime will hold for a request: the weights once, the cache twice, and an arena that gives nothing back.

A forward makes a new cache out of the old one, so both are there. The arena grows in pieces of powers of two and keeps
what the largest forward took. Packing for its matrix kernels takes the place of what is packed; while a model is
opened, up to a seventh of its weights more was seen for a moment. Numbers were measured in processes of their own
(see tests/backends/test_reserve.py).
"""

from __future__ import annotations

from core.backends import _reserve as sizes
from core.types import ModelSpec, Request, Reserve

PROCESS_BYTES = 115_000_000  # Python, NumPy, the library, a tokenizer and the graph
ARENA = 4  # held over what one block's outputs and scores take
FLOAT = 4
DEFAULT_CONTEXT = 4096  # tokens, where a model states none


def reserve(spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
    """Exports compute in fp32, keep one row of logits, and write attention scores out."""
    elements = sizes.cache_elements(spec, n_tokens, windowed=False) if spec.causal else 0
    block = n_tokens * sizes.block_elements(spec) + sizes.score_elements(spec, n_tokens, n_tokens)
    rows = 1 if spec.causal else n_tokens
    return Reserve(
        weights_bytes=spec.weight_bytes or 0,
        packed_bytes=0,
        kv_bytes=2 * request.batch * (FLOAT * elements + sizes.state_bytes(spec)),
        workspace_bytes=request.batch * (ARENA * FLOAT * block + sizes.LOGIT_BYTES * rows * spec.vocab_size),
        runtime_bytes=PROCESS_BYTES,
        max_context=spec.max_context or DEFAULT_CONTEXT,
    )
