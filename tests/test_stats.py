"""Ratios of pairs, against values computed by hand."""

import math

import numpy as np
import pytest

from core.analysis.stats import paired_ratio


def test_the_ratio_is_the_geometric_mean_of_pairs() -> None:
    found = paired_ratio([2.0, 8.0], [1.0, 2.0])
    assert found.value == pytest.approx(math.sqrt(2 * 4))
    assert found.low is None and found.n == 2  # too few pairs for an interval


def test_it_is_symmetric() -> None:
    a, b = [1.0, 1.3, 0.9, 1.1, 1.2, 1.05], [1.1, 1.0, 1.0, 0.9, 1.3, 1.0]
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high, rel=0.01)  # type: ignore[operator]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        drift = rng.normal(0, 0.5, 20)  # common to both sides of a pair, so it must cancel
        a = np.exp(math.log(1.5) + drift + rng.normal(0, 0.1, 20))
        b = np.exp(drift + rng.normal(0, 0.1, 20))
        found = paired_ratio(list(a), list(b), seed=trial)
        covered += found.low <= 1.5 <= found.high  # type: ignore[operator]
    assert 176 <= covered <= 199


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([float("nan")], [1.0])])
def test_senseless_input_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="a ratio needs"):
        paired_ratio(a, b)
