"""Charts of a sweep: they compile, keep their specification while data change, and show dashes where nothing is."""

from __future__ import annotations

import vl_convert

from core.charts.many_runs import Bar, side_by_side
from core.charts.search import STAGES, Spot, plane
from core.charts.sweep import Tile, drift, heat, multiples

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
