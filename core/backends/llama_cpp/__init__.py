"""llama.cpp through the C functions of llama-cpp-python: GGUF files as they are.

The low-level functions are used, not the `Llama` class, so that a forward is one llama_decode and
nothing else.
"""

from __future__ import annotations

import importlib.util
import re
import signal
from pathlib import Path
from typing import Any, ClassVar

from core.backends.llama_cpp import options as llama_options
from core.backends.llama_cpp import reserve
from core.backends.llama_cpp.compute_buffer import prunes_last_block
from core.backends.llama_cpp.context import Context
from core.backends.llama_cpp.log import Log, listen
from core.backends.llama_cpp.model import load
from core.backends.llama_cpp.options import N_BATCH, context_params
from core.backends.llama_cpp.session import LlamaSession
from core.plugins import settings
from core.tokenizers.folder import template_warnings
from core.types import Backend, ModelSpec, Progress, Request, Reserve, Scalar, Setup
from hardware.detect import usable_cores
from hardware.errors import ExplorerError

FLOATS = {"f32": "fp32", "f16": "fp16", "bf16": "bf16"}  # our names


class LlamaCpp:
    name = "llama_cpp"
    label = "llama.cpp"
    distributions: tuple[str, ...] = ("llama-cpp-python",)
    formats: tuple[str, ...] = ("gguf",)
    dtypes: tuple[str, ...] = ()
    capabilities = frozenset({"forward", "cache", "rollback", "rewind", "stream", "batch", "layers", "count"})
    runtime_bytes = reserve.PROCESS_BYTES
    Options = llama_options.Options
    # signal that killed the worker -> (message, hint, options for the one retry)
    signal_advice: ClassVar[dict[int, tuple[str, str, dict[str, Scalar]]]] = {
        signal.SIGILL: (
            "llama.cpp was stopped by an illegal instruction: its AMX kernels fail when compiled without -fno-dse.",
            "The run is repeated without them, which is slower: to have them, run `pip cache remove llama_cpp_python`, "
            "delete .venv and run `make install`.",
            {"use_extra_bufts": False},
        )
    }

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("llama_cpp") is None:
            return "llama-cpp-python is not installed: run `pip install -r requirements.txt`."
        return None

    def reserve(self, spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
        return reserve.reserve(spec, request, self._options(spec, request), n_tokens)

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> LlamaSession:
        """Raises ExplorerError for a file, an architecture or an option that llama.cpp cannot use."""
        import llama_cpp

        options = self._options(spec, request)
        model = load(Path(path), options, progress)
        try:
            return self._session(model, spec, request, options)
        except BaseException:
            llama_cpp.llama_model_free(model)
            raise

    def _options(self, spec: ModelSpec, request: Request) -> llama_options.Options:
        """Raises ExplorerError where llama.cpp cannot have this model so."""
        if not spec.causal:
            raise ExplorerError(
                f"{spec.name} is an encoder, which cannot generate text.", "Choose the PyTorch backend for it."
            )
        options = settings(llama_options.Options, request.options, self.label)
        llama_options.check_cache(options, spec)
        llama_options.check_state(spec)
        llama_options.check_size(spec)
        return options

    def _session(self, model: Any, spec: ModelSpec, request: Request, options: llama_options.Options) -> LlamaSession:
        import llama_cpp

        if llama_cpp.llama_model_has_encoder(model) or llama_cpp.llama_model_is_diffusion(model):
            raise ExplorerError(
                f"{spec.name} is not a decoder-only language model.", "Choose the PyTorch backend for it."
            )
        most = llama_cpp.llama_max_parallel_sequences()
        if request.batch > most:
            raise ExplorerError(f"llama.cpp runs at most {most} sequences at once.", f"Lower the batch to {most}.")
        threads = request.threads or usable_cores()
        trained = llama_cpp.llama_model_n_ctx_train(model)
        n_ctx = reserve.context_of(options, trained)
        if n_ctx > trained and any(layer.name == "embed.position" for layer in spec.layers):
            raise ExplorerError(
                f"The context of {n_ctx} tokens is longer than the table of {trained} positions that {spec.name} has.",
                f"Set n_ctx to {trained} or less.",
            )
        # a state-space model's state cannot go back to what it was some tokens ago
        forgets = llama_cpp.llama_model_is_recurrent(model) or llama_cpp.llama_model_is_hybrid(model)

        def new_context(callback: Any) -> Context:
            params = context_params(options, n_ctx, request.batch, threads)
            if callback is not None:
                params.cb_eval = callback
            return Context(model, params, n_ctx, rollback=not forgets)

        def setup() -> Setup:
            return _setup(model, spec, options, threads, n_ctx, request.batch, listen())

        session = LlamaSession(model, spec, new_context, setup)
        if forgets:
            session.capabilities = self.capabilities - {"rollback", "rewind"}
        else:
            session.capabilities = self.capabilities
        session.warnings = template_warnings(session.chat_templates)
        if n_ctx > trained:
            session.warnings += (
                f"The context of {n_ctx} tokens is longer than the {trained} the model was trained on.",
            )
        return session


def _setup(
    model: Any, spec: ModelSpec, options: llama_options.Options, threads: int, n_ctx: int, batch: int, log: Log
) -> Setup:
    import llama_cpp

    kind = llama_cpp.llama_ftype_name(llama_cpp.llama_model_ftype(model)) or b""
    on_accelerator = options.n_gpu_layers != 0 and llama_cpp.llama_supports_gpu_offload()
    return Setup(
        weight_dtype=spec.dtype,
        activation_dtype="fp32",  # tensors between ggml's operators; a product rounds its own copy to 8 bits
        kv_dtype=options.kv_dtype if llama_options.quantized_cache(options) else FLOATS[options.kv_dtype],
        threads=threads,
        device="accelerator" if on_accelerator else "cpu",
        kernels=llama_cpp.llama_print_system_info().decode().strip(" |"),
        file_type=kind.decode().removeprefix("(guessed) "),
        n_context=n_ctx,
        n_batch=max(N_BATCH, batch),
        prunes_last_block=prunes_last_block(spec),
        buffers_bytes=log.buffers(),
        versions={"llama.cpp": llama_cpp.llama_version().decode()},
        facts={
            "flash_attention": _flash_attention(log.text()),
            "use_mmap": options.use_mmap,
            "use_extra_bufts": options.use_extra_bufts,
            "n_gpu_layers": options.n_gpu_layers,
        },
    )


def _flash_attention(log: str) -> bool | None:
    """Whether it is used in the end, which only the log tells; None where it does not."""
    found = re.findall(r"(?:Flash Attention|flash_attn\s+=) (enabled|disabled)", log)
    return found[-1] == "enabled" if found else None


plugin: Backend = LlamaCpp()
