"""Charts: every specification compiles, stays the same while its data change, and says what it shows."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from itertools import pairwise

import msgspec
import pytest
import vl_convert

from core.analysis.roofline import Point, Roof
from core.charts import bandwidth, bars, graph, graph_layout, intervals, memory, roofline, timeline, what_if
from core.charts.chart import Chart, enlarged
from core.charts.labels import distinct, short, si, wrapped
from core.charts.palette import GREY
from core.types import Elementwise, Embedding, Layer, LayerResult, Linear, Memory, Norm

N_BLOCKS = 4


def network(n_blocks: int = N_BLOCKS) -> tuple[Layer, ...]:
    """Embedding, blocks of norm, two parallel matrices and a residual sum, head."""
    layers = [Layer(name="embed", kind="embedding", op=Embedding(rows=100, d=8), n_params=800)]
    before = "embed"
    for i in range(n_blocks):
        b = f"blocks.{i}"
        layers += [
            Layer(name=f"{b}.mlp_norm", kind="norm", op=Norm(d=8), inputs=(before,), n_params=8),
            Layer(
                name=f"{b}.mlp.gate_proj",
                kind="mlp",
                op=Linear(d_in=8, d_out=16),
                inputs=(f"{b}.mlp_norm",),
                n_params=128,
            ),
            Layer(
                name=f"{b}.mlp.up_proj",
                kind="mlp",
                op=Linear(d_in=8, d_out=16),
                inputs=(f"{b}.mlp_norm",),
                n_params=128,
            ),
            Layer(
                name=f"{b}.mlp.residual",
                kind="other",
                op=Elementwise(d=8, n_inputs=3),
                inputs=(before, f"{b}.mlp.gate_proj", f"{b}.mlp.up_proj"),
            ),
        ]
        before = f"{b}.mlp.residual"
    layers.append(Layer(name="lm_head", kind="head", op=Linear(d_in=8, d_out=100), inputs=(before,), n_params=800))
    return tuple(layers)


def rows(scale: float = 1.0) -> list[LayerResult]:
    return [
        LayerResult(
            name=x.name,
            kind=x.kind,
            phase=phase,  # type: ignore[arg-type]
            seconds=scale * (x.n_params + 1) * 1e-6,
            calls=1,
            flops=2.0 * x.n_params,
            bytes=4.0 * x.n_params + 10,
            weight_bytes=4.0 * x.n_params,
            n_params=x.n_params,
        )
        for phase in ("prefill", "decode")
        for x in network()
    ]


def samples(n: int) -> list[Memory]:
    return [
        Memory(
            t_s=0.1 * i,
            pass_no=0,
            phase="prefill" if i < n // 4 else "decode",
            rss_bytes=10**8 + i,
            anon_bytes=6 * 10**7,
            file_bytes=4 * 10**7,
            peak_bytes=2 * 10**8 if i == n - 1 else None,
        )
        for i in range(n)
    ]


ROOFS = (
    Roof(device="A", kind="compute", name="fp32", value=400e9, main=True),
    Roof(device="A", kind="compute", name="int8", value=1.6e12),
    Roof(device="A", kind="memory", name="DRAM", value=40e9, main=True),
    Roof(device="A", kind="memory", name="cache up to 32 MB", value=160e9, doubtful=True),
    Roof(device="B", kind="compute", name="bf16", value=300e12, main=True),
    Roof(device="B", kind="memory", name="DRAM", value=2e12, main=True),
)


def point(name: str = "decode:all", **more: object) -> Point:
    values: dict[str, object] = {
        "id": name,
        "name": name,
        "kind": "mlp",
        "phase": "decode",
        "source": "measured",
        "intensity": 2.0,
        "flop_per_s": 60e9,
        "seconds": 0.01,
        "bound": "memory",
        "roof_flop_per_s": 80e9,
        "efficiency": 0.75,
    }
    return Point(**{**values, **more})  # type: ignore[arg-type]


POINTS = [
    point(whole=True),
    point(whole=True, source="predicted", flop_per_s=80e9),
    point("decode:lm_head", flop_per_s=90e9, above=True),
    point("decode:alone", source="predicted"),
]

CHARTS: dict[str, tuple[Callable[[], Chart], Callable[[], Chart]]] = {
    "layers": (lambda: bars.layer_bars([]), lambda: bars.layer_bars(rows())),
    "all layers": (lambda: bars.layer_bars([], height=None), lambda: bars.layer_bars(rows(), top=None, height=None)),
    "kinds": (lambda: bars.kind_bars([]), lambda: bars.kind_bars(rows())),
    "blocks": (lambda: bars.block_bars([]), lambda: bars.block_bars(rows())),
    "changes": (lambda: bars.change_bars([], []), lambda: bars.change_bars(rows(), rows(1.5))),
    "memory": (lambda: timeline.memory_timeline([]), lambda: timeline.memory_timeline(samples(40))),
    "memory once": (lambda: timeline.memory_timeline([]), lambda: timeline.memory_timeline(samples(1))),
    "tokens": (lambda: timeline.token_timeline([]), lambda: timeline.token_timeline([0.02, 0.02, 0.09], 0.3)),
    "roofline": (lambda: roofline.roofline([], []), lambda: roofline.roofline(ROOFS, POINTS)),
    "roofline by bound": (
        lambda: roofline.roofline([], [], "bound", pick=False),
        lambda: roofline.roofline(ROOFS, POINTS, "bound", pick=False),
    ),
    "bandwidth": (
        lambda: bandwidth.bandwidth_curve([]),
        lambda: bandwidth.bandwidth_curve([(1e6, 2e11), (1e9, 3e10)], [3e7], 1e8),
    ),
    "growth": (
        lambda: memory.growth([], "Tokens"),
        lambda: memory.growth([(1, {"weights": 1e8}), (2, {"weights": 1e8, "KV cache": 1e7})], "Tokens", 1),
    ),
    "split": (
        lambda: memory.split_bars([]),
        lambda: memory.split_bars([("computed", {"weights": 1e8, "KV cache": 1e6})]),
    ),
    "intervals": (
        lambda: intervals.intervals([], "Speed", "tok/s"),
        lambda: intervals.intervals(
            [intervals.Interval("A", 200, 120, 100, 150), intervals.Interval("B", 9, 5, 4, 6, False)], "Speed", "tok/s"
        ),
    ),
    "live sets": (
        lambda: memory.weight_bars([]),
        lambda: memory.weight_bars([("embed", 1e6, 100, 100), ("x", 10, 50, 150)]),
    ),
}


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_is_fed_and_never_rebuilt(name: str) -> None:
    """The flicker rule: only the data differ between an empty and a full chart."""
    empty, full = (make() for make in CHARTS[name])
    assert {k: v for k, v in empty.spec.items() if k != "datasets"} == {
        k: v for k, v in full.spec.items() if k != "datasets"
    }
    assert set(empty.spec["datasets"]) == set(full.spec["datasets"])
    assert any(full.spec["datasets"].values())


@pytest.mark.parametrize("name", CHARTS)
def test_a_chart_compiles_and_has_words(name: str) -> None:
    for make in CHARTS[name]:
        chart = make()
        json.dumps(chart.spec, allow_nan=False)
        spec = {**chart.spec, "width": 600}  # "container" means nothing outside a page
        assert vl_convert.vegalite_to_vega(spec, vl_version="6.1")["marks"]
        assert len(chart.alt) > 10 and "description" not in chart.spec


def test_for_a_lecture_words_are_larger_and_nothing_else() -> None:
    spec = {
        "height": 100,
        "layer": [{"mark": {"type": "text", "fontSize": 11, "dx": -4}, "encoding": {"y": {"labelFontSize": 12}}}],
        "datasets": {"rows": [{"fontSize": 11}]},
    }
    large = enlarged(Chart(spec, "words"), 2)
    assert large.alt == "words" and large.spec["height"] == 100 and large.spec["datasets"] == spec["datasets"]
    (layer,) = large.spec["layer"]
    assert layer["mark"] == {"type": "text", "fontSize": 22, "dx": -8}
    assert layer["encoding"]["y"] == {"labelFontSize": 24}
    assert spec["layer"][0]["mark"]["fontSize"] == 11, "the specification that is kept stays as it was"


def test_the_full_roofline_draws() -> None:
    svg = vl_convert.vegalite_to_svg({**roofline.roofline(ROOFS, POINTS).spec, "width": 900}, vl_version="6.1")
    assert "memory-bound" in svg and "40 GB/s" in svg and "~ cache" in svg


def test_roofs_meet_at_the_ridge() -> None:
    data = roofline.roofline(ROOFS[:4], []).spec["datasets"]
    ridge = next(r for r in data["ridges"] if r["main"])
    assert ridge["x"] == pytest.approx(10) and ridge["y"] == 400e9
    diagonal = [r for r in data["roofs"] if r["line"] == "A/memory/DRAM"]
    assert all(r["y"] == pytest.approx(40e9 * r["x"]) for r in diagonal)
    assert max(r["y"] for r in diagonal) == pytest.approx(1.6e12), "it goes on to the highest compute roof"
    flat = [r for r in data["roofs"] if r["line"] == "A/compute/fp32"]
    assert min(r["x"] for r in flat) == pytest.approx(400 / 160), "it starts at the steepest diagonal"


def test_labels_of_roofs_do_not_cover_each_other() -> None:
    close = [*ROOFS[:4], Roof(device="A", kind="compute", name="bf16", value=410e9)]
    ends = roofline.roofline(close, POINTS).spec["datasets"]["ends"]
    high = sorted(e["y"] for e in ends if e["end"] == "high")
    assert all(b / a > 1.05 for a, b in pairwise(high))


@pytest.mark.parametrize("width", [230, 1200])
def test_a_label_that_would_lie_on_a_point_is_not_drawn(width: int) -> None:
    """On a phone, names of roofs lay on points; the lines' and the points' tooltips have the words."""
    beside = point(intensity=4.0, flop_per_s=POINTS[0].flop_per_s)
    chart = roofline.roofline(ROOFS[:4], [POINTS[0], beside])
    view = vl_convert.vegalite_to_scenegraph({**chart.spec, "width": width}, vl_version="6.1")["scenegraph"]
    drawn = {str(i.get("text")): i.get("opacity", 1) for i in items(view) if i.get("text")}
    roofs = {e["text"]: e["room"] for e in chart.spec["datasets"]["ends"]}
    assert roofs and roofs.keys() <= drawn.keys()
    for words, room in roofs.items():
        assert (drawn[words] > 0) == (room * width >= 24 + 6.2 * len(words)), words


def test_the_room_of_a_label_ends_at_the_first_point_at_its_height() -> None:
    low = next(e for e in roofline.roofline(ROOFS[:4], POINTS).spec["datasets"]["ends"] if e["end"] == "low")
    inside = point(intensity=low["x"] * 4, flop_per_s=low["y"])
    above = point(intensity=low["x"] * 4, flop_per_s=low["y"] * 30)
    rooms = []
    for spot in (inside, above):
        ends = roofline.roofline(ROOFS[:4], [*POINTS, spot]).spec["datasets"]["ends"]
        rooms.append(next(e["room"] for e in ends if e["text"] == low["text"]))
    assert rooms[0] < 0.2 and rooms[1] > 2 * rooms[0]


def items(node: object) -> list[dict[str, object]]:
    """Everything that a scene graph draws."""
    if isinstance(node, list):
        return [found for child in node for found in items(child)]
    return [node, *items(node.get("items", []))] if isinstance(node, dict) else []


def test_measured_and_predicted_are_joined_and_the_impossible_is_flagged() -> None:
    data = roofline.roofline(ROOFS, POINTS).spec["datasets"]
    assert [link["id"] for link in data["links"]] == ["decode:all"]
    assert (data["links"][0]["y"], data["links"][0]["y2"]) == (80e9, 60e9)
    assert [m["id"] for m in data["marks"] if m["above"]] == ["decode:lm_head"]
    assert "above a roof" in roofline.roofline(ROOFS, POINTS).alt


def test_points_without_flops_are_left_out_of_the_logarithm() -> None:
    assert roofline.roofline(ROOFS, [point(intensity=0.0)]).spec["datasets"]["marks"] == []


def test_layer_bars_are_sorted_and_cut() -> None:
    data = bars.layer_bars(rows(), "decode", top=3).spec["datasets"]["layers"]
    assert len(data) == 3
    assert [d["value"] for d in data] == sorted((d["value"] for d in data), reverse=True)
    assert {d["name"] for d in data[:2]} == {"embed", "lm_head"}


def test_shares_of_kinds_fill_the_bar() -> None:
    data = bars.kind_bars(rows()).spec["datasets"]["kinds"]
    for phase in ("prefill", "decode"):
        mine = [d for d in data if d["phase"] == phase]
        assert sum(d["share"] for d in mine) == pytest.approx(1)
        assert all(a["end"] == pytest.approx(b["start"]) for a, b in pairwise(mine))


def test_change_bars_show_the_sign() -> None:
    data = bars.change_bars(rows(), rows(0.5)).spec["datasets"]["changes"]
    assert {d["direction"] for d in data} == {"less"}
    assert data[0]["change"] == min(d["change"] for d in data)
    assert data[0]["text"].startswith("−")


def test_thinning_keeps_the_peaks() -> None:
    many = samples(5000)
    kept = timeline.thin(many, 200)
    assert len(kept) < 450
    assert many[-1] in kept and many[-1].peak_bytes is not None


def test_bands_follow_each_other() -> None:
    found = timeline.bands(samples(40))
    assert [b["phase"] for b in found] == ["prefill", "decode"]
    assert found[0]["end_s"] == found[1]["start_s"]
    assert sum(b["share"] for b in found) == pytest.approx(1)


def test_a_phase_is_named_where_its_name_has_room() -> None:
    """Lying, upright, or not at all: a name never runs into the next phase."""

    def drawn(width: int) -> list[str]:
        spec = {**timeline.memory_timeline(samples(40)).spec, "width": width}
        svg = vl_convert.vegalite_to_svg(spec, vl_version="6.1")
        return re.findall(f'<text [^>]*fill="{GREY}"[^>]*>(?:prefill|decode)</text>', svg)  # look.css knows the colour

    shares = {b["phase"]: b["share"] for b in timeline.bands(samples(40))}
    wide, middle, narrow = (drawn(round(pixels / shares["prefill"])) for pixels in (60, 25, 10))
    assert ["rotate" in name for name in wide] == [False, False]
    assert sorted("rotate" in name for name in middle) == [False, True], "prefill stands upright"
    assert len(narrow) == 1 and "rotate" in narrow[0] and "decode" in narrow[0]


def test_a_single_sample_of_memory_is_drawn_by_points() -> None:
    """An area from one moment to the same moment is nothing."""

    def points(n: int) -> int:
        """That are drawn, with the one that keeps room for words."""
        chart = timeline.memory_timeline([msgspec.structs.replace(m, peak_bytes=None) for m in samples(n)])
        return vl_convert.vegalite_to_svg({**chart.spec, "width": 600}, vl_version="6.1").count('"point"')

    assert (points(0), points(1), points(40)) == (1, 3, 1), "of what is the process's own, and of mapped files"


def test_slow_tokens_are_marked() -> None:
    tokens = timeline.token_timeline([0.02] * 9 + [0.05]).spec["datasets"]["tokens"]
    assert [t["token"] for t in tokens if t["slow"]] == [11]


# ---------------------------------------------------------------- the graph

SECONDS = {x.name: (x.n_params + 1) * 1e-6 for x in network()}
TIME = graph.Colour("time", "s", SECONDS)


def test_equal_blocks_collapse_and_open() -> None:
    closed = graph.layer_graph(network(), TIME, SECONDS)
    assert [n.label for n in closed.nodes] == ["embed", "Block ×4", "lm_head"]
    opened = graph.layer_graph(network(), TIME, SECONDS, open_blocks={1})
    labels = [n.label for n in opened.nodes]
    assert labels == ["embed", "0", "mlp_norm", "mlp.gate_proj", "mlp.up_proj", "mlp.residual", "Block ×2", "lm_head"]
    every = graph.layer_graph(network(), TIME, SECONDS, open_blocks=range(N_BLOCKS))
    assert len(every.nodes) == len(network())
    assert [n.id for n in every.nodes] == [x.name for x in network()], "a selection counts nodes in this order"


def test_unlike_blocks_stay_apart() -> None:
    layers = [x for x in network() if x.name != "blocks.2.mlp.up_proj"]
    found = graph.layer_graph(layers, TIME, SECONDS)
    assert [n.label for n in found.nodes] == ["embed", "Block ×2", "2", "3", "lm_head"]


def test_values_add_up_and_shares_divide() -> None:
    closed = graph.layer_graph(network(), TIME, SECONDS)
    block = closed.nodes[1]
    assert TIME.of(block) == pytest.approx(N_BLOCKS * (9 + 129 + 129 + 1) * 1e-6)
    share = graph.Colour("of the roof", "%", {"embed": 1.0, "lm_head": 1.0}, {"embed": 4.0, "lm_head": 2.0})
    assert share.of(closed.nodes[0]) == 0.25
    assert share.of(block) is None, "not measured is not zero"


def test_edges_know_their_nodes_and_skips() -> None:
    columns = graph_layout.nodes(network(), {0}, merge=True)
    ids = {n.id for column in columns for n in column}
    found = graph_layout.edges(columns, network())
    assert {e.source for e in found} | {e.target for e in found} <= ids
    skip = {(e.source, e.target): e.skips for e in found}
    assert skip["embed", "blocks.0.mlp_norm"] is False
    assert skip["embed", "blocks.0.mlp.residual"] is True


@pytest.mark.parametrize("opened", [set(), {0}, {0, 1, 2, 3}])
def test_no_two_nodes_share_a_place(opened: set[int]) -> None:
    columns = graph_layout.nodes(network(), opened, merge=False)
    placed = graph_layout.place(columns, network())
    assert len({(round(p.x, 3), round(p.y, 3)) for p in placed}) == len(placed)


def test_equal_inputs_give_an_equal_option_of_plain_numbers() -> None:
    one = graph.layer_graph(network(), TIME, SECONDS, {2}, False).chart.spec
    two = graph.layer_graph(network(), TIME, SECONDS, {2}, False).chart.spec
    assert json.dumps(one, allow_nan=False) == json.dumps(two, allow_nan=False)


def test_a_difference_is_symmetric_around_zero() -> None:
    change = graph.Colour("change", "s", {"embed": -3e-3, "lm_head": 1e-3}, ramp="diverging")
    ramp = graph.layer_graph(network(), change, SECONDS).chart.spec["visualMap"]
    assert (ramp["min"], ramp["max"]) == (-3e-3, 3e-3)


def test_names_from_outside_are_escaped() -> None:
    layers = (Layer(name="<img src=x>", kind="other", op=Elementwise(d=1)),)
    option = json.dumps(
        graph.layer_graph(layers, graph.Colour("time", "s", {}), {}).chart.spec["series"][0]["data"][0]["tooltip"]
    )
    assert "<img" not in option and "&lt;img" in option


def test_unmeasured_nodes_are_grey_and_without_value() -> None:
    option = graph.layer_graph(network(), graph.Colour("time", "s", {}), {}).chart.spec
    assert all("value" not in d and d["visualMap"] is False for d in option["series"][0]["data"])


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (1.53e9, "1.53 GB"),
        (999.9e6, "1 GB"),
        (0, "0 B"),
        (2e-3, "2 mB"),
        (None, "not measured"),
        (float("nan"), "not measured"),
        (12, "12 B"),
    ],
)
def test_si(value: float | None, words: str) -> None:
    assert si(value, "B") == words


def test_a_figure_without_a_unit_has_no_thousandths() -> None:
    assert (si(0.95, ""), si(0, ""), si(134.5e6, "")) == ("0.95", "0", "134 M")


def test_short_names() -> None:
    assert short("blocks.7.attn.q_proj") == "7 · attn.q_proj"
    assert short("lm_head") == "lm_head"


def test_a_legend_says_once_what_is_true_of_all() -> None:
    rows = [
        ("m-tuned-sql-a", "PyTorch", "bf16", "fused", "2 threads"),
        ("m-tuned-sql-a", "PyTorch", "bf16", "", "2 threads"),
        ("m-tuned-sql-b-q8", "llama.cpp", "q8_0", "", "2 threads"),
    ]
    names, shared = distinct(rows)
    assert names == ["…a · PyTorch · bf16 · fused", "…a · PyTorch · bf16", "…b-q8 · llama.cpp · q8_0"]
    assert shared == "2 threads"
    assert distinct(rows[:2]) == (
        ["fused", "m-tuned-sql-a · PyTorch · bf16 · 2 threads"],
        "m-tuned-sql-a · PyTorch · bf16 · 2 threads",
    )
    assert distinct(rows[1:2]) == (["m-tuned-sql-a · PyTorch · bf16 · 2 threads"], "")
    assert distinct([("m-1b", "x"), ("m-1b-q8", "x")]) == (["m-1b", "m-1b-q8"], "x"), "one word is no name"
    assert distinct([]) == ([], "")


# ---------------------------------------------------------------- what if


def test_legends_of_what_if_list_what_is_drawn_in_its_colour() -> None:
    def legend(chart: Chart) -> str:
        svg = vl_convert.vegalite_to_svg({**chart.spec, "width": 500}, vl_version="6.1")
        return svg[svg.index("role-legend") :]

    def words(chart: Chart) -> list[str]:
        return re.findall(r"<text [^>]*>([^<]+)</text>", legend(chart))

    cells = what_if.binding([what_if.Bind("m", 1, "bandwidth", "1 s", ""), what_if.Bind("m", 4, "fp16", "2 s", "")])
    assert {"bandwidth", "FLOP/s"} <= set(words(cells)) and "power limit" not in words(cells)
    symbols = re.findall(r'role-legend-symbol"[^>]*><path [^>]*stroke-width="([^"]+)"', legend(cells))
    assert symbols == ["0", "0"], "a border would hide the colour"
    here = [what_if.Plane("d", 1e12, 1e14, True)]
    lines = what_if.plane([("1 s", [(1e12, 2e14), (2e12, 5e13)]), ("2 s", [])], here, "FLOP/s")
    assert "1 s" in words(lines) and "2 s" not in words(lines)


def test_what_if_charts_compile_and_keep_their_specification() -> None:
    def drawn(n: int) -> list[Chart]:
        return [
            what_if.shares([what_if.Share("decode", f"r{i}", 1 / n, 1.2) for i in range(n)]),
            what_if.plane([("1 s", [(1e12, n * 1e14), (2e12, 5e13)]), ("2 s", [])],
                          [what_if.Plane(f"d{i}", 1e12, 1e14, i == 0) for i in range(n)], "FLOP/s"),
            what_if.binding([what_if.Bind(f"m{i}", 1, "bandwidth", "1 s", "") for i in range(n)]),
            what_if.under_cost([what_if.Priced(f"d{i}", 100.0 * (i + 1), 10.0 + i, 9, 12, "real", True, "")
                                for i in range(n)], "Rate", "tok/s", True),
        ]  # fmt: skip

    for one, other in zip(drawn(2), drawn(5), strict=True):
        assert {k: v for k, v in one.spec.items() if k != "datasets"} == {
            k: v for k, v in other.spec.items() if k != "datasets"
        }
        assert one.alt
        assert vl_convert.vegalite_to_svg(other.spec)


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("short", ["short"]),
        ("smollm2-135m · llama.cpp · Autoregressive · q4_1", ["smollm2-135m · llama.cpp", "Autoregressive · q4_1"]),
        ("Jacobi (window 16, pool from the prompt)", ["Jacobi (window 16, pool from", "the prompt)"]),
        ("x" * 40, ["x" * 40]),
        ("", [""]),
    ],
)
def test_a_long_label_has_lines_and_no_word_is_cut(name: str, lines: list[str]) -> None:
    assert wrapped(name).split("\n") == lines


def test_every_node_may_have_its_label_and_none_covers_another() -> None:
    series = graph.layer_graph(network(40), TIME, SECONDS, open_blocks=range(40), merge=False).chart.spec["series"][0]
    assert all(node["label"]["show"] for node in series["data"]) and series["labelLayout"] == {"hideOverlap": True}


def test_words_say_the_largest_differences_and_blocks() -> None:
    assert "the largest is" in bars.block_bars(rows()).alt
    assert bars.change_bars(rows(), rows(0.5)).alt.count("−") == 3
