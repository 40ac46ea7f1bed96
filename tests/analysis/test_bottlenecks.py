"""Bottlenecks, groups, differences, and a layer's arithmetic: numbers chosen so that each verdict is known."""

from __future__ import annotations

import pytest

from core.analysis.bottlenecks import Ceiling, bottlenecks, outside
from core.analysis.breakdown import Attribution, attribution, by_block, by_kind, by_layer, compare
from core.analysis.equations import under_roof, written_out
from core.analysis.under_roof import (
    Forward,
    by_operator,
    ideal_times,
    measured,
    moves_activations,
    per_forward,
    predicted,
    working_set_bytes,
)
from core.analysis.work import work
from core.types import (
    Attention,
    Elementwise,
    Embedding,
    Layer,
    LayerResult,
    LayerTime,
    LayerTimes,
    Linear,
    ModelSpec,
    Norm,
    PhaseResult,
    Rope,
)

ROOF = Ceiling(flop_per_s=100e9, bytes_per_s=10e9, source="the test machine")  # ridge at 10 FLOP/B


def layer(name: str, kind: str = "mlp", phase: str = "decode", **more: object) -> LayerResult:
    values: dict[str, object] = {
        "seconds": 1e-3,
        "calls": 1,
        "flops": 2e6,
        "bytes": 1e6,
        "weight_bytes": 1e6,
        "n_params": 10,
    }
    return LayerResult(name=name, kind=kind, phase=phase, **{**values, **more})  # type: ignore[arg-type]


def only(**more: object) -> object:
    return bottlenecks([layer("blocks.0.mlp.up_proj", **more)], "decode", ROOF)[0]


def test_bound_is_decided_by_the_ridge_alone() -> None:
    assert ROOF.ridge == 10
    assert ROOF.bound(9.99) == "memory" and ROOF.bound(10) == "compute"
    slow, fast = only(seconds=1.0), only(seconds=1.1e-4)
    assert slow.bound == fast.bound == "memory", "however far from the roof"  # type: ignore[attr-defined]


def test_equal_layers_of_all_blocks_are_one_suspect() -> None:
    rows = [layer(f"blocks.{i}.mlp.up_proj", seconds=(i + 1) * 1e-3) for i in range(3)] + [layer("lm_head", "head")]
    first, second = bottlenecks(rows, "decode", ROOF)
    assert first.title == "3 × mlp.up_proj" and second.title == "lm_head"
    assert first.share == pytest.approx(6 / 7) and first.seconds == pytest.approx(6e-3)
    assert first.layers[0] == "blocks.2.mlp.up_proj", "slowest first"
    assert first.finding.startswith(
        "The 3 mlp.up_proj layers take 86% of the time in layers, 6 ms per token: memory-bound"
    )
    assert "the test machine" in first.finding


def test_advice_follows_bound_and_distance() -> None:
    near = only(seconds=1.1e-4)  # 1e6 bytes take 1e-4 s
    far = only(seconds=1e-2)
    assert "lower weight precision" in near.advice and "bandwidth unused" in far.advice  # type: ignore[attr-defined]
    busy = only(flops=1e9, seconds=1.1e-2)
    idle = only(flops=1e9, seconds=1.0)
    assert busy.bound == "compute" and "arithmetic helps" in busy.advice  # type: ignore[attr-defined]
    assert "arithmetic unused" in idle.advice  # type: ignore[attr-defined]
    assert "wrong" in only(seconds=1e-5).advice  # type: ignore[attr-defined]
    core = bottlenecks([layer("blocks.0.attn.core", "attention", seconds=1.1e-4)], "decode", ROOF)[0]
    assert "shorter context" in core.advice
    norm = bottlenecks([layer("blocks.0.attn_norm", "norm", seconds=1.0)], "decode", ROOF)[0]
    assert "fused" in norm.advice


def test_short_calls_are_overhead() -> None:
    found = bottlenecks([layer("blocks.0.mlp_norm", "norm", seconds=5e-6, bytes=100.0, flops=50.0)], "decode", ROOF)
    assert "a fused step" in found[0].advice


