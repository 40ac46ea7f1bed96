"""Intervals of single figures: rates, ratios of sums over clusters, ratios of paired measurements.

Knows numbers, not where they come from. Quantiles are core.stats.quantiles', comparisons of two systems over the
same items core.stats.paired's, and what a sample can show at all is core.stats.sample_size's.

A bootstrap resamples the unit that varies by itself: clusters of items that share a text (Miller, arXiv 2411.00640,
section 2.2), pairs of runs made next to each other in time (Kalibera and Jones, "Rigorous benchmarking in reasonable
time", ISMM 2013). Every bootstrap is seeded, so equal data give equal intervals. It cannot leave the sample's range,
so that of few units it covers too little: below FEW units Student's t takes its place.

Simple intervals are SciPy's, imported inside functions because that takes a second. BCa over clusters, of any function
of sums, is our own: scipy.stats.bootstrap resamples items.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Sequence
from statistics import NormalDist
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from core.stats.quantiles import student_t
from core.types import Record

RESAMPLES = 10_000
LEVEL = 0.95
PAIRS = 5  # fewer pairs of runs give no interval
FEW = 10  # of fewer pairs or clusters no bootstrap is made
_AT_ONCE = 1 << 22  # drawn indices held in memory at a time

Floats = NDArray[np.float64]
Statistic = Callable[[Floats, Floats], Floats]


class Interval(Record, omit_defaults=False):
    """A figure with its confidence interval. n: of the units that were counted or resampled.

    low and high are None where there are too few of them for an interval.
    """

    value: float
    low: float | None
    high: float | None
    n: int
    level: float = LEVEL

    def __str__(self) -> str:
        return f"{self.value:.3f}{ends(self.low, self.high, '.3f')} (n={self.n})"


class Ratio(Interval, omit_defaults=False):
    """Geometric mean of a/b over n pairs. low and high are None below 5 pairs."""


def ends(low: float | None, high: float | None, shown: str | Callable[[float], str]) -> str:
    """` [1.4, 1.44]` behind a figure; empty where an end is not known. shown: a format, or what writes one end."""
    if low is None or high is None:
        return ""
    write = (lambda value: format(value, shown)) if isinstance(shown, str) else shown
    return f" [{write(low)}, {write(high)}]"


def in_words(of: Interval | None, shown: str = ".3g") -> str:
    """`1.42 [1.4, 1.44]`, or a dash. shown: the format of a number."""
    return "–" if of is None else f"{of.value:{shown}}{ends(of.low, of.high, shown)}"


def wilson(k: int, n: int) -> Interval:
    """Interval of the rate k of n independent trials: Wilson (1927), method 3 of Newcombe (Stat. Med. 17, 1998)."""
    if n < 1 or not 0 <= k <= n:
        raise ValueError("a rate needs 0 <= k <= n and at least one trial")
    from scipy.stats import binomtest

    ends = binomtest(k, n).proportion_ci(LEVEL, method="wilson")
    return Interval(value=k / n, low=float(ends.low), high=float(ends.high), n=n)


def ratio_of_sums(numerators: Floats, denominators: Floats) -> Floats:
    """The default statistic: the sum of the first numerator over that of its denominator."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.asarray(numerators[..., 0] / denominators[..., 0])


