"""What a request may set in `options`, and how it becomes llama.cpp's parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from core.types import Attention, Linear, ModelSpec, Record, Scan
from hardware.errors import ExplorerError

N_BATCH = 512  # tokens per llama_decode; longer prompts run in chunks

CacheType = Literal["f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0", "iq4_nl"]
# ggml_type
CACHE_TYPES = {"f32": 0, "f16": 1, "bf16": 30, "q8_0": 8, "q5_1": 7, "q5_0": 6, "q4_1": 3, "q4_0": 2, "iq4_nl": 20}
CACHE_BLOCK = 32  # elements in a block of the quantized types
STATE_STEP = 64  # GGML_F32_STEP of the widest processors (AVX-512)
MOST_BLOCKS, MOST_EXPERTS = 512, 1024  # LLAMA_MAX_LAYERS, LLAMA_MAX_EXPERTS
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type
READ, MAP = 0, 1  # llama_load_mode


class Options(Record):
    """n_ctx: tokens of context per sequence; None: the model's own, at most 4096.

    kv_dtype: number format of the KV cache; a quantized one needs flash attention.
    n_gpu_layers: blocks on the accelerator, -1 for all.
    use_extra_bufts: repack the weights for this CPU's matrix kernels.
    """

    n_ctx: Annotated[int, msgspec.Meta(ge=1, lt=2**31)] | None = None
    flash_attn: Literal["auto", "on", "off"] = "auto"
    kv_dtype: CacheType = "f16"
    use_mmap: bool = True
    n_gpu_layers: Annotated[int, msgspec.Meta(ge=-1, le=100_000)] = 0
    use_extra_bufts: bool = True


def quantized_cache(options: Options) -> bool:
    return "q" in options.kv_dtype


def check_cache(options: Options, spec: ModelSpec) -> None:
    """Raises ExplorerError where llama.cpp could not keep this model's keys and values in the format asked for."""
    if not quantized_cache(options):
        return
    if options.flash_attn == "off":
        raise ExplorerError(
            f"A KV cache in {options.kv_dtype} needs flash attention, which is switched off.",
            "Set flash_attn to auto, or kv_dtype to f16.",
        )
    widths = {width for x in spec.layers if isinstance(x.op, Attention) for width in (x.op.qk_dim, x.op.v_dim)}
    if odd := sorted(width for width in widths if width % CACHE_BLOCK):
        raise ExplorerError(
            f"A KV cache in {options.kv_dtype} needs heads whose width divides by {CACHE_BLOCK}, and this model's have "
            f"{odd[0]}.",
            "Set kv_dtype to f16.",
        )


def check_state(spec: ModelSpec) -> None:
    """Raises ExplorerError for RWKV-7 heads over whose end llama.cpp would read, with NaN or noise for an answer.

    Its kernel takes the state in steps of up to 64 numbers and has no remainder (ggml_compute_forward_rwkv_wkv7_f32).
    """
    widths = {x.op.d_state for x in spec.layers if isinstance(x.op, Scan)} if "rwkv7" in spec.architecture else set()
    if odd := sorted(width for width in widths if width % STATE_STEP):
        raise ExplorerError(
            f"llama.cpp computes RWKV-7 only with heads whose width divides by {STATE_STEP}, and this model's have "
            f"{odd[0]}.",
            "Choose another backend or another model.",
        )


def check_size(spec: ModelSpec) -> None:
    """Raises ExplorerError for more blocks or experts than llama.cpp has room for: it would end itself."""
    experts = max((x.op.n_experts for x in spec.layers if isinstance(x.op, Linear)), default=0)
    for n, most, what in ((spec.n_blocks, MOST_BLOCKS, "blocks"), (experts, MOST_EXPERTS, "experts")):
        if n > most:
            raise ExplorerError(
                f"llama.cpp runs models of at most {most:,} {what}, and {spec.name} has {n:,}.",
                "Choose another backend or another model.",
            )


def model_params(options: Options) -> Any:
    import llama_cpp

    params = llama_cpp.llama_model_default_params()
    params.load_mode = MAP if options.use_mmap else READ
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.use_extra_bufts
    return params


def context_params(options: Options, n_ctx: int, batch: int, threads: int) -> Any:
    """n_ctx: tokens per sequence. Each of the `batch` sequences has a cache of its own."""
    import llama_cpp

    params = llama_cpp.llama_context_default_params()
    params.n_ctx = n_ctx * batch
    params.n_batch = params.n_ubatch = max(N_BATCH, batch)
    params.n_seq_max = batch
    params.n_outputs_max_per_seq = 0  # as many as the batch has
    params.n_threads = params.n_threads_batch = threads
    params.flash_attn_type = FLASH_ATTENTION["on" if quantized_cache(options) else options.flash_attn]
    params.type_k = params.type_v = CACHE_TYPES[options.kv_dtype]
    params.swa_full = True  # rejected tokens can be taken back only where a window has kept what was before them
    params.offload_kqv = params.op_offload = options.n_gpu_layers != 0
    return params
