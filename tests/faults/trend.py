"""Whether something grows: a straight line through a series, with its interval."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from core.stats.quantiles import student_t

BLOCKS = 12  # of a series; their medians are nearly independent of each other, single readings are not
Series = Sequence[tuple[float, float]]
Said = Literal["does not grow", "grows", "open"]


class Trend(NamedTuple):
    """Growth of y per unit of x, with the ends of its 95 % interval; n blocks of readings it stands on."""

    slope: float
    low: float
    high: float
    n: int

    def said(self, limit: float) -> Said:
        """limit: growth per unit of x that does no harm. "open": too few readings to tell."""
        if self.high <= limit:
            return "does not grow"
        return "grows" if self.low > limit else "open"


def trend(lives: Sequence[Series], blocks: int = BLOCKS) -> Trend | None:
    """Over the lives of one or more processes, each with a level of its own; None where they are too short to tell.

    A block counts as often as it has readings, and a life by its length: how steep it is tells a long one better.
    """
    parts: list[NDArray[np.float64]] = []  # readings, and x and y from the life's own means
    for life in lives:
        found = np.asarray(_blocks(life, blocks))
        if len(found) < 2:
            continue
        found[:, 1:] -= np.average(found[:, 1:], axis=0, weights=found[:, 0])
        parts.append(found)
    free = sum(map(len, parts)) - len(parts) - 1
    if free < 1:
        return None
    n, x, y = np.concatenate(parts).T
    if not (spread := float(n @ x**2)):
        return None
    slope = float(n * x @ y) / spread
    rest = float(n @ (y - slope * x) ** 2)
    half = student_t(0.975, free) * float(np.sqrt(rest / free / spread))
    return Trend(slope, slope - half, slope + half, len(x))


def after(life: Sequence[tuple[float, float, float]], warm: float) -> Series:
    """Of (x, y, what the process has done in its life by then), what came once it had done `warm`: nothing of a life
    that ended before."""
    return [(x, y) for x, y, done in life if done > warm]


def _blocks(life: Series, blocks: int) -> list[tuple[int, float, float]]:
    """Readings, mean x and median y of stretches with equally many; single readings where there are no more."""
    known = sorted(life)
    edges = np.linspace(0, len(known), min(blocks, len(known)) + 1).round().astype(int)
    parts = [known[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return [(len(p), statistics.fmean(x for x, _ in p), statistics.median(y for _, y in p)) for p in parts]
