"""From judged items to scores: a metric is a ratio of sums, and its interval comes from the clusters.

It knows one run's items; core.stats.intervals knows the intervals, and pairs of models are core.stats.paired's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec
import numpy as np

from core.stats.intervals import FEW, LEVEL, Interval, cluster_bootstrap, wilson
from core.types import Item, Metric, Record, Score
from core.types.sketch import Sketch, middle, quantile, together

P99 = 0.99
RESAMPLES = 2000  # a live page asks again and again
MAX_LOG = 690.0  # a perplexity beyond 1e299 says no more than that, and JSON knows no infinity


class Observed(Record):
    """What the items that have a metric say of it, in their order: sum(value) / sum(over) is the metric."""

    value: tuple[float, ...]
    over: tuple[float, ...]
    clusters: tuple[str, ...]


def observed(items: Sequence[Item], metric: Metric) -> Observed:
    """The metric's terms, item by item; items without the values that it needs are left out."""
    wanted = {metric.value, metric.over or metric.value}
    having = [item for item in items if wanted <= item.values.keys()]
    return Observed(
        value=tuple(item.values[metric.value] for item in having),
        over=tuple(item.values[metric.over] if metric.over else 1.0 for item in having),
        clusters=tuple(item.cluster for item in having),
    )


def scores(items: Sequence[Item], metrics: Sequence[Metric], seed: int = 0) -> tuple[Score, ...]:
    """One score per metric that any item has, with its 95 % interval.

    Wilson's for a rate with one item per cluster, else a BCa bootstrap over clusters, or the jackknife's of few; none
    below two clusters, and none beyond what a metric can be. One that is 0, or the most that it can be, in all clusters
    leaves both without spread: then Wilson's, a cluster being a trial.
    """
    made = []
    for metric in metrics:
        if metric.kind == "p99":
            n_items, found = percentile(items, metric, seed)
        else:
            terms = observed(items, metric)
            n_items = len(terms.value)
            found = _interval(terms, metric, seed) if math.fsum(terms.over) else None
        if found is None:
            continue
        shown = SHOWN.get(metric.kind, float)
        made.append(
            Score(
                name=metric.name,
                label=metric.label,
                value=shown(found.value),
                low=None if found.low is None else shown(found.low),
                high=None if found.high is None else shown(found.high),
                n=n_items,
                better=metric.better,
                unit=metric.unit,
            )
        )
    return tuple(made)


def percentile(items: Sequence[Item], metric: Metric, seed: int = 0) -> tuple[int, Interval | None]:
    """The 99th percentile over all that the items' sketches of the metric's value hold, and how many items have one.

    Its interval is a bootstrap over clusters with plain percentiles (a quantile is not smooth enough for BCa, nor for
    a jackknife of few clusters, so few have none). None without a sketch.
    """
    having = [item for item in items if item.sketches.get(metric.value)]
    by_cluster: dict[str, list[Sketch]] = {}
    for item in having:
        by_cluster.setdefault(item.cluster, []).append(item.sketches[metric.value])
    if not having:
        return 0, None
    merged = [together(sketches) for sketches in by_cluster.values()]
    whole = together(merged)
    value, n = quantile(whole, P99), len(merged)
    if n < FEW:
        return len(having), Interval(value=value, low=None, high=None, n=n)
    bins = sorted(whole)
    counts = np.array([[one.get(b, 0) for b in bins] for one in merged], dtype=np.float64)
    drawn = np.random.default_rng(seed).multinomial(n, [1 / n] * n, size=RESAMPLES).astype(np.float64)
    below = np.cumsum(drawn @ counts, axis=1)
    at = (below >= np.ceil(P99 * below[:, -1:] - 1e-9)).argmax(axis=1)
    low, high = np.quantile([middle(bins[i]) for i in at], [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return len(having), Interval(value=value, low=float(low), high=float(high), n=n)


def _interval(terms: Observed, metric: Metric, seed: int) -> Interval:
    """Of the ratio itself; exponential and root keep order, so their intervals are those of this one's ends."""
    n_clusters, top = len(set(terms.clusters)), most(metric)
    if metric.kind == "rate" and n_clusters == len(terms.value) > 1:
        return wilson(round(sum(terms.value)), n_clusters)
    share = sum(terms.value) / sum(terms.over) / top
    if math.isfinite(top) and share in (0.0, 1.0) and n_clusters > 1 and metric.over != "tokens":  # a text has hundreds
        return _times(wilson(round(share) * n_clusters, n_clusters), top)
    found = cluster_bootstrap(terms.value, terms.over, terms.clusters, resamples=RESAMPLES, seed=seed)
    if found.low is None or found.high is None:
        return found
    low = max(0.0, found.low) if min(terms.value) >= 0 else found.low  # a jackknife knows no bounds
    return msgspec.structs.replace(found, low=low, high=min(top, found.high))


def _times(found: Interval, top: float) -> Interval:
    assert found.low is not None and found.high is not None
    return msgspec.structs.replace(found, value=top * found.value, low=top * found.low, high=top * found.high)


def most(metric: Metric) -> float:
    """The largest value that it can have; infinity without one."""
    return 1.0 if metric.kind == "rate" else math.inf if metric.most is None else metric.most


def _exp(x: float) -> float:
    return math.exp(min(x, MAX_LOG))


SHOWN: dict[str, Callable[[float], float]] = {"exp": _exp, "root": math.sqrt}
