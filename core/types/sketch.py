"""A sample's distribution in little space, to be added to others: counts by logarithmic bins.

DDSketch (Masson, Rim and Lee, VLDB 2019, arXiv 1908.10693): a bin ends 1 % above where it begins, so a quantile read
from the counts is within half a percent of the sample's, and counts of two samples add up to those of both.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping

import numpy as np

Sketch = dict[int, int]  # bin -> how many values are in it

GROWTH = 1.01
LOWEST = 1e-9  # values below it count as it: zero, and what rounding left below zero
FIRST = math.ceil(math.log(LOWEST) / math.log(GROWTH))  # their bin


def sketch(values: Iterable[float]) -> Sketch:
    """Of a sample, in the values' own unit; what lies below LOWEST counts as it."""
    x = np.maximum(np.fromiter(values, dtype=np.float64), LOWEST)
    bins, counts = np.unique(np.ceil(np.log(x) / math.log(GROWTH)).astype(int), return_counts=True)
    return {int(b): int(n) for b, n in zip(bins, counts, strict=True)}


def together(sketches: Iterable[Mapping[int, int]]) -> Sketch:
    """The sketch of all the samples as one."""
    total: Counter[int] = Counter()
    for one in sketches:
        total.update(one)
    return dict(total)


def middle(bin_number: int) -> float:
    """The value that stands for a bin: its ends are as far from it, in proportion. Zero for the lowest."""
    return 2 * GROWTH**bin_number / (GROWTH + 1) if bin_number > FIRST else 0.0


def quantile(counts: Mapping[int, int], share: float) -> float:
    """The value below or at which at least this share of the sample lies. The sample must not be empty."""
    bins = sorted(counts)
    rank = math.ceil(share * sum(counts.values()) - 1e-9)
    done = 0
    for one in bins:
        done += counts[one]
        if done >= rank:
            return middle(one)
    raise ValueError("a quantile of nothing")
