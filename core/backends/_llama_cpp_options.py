"""What a request may set in `options`, and how it becomes llama.cpp's parameters."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

from core.types import Record

N_BATCH = 512  # tokens per llama_decode; longer prompts run in chunks

CacheType = Literal["f32", "f16", "q8_0", "q4_0"]
CACHE_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type
READ, MAP = 0, 1  # llama_load_mode


class Options(Record):
    """n_ctx: tokens of context per sequence; None: the model's own, at most 4096.

    type_k, type_v: dtypes of the KV cache. n_gpu_layers: blocks on the accelerator, -1 for all.
    use_extra_bufts: repack the weights for this CPU's matrix kernels.
    """

    n_ctx: Annotated[int, msgspec.Meta(ge=1, lt=2**31)] | None = None
    flash_attn: Literal["auto", "on", "off"] = "auto"
    type_k: CacheType = "f16"
    type_v: CacheType = "f16"
    use_mmap: bool = True
    n_gpu_layers: int = 0
    use_extra_bufts: bool = True


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
    params.flash_attn_type = FLASH_ATTENTION[options.flash_attn]
    params.type_k, params.type_v = CACHE_TYPES[options.type_k], CACHE_TYPES[options.type_v]
    params.offload_kqv = params.op_offload = options.n_gpu_layers != 0
    return params
