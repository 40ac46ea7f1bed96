"""When a plan will be over: the median of measured over expected, its range, and how often the truth lies in it."""

from __future__ import annotations

import numpy as np
import pytest

from core.analysis.eta import LEARNED, WIDE, remaining


def test_before_there_is_anything_it_is_a_first_estimate() -> None:
    found = remaining([("a", 10.0), ("b", 20.0)], [])
    assert found.first and (found.low, found.seconds, found.high) == (30 / WIDE, 30.0, 30 * WIDE)
    found = remaining([("a", 10.0)], [("a", 1.0, 2.0), ("a", 1.0, 4.0)])
    assert found.first and (found.low, found.seconds, found.high) == (10.0, 30.0, 90.0)


def test_each_backend_is_corrected_by_its_own_runs() -> None:
    done = [("a", 1.0, r) for r in (1.0, 2.0, 3.0)] + [("b", 2.0, 20.0)] * 3
    found = remaining([("a", 10.0), ("b", 1.0)], done)
    assert not found.first and found.learned == 6
    # a: quantiles of 1, 2, 3 at 0.1, 0.5, 0.9 are 1.2, 2, 2.8; b: always 10
    assert found.low == pytest.approx(22) and found.seconds == pytest.approx(30) and found.high == pytest.approx(38)


def test_a_backend_without_runs_borrows_those_of_all() -> None:
    found = remaining([("new", 5.0)], [("a", 1.0, 2.0)] * LEARNED)
    assert found.seconds == pytest.approx(10.0) and found.low == pytest.approx(10.0)


def test_what_took_no_time_teaches_nothing() -> None:
    assert remaining([("a", 1.0)], [("a", 0.0, 3.0), ("a", 1.0, 0.0)]).learned == 0
    assert remaining([], [("a", 1.0, 2.0)] * 5).seconds == 0


def test_the_range_holds_the_truth_in_eight_of_ten_sweeps() -> None:
    """Forty cells whose times err by a bias of the plan and by noise of each run; asked after ten of them."""
    rng = np.random.default_rng(14)
    inside = 0
    for _ in range(400):
        expected = rng.uniform(2, 40, 40)
        measured = expected * np.exp(rng.normal(0, 0.7)) * np.exp(rng.normal(0, 0.3, 40))
        done = [("a", float(e), float(m)) for e, m in zip(expected[:10], measured[:10], strict=True)]
        found = remaining([("a", float(e)) for e in expected[10:]], done)
        inside += found.low <= measured[10:].sum() <= found.high
    assert inside / 400 >= 0.8
