"""When many runs will be over: what each was expected to take, corrected by how long the finished ones took."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.types import Record

LEARNED = 3  # finished runs before which there are first estimates only
WIDE = 3.0  # a first estimate may be wrong by this factor to either side


class Eta(Record, omit_defaults=False):
    """Seconds that remain: likely, and the range of eight in ten. learned: from how many finished runs."""

    seconds: float
    low: float
    high: float
    learned: int

    @property
    def first(self) -> bool:
        return self.learned < LEARNED


def remaining(open_: Sequence[tuple[str, float]], done: Sequence[tuple[str, float, float]], at_once: int = 1) -> Eta:
    """open_: (backend, expected seconds) of what is left. done: (backend, expected, measured seconds).

    at_once: so many runs go at the same time, on machines of their own.

    The sum of the expected seconds times the median of measured over expected, and times its 10 % and 90 % quantiles,
    each backend by its own runs; by all runs together where it has fewer than LEARNED, and before LEARNED in all by
    WIDE to either side.
    """
    ratios: dict[str, list[float]] = {}
    for backend, expected, measured in done:
        if expected > 0 and measured > 0:
            ratios.setdefault(backend, []).append(measured / expected)
    every = [ratio for found in ratios.values() for ratio in found]
    totals = np.zeros(3)
    for backend, expected in open_:
        own = ratios.get(backend, [])
        totals += expected * _spread(own if len(own) >= LEARNED else every)
    low, middle, high = (float(x) / at_once for x in totals)
    return Eta(seconds=middle, low=low, high=high, learned=len(every))


def _spread(ratios: Sequence[float]) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    if len(ratios) < LEARNED:
        middle = float(np.median(ratios)) if ratios else 1.0
        return np.array([middle / WIDE, middle, middle * WIDE])
    return np.quantile(np.asarray(ratios, dtype=np.float64), [0.1, 0.5, 0.9])
