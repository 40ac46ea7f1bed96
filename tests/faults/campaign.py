"""Carries the disturbed writes out: builds the shim, and starts tests.faults.writes with it preloaded."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
SOURCE = Path(__file__).with_name("shim.c")


def unavailable() -> str | None:
    """Why it cannot run here; None if it can."""
    if not sys.platform.startswith("linux"):
        return "writes are counted by a preloaded library, on Linux only"
    return None if _compiler() else "there is no C compiler"


def _compiler() -> str | None:
    return next((found for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), None)


def built(source: str, place: Path) -> Path:
    """A library to preload, from a C file beside this one."""
    library = place / Path(source).with_suffix(".so").name
    if not library.exists():
        command = [
            str(_compiler()),
            "-shared",
            "-fPIC",
            "-O1",
            "-o",
            str(library),
            str(SOURCE.with_name(source)),
            "-ldl",
        ]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
    return library


def disturbed(names: list[str], most: int = 40) -> Iterator[dict[str, Any]]:
    """A row for every operation and way, as tests.faults.writes prints it. Raises RuntimeError where it dies.

    most: writes of an operation that are disturbed; of more, every second, third ... and the last.
    """
    with tempfile.TemporaryDirectory() as place:
        shim = built(SOURCE.name, Path(place))
        folder = Path(place) / "faults"
        folder.mkdir()
        done = subprocess.Popen(
            [sys.executable, "-m", "tests.faults.writes", str(shim), str(folder), str(most), *names],
            cwd=ROOT,
            env={**os.environ, "LD_PRELOAD": str(shim), "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert done.stdout is not None and done.stderr is not None
        with done:
            for line in done.stdout:
                yield json.loads(line)
            said = done.stderr.read()
        if done.returncode:
            raise RuntimeError(f"The disturbed writes ended with {done.returncode}: {said[-2000:]}")
