"""Whether something grows: a straight line through a series, with its interval."""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

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
    """Over the lives of one or more processes, each with a level of its own; None where they are too short to tell."""
    xs: list[float] = []
    ys: list[float] = []
    n_lives = 0
    for life in lives:
        found = _blocks(life, blocks)
        if len(found) < 2:
            continue
        n_lives += 1
        x_mean, y_mean = (statistics.fmean(column) for column in zip(*found, strict=True))
        xs += [x - x_mean for x, _ in found]
        ys += [y - y_mean for _, y in found]
    free = len(xs) - n_lives - 1
    x, y = np.asarray(xs), np.asarray(ys)
    if free < 1 or not (spread := float(x @ x)):
        return None
    slope = float(x @ y) / spread
    rest = y - slope * x
    half = student_t(0.975, free) * float(np.sqrt(max(0.0, float(rest @ rest)) / free / spread))
    return Trend(slope, slope - half, slope + half, len(xs))


def _blocks(life: Series, blocks: int) -> list[tuple[float, float]]:
    """Mean x and median y of stretches with equally many readings; single readings where there are no more."""
    known = sorted(life)
    edges = np.linspace(0, len(known), min(blocks, len(known)) + 1).round().astype(int)
    parts = [known[a:b] for a, b in itertools.pairwise(edges) if b > a]
    return [(statistics.fmean(x for x, _ in p), statistics.median(y for _, y in p)) for p in parts]
