"""PyTorch through transformers: safetensors folders, and architectures with random weights.

Knows what a user may set and how a folder becomes a session; the session is in session. Remote code is never run.
"""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar, Literal

from core.backends.pytorch import families, grouped, native, quant
from core.backends.pytorch import heads as heads
from core.backends.pytorch import load as load
from core.backends.pytorch import reserve as reserve
from core.backends.pytorch.depth import add_exit_heads
from core.backends.pytorch.families import FAMILIES
from core.backends.pytorch.session import TorchSession
from core.plugins import settings
from core.tokenizers.folder import check_settings, named, template_warnings
from core.types import Backend, ModelSpec, Progress, Record, Request, Reserve, Scalar
from hardware.detect import usable_cores
from hardware.errors import ExplorerError
from hardware.heap import give_back


class Options(Record):
    """What a request may set in `options`.

    device: where it runs; auto takes CUDA, then MPS, then the processor.
    attention: the implementation; None leaves it to transformers.
    fused: a forward without transformers' modules, for a step of few tokens costs their dispatch; None: on the
    processor, where the model is one for it. Weights in q8_0 and q4_1 need it. A trace of layers and the library's own
    loop run through the modules.
    compile: torch.compile, which takes a minute and may pay over a long run. It excludes fused.
    """

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    attention: Literal["sdpa", "eager"] | None = None
    compile: bool = False
    fused: bool | None = None


class PyTorch:
    name = "pytorch"
    label = "PyTorch"
    distributions: tuple[str, ...] = ("torch", "transformers")
    formats: tuple[str, ...] = ("hf", "torch-int", "config")
    dtypes: tuple[str, ...] = (*load.DTYPES, *grouped.FORMS)
    capabilities = frozenset(
        {"forward", "cache", "rollback", "rewind", "stream", "batch", "layers", "count", "depth", "tree", "heads"}
    )
    runtime_bytes = reserve.PROCESS_BYTES
    Options = Options
    signal_advice: ClassVar[dict[int, tuple[str, str, dict[str, Scalar]]]] = {}

    def unavailable(self) -> str | None:
        missing = [name for name in self.distributions if find_spec(name) is None]
        return f"{' and '.join(missing)} missing: pip install {' '.join(missing)}" if missing else None

    def reserve(self, spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
        options = settings(Options, request.options, self.label)
        _check_step(options, spec, request.dtype)
        return reserve.reserve(spec, request, options.fused is not False, options.attention == "eager", n_tokens)

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> TorchSession:
        """Raises ExplorerError for a damaged or incomplete folder, an absent device, a wrong option."""
        options = settings(Options, request.options, self.label)
        _check_step(options, spec, request.dtype)
        progress("Importing PyTorch")
        import torch

        progress("Importing Transformers")
        import transformers

        transformers.utils.logging.set_verbosity_error()
        folder = Path(path) if Path(path).is_dir() else Path(path).parent
        dtype = request.dtype or load.own_dtype(folder, spec)
        if dtype not in self.dtypes:
            raise ExplorerError(f"PyTorch cannot run '{dtype}' here.", f"Choose one of: {', '.join(self.dtypes)}.")
        integers = dtype in grouped.FORMS
        if integers and quant.stored(folder):
            raise ExplorerError(f"The weights in {folder.name} are integers already.", "Leave the number format out.")
        device = "cpu" if integers else load.choose_device(options.device, folder)
        torch.set_num_threads(request.threads or usable_cores())
        load.check_known(folder)
        check_settings(folder)
        progress("Reading the tokenizer")
        tokenizer = load.load_tokenizer(folder, spec)
        loaded = "fp32" if integers else dtype
        model, warnings = load.load_model(folder, spec, loaded, device, options.attention, request.seed, progress)
        if integers:
            _group(model, dtype, progress)
        add_exit_heads(model, folder)
        session = TorchSession(model, tokenizer, spec, device)
        if found := heads.load(folder, model, device):
            session.add_heads(found)
        chosen = device == "cpu" and not options.compile and options.attention != "eager"
        if options.fused or (options.fused is None and chosen):
            fits = session.fuse(progress)
            if (options.fused or integers) and not fits:
                raise _unknown(spec)
        if options.compile:
            progress("Compiling")
            session.compile()
        session.warnings = warnings + (load.cpu_warnings(dtype) if device == "cpu" else ())
        session.warnings += template_warnings(named(tokenizer.chat_template))
        if type(tokenizer) is load.ByteTokenizer:
            session.warnings += ("This architecture has no tokenizer: each byte of the text is a token.",)
        return session


def _check_step(options: Options, spec: ModelSpec, dtype: str | None) -> None:
    """Raises ExplorerError where the fused step is wanted, or a number format needs it, and it cannot be."""
    integers = dtype in grouped.FORMS
    if options.fused and (options.compile or options.attention == "eager"):
        raise ExplorerError("The fused step has an attention of its own and is not compiled.", "Set fused alone.")
    if integers and options.device not in ("auto", "cpu"):
        raise ExplorerError(f"Weights in {dtype} run on the processor only.", "Set the device to cpu.")
    if integers and (options.fused is False or options.compile or options.attention is not None):
        raise ExplorerError(
            f"Weights in {dtype} are for the fused step, which has an attention of its own and is not compiled.",
            "Leave fused, compile and attention as they are.",
        )
    if (integers or options.fused) and spec.architecture not in FAMILIES:
        raise _unknown(spec)


def _unknown(spec: ModelSpec) -> ExplorerError:
    return ExplorerError(
        f"The fused step does not know models like {spec.name}.",
        f"Open it in fp32 or bf16 without the option fused, which is for {', '.join(FAMILIES)}.",
    )


def _group(model: Any, dtype: str, progress: Progress) -> None:
    """Raises ExplorerError where there is no compiled step, or the model is of a form that it does not know."""
    try:
        native.library(in_groups=True)
    except native.UnbuiltError as error:
        hint = "Install a C++ compiler, or choose fp32 or bf16."
        raise ExplorerError(f"Weights in {dtype} need the compiled step, and {error}.", hint) from error
    if families.known(model):  # others are refused when they are to be fused
        grouped.replace(model, dtype, progress)
        give_back()


plugin: Backend = PyTorch()
