"""Which steps of the lessons are done, in a small file of the data folder. A damaged file counts as none."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path

import msgspec

FILE = "lessons.json"


def done(root: Path) -> dict[str, frozenset[int]]:
    """Lesson -> its steps that are done, counted from 1."""
    try:
        found = msgspec.json.decode((root / FILE).read_bytes(), type=dict[str, frozenset[int]])
    except (OSError, msgspec.DecodeError):
        return {}
    return found


def mark(root: Path, lesson: str, step: int) -> None:
    """Note a step as done; on a disk that cannot be written nothing is kept, and the lesson goes on."""
    before = done(root)
    if step in before.get(lesson, frozenset()):
        return
    after = {name: sorted(steps) for name, steps in before.items()}
    after[lesson] = sorted({*after.get(lesson, ()), step})
    partial = root / f"{FILE}.{os.getpid()}.part"
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(msgspec.json.encode(after, order="sorted"))
        os.replace(partial, root / FILE)


def forget(root: Path) -> None:
    """Begin again from nothing."""
    with contextlib.suppress(OSError):
        (root / FILE).unlink(missing_ok=True)
