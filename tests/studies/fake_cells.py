"""The run that tests of sweeps, searches and comparisons vary: three tokens of the fake backend."""

from __future__ import annotations

from core.types import Generate, Request

BASE = Request(
    model="smollm2-135m",
    backend="fake",
    task=Generate(prompt_tokens=4, max_new_tokens=3),
    threads=1,
    warmup=0,
    retries=0,
    profilers=(),
)


def quiet(words: str) -> None:
    """Nothing is shown."""
