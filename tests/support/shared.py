"""Files that are made once per test session, by whichever process needs them first."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

PLACE = "ROOFSCOPE_TEST_SHARED"  # environment variable: the session's folder, set by tests/conftest.py


def once(name: str, make: Callable[[Path], object]) -> Path:
    """The file or folder `name`, which `make` writes where it is told. Nobody changes it: copy it first."""
    root = Path(os.environ[PLACE])
    path, part = root / name, root / f"part-{name}"
    with FileLock(root / f"{name}.lock"):
        if not path.exists():
            shutil.rmtree(part, ignore_errors=True)
            make(part)
            part.rename(path)
    return path
