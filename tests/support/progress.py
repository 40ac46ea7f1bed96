"""core.types.Progress that nobody listens to."""

from __future__ import annotations


def silent(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    assert note, "progress says what it is doing"
