"""Quantiles: of a sample, with an interval that needs no distribution, and of Student's t.

The distributions are SciPy's: scipy.special, whose import inside a function takes a third of scipy.stats'.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence

import numpy as np

from core.types import Record

LEVEL = 0.95


def median(values: Iterable[float | None]) -> float | None:
    """Of those that are known; None without any."""
    known = [value for value in values if value is not None]
    return statistics.median(known) if known else None


def student_t(share: float, df: int) -> float:
    """The quantile of Student's t with `df` degrees of freedom, for 0.5 <= share < 1."""
    if df < 1 or not 0.5 <= share < 1:
        raise ValueError("a quantile of t needs at least one degree of freedom and 0.5 <= share < 1")
    from scipy.special import stdtrit

    return float(stdtrit(df, share))


class Quantile(Record, omit_defaults=False):
    """A quantile of a sample with its interval, or the reason why the sample cannot give it.

    high alone: the sample is too small for a two-sided interval, and high is a one-sided bound at the same level.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    reason: str = ""


def quantile(values: Sequence[float], share: float, level: float = LEVEL) -> Quantile:
    """The quantile `share` (0.5: the median) with its interval by order statistics, free of any distribution.

    Hahn and Meeker, "Statistical Intervals" (1991), section 5.2: binomial ranks, equal tails. Refused where even the
    sample's largest value is no bound: the 99th percentile below 299 values at 95 %.
    """
    if not 0 < share < 1:
        raise ValueError("a quantile lies between 0 and 1")
    n = len(values)
    extreme = max(share, 1 - share)
    fewest = max(1, math.ceil(math.log(1 - level) / math.log(extreme) - 1e-9))
    if n < fewest:
        reason = f"the quantile {share:g} needs at least {fewest} values, and there are {n}"
        return Quantile(value=None, low=None, high=None, n=n, reason=reason)
    ordered = sorted(float(v) for v in values)
    from scipy.special import bdtr

    below = bdtr(np.arange(n + 1.0), n, share)  # below[r]: probability that at most r values lie under the quantile
    tail = (1 - level) / 2
    lower = int(np.searchsorted(below, tail, side="right"))  # rank of the low end, counted from 1; 0: none
    upper = int(np.searchsorted(below, 1 - tail, side="left")) + 1
    middle = ordered[max(0, math.ceil(n * share - 1e-9) - 1)]
    if lower >= 1 and upper <= n:
        return Quantile(value=middle, low=ordered[lower - 1], high=ordered[upper - 1], n=n)
    if share >= 0.5:
        rank = int(np.searchsorted(below, level, side="left")) + 1
        return Quantile(value=middle, low=None, high=ordered[min(rank, n) - 1], n=n)
    rank = int(np.searchsorted(below, 1 - level, side="right"))
    return Quantile(value=middle, low=ordered[max(rank, 1) - 1], high=None, n=n)
