"""ONNX Runtime: a folder with model.onnx, as core.models.onnx_export writes it or as others do.

It turns a request into an open session, and ONNX Runtime's refusals into sentences. The library has
no generate loop of its own: "native" here is a bare loop of runs with bound inputs and outputs.
"""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from core.backends.onnxruntime import reserve
from core.plugins import settings
from core.types import Backend, ModelSpec, Progress, Record, Request, Reserve, Scalar
from hardware.detect import usable_cores
from hardware.errors import ExplorerError

if TYPE_CHECKING:
    from core.backends.onnxruntime.session import OnnxSession

PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
CAPABILITIES = frozenset({"forward", "cache", "rollback", "rewind", "stream", "batch", "layers", "count"})

NO_ADVICE: dict[int, tuple[str, str, dict[str, Scalar]]] = {}


class Options(Record):
    """What a request may set in `options`.

    provider: where it runs; auto takes CUDA when this build has it.
    spinning: idle threads wait in a loop, which is faster and burns the CPU; None: the library's default.
    optimization: how far the graph is fused and rearranged.
    """

    provider: Literal["auto", "cpu", "cuda"] = "auto"
    spinning: bool | None = None
    optimization: Literal["all", "extended", "basic", "off"] = "all"


class OnnxRuntime:
    name = "onnxruntime"
    label = "ONNX Runtime"
    distributions: tuple[str, ...] = ("onnxruntime",)
    formats: tuple[str, ...] = ("onnx",)
    dtypes: tuple[str, ...] = ()
    capabilities = CAPABILITIES
    runtime_bytes = reserve.PROCESS_BYTES
    Options = Options
    signal_advice = NO_ADVICE

    def unavailable(self) -> str | None:
        if importlib.util.find_spec("onnxruntime") is None:
            return "onnxruntime is not installed: run `pip install -r requirements.txt`."
        return None

    def reserve(self, spec: ModelSpec, request: Request, n_tokens: int) -> Reserve:
        return reserve.reserve(spec, request, n_tokens)

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> OnnxSession:
        """Raises ExplorerError for a damaged or incomplete file, an unknown provider or option."""
        from core.backends.onnxruntime.engine import Engine
        from core.backends.onnxruntime.session import OnnxSession
        from core.backends.onnxruntime.text import Text

        options = settings(Options, request.options, self.label)
        threads = request.threads or usable_cores()
        file = _model_file(Path(path))
        progress(f"Loading {file.name}")
        engine = Engine(file, _provider(options.provider), threads, options.spinning, options.optimization)
        return OnnxSession(engine, Text(file.parent, spec), spec)


def _model_file(path: Path) -> Path:
    file = path / "model.onnx" if path.is_dir() else path
    if not file.is_file():
        raise ExplorerError(f"There is no {file.name} in {file.parent.name}.", "Choose a folder with an ONNX export.")
    return file


def _provider(asked: str) -> str:
    import onnxruntime

    there = {short: long for short, long in PROVIDERS.items() if long in onnxruntime.get_available_providers()}
    if asked == "auto":
        return there.get("cuda", PROVIDERS["cpu"])
    if asked not in there:
        raise ExplorerError(
            f"This build of ONNX Runtime cannot use {asked}.", f"Choose one of: auto, {', '.join(there)}."
        )
    return there[asked]


plugin: Backend = OnnxRuntime()
