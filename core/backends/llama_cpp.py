"""llama.cpp through the C functions of llama-cpp-python: GGUF files as they are.

It turns a request into a loaded model, and llama.cpp's refusals into sentences. The low-level
functions are used, not the `Llama` class, so that a forward is one llama_decode and nothing else.
"""

from __future__ import annotations

import ctypes
import importlib.util
import os
import re
import signal
from pathlib import Path
from typing import Any, Literal

import msgspec

from core.errors import ExplorerError
from core.types import ModelSpec, Progress, Record, Request, Session

N_BATCH = 512  # tokens per llama_decode; longer prompts run in chunks
DEFAULT_CONTEXT = 4096
CAPABILITIES = frozenset({"forward", "cache", "rollback", "stream", "batch", "layers"})

CacheType = Literal["f32", "f16", "q8_0", "q4_0"]
CACHE_TYPES = {"f32": 0, "f16": 1, "q8_0": 8, "q4_0": 2}  # ggml_type
FLASH_ATTENTION = {"auto": -1, "off": 0, "on": 1}  # llama_flash_attn_type


class Options(Record, forbid_unknown_fields=True):
    """What a request may set in `options`.

    n_ctx: tokens of context per sequence; None: the model's own, at most 4096.
    type_k, type_v: dtypes of the KV cache. n_gpu_layers: blocks on the accelerator, -1 for all.
    use_extra_bufts: repack the weights for this CPU's matrix kernels.
    """

    n_ctx: int | None = None
    flash_attn: Literal["auto", "on", "off"] = "auto"
    type_k: CacheType = "f16"
    type_v: CacheType = "f16"
    use_mmap: bool = True
    n_gpu_layers: int = 0
    use_extra_bufts: bool = True


class LlamaCpp:
    name = "llama_cpp"
    label = "llama.cpp"
    distributions = ("llama-cpp-python",)
    formats = ("gguf",)
    dtypes: tuple[str, ...] = ()
    capabilities = CAPABILITIES
    Options = Options
    # signal that killed the worker -> (message, hint, options of the one retry)
    signal_advice: dict[int, tuple[str, str, dict[str, Any]]] = {
        signal.SIGILL: (
            "llama.cpp was stopped by an illegal instruction: its AMX kernels are miscompiled without -fno-dse.",
            "Run `make install` to build llama-cpp-python with that flag, or set the option use_extra_bufts=false.",
            {"use_extra_bufts": False},
        )
    }

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: run `pip install -r requirements.txt`."
        return None

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> Session:
        """Raises ExplorerError for a file, an architecture or an option that llama.cpp cannot use."""
        from core.backends._llama_cpp_session import LlamaSession

        options = _options(request.options)
        threads = request.threads or _physical_cores()
        if not spec.causal:
            raise ExplorerError(
                f"'{spec.name}' is an encoder, which cannot generate with llama.cpp.", "Choose the PyTorch backend."
            )
        model = _load(Path(path), options, progress)
        try:
            return _session(LlamaSession, model, Path(path), spec, request.batch, threads, options)
        except BaseException:
            import llama_cpp

            llama_cpp.llama_model_free(model)
            raise


def _options(given: dict[str, Any]) -> Options:
    try:
        return msgspec.convert(given, Options, strict=False)
    except msgspec.ValidationError as error:
        known = ", ".join(Options.__struct_fields__)
        raise ExplorerError(f"llama.cpp cannot take these options: {error}.", f"Its options are {known}.") from None


def _physical_cores() -> int:
    import psutil

    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or allowed, allowed)


def _load(path: Path, options: Options, progress: Progress) -> Any:
    """A llama_model. llama.cpp itself checks that every tensor lies inside the file before it reads one."""
    import llama_cpp

    from core.backends._llama_cpp_log import listen

    try:
        with path.open("rb") as file:
            magic = file.read(4)
    except OSError as error:
        raise ExplorerError(f"{path.name} cannot be read: {error.strerror}.", "Check the path.") from None
    if magic != b"GGUF":
        raise ExplorerError(f"{path.name} is not a GGUF file.", "Choose a .gguf file, or another backend.")
    n_bytes = path.stat().st_size

    def tell(fraction: float, _: Any) -> bool:
        progress(f"Loading {path.name}", fraction * n_bytes, n_bytes, "bytes")
        return True

    log, _ = listen()
    log.clear()
    params = llama_cpp.llama_model_default_params()
    params.load_mode = 1 if options.use_mmap else 0  # LLAMA_LOAD_MODE_MMAP, LLAMA_LOAD_MODE_NONE
    params.n_gpu_layers = options.n_gpu_layers
    params.use_extra_bufts = options.use_extra_bufts
    params.progress_callback = llama_cpp.llama_progress_callback(tell)
    model = llama_cpp.llama_model_load_from_file(os.fsencode(path), params)
    if not model:
        raise _load_error(path, log.errors())
    return model


