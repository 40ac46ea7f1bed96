"""Roofs and points, by hand."""

from __future__ import annotations

import pytest

from core.analysis.bottlenecks import Ceiling
from core.analysis.roofline import (
    attainable,
    causes,
    ceiling_here,
    ceiling_of,
    measured_layers,
    measured_phases,
    predicted_layers,
    predicted_phase,
    roofs_here,
    roofs_of,
)
from core.analysis.work import LayerWork
from core.types import LayerResult, PhaseResult
from hardware import catalogue
from hardware.ceilings import Ceilings, Gemm, ReadPoint

# ridge at 100 FLOP per byte
CEILING = Ceiling(flop_per_s=1e12, bytes_per_s=1e10)
MB = 2**20
HERE = Ceilings(
    machine_id="m",
    device="cpu",
    threads=2,
    date="2026-11-21T00:00:00Z",
    quick=True,
    seconds=9.0,
    gemms=(Gemm("fp32", 512, 512, 512, 400e9, "x"), Gemm("bf16", 512, 512, 512, 900e9, "x")),
    reads=tuple(ReadPoint(n * MB, r * 1e9, r * 1e9) for n, r in ((1, 300), (2, 150), (16, 148), (64, 50), (256, 49))),
)


def layer(seconds: float | None, flops: float, n_bytes: float, name: str = "blocks.0.mlp.down_proj") -> LayerResult:
    return LayerResult(
        name=name, kind="mlp", phase="decode", seconds=seconds, calls=1,
        flops=flops, bytes=n_bytes, weight_bytes=n_bytes, n_params=1,
    )  # fmt: skip


def test_attainable() -> None:
    assert attainable(1.0, CEILING) == 1e10
    assert attainable(100.0, CEILING) == 1e12 == attainable(1e6, CEILING)
    assert CEILING.ridge == 100


def test_boundness_is_intensity_against_the_ridge_and_not_distance() -> None:
    # 5 % of the roof at intensity 1000: far below, and still bound by arithmetic
    (slow,) = measured_layers([layer(0.02, 1e9, 1e6)], CEILING)
    assert slow.bound == "compute" and slow.efficiency == pytest.approx(0.05) and not slow.above
    (near,) = measured_layers([layer(1.1e-4, 1e6, 1e6)], CEILING)
    assert near.bound == "memory" and near.efficiency == pytest.approx(0.909, abs=1e-3)
    assert near.intensity == 1.0 and near.flop_per_s == pytest.approx(1e6 / 1.1e-4)


def test_a_point_above_its_roof_is_an_error_with_causes() -> None:
    (cached,) = measured_layers([layer(0.5e-4, 1e6, 1e6)], CEILING)
    assert cached.above and "cache" in causes(cached)[0] and len(causes(cached)) == 5
    (dtype,) = measured_layers([layer(0.5e-3, 1e9, 1e6)], CEILING)
    assert dtype.above and "dtype" in causes(dtype)[0]
    (noise,) = measured_layers([layer(0.98e-4, 1e6, 1e6)], CEILING)
    assert not noise.above and causes(noise) == ()


def test_what_was_not_timed_or_computes_nothing_has_no_point() -> None:
    rows = [layer(None, 1e6, 1e6), layer(1e-3, 0.0, 1e6), layer(1e-3, 1e6, 1e6)]
    assert len(measured_layers(rows, CEILING)) == 1


def test_measured_and_predicted_share_an_id() -> None:
    work = LayerWork(
        name="blocks.0.mlp.down_proj", kind="mlp", flops=1e6, flops_executed=1e6, weight_bytes=8e5, activation_bytes=2e5
    )
    (ideal,) = predicted_layers([work], "decode", CEILING)
    (real,) = measured_layers([layer(2e-4, 1e6, 1e6)], CEILING)
    assert ideal.id == real.id and ideal.source == "predicted" and ideal.efficiency == pytest.approx(1.0)
    assert ideal.seconds == pytest.approx(1e-4)


def test_phases() -> None:
    rows = [
        PhaseResult(name="prefill", seconds=0.1, n_tokens=10, n_forward=1, tok_per_s=100, flops=5e10, bytes=1e8),
        PhaseResult(name="decode", seconds=1.0, n_tokens=10, n_forward=9, tok_per_s=9, flops=5e9, bytes=5e9),
    ]
    prefill, decode = measured_phases(rows, CEILING)
    assert prefill.whole and prefill.bound == "compute" and prefill.efficiency == pytest.approx(0.5)
    assert decode.bound == "memory" and decode.efficiency == pytest.approx(0.5)
    assert predicted_phase("decode", 5e9, 5e9, 0.8, CEILING).id == decode.id


def test_stated_roofs_keep_their_doubts() -> None:
    spark = catalogue.find("DGX Spark (GB10)")
    roofs = {roof.name: roof for roof in roofs_of(spark, "fp16")}
    assert roofs["fp16"].main and roofs["fp16"].doubtful and roofs["DRAM"].main and not roofs["DRAM"].doubtful
    assert ceiling_of(spark, "int4") is None
    ceiling = ceiling_of(catalogue.find("H100 SXM5 80GB"), "bf16")
    assert ceiling is not None and ceiling.ridge == pytest.approx(295, abs=1)


def test_measured_roofs_follow_the_working_set() -> None:
    assert HERE.knees == (1 * MB, 16 * MB)
    roofs = roofs_here(HERE, "bf16", working_set_bytes=8 * MB)
    memory = {roof.name: roof for roof in roofs if roof.kind == "memory"}
    assert list(memory) == ["cache up to 1 MB", "cache up to 16 MB", "DRAM"]
    assert [name for name, roof in memory.items() if roof.main] == ["cache up to 16 MB"]
    assert next(roof for roof in roofs_here(HERE, "fp32", 1e9) if roof.name == "DRAM").main
    in_cache, in_memory = ceiling_here(HERE, "fp32", 8 * MB), ceiling_here(HERE, "fp32", 1e9)
    assert in_cache is not None and in_memory is not None
    assert in_cache.bytes_per_s == pytest.approx(148.6e9, rel=0.01) and in_memory.bytes_per_s == 49e9
    assert ceiling_here(HERE, "fp64", 1e9) is None