def test_without_a_roof_or_a_count_it_says_so() -> None:
    unknown = bottlenecks([layer("lm_head", "head")], "decode")[0]
    assert unknown.bound is None and unknown.of_roof is None and "Measure this machine" in unknown.advice
    assert unknown.finding.startswith("The lm_head layer takes 100% of the time in layers")
    uncounted = bottlenecks([layer("lm_head", "head", flops=None, bytes=None)], "decode", ROOF)[0]
    assert uncounted.of_roof is None and "not counted" in uncounted.finding


def test_unmeasured_layers_are_no_suspects() -> None:
    assert bottlenecks([layer("lm_head", "head", seconds=None)], "decode", ROOF) == []
    assert bottlenecks([layer("lm_head", "head")], "prefill", ROOF) == []


def test_time_outside_of_layers() -> None:
    events = [
        LayerTimes(
            t_s=1.0,
            pass_no=2,
            phase="decode",
            n_steps=4,
            seconds_total=seconds,
            rows=(LayerTime("a", 0.5, 4), LayerTime("b", 0.25, 4)),
        )
        for seconds in (9.0, 1.0)  # the later one replaces the earlier
    ]
    found = attribution(events)
    assert [(a.phase, a.unattributed_share) for a in found] == [("decode", 0.25)]
    assert "25% of the instrumented decode is in no layer" in (outside(found, "decode") or "")
    assert outside(found, "prefill") is None
    assert outside([Attribution(phase="decode", seconds_total=1.0, seconds_attributed=0.95)], "decode") is None


# ---------------------------------------------------------------- groups and differences


def test_groups_add_up() -> None:
    rows = [
        layer("embed", "embedding", seconds=None),
        layer("blocks.0.a"),
        layer("blocks.0.b", "norm"),
        layer("blocks.1.a"),
    ]
    kinds = [(g.name, g.n_layers, round(g.share or 0, 6)) for g in by_kind(rows, "decode")]
    assert kinds == [("mlp", 2, 0.666667), ("norm", 1, 0.333333)]
    assert [(g.name, g.kind) for g in by_block(rows, "decode")] == [("0", "mlp"), ("0", "norm"), ("1", "mlp")]
    assert len(by_layer(rows, "decode")) == 3, "what was not measured has no bar"
    assert by_layer(rows, "prefill") == []


def test_two_runs_line_up_by_name() -> None:
    one = [layer("a", seconds=2e-3), layer("b", seconds=1e-3), layer("c", seconds=None)]
    two = [layer("a", seconds=1e-3), layer("d", seconds=1e-3), layer("c", seconds=None)]
    found = {c.name: c for c in compare(one, two, "decode")}
    assert found["a"].change == pytest.approx(-1e-3) and found["a"].ratio == 0.5
    assert found["b"].change is None and found["d"].first is None
    assert "c" not in found


# ---------------------------------------------------------------- under the roof

LAYERS = (
    Layer(name="embed", kind="embedding", op=Embedding(rows=64, d=8), n_params=512, weight_bytes=2048),
    Layer(name="blocks.0.attn_norm", kind="norm", op=Norm(d=8), inputs=("embed",), n_params=8, weight_bytes=32),
    Layer(name="blocks.0.attn.q_proj", kind="attention", op=Linear(d_in=8, d_out=8), n_params=64, weight_bytes=256),
    Layer(name="blocks.0.attn.rope", kind="attention", op=Rope(d=8)),
    Layer(name="blocks.0.attn.core", kind="attention", op=Attention(n_heads=2, n_kv_heads=1, qk_dim=4, v_dim=4)),
    Layer(name="blocks.0.mlp.act", kind="mlp", op=Elementwise(d=8, n_inputs=2, flops_per_element=5)),
    Layer(name="lm_head", kind="head", op=Linear(d_in=8, d_out=64), n_params=512, weight_bytes=2048),
)
SPEC = ModelSpec(name="tiny", architecture="t", d_model=8, n_blocks=1, vocab_size=64, max_context=None, layers=LAYERS)