def _load_error(path: Path, errors: str) -> ExplorerError:
    if found := re.search(r"unknown model architecture: '([^']*)'", errors):
        return ExplorerError(
            f"This llama.cpp does not know the architecture '{found[1]}'.", "Choose another backend or another model."
        )
    if "within the file bounds" in errors or "failed to read" in errors:
        return ExplorerError(f"{path.name} is truncated or damaged.", "Download or copy the file again.")
    return ExplorerError(f"llama.cpp could not load {path.name}: {errors or 'it gave no reason'}.", "Check the file.")


def _session(kind: Any, model: Any, path: Path, spec: ModelSpec, batch: int, threads: int, options: Options) -> Session:
    import llama_cpp

    from core.backends._llama_cpp_context import Context
    from core.backends._llama_cpp_log import listen

    log, _ = listen()
    if llama_cpp.llama_model_has_encoder(model) or llama_cpp.llama_model_is_diffusion(model):
        raise ExplorerError(f"'{spec.name}' is not a decoder-only language model.", "Choose the PyTorch backend.")
    most = llama_cpp.llama_max_parallel_sequences()
    if batch > most:
        raise ExplorerError(f"llama.cpp runs at most {most} sequences at once.", f"Lower the batch to {most}.")
    trained = llama_cpp.llama_model_n_ctx_train(model)
    n_ctx = options.n_ctx or min(trained, DEFAULT_CONTEXT)
    recurrent = llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)

    def new_context(callback: Any) -> Context:
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = n_ctx * batch
        params.n_batch = params.n_ubatch = max(N_BATCH, batch)
        params.n_seq_max = batch
        params.n_outputs_max_per_seq = 0  # as many as the batch has
        params.n_threads = params.n_threads_batch = threads
        params.flash_attn_type = FLASH_ATTENTION[options.flash_attn]
        params.type_k, params.type_v = CACHE_TYPES[options.type_k], CACHE_TYPES[options.type_v]
        params.offload_kqv = params.op_offload = options.n_gpu_layers != 0
        if callback is not None:
            params.cb_eval = callback
        return Context(model, params, n_ctx, rollback=not recurrent)

    warnings = []
    if n_ctx > trained:
        warnings.append(f"The context of {n_ctx} tokens is longer than the {trained} the model was trained for.")
    session = kind(
        model, spec, new_context, CAPABILITIES - ({"rollback"} if recurrent else set()), {}, tuple(warnings)
    )
    session.environment.update(
        library="llama.cpp",
        version=llama_cpp.llama_version().decode(),
        device=_device(options),
        kernels=llama_cpp.llama_print_system_info().decode().strip(" |"),
        file=path.name,
        file_type=_text(llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(model))),
        threads=threads,
        n_ctx=n_ctx,
        n_batch=max(N_BATCH, batch),
        type_k=options.type_k,
        type_v=options.type_v,
        flash_attention=_flash_attention(options, log.text()),
        use_mmap=options.use_mmap,
        use_extra_bufts=options.use_extra_bufts,
        n_gpu_layers=options.n_gpu_layers,
        buffers_bytes=log.buffers(),
    )
    return session  # type: ignore[no-any-return]


def _text(value: bytes | None) -> str | None:
    return value.decode() if value else None


def _device(options: Options) -> str:
    import llama_cpp

    return "accelerator" if options.n_gpu_layers and llama_cpp.llama_supports_gpu_offload() else "cpu"


def _flash_attention(options: Options, log: str) -> bool | None:
    """What "auto" became, which only the log tells; None where it does not."""
    if options.flash_attn != "auto":
        return options.flash_attn == "on"
    found = re.search(r"Flash Attention was auto, set to (enabled|disabled)", log)
    return found[1] == "enabled" if found else None


plugin = LlamaCpp()
