"""Conversions in a child that is kept: a new one imports its library first, which takes longer than what it does."""

from __future__ import annotations

import contextlib
import importlib
import io
import json
from collections.abc import Callable
from typing import Any

import pytest

from core.transforms import _child
from tests.support import elsewhere


@pytest.fixture
def kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """For tests of what a conversion makes; how its process is started, stopped and killed, others tell."""
    monkeypatch.setattr(_child, "run", run)


def run(module: str, arguments: list[str], tell: Callable[[dict[str, Any] | None], None]) -> int:
    """core.transforms._child.run."""
    said, status = elsewhere.call(module, perform, module, arguments)
    for message in said:
        tell(message)
    return status


def perform(module: str, arguments: list[str]) -> tuple[list[dict[str, Any]], int]:
    """What the module tells in lines of JSON, and its exit status; in the child."""
    with contextlib.redirect_stdout(io.StringIO()) as told:
        status = importlib.import_module(module).main(*arguments)
    return [json.loads(line) for line in told.getvalue().splitlines() if line.startswith("{")], status
