"""The numbers beside predicted intervals have room at every width."""

from __future__ import annotations

from core.charts.intervals import LEAST, Interval, intervals


def room(*rows: Interval) -> tuple[float, float]:
    low, high = intervals(rows, "Tokens per second", "tok/s").spec["datasets"]["room"]
    return low["x"], high["x"]


def test_the_axis_goes_on_where_the_numbers_stand_and_never_turns_round() -> None:
    one = Interval("a", ideal=100.0, calibrated=80.0, low=50.0, high=90.0)
    low, high = room(one)
    assert low == 50.0 / LEAST and 100.0 < high < 120.0, "left of the bar, where the roof is not"
    slow = Interval("b", ideal=0.1, calibrated=1.0, low=0.5, high=4.0)
    low, high = room(slow)
    assert high > 4.0 * LEAST and 0.05 < low < 0.1
    wide = Interval("c", ideal=100.0, calibrated=80.0, low=1.0, high=90.0)
    low, high = room(one, wide)
    assert 0 < low < 1.0 / LEAST and high > 100.0
