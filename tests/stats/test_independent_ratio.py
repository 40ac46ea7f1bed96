"""A ratio of measurements that are no pairs: Welch's t of the mean logarithms."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.stats.intervals import independent_ratio


def test_by_hand() -> None:
    # logarithms 0, 0.1 ... 0.4 on either side, b's 0.05 more: variances 0.025, squared error 0.01 in all, 8 degrees of
    # freedom, t 2.306
    a = [math.exp(0.1 * i) for i in range(5)]
    found = independent_ratio(a, [math.exp(0.05) * x for x in a])
    assert found.value == pytest.approx(math.exp(-0.05)) and found.n == 5
    assert found.low == pytest.approx(math.exp(-0.05 - 0.2306), rel=1e-4)
    assert found.high == pytest.approx(math.exp(-0.05 + 0.2306), rel=1e-4)


def test_few_runs_give_no_interval_and_equal_ones_a_point() -> None:
    few = independent_ratio([2.0] * 4, [1.0] * 9)
    assert (few.value, few.low, few.high, few.n) == (2.0, None, None, 4)
    same = independent_ratio([2.0] * 5, [1.0] * 5)
    assert same.low == same.high == same.value == pytest.approx(2.0)
    for wrong in ([], [0.0], [-1.0], [float("nan")]):
        with pytest.raises(ValueError, match="a ratio needs"):
            independent_ratio(wrong, [1.0])


def test_its_interval_covers_as_often_as_it_says() -> None:
    rng = np.random.default_rng(3)
    inside = 0
    for _ in range(500):
        a, b = np.exp(rng.normal(0.3, 0.05, 6)), np.exp(rng.normal(0.0, 0.15, 9))
        found = independent_ratio(list(a), list(b))
        assert found.low is not None and found.high is not None
        inside += found.low <= math.exp(0.3) <= found.high
    assert 0.93 <= inside / 500 <= 0.98
