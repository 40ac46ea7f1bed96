"""What latencies over lengths imply, by hand: a server that reads 1 GB at 100 GB/s and computes 1 TFLOP/s."""

from __future__ import annotations

import math

import pytest

from core.analysis.bottlenecks import Ceiling
from core.analysis.implied import Span, Timing, implied, network, typical
from core.models import catalogue, spec
from core.types import ModelSpec
from hardware.errors import ExplorerError

BYTES, BANDWIDTH, KV, PARAMS, RATE, NETWORK_S = 1e9, 1e11, 1e5, 5e8, 1e12, 0.03
DEVICE = Ceiling(flop_per_s=2e12, bytes_per_s=2e11, source="a device")


def timing(n_prompt: int, off: float = 0.0) -> Timing:
    """One answer of 10 tokens of that server, its ITL off by a share."""
    context = n_prompt + 5
    return Timing(
        n_prompt=n_prompt,
        n_context=context,
        ttft_s=NETWORK_S + n_prompt * 2 * PARAMS / RATE,
        itl_s=(BYTES + context * KV) / BANDWIDTH * (1 + off),
    )


EXACT = [timing(n) for n in (100, 400, 1000)]


def test_bandwidth_and_active_bytes_from_the_growth_with_the_context() -> None:
    """10 ms without a context and 1 µs per token: 1e5 B / 1 µs = 100 GB/s, and 10 ms of it are 1 GB."""
    found = implied(EXACT, DEVICE, kv_bytes_per_token=KV, active_params=PARAMS)
    assert found.itl is not None and found.itl.at_zero.value == pytest.approx(0.01)
    assert found.itl.per_token.value == pytest.approx(1e-6) and found.itl.n == 3
    assert found.bandwidth is not None and found.bandwidth.value == pytest.approx(BANDWIDTH)
    assert found.active_bytes is not None and found.active_bytes.value == pytest.approx(BYTES)
    assert "grows with the context" in found.basis


def test_bandwidth_from_the_bytes_where_the_cache_is_not_known() -> None:
    found = implied(EXACT, DEVICE, active_bytes=BYTES)
    assert found.bandwidth is not None and found.bandwidth.value == pytest.approx(BANDWIDTH)
    assert not found.points and any("number of parameters" in words for words in found.notes)


def test_bounds_that_need_the_device_alone() -> None:
    """At 200 GB/s 10 ms are 2 GB at most; at 2 TFLOP/s a token's 1 ms is 1e9 parameters at most."""
    found = implied(EXACT, DEVICE)
    assert found.bandwidth is None and found.active_bytes is None
    assert found.most_bytes == pytest.approx(2e9) and found.most_params == pytest.approx(1e9)


def test_points_under_the_roofs() -> None:
    """Decode at 1005 tokens: 1e9 FLOP over 1.1005e9 B in 11.005 ms; prefill of 1000: 1e12 FLOP over 1.1e9 B in 1 s."""
    decode, prefill = implied(EXACT, DEVICE, kv_bytes_per_token=KV, active_params=PARAMS).points[:2]
    assert decode.intensity == pytest.approx(1e9 / 1.1005e9) and decode.flop_per_s == pytest.approx(1e9 / 0.011005)
    assert decode.efficiency == pytest.approx(0.5), "it reaches 100 of 200 GB/s"
    assert decode.bound == "memory" and prefill.bound == "compute"
    assert prefill.intensity == pytest.approx(1e12 / 1.1e9) and prefill.efficiency == pytest.approx(0.5)
    assert decode.source == prefill.source == "predicted"


def test_the_range_is_the_interval_of_the_slope() -> None:
    """Four points with residuals +e, -e, -e, +e: slope as without them, s² = 4e²/2, t(0.975; 2) = 4.3027."""
    e = 1e-4
    timings = [
        Timing(n_prompt=x, n_context=x, itl_s=0.01 + 1e-5 * x + sign * e)
        for x, sign in zip((100, 200, 300, 400), (1, -1, -1, 1), strict=True)
    ]
    found = implied(timings, DEVICE, kv_bytes_per_token=KV)
    assert found.itl is not None and found.bandwidth is not None
    off = 4.30265 * math.sqrt(2) * e / math.sqrt(50000)
    assert found.itl.per_token.high == pytest.approx(1e-5 + off, rel=1e-5)
    assert found.bandwidth.low == pytest.approx(KV / (1e-5 + off), rel=1e-5)
    assert found.bandwidth.high == pytest.approx(KV / (1e-5 - off), rel=1e-5)
    assert found.active_bytes is not None and found.active_bytes.low < found.active_bytes.value


def test_a_slope_that_may_be_none_gives_no_bandwidth() -> None:
    flat = [Timing(n_prompt=n, n_context=n, itl_s=0.01 + off) for n, off in ((1, 1e-4), (50, -1e-4), (100, 1e-4))]
    found = implied(flat, DEVICE, kv_bytes_per_token=KV, active_params=PARAMS)
    assert found.bandwidth is None and not found.points
    assert any("does not measurably grow" in words for words in found.notes)


@pytest.mark.parametrize(
    ("lengths", "says"),
    [((), "No answer"), ((64,), "1 prompt length "), ((64, 256), "2 prompt lengths"), ((100, 110, 120), "twice")],
)
def test_too_few_lengths_are_refused_in_a_sentence(lengths: tuple[int, ...], says: str) -> None:
    with pytest.raises(ExplorerError, match=says) as caught:
        implied([timing(n) for n in lengths], DEVICE, kv_bytes_per_token=KV)
    assert "three or more" in caught.value.hint


@pytest.fixture(scope="module")
def model() -> ModelSpec:
    return spec.read(catalogue.find("gpt2").files["config"], "config")


def test_the_network_shares_what_was_measured(model: ModelSpec) -> None:
    measured = Span(value=0.02, low=0.01, high=0.03)
    parts = network(model, "decode", 128, measured, DEVICE)
    assert math.fsum(p.seconds.value for p in parts) == pytest.approx(0.02)
    assert math.fsum(p.share for p in parts) == pytest.approx(1)
    assert all(p.seconds.low == pytest.approx(p.seconds.value / 2) for p in parts)
    assert [p.ideal_s for p in parts] == sorted((p.ideal_s for p in parts), reverse=True)
    assert max(p.n_layers for p in parts) == model.n_blocks, "equal layers of all blocks are one part"


def test_the_middle_of_what_was_measured() -> None:
    assert typical([3.0, 1.0]) == Span(value=2.0, low=1.0, high=3.0) and typical([]) is None
