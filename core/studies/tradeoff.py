"""What was measured of the variants of a model, side by side: their figures, and those of every draw from the data.

All figures of all variants come from the same items, drawn together: weights over clusters of items give the figures of
the whole sample, of a bootstrap draw and of a half of the items alike. What is made of the figures is
core.studies.composites'.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.stats.intervals import Floats, drawn_means, log_ratios
from core.stats.paired import Comparison, compare, noninferiority
from core.types import Energy, Item, Metric, Record

MARGIN = 0.03  # of quality, stated before any run: what counts as equal
DRAWS = 2000
FIGURES = ("quality", "above_chance", "seconds", "joules", "speedup", "bits", "memory", "worse")
QUALITY = Metric(name="quality", label="Quality", value="quality")


class Variant(Record, omit_defaults=False):
    """What was measured of one way to run a model.

    quality: 0 to 1 by item id. clusters: item id -> what items share. chance: what guessing gives on an item.
    answers: seconds of the study's standard answer, prompt included, of the baseline and of this variant, in pairs of
    fresh processes made next to each other in time. energy: of both phases of such an answer. runs: ids behind it all.
    """

    id: str
    label: str
    backend: str = ""
    quality: dict[str, float] = msgspec.field(default_factory=dict)
    clusters: dict[str, str] = msgspec.field(default_factory=dict)
    chance: dict[str, float] = msgspec.field(default_factory=dict)
    answers: tuple[tuple[float, float], ...] = ()
    memory_bytes: int | None = None
    bits_per_weight: float | None = None
    energy: tuple[Energy, ...] = ()
    runs: tuple[str, ...] = ()

    @property
    def joules(self) -> float | None:
        """Of a standard answer; None unless all of it was measured."""
        return sum(e.joules for e in self.energy) if self.energy and all(e.comparable for e in self.energy) else None


@dataclass(frozen=True)
class Totals:
    """Figures of all variants, each of shape (draws, n_variants); NaN is "not measured".

    quality: mean over items. above_chance: mean of (quality - chance) / (1 - chance). seconds, joules: per answer.
    speedup: geometric mean over the baseline. bits: per weight. memory: over the baseline's. worse: how much worse
    than the baseline the quality may be at its interval's bad end. baseline: the baseline's column. margin: within
    which quality counts as equal.
    """

    quality: Floats
    above_chance: Floats
    seconds: Floats
    joules: Floats
    speedup: Floats
    bits: Floats
    memory: Floats
    worse: Floats
    baseline: int
    margin: float

    def only(self, columns: Sequence[int]) -> Totals:
        """The same of some of the variants, the baseline among them."""
        columns = list(columns)
        figures = {name: getattr(self, name)[:, columns] for name in FIGURES}
        return replace(self, **figures, baseline=columns.index(self.baseline))

    def at_equal_cost(self) -> Totals:
        """As if all cost the same, namely twice as fast as the baseline: only quality is left to differ."""
        b = self.baseline

        def same(values: Floats) -> Floats:
            return np.repeat(values[:, b : b + 1], values.shape[1], axis=1)

        return replace(
            self,
            seconds=same(self.seconds),
            joules=same(self.joules),
            speedup=np.full_like(self.speedup, 2.0),
            bits=same(self.bits),
            memory=np.ones_like(self.memory),
        )


class Study:
    """Variants over the items that all of them answered, and the draws that every composite is computed from."""

    def __init__(self, variants: Sequence[Variant], baseline: str, margin: float = MARGIN) -> None:
        """Raises ValueError without the baseline or without an item in common.

        Variants without any item do not narrow the others: their quality is not measured. margin: of quality, within
        which it counts as equal; to be stated before the measurement.
        """
        self.margin = margin
        self.variants = tuple(variants)
        names = [v.id for v in self.variants]
        if baseline not in names:
            raise ValueError("a study needs its baseline among the variants")
        self.baseline = names.index(baseline)
        base = self.variants[self.baseline]
        judged = [v for v in self.variants if v.quality]
        self.ids = tuple(i for i in base.quality if all(i in v.quality for v in judged))
        if not self.ids:
            raise ValueError("the variants of a study need items in common")
        numbers = {c: n for n, c in enumerate(dict.fromkeys(base.clusters.get(i, i) for i in self.ids))}
        self._of_item = np.array([numbers[base.clusters.get(i, i)] for i in self.ids])
        self._counts = np.bincount(self._of_item).astype(np.float64)
        chance = {i: base.chance.get(i, 0.0) for i in self.ids}
        self._quality = self._sums(lambda v, i: v.quality[i] if v.quality else math.nan)
        self._above = self._sums(lambda v, i: (v.quality[i] - chance[i]) / (1 - chance[i]) if v.quality else math.nan)
        self._logs = [
            log_ratios([a for a, _ in v.answers], [b for _, b in v.answers]) if v.answers else np.zeros(0)
            for v in self.variants
        ]
        beside = [a for v in self.variants for a, _ in v.answers]
        self._base_s = math.exp(np.log(beside).mean()) if beside else math.nan
        self.comparisons = tuple(self._compared(v) for v in self.variants)
        self.equal = tuple(noninferiority(c, margin) if c is not None else None for c in self.comparisons)

    @property
    def n_clusters(self) -> int:
        return len(self._counts)

    def whole(self) -> Totals:
        """Of all items and all pairs: one draw."""
        speed = np.array([[math.exp(logs.mean()) if len(logs) else math.nan for logs in self._logs]])
        return self._totals(np.ones((1, self.n_clusters)), speed, decided=True)

    def bootstrap(self, seed: int = 0, decided: bool = True) -> Totals:
        """Of resampled clusters, the same for every variant, and of resampled pairs of runs.

        The pairs' spread is that of stats.paired_ratio; too few pairs have none to draw from.
        decided: whether quality counts as equal is the whole sample's verdict, and not drawn anew.
        """
        rng = np.random.default_rng(seed)
        n = self.n_clusters
        weights = rng.multinomial(n, np.full(n, 1 / n), size=DRAWS).astype(np.float64)
        speed = np.full((DRAWS, len(self.variants)), np.nan)
        for column, logs in enumerate(self._logs):
            means = drawn_means(logs, DRAWS, rng)
            if means is not None:
                speed[:, column] = np.exp(means)
        return self._totals(weights, speed, decided)

    def halves(self, splits: int = 200, seed: int = 0) -> tuple[Totals, Totals]:
        """Of random halves of the clusters and of the pairs of runs, and of the other halves."""
        rng = np.random.default_rng(seed)
        items = _coins(rng, splits, self.n_clusters)
        pairs = [_coins(rng, splits, len(logs)) for logs in self._logs]
        found = []
        for side in (True, False):
            speed = np.full((splits, len(self.variants)), np.nan)
            for column, logs in enumerate(self._logs):
                kept = pairs[column] == side if len(logs) > 1 else np.ones((splits, len(logs)))
                if len(logs):
                    speed[:, column] = np.exp((kept * logs).sum(axis=1) / kept.sum(axis=1))
            found.append(self._totals((items == side).astype(np.float64), speed, decided=False))
        return found[0], found[1]

    # -------------------------------------------------------- from items to figures

    def _sums(self, value: Callable[[Variant, str], float]) -> Floats:
        """Per variant and cluster, shape (n_variants, n_clusters)."""
        rows = [[value(v, i) for i in self.ids] for v in self.variants]
        return np.array([np.bincount(self._of_item, weights=row) for row in rows])

    def _compared(self, variant: Variant) -> Comparison | None:
        """The quality against the baseline's; None without items and for the baseline itself."""
        if not variant.quality or variant.id == self.variants[self.baseline].id:
            return None
        base = self.variants[self.baseline]
        left, right = (
            [Item(t_s=0, id=i, cluster=base.clusters.get(i, i), values={"quality": v.quality[i]}) for i in self.ids]
            for v in (base, variant)
        )
        binary = {x.values["quality"] for x in (*left, *right)} <= {0.0, 1.0}
        metric = msgspec.structs.replace(QUALITY, kind="rate") if binary else QUALITY
        return compare(metric, left, right)

    def _totals(self, weights: Floats, speedup: Floats, decided: bool) -> Totals:
        items = weights @ self._counts
        with np.errstate(divide="ignore", invalid="ignore"):
            quality, above = ((weights @ sums.T) / items[:, None] for sums in (self._quality, self._above))
        draws = len(weights)

        def wide(values: Sequence[float | None]) -> Floats:
            row = np.array([math.nan if v is None else v for v in values], dtype=np.float64)
            return np.broadcast_to(row, (draws, len(row)))

        memory = [v.memory_bytes for v in self.variants]
        base_memory = memory[self.baseline]
        worse = wide([e.worst if e is not None else None for e in self.equal]) if decided else self._worse(weights)
        own = np.arange(len(self.variants)) == self.baseline
        speedup = np.where(own, 1.0, speedup)
        return Totals(
            quality=quality,
            above_chance=above,
            seconds=self._base_s / speedup,
            joules=wide([v.joules for v in self.variants]),
            speedup=speedup,
            bits=wide([v.bits_per_weight for v in self.variants]),
            memory=wide([m / base_memory if m is not None and base_memory else None for m in memory]),
            worse=np.where(own, 0.0, worse),
            baseline=self.baseline,
            margin=self.margin,
        )

    def _worse(self, weights: Floats) -> Floats:
        """The bad end of the difference from clustered standard errors (Miller, arXiv 2411.00640, equation 4).

        Never narrower than Tango's interval where nothing flips, so that a small half proves nothing by its smallness.
        """
        items = weights @ self._counts
        apart = self._quality - self._quality[self.baseline]
        mean = (weights @ apart.T) / items[:, None]
        square = weights @ (apart**2).T - 2 * mean * (weights @ (apart * self._counts).T)
        square += mean**2 * (weights @ self._counts**2)[:, None]
        clusters = (weights > 0).sum(axis=1)[:, None]
        error = np.sqrt(np.maximum(square, 0.0) * clusters / np.maximum(clusters - 1, 1)) / items[:, None]
        return np.asarray(-mean + np.maximum(1.96 * error, 3.84 / (clusters + 3.84)))


def _coins(rng: np.random.Generator, rows: int, n: int) -> NDArray[np.bool_]:
    """In every row a random half of n, shape (rows, n)."""
    return np.asarray(np.argsort(rng.random((rows, n)), axis=1) < n // 2)
