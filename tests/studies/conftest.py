"""Studies make many short runs: their workers are forked from a process that has all modules."""

from __future__ import annotations

import pytest

from tests.support import preloaded


@pytest.fixture(autouse=True)
def forked(monkeypatch: pytest.MonkeyPatch) -> None:
    preloaded.workers(monkeypatch, "pytorch", "fake")
