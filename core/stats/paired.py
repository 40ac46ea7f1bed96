"""Two systems on the same items: how far apart, by chance or not, and which items changed.

Items are paired (core.stats.pairing), so their shared difficulty cancels; those without a partner are named and left
out. Holm's correction is statsmodels'; a randomisation test over clusters of any function of sums is our own, because
scipy.stats.permutation_test swaps items. Nothing here knows of runs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Literal

import msgspec
import numpy as np

from core.stats.intervals import (
    RESAMPLES,
    Floats,
    Interval,
    Ratio,
    Statistic,
    cluster_bootstrap,
    cluster_sums,
    paired_ratio,
)
from core.stats.pairing import pair
from core.stats.proportions import mcnemar, tango
from core.stats.scores import most
from core.types import Item, Metric, Record

ALPHA = 0.05
SAME_SPEED = 0.03  # the margin within which two speeds count as the same
_AT_ONCE = 1 << 22


class Comparison(Record, omit_defaults=False):
    """A metric of a variant against a baseline over the n items that both have.

    difference: variant minus baseline. p: two-sided, of no difference at all. lost, gained: the flips of a rate, ids of
    items that only the baseline or only the variant has right. missing: ids that only one side has. changed: ids under
    which the two were asked different things. verified: whether all questions are known to be equal.
    """

    metric: Metric
    n: int
    n_clusters: int
    baseline: float
    variant: float
    difference: Interval
    p: float
    test: Literal["exact McNemar", "randomisation over clusters"]
    lost: tuple[str, ...] = ()
    gained: tuple[str, ...] = ()
    missing: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    verified: bool = False  # findings recorded before there were fingerprints say nothing

    @property
    def gain(self) -> float:
        """The difference with the sign that makes more of it better."""
        return self.difference.value if self.metric.better == "higher" else -self.difference.value


def compare(metric: Metric, baseline: Sequence[Item], variant: Sequence[Item], seed: int = 0) -> Comparison:
    """The metric of `variant` against that of `baseline`; raises ValueError when they have no item in common.

    A percentile over all items has no term per item, and is refused in the same way.

    A rate over items without shared clusters has Tango's interval and McNemar's exact test. Anything else has a cluster
    bootstrap of the difference, both sides drawn together, and a randomisation test: within each cluster the two sides
    are swapped at random (approximate randomisation, Noreen 1989), which is McNemar's test where both apply. Where no
    item differs at all a bootstrap shows no spread: a rate then has the interval of as many items as there are
    clusters, and other metrics have none.
    """
    if metric.kind == "p99":
        raise ValueError("a percentile is no ratio of sums, so items cannot be paired on it")
    paired = pair(*([i for i in items if _has(metric, i)] for items in (baseline, variant)))
    pairs = paired.pairs
    if not pairs:
        raise ValueError("a comparison needs items that both sides have")
    tops = [[item.values[metric.value] for item in pair] for pair in pairs]
    bottoms = [[item.values[metric.over] if metric.over else 1.0 for item in pair] for pair in pairs]
    clusters = [a.cluster for a, _ in pairs]

    def apart(top: Floats, bottom: Floats) -> Floats:
        values = _value(metric, top, bottom)
        return np.asarray(values[..., 1] - values[..., 0])

    difference = cluster_bootstrap(tops, bottoms, clusters, apart, seed=seed)
    sums = cluster_sums(tops, bottoms, clusters)
    each = _value(metric, sums[0].sum(axis=0), sums[1].sum(axis=0))
    binary = metric.kind == "rate"
    lost, gained = _flips(metric, pairs) if binary else ((), ())
    exact = binary and difference.n == len(pairs)
    if exact or (binary and not lost and not gained):
        low, high = tango(len(lost), len(gained), difference.n)
        difference = msgspec.structs.replace(difference, low=low, high=high)
    elif all(a == b for a, b in tops):
        difference = msgspec.structs.replace(difference, low=None, high=None)
    elif difference.low is not None and difference.high is not None:  # a jackknife knows no bounds
        widest = most(metric)
        low, high = max(-widest, difference.low), min(widest, difference.high)
        difference = msgspec.structs.replace(difference, low=low, high=high)
    if exact:
        p = mcnemar(len(lost), len(gained))
    else:
        p = _randomised(sums, apart, abs(difference.value) - 1e-12 * float(np.abs(each).max()), seed)
    return Comparison(
        metric=metric,
        n=len(pairs),
        n_clusters=difference.n,
        baseline=float(each[0]),
        variant=float(each[1]),
        difference=difference,
        p=p,
        test="exact McNemar" if exact else "randomisation over clusters",
        lost=lost,
        gained=gained,
        missing=paired.alone,
        changed=paired.changed,
        verified=paired.verified,
    )


def _value(metric: Metric, top: Floats, bottom: Floats) -> Floats:
    """The metric of sums over items."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        ratio = top / bottom
        return np.exp(ratio) if metric.kind == "exp" else np.sqrt(ratio) if metric.kind == "root" else ratio


