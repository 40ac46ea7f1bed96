"""Charts of a sweep: they compile, keep their specification while data change, and show dashes where nothing is."""

from __future__ import annotations

import re

import pytest
import vl_convert

from core.charts.intervals import Interval, intervals
from core.charts.labels import plain
from core.charts.many_runs import Bar, side_by_side
from core.charts.search import STAGES, Spot, plane
from core.charts.sweep import DISTURBED, Tile, drift, heat, multiples

TILES = [
    Tile("8", "fake", 10.0, 9.0, 11.0, "1", "fake · 8"),
    Tile("16", "fake", 20.0, panel="1", n=2),
    Tile("8", "pytorch", None, panel="2", note="not measured yet"),
    Tile("16", "pytorch", 4.0, panel="2"),
]


def compiles(spec: dict[str, object]) -> bool:
    return bool(vl_convert.vegalite_to_vega(spec))


def test_heat() -> None:
    chart = heat(TILES, "Prompt tokens", "Backend", "Decode speed", "tok/s", "higher")
    assert compiles(chart.spec)
    assert chart.alt.startswith(
        "Decode speed over Prompt tokens and Backend: 2 by 2 tiles, 3 of them measured: the best"
    )
    rows = chart.spec["datasets"]["tiles"]
    assert [r["text"] for r in rows] == ["10", "20", "–", "4"]
    moved = heat([TILES[0]._replace(note=DISTURBED)], "Prompt tokens", "Backend", "Decode speed", "tok/s", "higher")
    assert moved.spec["datasets"]["tiles"][0]["text"] == "~ 10"
    assert rows[0]["range"] == "9 to 11" and rows[1]["note"] == "the best of 2 cells"
    assert rows[1]["ink"] != rows[3]["ink"], "letters stand out from a bright tile and from a dark one"
    other = heat(TILES[:2] + TILES[2:], "Prompt tokens", "Backend", "Decode speed", "tok/s", "higher")
    assert {k: v for k, v in other.spec.items() if k != "datasets"} == {
        k: v for k, v in chart.spec.items() if k != "datasets"
    }


def test_multiples_and_drift() -> None:
    for panel in ("", "Threads"):
        chart = multiples(TILES, "Prompt tokens", "Backend", panel, "Time to first token", "s")
        assert compiles(chart.spec) and len(chart.spec["datasets"]["tiles"]) == 3
    assert compiles(multiples(TILES, "Prompt tokens", "", "", "Energy", "J").spec)
    moved = drift([(60.0, 1.0, False), (120.0, 1.1, True)])
    assert compiles(moved.spec) and [r["minute"] for r in moved.spec["datasets"]["samples"]] == [0.0, 1.0]


def test_many_side_by_side() -> None:
    bars = [Bar("a", 2.0, 1.0, 3.0, 1.5, 4.0), Bar("b", 5.0, 5.0, 5.0)]
    chart = side_by_side(bars, "Whole answer", "s")
    assert compiles(chart.spec) and chart.alt.endswith("beside the predicted range: a 2 s, b 5 s")
    rows = chart.spec["datasets"]["rows"]
    assert [r["range"] for r in rows] == ["1 s to 3 s", ""] and rows[1]["predicted"] == ""
    assert compiles(side_by_side(bars[1:], "Decode speed", "tok/s").spec)


def test_the_plane_of_a_search() -> None:
    spots = [Spot(stage, stage, 1.0 + n, 2e9) for n, stage in enumerate(STAGES)] + [Spot("none", "measured", 0.0, 1.0)]
    chart = plane(spots, ("Decode speed", "tok/s", "higher"), ("Peak memory", "B", "lower"))
    assert compiles(chart.spec) and len(chart.spec["datasets"]["spots"]) == len(STAGES), "a log axis has no 0"
    assert chart.spec["datasets"]["spots"][0]["y_text"] == "2 GB"


def words(spec: dict[str, object], width: int) -> list[str]:
    """Every word of a chart that is drawn so wide."""
    return re.findall(r"<text[^>]*>([^<]+)</text>", vl_convert.vegalite_to_svg(spec | {"width": width}))


@pytest.mark.parametrize("width", [260, 700])
@pytest.mark.parametrize("low", [1.1, 1.6, 2.2, 3.5, 6.1, 8.8])
def test_a_short_axis_has_labels_too(low: float, width: int) -> None:
    """A logarithmic axis with labels at 1 and 3 alone has none between 32 and 95."""
    gb, high = low * 1e9, low * 1.2e9
    two = side_by_side([Bar("a", gb, gb, gb), Bar("b", high, high, high)], "Peak memory", "B")
    ticks = [w for w in words(two.spec, width) if w.endswith("GB")][:-2]  # the last two stand at the dots
    assert len(ticks) >= 2
    spots = [Spot("a", "measured", gb, low), Spot("b", "measured", high, high / 1e9)]
    both = words(plane(spots, ("Peak memory", "B", "lower"), ("Whole answer", "s", "lower")).spec, width)
    assert len([w for w in both if w.endswith("GB")]) >= 2 and len([w for w in both if re.search(r"\d m?s$", w)]) >= 2
    predicted = Interval("a", ideal=low * 11, calibrated=low * 10, low=low * 9, high=low * 10.5)
    assert len([w for w in words(intervals([predicted], "Speed", "tok/s").spec, width) if w.isdecimal()]) >= 2


def test_a_long_axis_has_few_labels() -> None:
    bars = [Bar("a", 1e8, 1e8, 1e8), Bar("b", 9e9, 9e9, 9e9)]
    drawn = words(side_by_side(bars, "Peak memory", "B").spec, 600)
    assert drawn[:5] == ["100 MB", "300 MB", "1 GB", "3 GB", "10 GB"]


@pytest.mark.parametrize(
    ("value", "digits", "told"),
    [
        (41.234, 4, "41.23"), (1285.4, 4, "1,285"), (128_540.0, 4, "128,540"), (9999.7, 4, "10,000"),
        (0.000123456, 4, "0.0001235"), (0.0, 4, "0"), (1250.0, 3, "1,250"), (-128_540.0, 4, "-128,540"),
    ],
)  # fmt: skip
def test_a_large_number_has_no_exponent(value: float, digits: int, told: str) -> None:
    assert plain(value, digits) == told
