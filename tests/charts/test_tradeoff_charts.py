"""The Pareto chart and the differences from a baseline: what is in them, and that Vega-Lite takes them."""

import math
from itertools import combinations

import pytest
import vl_convert

from core.charts.tradeoff import DOT, LETTER, LINE, PLACES, WIDTHS, Delta, Point, deltas, pareto

POINTS = [
    Point("a", "A", "llama.cpp", 1.0, 0.62, 0.97, 1.03, 0.58, 0.66, on_front=True, member=0.97),
    Point("b", "B", "llama.cpp", 2.0, 0.60, on_front=True),
    Point("c", "C", "PyTorch", 1.5, 0.50),
    Point("d", "D", "PyTorch", 0.5, 0.40, on_front=True),  # by a third objective
]


def test_the_front_is_drawn_through_what_nothing_beats_in_this_plane() -> None:
    chart = pareto(POINTS, "Speed-up", "Quality")
    line = chart.spec["datasets"]["front"]
    assert [(p["x"], p["y"]) for p in line] == [(1.0, 0.62), (2.0, 0.60)]
    assert chart.alt == "Quality over Speed-up of 4 variants, 2 of them on the front: A, B"


def test_a_point_without_an_interval_has_one_of_no_width() -> None:
    rows = {r["id"]: r for r in pareto(POINTS, "Speed-up", "Quality").spec["datasets"]["points"]}
    assert (rows["a"]["x_low"], rows["a"]["y_high"]) == (0.97, 0.66)
    assert (rows["b"]["x_low"], rows["b"]["x_high"], rows["b"]["y_low"]) == (2.0, 2.0, 0.60)
    assert rows["a"]["member"] == "on the front in 97% of the draws" and rows["b"]["member"] == ""


def test_labels_make_room_for_those_on_the_front() -> None:
    near = [Point(str(i), "a long name", "PyTorch", 1.0 + i / 1000, 0.5, on_front=i == 3) for i in range(4)]
    rows = pareto([*near, Point("far", "far", "PyTorch", 4.0, 0.9)], "Speed-up", "Quality").spec["datasets"]["points"]
    assert [bool(r["narrow"]) for r in rows] == [True, False, False, True, True]
    assert rows[3]["narrow"] == "above", "the first place is for what is on the front"


@pytest.mark.parametrize(("name", "width"), WIDTHS.items())
def test_no_label_lies_on_another_or_on_a_point_or_is_cut(name: str, width: int) -> None:
    """A square of points whose pixels are doublings across and units up, but for 60 of padding on both sides."""
    inner, height = width - 120, 380 - 160 - 40
    points = [
        Point(
            f"{i}{j}",
            f"variant {i}{j}",
            "PyTorch",
            2.0 ** (i * inner / 4),
            float(height - j * height / 4),
            on_front=i == j,
        )
        for i in range(5)
        for j in range(5)
    ]
    rows = pareto(points, "Speed", "Quality").spec["datasets"]["points"]
    boxes = []
    for row in rows:
        x, y = 60 + math.log2(row["x"]), height - row["y"]
        boxes.append((x - DOT, x + DOT, y - DOT, y + DOT))
        if row[name]:
            align, dx, dy = PLACES[row[name]]
            left = x + dx - (align == "right") * LETTER * len(row["label"])
            boxes.append((left, left + LETTER * len(row["label"]), y + dy - LINE, y + dy))
            assert boxes[-1][0] >= 0 and boxes[-1][1] <= width
    assert len(boxes) > len(rows), "some have room"
    for a, b in combinations(boxes, 2):
        assert a[1] <= b[0] or b[1] <= a[0] or a[3] <= b[2] or b[3] <= a[2], (a, b)


def test_a_click_selects_a_variant() -> None:
    plain, picking = (pareto(POINTS, "Speed-up", "Quality", pick=p).spec for p in (False, True))
    assert "params" not in plain
    assert [p["name"] for p in picking["params"]] == ["pick"]
    assert picking["params"][0]["select"]["fields"] == ["id"]


def test_the_margin_is_a_line_below_zero() -> None:
    rows = [Delta("b", "B", "Quality", -0.02, -0.05, 0.01), Delta("c", "C", "Quality", -0.12, None, None, "worse")]
    chart = deltas(rows, "Quality against A", margin=0.05)
    assert [line["x"] for line in chart.spec["datasets"]["lines"]] == [0.0, -0.05]
    assert chart.spec["datasets"]["rows"][1]["low"] == -0.12
    assert chart.alt.endswith("of 2 variants, 1 of them shown to differ from the baseline: C worse in Quality by 0.12")
    assert len(deltas(rows, "Quality", margin=None).spec["datasets"]["lines"]) == 1


def test_vega_lite_draws_them() -> None:
    charts = [pareto(POINTS, "Speed-up", "Quality", pick=True), pareto([], "x", "y"), deltas([], "d")]
    for chart in charts:
        assert vl_convert.vegalite_to_vega(chart.spec, vl_version="6.1")["marks"]
    svg = vl_convert.vegalite_to_svg({**charts[0].spec, "width": 700}, vl_version="6.1")
    assert all(f">{p.label}<" in svg for p in POINTS)
