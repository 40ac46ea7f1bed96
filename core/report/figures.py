"""Figures as reports write them: with their unit, their interval, as a ratio. None is "–"."""

from __future__ import annotations

from functools import partial

from core import plugins
from core.charts.labels import plain, si
from core.stats.intervals import Interval, ends

NONE = "–"
engine = partial(plugins.label, "backend")  # `llama.cpp`; a name that is no backend here stays


def shown(value: float | None, unit: str) -> str:
    """`41.2 tok/s`, `83.04 ms`, `1.2 GB`."""
    if value is None:
        return NONE
    if unit == "tok/s":
        return f"{plain(value)} tok/s"
    return si(value, unit, 4 if unit == "s" else 3)


def about(disturbed: int) -> str:
    """The sign before a speed, or a ratio of speeds, that is not the machine's own."""
    return "~" if disturbed else ""


def between(low: float | None, high: float | None, unit: str) -> str:
    """` [80 ms, 86 ms]` behind a figure; empty where an end is not known."""
    return ends(low, high, lambda value: shown(value, unit))


def with_interval(value: Interval | None, unit: str) -> str:
    """A figure with its interval, where it has one."""
    return NONE if value is None else shown(value.value, unit) + between(value.low, value.high, unit)


def times(ratio: Interval | None) -> str:
    """`1.25 × [1.1, 1.4]`."""
    if ratio is None:
        return NONE
    return f"{plain(ratio.value, 3)} ×{ends(ratio.low, ratio.high, lambda end: plain(end, 3))}"