@pytest.mark.parametrize("layer_", LAYERS, ids=lambda x: x.name)
def test_every_layer_is_written_out(layer_: Layer) -> None:
    row = next(w for w in work(SPEC, n_new=3, n_past=2) if w.name == layer_.name)
    lines = {line.name: line for line in written_out(layer_, row, ROOF, seconds=1e-3)}
    assert lines["Work"].value == row.flops and lines["Bytes: weights, activations, cache or state"].value == row.bytes
    assert lines["Intensity"].value == pytest.approx(row.flops / row.bytes)
    assert lines["Ridge"].value == 10
    assert lines["Of the roof"].value == pytest.approx(ROOF.ideal_s(row.flops, row.bytes) / 1e-3)


def test_a_matrix_shows_its_numbers() -> None:
    row = next(w for w in work(SPEC, n_new=3) if w.name == "blocks.0.attn.q_proj")
    line = written_out(LAYERS[2], row)[0]
    assert line.numbers == r"2 \cdot 3 \cdot 8 \cdot 8" and line.value == 2 * 3 * 8 * 8


def test_attention_shows_its_pairs() -> None:
    row = next(w for w in work(SPEC, n_new=3, n_past=2) if w.name == "blocks.0.attn.core")
    pairs = 3 + 4 + 5
    assert written_out(LAYERS[4], row)[0].numbers == rf"2 \cdot 2 \cdot (4 + 4) \cdot {pairs}"


def test_under_roof_stops_where_nothing_is_known() -> None:
    assert under_roof(1.0, 0.0) == ()
    assert [line.name for line in under_roof(10.0, 5.0)] == ["Intensity"]
    names = [line.name for line in under_roof(1000.0, 5.0, ROOF)]
    assert "Compute-bound, attainable" in names and "Measured" not in names


def test_activations_are_held_against_the_cache() -> None:
    small = layer("blocks.0.attn_norm", "norm", weight_bytes=10.0, bytes=1000.0)
    assert moves_activations(small)
    assert not moves_activations(layer("lm_head", "head"))
    assert not moves_activations(layer("blocks.0.attn.core", "attention", weight_bytes=0.0)), "its cache is in memory"
    cache = Ceiling(flop_per_s=100e9, bytes_per_s=1e12)
    ideal = ideal_times([small, layer("lm_head", "head")], ROOF, lambda n_bytes: cache)
    assert ideal["blocks.0.attn_norm"] == pytest.approx(2e6 / 100e9)
    assert ideal["lm_head"] == pytest.approx(1e6 / 10e9)


def test_points_of_a_run_and_of_a_shape() -> None:
    phases = [PhaseResult(name="decode", seconds=1.0, n_tokens=10, n_forward=10, tok_per_s=10, flops=1e9, bytes=1e9)]
    rows = [layer("lm_head", "head", op="MatMul"), layer("blocks.0.attn_norm", "norm", seconds=None)]
    assert per_forward(phases[0]).seconds == 0.1
    assert [p.name for p in measured(phases, rows, "Phases", ROOF)] == ["decode"]
    assert [p.name for p in measured(phases, rows, "Layers", ROOF)] == ["decode", "lm_head"]
    assert [p.name for p in measured(phases, rows, "Operators", ROOF)] == ["decode", "MatMul"]
    one = predicted(SPEC, "decode", Forward(n_new=1, n_past=8), "Layers", ROOF)
    many = predicted(SPEC, "decode", Forward(n_new=1, n_past=8, batch=64), "Layers", ROOF)
    assert one[0].whole and one[0].efficiency <= 1 + 1e-9
    assert all(p.efficiency == pytest.approx(1) for p in one[1:]), "a predicted layer lies on the roof"
    assert {p.id: p.intensity for p in many}["decode:lm_head"] > {p.id: p.intensity for p in one}["decode:lm_head"]
    assert "decode:embed" not in {p.id for p in one}, "no FLOPs, no place on a logarithm"


def test_operators_add_up_and_stay_uncounted() -> None:
    rows = [
        layer("a", op="MUL"),
        layer("b", op="MUL", flops=None),
        layer("c", op="ADD"),
        layer("d", op="", seconds=1.0),
    ]
    found = {r.name: r for r in by_operator(rows)}
    assert set(found) == {"MUL", "ADD"}
    assert found["MUL"].seconds == pytest.approx(2e-3) and found["MUL"].flops is None


def test_working_set_is_the_weights_of_one_forward() -> None:
    assert working_set_bytes([layer("a"), layer("b"), layer("a", phase="prefill")], "decode") == 2e6
