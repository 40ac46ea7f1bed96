"""A Hugging Face folder becomes a folder with model.onnx, in two processes: PyTorch traces, ONNX Runtime compares.

Tracing leaves a gigabyte of libraries and freed memory behind, which would be counted as the model's
where memory is measured next; and a process has one native engine (core.engine). The work itself is in
core.models.torch_to_onnx and core.models.onnx_check; this file starts them, relays their progress and
explains their end.
"""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec

from core.errors import ExplorerError
from core.models.torch_to_onnx import Message
from core.types import Progress

VERSION = 2  # part of the cache key: raise it when the same folder gives another file
ROOT = Path(__file__).parents[2]
TELL_EVERY_S = 1.0  # a progress callback may raise, which is how a user stops the export


def export(hf_folder: str, out_dir: str, progress: Progress) -> None:
    """Write model.onnx, its weights and the folder's other small files into `out_dir`.

    Raises ExplorerError when the folder or its architecture cannot be exported. What `progress`
    raises stops the export and is passed on.
    """
    with TemporaryDirectory() as folder:
        samples = str(Path(folder) / "samples.npz")
        _run("core.models.torch_to_onnx", [hf_folder, out_dir, samples], "Starting the ONNX export", progress)
        file = str(Path(out_dir) / "model.onnx")
        _run("core.models.onnx_check", [file, samples], "Starting ONNX Runtime for the ONNX export", progress)


def _run(module: str, arguments: list[str], note: str, progress: Progress) -> None:
    """`python -m module arguments` to its end. Raises ExplorerError for what it refuses, and for its death."""
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE)
    messages: queue.Queue[Message | None] = queue.Queue()
    threading.Thread(target=_read, args=(child, messages), daemon=True).start()
    started = time.monotonic()
    try:
        while True:
            progress(note, round(time.monotonic() - started), unit="s")
            try:
                message = messages.get(timeout=TELL_EVERY_S)
            except queue.Empty:
                continue
            if message is None:
                break
            if message.hint:
                raise ExplorerError(message.text, message.hint)
            note, started = message.text, time.monotonic()
    finally:
        if child.poll() is None and sys.exc_info()[0] is not None:
            child.kill()
        status = child.wait()
    if status:
        raise _explained(status)


def _read(child: subprocess.Popen[bytes], messages: queue.Queue[Message | None]) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            messages.put(msgspec.json.decode(line, type=Message))
    messages.put(None)


def _explained(status: int) -> ExplorerError:
    if status == -signal.SIGKILL:
        return ExplorerError(
            "The ONNX export was killed, most likely because memory ran out.",
            "Choose a smaller model, or the PyTorch backend.",
        )
    return ExplorerError(
        f"The ONNX export stopped with status {status}.", "The run's log has the details; try the PyTorch backend."
    )