def cluster_bootstrap(
    numerators: ArrayLike,
    denominators: ArrayLike | None,
    clusters: Sequence[Hashable],
    statistic: Statistic = ratio_of_sums,
    *,
    method: Literal["bca", "percentile", "jackknife"] | None = None,
    positive: bool = False,
    level: float = LEVEL,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Interval:
    """A function of sums over items, with its interval over resampled clusters.

    numerators, denominators: per item, shape (n_items,) or (n_items, k) for k sums; denominators None: ones.
    clusters: per item; items of one cluster are drawn together. statistic: from sums of shape (..., k) of either to
    values of shape (...). method: Efron's BCa (bias-corrected and accelerated; Efron and Tibshirani 1993, equations
    14.9 to 14.15, jackknife over clusters), plain percentiles, or Student's t with the jackknife's standard error
    (equation 11.5), on the logarithm where the statistic is `positive`; None: the jackknife below FEW clusters, else
    BCa. low and high are None with fewer than two clusters.
    """
    tops, bottoms = cluster_sums(numerators, denominators, clusters)
    value = float(statistic(tops.sum(axis=0), bottoms.sum(axis=0)))
    n = len(tops)
    if not math.isfinite(value):
        raise ValueError("the statistic of all items is not a number")
    if n < 2:
        return Interval(value=value, low=None, high=None, n=n, level=level)
    method = method or ("bca" if n >= FEW else "jackknife")
    leave_one_out = statistic(tops.sum(axis=0) - tops, bottoms.sum(axis=0) - bottoms)
    if method == "jackknife":
        low, high = _jackknife(value, leave_one_out, positive, level)
        return Interval(value=value, low=low, high=high, n=n, level=level)
    drawn = resampled(tops, bottoms, statistic, resamples=resamples, seed=seed)
    left, right = (1 - level) / 2, (1 + level) / 2
    if method == "bca":
        left, right = _bca(value, drawn, leave_one_out, level)
    low, high = (float(x) for x in np.quantile(drawn, (left, right)))
    return Interval(value=value, low=low, high=high, n=n, level=level)


def cluster_sums(
    numerators: ArrayLike, denominators: ArrayLike | None, clusters: Sequence[Hashable]
) -> tuple[Floats, Floats]:
    """Sums per cluster, shape (n_clusters, k), in the order in which the clusters first appear."""
    tops = _columns(numerators)
    bottoms = np.ones_like(tops) if denominators is None else np.broadcast_to(_columns(denominators), tops.shape)
    if len(clusters) != len(tops) or not len(tops):
        raise ValueError("a bootstrap needs one cluster per item, and at least one item")
    number: dict[Hashable, int] = {}
    of_item = np.array([number.setdefault(c, len(number)) for c in clusters])
    sums = np.zeros((2, len(number), tops.shape[1]))
    np.add.at(sums[0], of_item, tops)
    np.add.at(sums[1], of_item, bottoms)
    return sums[0], sums[1]


def resampled(tops: Floats, bottoms: Floats, statistic: Statistic, resamples: int, seed: int) -> Floats:
    """The statistic over `resamples` draws of as many clusters as there are; draws without a finite value left out."""
    rng = np.random.default_rng(seed)
    n = len(tops)
    found, left = [], resamples
    while left:
        rows = min(left, max(1, _AT_ONCE // n))
        drawn = rng.integers(n, size=(rows, n))
        found.append(statistic(tops[drawn].sum(axis=1), bottoms[drawn].sum(axis=1)))
        left -= rows
    values = np.concatenate(found)
    return np.asarray(values[np.isfinite(values)])


def _columns(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    return array[:, None] if array.ndim == 1 else array


def _jackknife(
    value: float, leave_one_out: Floats, positive: bool, level: float
) -> tuple[float, float] | tuple[None, None]:
    """Student's t around the value; no interval where leaving out a cluster leaves no value."""
    with np.errstate(divide="ignore", invalid="ignore"):
        without = np.log(leave_one_out) if positive else leave_one_out
    if not np.isfinite(without).all():
        return None, None
    n, middle = len(without), math.log(value) if positive else value
    error = math.sqrt((n - 1) / n * float(np.sum((without - without.mean()) ** 2)))
    half = student_t((1 + level) / 2, n - 1) * error
    ends = (middle - half, middle + half)
    return (math.exp(ends[0]), math.exp(ends[1])) if positive else ends


def _bca(value: float, drawn: Floats, leave_one_out: Floats, level: float) -> tuple[float, float]:
    """Which percentiles of the draws are the interval's ends. Ties with the value count half."""
    normal = NormalDist()
    below = (np.sum(drawn < value) + 0.5 * np.sum(drawn == value)) / len(drawn)
    if not 0 < below < 1:  # the value lies outside of its own bootstrap: nothing to correct by
        return (1 - level) / 2, (1 + level) / 2
    bias = normal.inv_cdf(float(below))
    kept = leave_one_out[np.isfinite(leave_one_out)]
    away = kept.mean() - kept if len(kept) else np.zeros(1)
    spread = float(np.sum(away**2)) ** 1.5
    bend = float(np.sum(away**3)) / (6 * spread) if spread > 0 else 0.0

    def end(share: float) -> float:
        z = bias + normal.inv_cdf(share)
        return normal.cdf(bias + z / (1 - bend * z)) if bend * z < 1 else share

    return end((1 - level) / 2), end((1 + level) / 2)


def log_ratios(a: Sequence[float], b: Sequence[float]) -> Floats:
    """ln(a/b) pair by pair. All values must be positive."""
    if len(a) != len(b) or not len(a):
        raise ValueError("a ratio needs as many values on both sides, and at least one")
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = np.log(np.asarray(a, dtype=float)) - np.log(np.asarray(b, dtype=float))
    if not np.isfinite(logs).all():
        raise ValueError("a ratio needs positive, finite values")
    return np.asarray(logs)


def paired_ratio(a: Sequence[float], b: Sequence[float], seed: int = 0, level: float = LEVEL) -> Ratio:
    """How many times larger a is than b, pair by pair. All values must be positive.

    Below FEW pairs Student's t of the mean log ratio; from there on its expanded percentile bootstrap (Hesterberg,
    "What teachers should know about the bootstrap", 2015, section 5.2). Both are symmetric between a/b and b/a.
    """
    logs = log_ratios(a, b)
    n, mean = len(logs), float(logs.mean())
    low = high = None
    if FEW > n >= PAIRS:
        half = student_t((1 + level) / 2, n - 1) * float(logs.std(ddof=1)) / math.sqrt(n)
        low, high = math.exp(mean - half), math.exp(mean + half)
    elif n >= FEW:
        rng = np.random.default_rng(seed)
        means = rng.choice(logs, size=(RESAMPLES, n)).mean(axis=1)
        tail = NormalDist().cdf(-math.sqrt(n / (n - 1)) * student_t((1 + level) / 2, n - 1))
        low, high = (float(x) for x in np.exp(np.quantile(means, (tail, 1 - tail))))
    return Ratio(value=math.exp(mean), low=low, high=high, n=n, level=level)


def independent_ratio(a: Sequence[float], b: Sequence[float]) -> Ratio:
    """How many times larger a is than b, of measurements that are not pairs. All values must be positive.

    Welch's t (Biometrika 34, 1947) of the difference of mean logarithms, its degrees of freedom rounded down. n: of the
    smaller side; no interval below PAIRS on either.
    """
    if not len(a) or not len(b):
        raise ValueError("a ratio needs at least one value on either side")
    logs = [log_ratios(side, [1.0] * len(side)) for side in (a, b)]
    mean, n = float(logs[0].mean() - logs[1].mean()), min(len(a), len(b))
    low = high = None
    if n >= PAIRS:
        errors = [float(side.var(ddof=1)) / len(side) for side in logs]
        total = sum(errors)
        freedom = total**2 / sum(e**2 / (len(s) - 1) for e, s in zip(errors, logs, strict=True)) if total else n - 1
        half = student_t((1 + LEVEL) / 2, max(1, math.floor(freedom + 1e-9))) * math.sqrt(total)
        low, high = math.exp(mean - half), math.exp(mean + half)
    return Ratio(value=math.exp(mean), low=low, high=high, n=n)


def drawn_means(logs: Floats, draws: int, rng: np.random.Generator) -> Floats | None:
    """Draws of the mean log ratio whose spread is that of `paired_ratio`'s interval; None below PAIRS pairs."""
    n = len(logs)
    if n < PAIRS:
        return None
    if n < FEW:
        return np.asarray(logs.mean() + rng.standard_t(n - 1, size=draws) * logs.std(ddof=1) / math.sqrt(n))
    means = logs[rng.integers(n, size=(draws, n))].mean(axis=1)
    wider = math.sqrt(n / (n - 1)) * student_t(0.975, n - 1) / NormalDist().inv_cdf(0.975)
    return np.asarray(logs.mean() + wider * (means - logs.mean()))
