"""Kendall's tau, partial tau and regret against values computed by hand and by SciPy."""

from __future__ import annotations

import math

import numpy as np
import pytest

from core.stats.rank import chance, difference, kendall, p_value, partial_kendall, random_regret, regret


def test_tau_by_hand() -> None:
    # pairs of (1,2,3,4) against (1,3,2,4): five agree, one does not: (5 - 1) / 6
    assert kendall([1, 2, 3, 4], [1, 3, 2, 4]).value == pytest.approx(4 / 6)
    assert kendall([1, 2, 3], [9, 5, 1]).value == -1.0
    # one tie in b: 5 pairs left there, all agree: 5 / sqrt(6 * 5)
    assert kendall([1, 2, 3, 4], [1, 2, 2, 3]).value == pytest.approx(5 / math.sqrt(30))
    few = kendall([1, 2, 3, 4], [1, 3, 2, 4])
    assert few.low is None and few.high is None and few.n == 4


def test_intervals_hold_the_value_widen_with_few_things_and_are_repeatable() -> None:
    rng = np.random.default_rng(3)
    truth = rng.normal(size=40)
    proxy = truth + rng.normal(size=40)
    many, few = kendall(proxy, truth), kendall(proxy[:8], truth[:8])
    assert many == kendall(proxy, truth)
    assert many.low is not None and many.high is not None and few.low is not None and few.high is not None
    assert many.low < many.value < many.high and many.low > 0
    assert few.high - few.low > many.high - many.low
    assert p_value(proxy, truth) < 0.001 < p_value([1, 2, 3, 4], [1, 3, 2, 4])


def test_partial_tau_by_hand() -> None:
    # t_ab = 4/6, t_ag = 2/6, t_bg = 4/6
    a, b, given = [1, 2, 3, 4], [1, 3, 2, 4], [2, 3, 1, 4]
    ab, ag, bg = (kendall(x, y).value for x, y in ((a, b), (a, given), (b, given)))
    assert (ab, ag, bg) == pytest.approx((4 / 6, 2 / 6, 4 / 6))
    wanted = (ab - ag * bg) / math.sqrt((1 - ag**2) * (1 - bg**2))
    assert partial_kendall(a, b, given).value == pytest.approx(wanted) == pytest.approx(0.6324555)
    assert partial_kendall(a, b, np.log(given)).value == pytest.approx(wanted), "an order is that of its logarithm"


def test_a_figure_that_only_counts_again_adds_nothing() -> None:
    rng = np.random.default_rng(1)
    size = np.arange(60.0)
    truth, proxy = size + 12 * rng.normal(size=60), size + 12 * rng.normal(size=60)
    found = partial_kendall(proxy, truth, size)
    assert kendall(proxy, truth).value > 0.5
    assert found.low is not None and found.high is not None and found.low < 0.05 and abs(found.value) < 0.25


def test_a_difference_is_paired() -> None:
    truth = [1.0, 2, 3, 4, 5, 6, 7, 8]
    found = difference(truth, [2.0, 1, 4, 3, 6, 5, 8, 7], truth)
    assert found.value == pytest.approx(1 - (24 - 4) / 28) and found.low is not None and found.low >= 0
    assert difference(truth, truth, truth).value == 0.0


def test_chance_has_known_limits() -> None:
    found = chance(8)
    # two-sided 5 % limit of tau among 8 things: 0.57
    assert found.value == 0
    assert (found.low, found.high) == (pytest.approx(-0.57, abs=0.05), pytest.approx(0.57, abs=0.05))
    assert chance(30).high == pytest.approx(0.26, abs=0.02)


def test_regret() -> None:
    truth = [0.5, 0.2, 0.9, 0.3]
    assert (regret([1, 9, 2, 3], truth).value, regret([1, 9, 2, 3], truth).place) == (0.0, 1)
    worst = regret([1, 2, 9, 3], truth)
    assert worst.value == pytest.approx(0.7) and worst.place == 4
    assert regret([1, 2, 9, 3], truth, better="higher").value == 0
    tied = regret([9, 9, 1, 1], truth)
    assert tied.value == pytest.approx((0.3 + 0.0) / 2) and tied.place == 1
    assert random_regret(truth).value == pytest.approx(np.mean(truth) - 0.2) and random_regret(truth).place is None


@pytest.mark.parametrize("columns", [([1.0], [1.0]), ([1.0, 2], [1.0]), ([1.0, 1], [1.0, 2])])
def test_no_order_is_said(columns: tuple[list[float], list[float]]) -> None:
    with pytest.raises(ValueError):
        kendall(*columns)
    with pytest.raises(ValueError):
        difference(columns[0], columns[0], columns[1])
    with pytest.raises(ValueError):
        regret([], [])
    with pytest.raises(ValueError, match="third column"):
        partial_kendall([1, 2, 3], [1, 3, 2], [1, 2, 3])
    with pytest.raises(ValueError):
        chance(1)
