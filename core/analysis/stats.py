"""Ratios of paired measurements with intervals.

The unit is one pair of runs made next to each other in time, so that what the machine does to both
cancels. Kalibera and Jones, "Rigorous benchmarking in reasonable time" (ISMM 2013); the interval is
a percentile bootstrap of the mean log ratio, which makes it symmetric between a/b and b/a.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.types import Record

RESAMPLES = 10_000


class Ratio(Record, omit_defaults=False):
    """Geometric mean of a/b over n pairs, with its 95 % interval. low and high are None below 5 pairs."""

    value: float
    low: float | None
    high: float | None
    n: int

    def __str__(self) -> str:
        interval = f" [{self.low:.3f}, {self.high:.3f}]" if self.low is not None and self.high is not None else ""
        return f"{self.value:.3f}{interval} (n={self.n})"


def paired_ratio(a: Sequence[float], b: Sequence[float], seed: int = 0) -> Ratio:
    """How many times larger a is than b, pair by pair. All values must be positive."""
    if len(a) != len(b) or not a:
        raise ValueError("a ratio needs as many values on both sides, and at least one")
    logs = np.log(np.asarray(a, dtype=float)) - np.log(np.asarray(b, dtype=float))
    if not np.isfinite(logs).all():
        raise ValueError("a ratio needs positive, finite values")
    low = high = None
    if len(logs) >= 5:
        rng = np.random.default_rng(seed)
        means = rng.choice(logs, size=(RESAMPLES, len(logs))).mean(axis=1)
        low, high = (float(x) for x in np.exp(np.quantile(means, (0.025, 0.975))))
    return Ratio(value=float(np.exp(logs.mean())), low=low, high=high, n=len(logs))
