"""A Hugging Face folder becomes a folder with model.onnx: PyTorch traces it, and ONNX Runtime compares the two.

Tracing leaves a gigabyte of libraries and freed memory behind, which would be counted as the model's
where memory is measured next; and a process has one native engine (core.engine). So each has a process of its own,
but where this one is there for conversions only. The work itself is in core.models.torch_to_onnx and
core.models.onnx_check; this file starts them, relays their progress and explains their end.
"""

from __future__ import annotations

import contextlib
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from core.models.torch_to_onnx import Message, convert
from core.types import Progress
from hardware.child import Child
from hardware.errors import ExplorerError

VERSION = 4  # part of the cache key: raise it when the same folder gives another file
TELL_EVERY_S = 1.0  # a progress callback may raise, which is how a user stops the export


def export(hf_folder: str, out_dir: str, progress: Progress, alone: bool = False) -> None:
    """Write model.onnx, its weights and the folder's other small files into `out_dir`.

    alone: this process is there for conversions only and PyTorch's, so it traces itself, which saves importing
    PyTorch once more. Raises ExplorerError when the folder or its architecture cannot be exported. What `progress`
    raises stops the export and is passed on.
    """
    Path(out_dir).mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=out_dir) as folder:  # where what a killed export leaves is swept away
        samples = str(Path(folder) / "samples.npz")
        if alone:
            progress("Starting the ONNX export")
            tell = _aloud(progress)
            with contextlib.redirect_stdout(sys.stderr):  # libraries print
                convert(Path(hf_folder), Path(out_dir), tell, Path(samples))
        else:
            _run("core.models.torch_to_onnx", [hf_folder, out_dir, samples], "Starting the ONNX export", progress)
        file = str(Path(out_dir) / "model.onnx")
        _run("core.models.onnx_check", [file, samples], "Starting ONNX Runtime for the ONNX export", progress)


def _aloud(progress: Progress) -> Callable[[str], None]:
    """Tells a step although what is printed goes elsewhere meanwhile."""
    said = sys.stdout

    def tell(text: str) -> None:
        with contextlib.redirect_stdout(said):
            progress(text)

    return tell


def _run(module: str, arguments: list[str], note: str, progress: Progress) -> None:
    """`python -m module arguments` to its end. Raises ExplorerError for what it refuses, and for its death."""
    started = time.monotonic()
    with Child(module, arguments) as child:
        progress(note, 0, unit="s")
        for line in child.messages(TELL_EVERY_S):
            message = msgspec.convert(line, Message) if line else None
            if message and message.hint:
                raise ExplorerError(message.text, message.hint)
            if message:
                note, started = message.text, time.monotonic()
            progress(note, round(time.monotonic() - started), unit="s")
    if child.status:
        raise _explained(child.status)


def _explained(status: int) -> ExplorerError:
    if status == -signal.SIGKILL:
        return ExplorerError(
            "The ONNX export was killed, most likely because memory ran out.",
            "Choose a smaller model, or the PyTorch backend.",
        )
    return ExplorerError(
        f"The ONNX export stopped with status {status}.", "The run's log has the details; try the PyTorch backend."
    )
