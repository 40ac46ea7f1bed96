"""From judged items to scores: a metric is a ratio of sums, and its interval comes from the clusters.

It knows one run's items; core.stats.intervals knows the intervals, and pairs of models are core.stats.paired's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import msgspec

from core.stats.intervals import Interval, cluster_bootstrap, wilson
from core.types import Item, Metric, Record, Score

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
    below two clusters. A rate that is 0 or 1 in all clusters leaves both without spread: then Wilson's, a cluster
    being a trial.
    """
    made = []
    for metric in metrics:
        terms = observed(items, metric)
        if not math.fsum(terms.over):
            continue
        found = _interval(terms, metric.kind == "rate", seed)
        shown = SHOWN.get(metric.kind, float)
        made.append(
            Score(
                name=metric.name,
                label=metric.label,
                value=shown(found.value),
                low=None if found.low is None else shown(found.low),
                high=None if found.high is None else shown(found.high),
                n=len(terms.value),
                better=metric.better,
                unit=metric.unit,
            )
        )
    return tuple(made)


def _interval(terms: Observed, rate: bool, seed: int) -> Interval:
    """Of the ratio itself; exponential and root keep order, so their intervals are those of this one's ends."""
    n_clusters = len(set(terms.clusters))
    if rate and n_clusters > 1:
        right = round(sum(terms.value))
        if n_clusters == len(terms.value):
            return wilson(right, n_clusters)
        if right in (0, len(terms.value)):
            return wilson(n_clusters if right else 0, n_clusters)
    found = cluster_bootstrap(terms.value, terms.over, terms.clusters, resamples=RESAMPLES, seed=seed)
    if found.low is None or found.high is None:
        return found
    low = max(0.0, found.low) if min(terms.value) >= 0 else found.low  # a jackknife knows no bounds
    return msgspec.structs.replace(found, low=low, high=min(1.0, found.high) if rate else found.high)


def _exp(x: float) -> float:
    return math.exp(min(x, MAX_LOG))


SHOWN: dict[str, Callable[[float], float]] = {"exp": _exp, "root": math.sqrt}
