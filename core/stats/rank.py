"""Whether one order tells another: Kendall's tau, what it adds to a third figure, and what trusting it would cost.

Knows numbers, not what they are of. The values of tau are SciPy's, imported inside functions because that takes a
second; intervals are percentiles of a seeded bootstrap over the things that are ranked, for which tau is computed as
Daniels' product of signs (Biometrika 33, 1944), the same number. With a dozen things an interval is wide: it can show
that an order is better than chance, hardly that it is good.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from core.stats.intervals import LEVEL, Interval
from core.types import Record

RESAMPLES = 4000
LEAST = 5  # of fewer things no interval is made

Floats = NDArray[np.float64]
Better = Literal["higher", "lower"]


class Regret(Record, omit_defaults=False):
    """What is lost by taking an order's favourite for the best. value: in units of the truth, 0 when it is the best.

    place: of the favourite in the true order, from 1; None for an order that is random.
    """

    value: float
    place: int | None
    n: int


def kendall(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Interval:
    """Kendall's tau-b of two columns, -1 to 1, with its 95 % bootstrap interval.

    Raises ValueError for columns of unequal length, with fewer than two values, or where one of them is constant.
    """
    from scipy.stats import kendalltau

    one, other = _columns(a, b)
    value = float(kendalltau(one, other).statistic)
    if math.isnan(value):
        raise ValueError("a constant column has no order")
    return _interval(value, (one, other), lambda s: _tau(s[0], s[1]), seed)


def partial_kendall(a: Sequence[float], b: Sequence[float], given: Sequence[float]) -> Interval:
    """Kendall's partial tau: how far a and b agree beyond what their agreement with `given` brings.

    (t_ab - t_ag t_bg) / sqrt((1 - t_ag^2)(1 - t_bg^2)), Kendall, "Partial rank correlation" (Biometrika 32, 1942). Of
    a figure and its logarithm the order is one. Raises ValueError as `kendall`, and where `given` already is the order
    of a or of b, so that nothing is left to explain.
    """
    columns = _columns(a, b, given)
    value = float(_partial([_signs(c) for c in columns]))
    if math.isnan(value):
        raise ValueError("the third column is the order of one of the two")
    return _interval(value, columns, _partial)


def p_value(a: Sequence[float], b: Sequence[float]) -> float:
    """Two-sided p of so much agreement by chance: exact for few things without ties (SciPy's choice)."""
    from scipy.stats import kendalltau

    return float(kendalltau(*_columns(a, b)).pvalue)


def difference(a: Sequence[float], other: Sequence[float], truth: Sequence[float]) -> Interval:
    """tau(a, truth) - tau(other, truth), with its paired bootstrap interval. Raises ValueError as `kendall`."""
    columns = _columns(a, other, truth)

    def gap(signs: Sequence[Floats]) -> Floats:
        return np.asarray(_tau(signs[0], signs[2]) - _tau(signs[1], signs[2]))

    value = float(gap([_signs(c) for c in columns]))
    if math.isnan(value):
        raise ValueError("a constant column has no order")
    return _interval(value, columns, gap)


def chance(n: int) -> Interval:
    """The tau of a random order of n things: 0, with where 95 % of random orders lie."""
    if n < 2:
        raise ValueError("an order needs two things")
    rng = np.random.default_rng(0)
    fixed = _signs(np.arange(n, dtype=np.float64))
    drawn = np.array([float(_tau(_signs(rng.permutation(n).astype(np.float64)), fixed)) for _ in range(RESAMPLES)])
    low, high = (float(x) for x in np.quantile(drawn, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    return Interval(value=0.0, low=low, high=high, n=n)


def regret(scores: Sequence[float], truth: Sequence[float], better: Better = "lower") -> Regret:
    """How much worse in truth the thing of the highest score is than the best one. Ties share the loss.

    better: which truth is good. Raises ValueError for columns of unequal length or without values.
    """
    if len(scores) != len(truth) or not len(scores):
        raise ValueError("a regret needs a score and a truth for each of some things")
    sign = 1.0 if better == "lower" else -1.0
    losses = sign * np.asarray(truth, dtype=np.float64)
    losses = losses - losses.min()
    favourites = np.flatnonzero(np.asarray(scores, dtype=np.float64) == max(scores))
    value = float(losses[favourites].mean())
    return Regret(value=value, place=1 + int((losses < losses[favourites].min()).sum()), n=len(losses))


def random_regret(truth: Sequence[float], better: Better = "lower") -> Regret:
    """What taking any thing at random loses on average."""
    expected = regret([0.0] * len(truth), truth, better)
    return Regret(value=expected.value, place=None, n=expected.n)


# ------------------------------------------------------------ signs


def _columns(*columns: Sequence[float]) -> tuple[Floats, ...]:
    found = tuple(np.asarray(c, dtype=np.float64) for c in columns)
    if len({len(c) for c in found}) > 1 or len(found[0]) < 2:
        raise ValueError("an agreement needs as many values on both sides, and at least two")
    return found


def _signs(column: Floats) -> Floats:
    """Of every pair's difference, shape (n, n)."""
    return np.asarray(np.sign(column[:, None] - column[None, :]))


def _tau(a: Floats, b: Floats) -> Floats:
    """tau-b of two matrices of signs, over the last two axes; NaN where one of them is all zeros."""
    axes = (-2, -1)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray((a * b).sum(axes) / np.sqrt((a * a).sum(axes) * (b * b).sum(axes)))


def _partial(signs: Sequence[Floats]) -> Floats:
    ab, ag, bg = _tau(signs[0], signs[1]), _tau(signs[0], signs[2]), _tau(signs[1], signs[2])
    left = (1 - ag**2) * (1 - bg**2)
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.asarray(np.where(left > 1e-12, (ab - ag * bg) / np.sqrt(np.maximum(left, 1e-12)), np.nan))


def _interval(
    value: float, columns: Sequence[Floats], statistic: Callable[[Sequence[Floats]], Floats], seed: int = 0
) -> Interval:
    """Percentiles over resampled things; draws without a value are left out."""
    n = len(columns[0])
    if n < LEAST:
        return Interval(value=value, low=None, high=None, n=n)
    rng = np.random.default_rng(seed)
    signs = [_signs(c) for c in columns]
    found = []
    for _ in range(8):
        drawn = rng.integers(n, size=(RESAMPLES // 8, n))
        found.append(statistic([s[drawn[:, :, None], drawn[:, None, :]] for s in signs]))
    values = np.concatenate(found)
    values = values[np.isfinite(values)]
    if not len(values):
        return Interval(value=value, low=None, high=None, n=n)
    low, high = (float(x) for x in np.quantile(values, ((1 - LEVEL) / 2, (1 + LEVEL) / 2)))
    return Interval(value=value, low=min(low, value), high=max(high, value), n=n)