def _flips(metric: Metric, pairs: Sequence[tuple[Item, Item]]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Ids of items that only the baseline, and that only the variant has right."""
    right = [(a.id, a.values[metric.value], b.values[metric.value]) for a, b in pairs]
    return tuple(name for name, a, b in right if a > b), tuple(name for name, a, b in right if b > a)


def _has(metric: Metric, item: Item) -> bool:
    return metric.value in item.values and (metric.over is None or metric.over in item.values)


def _randomised(sums: tuple[Floats, Floats], apart: Statistic, least: float, seed: int) -> float:
    """How often the sides differ by `least` or more when they are swapped at random within clusters."""
    drawn = np.concatenate([apart(*swapped) for swapped in _swapped(*sums, seed=seed)])
    drawn = drawn[np.isfinite(drawn)]
    return float((1 + np.sum(np.abs(drawn) >= least)) / (1 + len(drawn)))


def _swapped(tops: Floats, bottoms: Floats, seed: int) -> Iterator[tuple[Floats, Floats]]:
    """Totals of both sides, shape (rows, 2), with the sides of a random half of the clusters swapped."""
    rng = np.random.default_rng(seed)
    n, left = len(tops), RESAMPLES
    change = np.stack([tops[:, 1] - tops[:, 0], bottoms[:, 1] - bottoms[:, 0]], axis=1)
    whole = np.stack([tops.sum(axis=0), bottoms.sum(axis=0)])
    while left:
        rows = min(left, max(1, _AT_ONCE // n))
        moved = rng.integers(2, size=(rows, n)).astype(np.float64) @ change
        sides = whole[None, :, :] + np.stack([moved, -moved], axis=2)
        yield sides[:, 0, :], sides[:, 1, :]
        left -= rows


def holm(p_values: Sequence[float]) -> tuple[float, ...]:
    """p-values adjusted for a family of tests: below alpha means significant in the whole family (Holm 1979)."""
    from statsmodels.stats.multitest import multipletests

    return tuple(float(p) for p in multipletests(p_values, method="holm")[1]) if p_values else ()


class Noninferiority(Record, omit_defaults=False):
    """Whether a variant is worse than its baseline by no more than a margin that was stated before the run."""

    verdict: Literal["non-inferior", "inferior", "undecided"]
    margin: float
    worst: float | None  # how much worse it may be at the interval's bad end; negative: better even there
    sentence: str


def noninferiority(comparison: Comparison, margin: float) -> Noninferiority:
    """The interval's bad end against the margin, in the metric's own unit (ICH E9, section 3.3.2).

    A two-sided 95 % interval makes it a one-sided test at 2.5 %. inferior: even the good end is beyond the margin.
    """
    if margin <= 0:
        raise ValueError("a margin of non-inferiority must be above 0")
    interval = comparison.difference
    if interval.low is None or interval.high is None:
        return Noninferiority(
            verdict="undecided",
            margin=margin,
            worst=None,
            sentence="Too few items differ for an interval.",
        )
    higher = comparison.metric.better == "higher"
    worst, best = (-interval.low, -interval.high) if higher else (interval.high, interval.low)
    name = comparison.metric.label
    verdict: Literal["non-inferior", "inferior", "undecided"]
    if worst < margin:
        verdict, sentence = "non-inferior", f"{name} is worse by less than the margin of {margin:g}."
    elif best > margin:
        verdict, sentence = "inferior", f"{name} is worse by more than the margin of {margin:g}."
    else:
        verdict, sentence = (
            "undecided",
            f"{name} may be worse by {worst:.3g}, beyond the margin of {margin:g}, or by less: too few items to tell.",
        )
    return Noninferiority(verdict=verdict, margin=margin, worst=worst, sentence=sentence)


def same_speed(a: Sequence[float], b: Sequence[float]) -> tuple[bool | None, Ratio]:
    """Whether a and b, measured in interleaved pairs, differ by less than SAME_SPEED; and the ratio with its interval.

    Two one-sided tests (Schuirmann 1987): the interval of level 1 - 2 ALPHA lies within [1 / 1.03, 1.03],
    bounds that are the same for a/b and b/a. None: too few pairs for an interval. False means "not shown to be the
    same", which is less than "shown to differ".
    """
    ratio = paired_ratio(a, b, level=1 - 2 * ALPHA)
    if ratio.low is None or ratio.high is None:
        return None, ratio
    return ratio.low > 1 / (1 + SAME_SPEED) and ratio.high < 1 + SAME_SPEED, ratio
