"""Sessions in processes of their own, as a run opens a reference in another engine."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from core.types import Request
from core.worker.session_client import SessionClient


class Quiet:
    """core.worker.journal.Teller."""

    def phase(self, name: str, note: str = "", *_: Any, **__: Any) -> None:
        assert note


class Book(Quiet):
    """core.worker.journal.Journal, as far as opening a session needs it."""

    def __init__(self) -> None:
        self.warnings: list[str] = []
        self.processes: tuple[int, ...] = ()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def stop_if_asked(self) -> None:
        pass


def never() -> None:
    """Nobody asks for a stop."""


@contextmanager
def beside(model: str, backend: str, **options: Any) -> Iterator[Any]:
    """The model in that backend, in a process of its own; closed at the end."""
    session = SessionClient(Request(model=model, backend=backend, threads=1, options=options), Quiet(), never)
    try:
        yield session
    finally:
        session.close()
