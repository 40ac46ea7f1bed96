"""A conversion in a process of its own, where it can be stopped at once and its memory goes with it."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardware.child import Child
from hardware.errors import ExplorerError


def run(module: str, arguments: list[str], tell: Callable[[dict[str, Any] | None], None]) -> int:
    """Run `python -m module arguments` to its end; its exit status.

    tell: called with every object the child prints, and with None in between; what it raises ends the child.
    """
    with Child(module, arguments) as child:
        for message in child.messages():
            tell(message)
    assert child.status is not None
    return child.status


def disk_full(out: Path, needed: int) -> ExplorerError:
    """needed: bytes of what was to be written into `out`."""
    free = shutil.disk_usage(out).free
    return ExplorerError(
        f"The quantized model could not be written: it needs {needed / 1e9:.2f} GB, and the disk has "
        f"{free / 1e9:.2f} GB free.",
        f"Free space in {out}, or set ROOFSCOPE_HOME to a folder on a larger disk.",
    )
