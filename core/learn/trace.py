"""A recorded trace of Jacobi decoding: every step of one answer of the embedded model, with its window of guesses."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

from core.types import Step

WINDOW = 16  # places of the recorded window, the known token included


@cache
def trace() -> tuple[Step, ...]:
    """The steps, the prompt's first."""
    return msgspec.json.decode(Path(__file__).with_name("jacobi_trace.json").read_bytes(), type=tuple[Step, ...])
