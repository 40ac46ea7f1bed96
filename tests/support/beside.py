"""Sessions in processes of their own, as a run opens a reference in another engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.types import Request
from core.worker.apart import Apart


class Quiet:
    """core.worker.journal.Teller."""

    def phase(self, name: str, note: str = "", *_: Any, **__: Any) -> None:
        assert note


def never() -> None:
    """Nobody asks for a stop."""


@contextmanager
def beside(model: str, backend: str) -> Iterator[Any]:
    """The model in that backend, in a process of its own; closed at the end."""
    session = Apart(Request(model=model, backend=backend, threads=1), Quiet(), never)
    try:
        yield session
    finally:
        session.close()
