"""A conversion in a process of its own, where it can be stopped at once and its memory goes with it.

The child is a module that prints lines of JSON. Knows nothing of what it converts.
"""

from __future__ import annotations

import json
import queue
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.errors import ExplorerError

ROOT = Path(__file__).parents[2]
POLL_S = 0.2


def run(module: str, arguments: list[str], tell: Callable[[dict[str, Any] | None], None]) -> int:
    """Run `python -m module arguments` to its end; its exit status.

    tell: called with every line the child prints, and with None in between; what it raises kills the child.
    """
    child = subprocess.Popen([sys.executable, "-m", module, *arguments], cwd=ROOT, stdout=subprocess.PIPE)
    lines: queue.Queue[dict[str, Any] | None] = queue.Queue()
    threading.Thread(target=_read, args=(child, lines), daemon=True).start()
    try:
        while True:
            tell(None)
            try:
                line = lines.get(timeout=POLL_S)
            except queue.Empty:
                continue
            if line is None:
                break
            tell(line)
    finally:
        if sys.exc_info()[0] is not None:
            child.kill()
        status = child.wait()
    return status


def _read(child: subprocess.Popen[bytes], lines: queue.Queue[dict[str, Any] | None]) -> None:
    assert child.stdout is not None
    with child.stdout:
        for line in child.stdout:
            if line.startswith(b"{"):  # a library may print, too
                lines.put(json.loads(line))
    lines.put(None)


def disk_full(out: Path, needed: int) -> ExplorerError:
    """needed: bytes of what was to be written into `out`."""
    free = shutil.disk_usage(out).free
    return ExplorerError(
        f"The quantized model could not be written: it needs {needed / 1e9:.2f} GB, and the disk has "
        f"{free / 1e9:.2f} GB free.",
        f"Free space in {out}, or set ROOFSCOPE_HOME to a folder on a larger disk.",
    )
