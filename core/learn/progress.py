"""Which steps of the lessons are done, in a small file of the data folder. A damaged file counts as none."""

from __future__ import annotations

import contextlib
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from core.types import from_json
from hardware.files import contents, write_whole

FILE = "lessons.json"
PATIENCE_S = 5.0  # with another tab that writes


def done(root: Path) -> dict[str, frozenset[int]]:
    """Lesson -> its steps that are done, counted from 1."""
    try:
        found = from_json(contents(root / FILE), dict[str, frozenset[int]])
    except (OSError, msgspec.DecodeError):
        return {}
    return found


def mark(root: Path, lesson: str, step: int) -> None:
    """Note a step as done; on a disk that cannot be written nothing is kept, and the lesson goes on."""
    if step in done(root).get(lesson, frozenset()):
        return
    with contextlib.suppress(OSError, Timeout):
        root.mkdir(parents=True, exist_ok=True)
        with FileLock(root / f".{FILE}.lock", timeout=PATIENCE_S):  # two tabs finish steps at the same time
            after = {name: sorted(steps) for name, steps in done(root).items()}
            after[lesson] = sorted({*after.get(lesson, ()), step})
            write_whole(root / FILE, msgspec.json.encode(after, order="sorted"))


def forget(root: Path) -> None:
    """Begin again from nothing."""
    with contextlib.suppress(OSError):
        (root / FILE).unlink(missing_ok=True)
