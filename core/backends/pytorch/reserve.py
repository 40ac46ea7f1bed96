"""What PyTorch will hold for a request: weights in the dtype they run in, a cache that grows, one forward's tensors.

While weights are read the pages of their file are resident, too; the system takes them back when it needs them, so
they do not count. Numbers were measured in processes of their own (see tests/backends/test_reserve.py).
"""

from __future__ import annotations

from core.backends import _reserve as sizes
from core.backends.pytorch import grouped, ways
from core.backends.pytorch.families import FAMILIES
from core.backends.pytorch.room import STEP
from core.types import Linear, ModelSpec, Request, Reserve
from hardware.detect import machine, usable_cores

PROCESS_BYTES = 465_000_000  # Python, torch, transformers, and what loading a model imports
ELEMENT_BYTES = {"fp32": 4, "bf16": 2, "fp16": 2}


def reserve(spec: ModelSpec, request: Request, fused: bool, eager: bool, n_tokens: int) -> Reserve:
    """fused: a model that the fused step knows is run by it. eager: attention that writes its scores out."""
    size = ELEMENT_BYTES.get(spec.dtype, 4)
    fused = fused and not eager and spec.architecture in FAMILIES
    held = -(-n_tokens // STEP) * STEP if fused else n_tokens
    elements = sizes.cache_elements(spec, held) if spec.causal else 0
    kv = request.batch * (size * elements + sizes.state_bytes(spec))
    kept = 1 if spec.causal else n_tokens  # positions whose logits are computed
    work = size * n_tokens * sizes.block_elements(spec) + sizes.LOGIT_BYTES * kept * spec.vocab_size
    if eager:
        work += 2 * size * sizes.score_elements(spec, n_tokens, n_tokens)
    if spec.dtype in grouped.FORMS:  # read in fp32 first, and that goes away before the first forward
        work = max(work, (4 * spec.n_params - (spec.weight_bytes or 0)) // request.batch)
    return Reserve(
        weights_bytes=spec.weight_bytes or 0,
        packed_bytes=_packed_bytes(spec, request) if fused else 0,
        kv_bytes=kv,
        workspace_bytes=request.batch * work,
        runtime_bytes=PROCESS_BYTES,
        max_context=spec.max_context,
    )


def _packed_bytes(spec: ModelSpec, request: Request) -> int:
    """Second copies of matrices for kernels of oneDNN: where they were measured to be the fastest here.

    Before such a measurement: all matrices in bf16 where the processor has matrix units, else none.
    """
    size = ELEMENT_BYTES.get(spec.dtype, 4)
    blocks = head = 0
    for layer in spec.layers:
        if isinstance(layer.op, Linear):
            n_bytes = size * layer.op.d_in * layer.op.d_out
            blocks, head = (blocks, head + n_bytes) if layer.kind == "head" else (blocks + n_bytes, head)
    found = ways.kept(spec, spec.dtype, request.threads or usable_cores())
    if found is not None and found.of_blocks:
        return blocks * found.packs + head * found.packs_head
    packs = spec.dtype == "bf16" and "amx_bf16" in machine().isa and ways.packable(blocks + head)
    return packs * (blocks + head)
