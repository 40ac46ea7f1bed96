"""What llama.cpp will hold for a request: it keeps the whole context from the start, and packs some weights again.

Its buffers are reserved for the largest batch with logits for every token; what a run never touches of them is no
resident memory, so the two are told apart.

Numbers without a source in its code were measured in processes of their own with the embedded model (see
tests/backends/test_reserve.py).
"""

from __future__ import annotations

from core import plugins
from core.backends import _reserve as sizes
from core.backends.llama_cpp.compute_buffer import Shape, compute_bytes
from core.backends.llama_cpp.options import CACHE_BLOCK, N_BATCH, Options, quantized_cache
from core.types import Attention, Linear, ModelSpec, Request, Reserve
from hardware.detect import machine

DEFAULT_CONTEXT = 4096
CELLS = 256  # the context is rounded up to a multiple of it
PROCESS_BYTES = 55_000_000  # Python, NumPy and the library
VOCABULARY_BYTES = 400  # of a token: its text, twice, and its places in tables
# Bytes of an element in the cache (ggml-common.h)
CACHE_BYTES = {
    "f32": 4.0, "f16": 2.0, "bf16": 2.0, "q8_0": 34 / 32, "q5_1": 24 / 32, "q5_0": 22 / 32, "q4_1": 20 / 32,
    "q4_0": 18 / 32, "iq4_nl": 18 / 32,
}  # fmt: skip
# Formats that its matrix kernels lay out anew (ggml-cpu: repack.cpp, amx/), by what the processor must have
REPACKED = {
    "avx2": {"q4_0", "q4_k", "iq4_nl"},
    "avx512": {"q2_k"},
    "amx": {"q4_0", "q4_1", "q8_0", "q4_k", "q5_k", "q6_k", "iq4_xs"},
    "dotprod": {"q4_0", "q4_k", "q8_0", "iq4_nl"},
    "i8mm": {"q4_0", "q4_k", "q5_k", "q6_k", "q8_0"},
}


def reserve(spec: ModelSpec, request: Request, options: Options, n_tokens: int) -> Reserve:
    """A profiler that looks into forwards runs them on a second context, which is as large as the first."""
    n_ctx, batch = context_of(options, spec.max_context), request.batch
    n_ctx = n_ctx if options.n_ctx else max(n_ctx, n_tokens)  # a longer text has to ask for its context
    cells = _whole(n_ctx, CELLS)
    seen = min(n_ctx, n_tokens)
    most = max(N_BATCH, batch)
    needs = [plugins.get("profiler", name).needs for name in request.profilers]
    contexts = 2 if any(need & {"layers", "count"} for need in needs) else 1
    elements = sizes.cache_elements(spec, cells, windowed=False) * batch
    cache, states = round(elements * CACHE_BYTES[options.kv_dtype]), batch * sizes.state_bytes(spec)
    logits = sizes.LOGIT_BYTES * spec.vocab_size * batch

    def compute(n_tokens: int, n_outputs: int, n_cells: int) -> int:
        shape = Shape(
            n_tokens=_whole(n_tokens, batch), n_outputs=n_outputs, n_cells=n_cells, n_sequences=batch,
            flash=options.flash_attn != "off", rotates=_rotates(spec, options), floats=options.kv_dtype == "f32",
        )  # fmt: skip
        return compute_bytes(spec, shape)

    reserved = min(most, batch * n_ctx)
    forward = min(most, batch * max(seen, 1))
    return Reserve(
        weights_bytes=spec.weight_bytes or 0,
        packed_bytes=_packed_bytes(spec) if options.use_extra_bufts else 0,
        kv_bytes=contexts * (cache + states),
        workspace_bytes=contexts
        * (compute(forward, batch, min(cells, _whole(max(seen, 1), CELLS))) + logits + _rounded_bytes(spec, forward)),
        runtime_bytes=PROCESS_BYTES + VOCABULARY_BYTES * spec.vocab_size,
        buffers_bytes={
            "KV": cache,
            "RS": states,
            "compute": compute(reserved, _whole(reserved, batch), cells),
            "output": logits,
        },
        max_context=context_of(options, spec.max_context),
    )


def _whole(n: int, step: int) -> int:
    return -(-n // step) * step


def _rotates(spec: ModelSpec, options: Options) -> bool:
    """Whether it rotates keys and values before it rounds them for a quantized cache (llama-kv-cache.cpp)."""
    cores = [x.op for x in spec.layers if isinstance(x.op, Attention)]
    return quantized_cache(options) and all(
        core.kv_width is None and core.qk_dim % (2 * CACHE_BLOCK) == 0 for core in cores
    )


def _rounded_bytes(spec: ModelSpec, n_tokens: int) -> int:
    """The operand that a product with quantized weights rounds to 8 bits, outside the buffers."""
    return n_tokens * max((x.op.d_in for x in spec.layers if isinstance(x.op, Linear)), default=0) * 34 // 32


def context_of(options: Options, trained: int | None) -> int:
    """Tokens of context per sequence."""
    return options.n_ctx or min(trained or DEFAULT_CONTEXT, DEFAULT_CONTEXT)


def _packed_bytes(spec: ModelSpec) -> int:
    """Matrices that are laid out anew stay in the file's pages as well."""
    formats = set().union(*(names for isa, names in REPACKED.items() if isa in machine().isa))
    return sum(
        x.weight_bytes or 0
        for x in spec.layers
        if isinstance(x.op, Linear) and x.n_params and x.weight_dtype in formats
    )
