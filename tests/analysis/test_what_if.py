"""What-if devices: shares that sum to one, knees, lines of equal time, the front under cost, and bad input."""

from __future__ import annotations

import math

import msgspec
import pytest

from core.analysis import designs, what_if
from core.analysis.cost import bill, die_dollars, die_yield
from core.analysis.designs import FLOPS, Case, Design, PhaseName, changed, design, loaded, times
from core.analysis.device_time import Spread
from core.analysis.predict import predict
from core.analysis.predict_here import Overhead, predict_local
from core.analysis.time_parts import BANDWIDTH, CACHE, Cache, moved_bytes
from core.analysis.what_if import buys, elasticities
from hardware import catalogue
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from hardware.errors import ExplorerError
from tests.analysis.test_predict import CARD, preset

PHASES: tuple[PhaseName, ...] = ("prefill", "decode")
Q4 = Case(weights="q4_0")
FIGURES = [catalogue.find(name) for name in ("H100 SXM5 80GB", "RTX 4090", "T4", "Instinct MI300X", "TPU v5e (chip)")]
MB = 2**20


def machine() -> Ceilings:
    """Two cores whose cache of 32 MB reads five times as fast as memory."""
    reads = [(MB, 100e9), (8 * MB, 100e9), (32 * MB, 100e9), (128 * MB, 20e9), (512 * MB, 20e9)]
    return Ceilings(
        machine_id="m", device="cpu", threads=2, date="2026-11-27T00:00:00Z", quick=True, seconds=1.0,
        gemms=(Gemm("fp32", 512, 512, 512, 200e9, "gemm"), Gemm("int8", 512, 512, 512, 400e9, "gemm")),
        reads=tuple(ReadPoint(size, rate, rate) for size, rate in reads), mem_bytes=16 * 2**30,
    )  # fmt: skip


def overhead(overlaps: bool) -> Overhead:
    return Overhead(
        backend="b", reading=1.3, computing=2.0, caching=1.5, touching=1.2, forward_s=2e-4, layer_s=3e-6,
        spread=Spread(low=0.8, high=1.3), overlaps=overlaps, weights="fp32", n_runs=9,
    )  # fmt: skip


def some_designs() -> list[Design]:
    here = [designs.this_machine(machine(), overhead(overlaps), "This machine") for overlaps in (True, False)]
    return [*(design(device) for device in FIGURES), design(CARD, Cache(size_bytes=8e9, bytes_per_s=5e12)), *here]


@pytest.mark.parametrize("of", some_designs(), ids=lambda d: d.device.name)
@pytest.mark.parametrize("model", ["llama-3.1-8b", "smollm2-135m", "mixtral-8x7b", "gpt2"])
def test_shares_are_elasticities_and_sum_to_one(of: Design, model: str) -> None:
    for case in (Case(), Case(batch=64, prompt_tokens=1300, weights="fp32")):
        load = loaded(preset(model), case, of)
        for phase in times(load, of):
            found = elasticities(load, of, phase.name)
            assert sum(e.share for e in found) == pytest.approx(1.0)
            assert sum(phase.shares.values()) == pytest.approx(1.0)
            for e in found:  # the derivative itself, by a step too small for any ridge but a hit
                little = buys(load, of, phase.name, {e.resource: 1 + 1e-6})
                assert math.log(little) / 1e-6 == pytest.approx(e.share, abs=1e-4), (phase.name, e)
            everything = dict.fromkeys(designs.resources(of), 3.0)
            assert buys(load, of, phase.name, everything) == pytest.approx(3.0), "all together divide the time"


@pytest.mark.parametrize("device", FIGURES, ids=lambda d: d.name)
def test_the_parts_sum_to_the_prediction(device: object) -> None:
    for case in (Q4, Case(batch=8, prompt_tokens=2000)):
        found = predict(preset("llama-3.1-8b"), device, **msgspec.structs.asdict(case))  # type: ignore[arg-type]
        of = design(device)  # type: ignore[arg-type]
        prefill, decode = times(loaded(preset("llama-3.1-8b"), case, of), of)
        assert (prefill.seconds, prefill.ideal_s) == pytest.approx((found.ttft_s.calibrated, found.ttft_s.ideal))
        assert found.tpot_s is not None
        assert (decode.seconds, decode.high_s) == pytest.approx((found.tpot_s.calibrated, found.tpot_s.high))


def test_here_the_parts_sum_to_this_machines_prediction() -> None:
    spec, case = preset("smollm2-135m"), Case(prompt_tokens=300, weights="fp32")
    for overlaps in (True, False):
        of = designs.this_machine(machine(), overhead(overlaps), "This machine")
        found = predict_local(
            spec, machine(), overhead(overlaps), prompt_tokens=300, new_tokens=128, weights="fp32", kv_dtype="fp16"
        )
        prefill, decode = times(loaded(spec, case, of), of)
        assert prefill.seconds == pytest.approx(found.ttft_s.calibrated)
        assert found.tpot_s is not None and decode.seconds == pytest.approx(found.tpot_s.calibrated)


def test_decode_gains_from_bandwidth_and_not_from_flops() -> None:
    of = design(catalogue.find("RTX 4090"))
    load = loaded(preset("llama-3.1-8b"), Case(weights="fp16"), of)
    assert buys(load, of, "decode", {BANDWIDTH: 2.0}) > 1.6
    assert buys(load, of, "decode", {FLOPS: 2.0}) < 1.1
    assert buys(load, of, "prefill", {BANDWIDTH: 2.0}) == pytest.approx(1.0)
    words = what_if.sentence(load, of, "decode")
    assert "twice the bandwidth buys ×1.7" in words and "twice the FLOP/s ×1.0" in words


def test_a_ridge_is_marked() -> None:
    """A prompt whose reading takes a little longer than its arithmetic: more bandwidth helps until it does not."""
    of = design(msgspec.structs.replace(CARD, tdp_w=None))
    case = Case(prompt_tokens=200, weights="fp16")
    load = loaded(preset("llama-3.1-8b"), case, of)
    found = next(p for p in times(load, of) if p.name == "prefill")
    assert found.binds != BANDWIDTH
    level = moved_bytes(load.prompt[0]) / found.seconds / of.device.mem_bandwidth_bytes_per_s
    near = changed(of, {BANDWIDTH: level * 0.99})  # reading is the longer by a hundredth
    bandwidth = next(e for e in elasticities(load, near, "prefill") if e.resource == BANDWIDTH)
    assert bandwidth.ridge and bandwidth.share > 0.9 and bandwidth.faster < 0.2 < 0.9 < bandwidth.slower
    calm = elasticities(load, changed(of, {BANDWIDTH: level * 0.3}), "prefill")
    assert not any(e.ridge for e in calm)


def test_a_cache_that_holds_the_model_is_another_regime() -> None:
    spec, case = preset("smollm2-135m"), Case(weights="q4_0")
    without = design(CARD)
    held = design(CARD, Cache(size_bytes=200e6, bytes_per_s=10e12))
    small = design(CARD, Cache(size_bytes=60e6, bytes_per_s=10e12))
    load = loaded(spec, case, held)
    assert seconds(load, held) < seconds(load, without) == seconds(load, small)
    assert "Another regime" in what_if.regime(load, held) and "Near another regime" in what_if.regime(load, small)
    assert not what_if.regime(load, without)
    by = {e.resource: e.share for e in elasticities(load, held, "decode")}
    assert by[CACHE] > 0 and BANDWIDTH not in by
    assert "the memory's bandwidth does not count" in what_if.sentence(load, held, "decode")


def seconds(load: object, of: Design) -> float:
    return designs.seconds(load, of, "decode")  # type: ignore[arg-type]


def test_knees() -> None:
    spec = preset("llama-3.1-8b")
    of = design(catalogue.find("H100 SXM5 80GB"))
    found = what_if.knees(spec, Case(prompt_tokens=8192, weights="fp16"), of)
    assert found.batch is None, "every sequence brings its own cache: attention in decode never gets there"
    assert found.prompt_tokens == pytest.approx(989.4e12 / 3.35e12, rel=0.15)
    # 2 (K and V) x 32 layers x 8 heads x 128 x 2 bytes = 131072 bytes a token
    assert found.cached_tokens == pytest.approx(
        (loaded(spec, Case(weights="fp16"), of).spec.weight_bytes or 0) / 131072
    )
    short = what_if.knees(spec, Case(prompt_tokens=1, new_tokens=1, weights="fp16"), of)
    assert short.batch is not None and 290 < short.batch < 400
    below = loaded(spec, Case(prompt_tokens=1, new_tokens=1, weights="fp16", batch=short.batch - 1), of)
    at = loaded(spec, Case(prompt_tokens=1, new_tokens=1, weights="fp16", batch=short.batch), of)
    assert below.step is not None and at.step is not None
    intensity = [x.flops / (x.weight_bytes + x.kv_read_bytes + x.kv_write_bytes) for x in (below.step, at.step)]
    assert intensity[0] < found.ridge <= intensity[1]


def test_least_memory_holds_the_model() -> None:
    spec, of = preset("llama-3.1-8b"), design(CARD)
    case = Case(weights="fp16", prompt_tokens=4096, batch=4)
    least = what_if.least_memory_bytes(spec, case, of)
    for factor, fits in ((1.001, True), (0.999, False)):
        device = msgspec.structs.replace(CARD, mem_bytes=least * factor)
        assert predict(spec, device, **msgspec.structs.asdict(case)).fits is fits


def test_lines_of_equal_time() -> None:
    of = design(catalogue.find("RTX 4090"))
    load = loaded(preset("llama-3.1-8b"), Q4, of)
    now = designs.seconds(load, of, "decode")
    _, peak, bandwidth = what_if.reference(load, of)
    lines = what_if.iso_latency(load, of, "decode", speedups=(1.0, 1.5, 100.0))
    assert [line.seconds for line in lines] == pytest.approx([now, now / 1.5, now / 100])
    assert not lines[2].points, "nothing within reach is a hundred times faster"
    for line in lines[:2]:
        assert len(line.points) > 5
        for x, y in line.points:
            there = changed(of, {BANDWIDTH: x / bandwidth, FLOPS: y / peak})
            assert designs.seconds(load, there, "decode") == pytest.approx(line.seconds, rel=1e-3)
        ys = [y for _, y in line.points]
        assert ys == sorted(ys, reverse=True), "more bandwidth needs less arithmetic"


def test_matrix() -> None:
    of = design(catalogue.find("H100 SXM5 80GB"))
    cells = what_if.matrix([preset("llama-3.1-8b"), preset("bert-base-uncased")], Case(weights="fp16"), of, (1, 64))
    by = {(c.model, c.phase, c.batch): c for c in cells}
    assert len(cells) == 6, "an encoder has no decode"
    assert by["llama-3.1-8b", "decode", 1].binds == BANDWIDTH
    assert by["llama-3.1-8b", "prefill", 64].bandwidth_buys == pytest.approx(1.0)
    assert by["llama-3.1-8b", "decode", 64].seconds > by["llama-3.1-8b", "decode", 1].seconds
    small, large = (by["llama-3.1-8b", "decode", n].joules_per_token or 0 for n in (1, 64))
    assert small > large > 0, "a batch shares the reading"


def test_energy_per_token_is_power_times_time_over_the_tokens_of_the_phase() -> None:
    of = design(msgspec.structs.replace(CARD, tdp_w=200.0))
    case = Case(weights="fp16", batch=4, prompt_tokens=100)
    phases = {p.name: p for p in designs.times(designs.loaded(preset("gpt2"), case, of), of)}
    for name, n_tokens in (("prefill", 400), ("decode", 4)):
        found = what_if.joules_per_token(phases[name], case, of)
        assert found == pytest.approx(200.0 * phases[name].seconds / n_tokens), name
    powerless = design(msgspec.structs.replace(CARD, tdp_w=None))
    assert what_if.joules_per_token(phases["decode"], case, powerless) is None


def test_the_front_under_cost() -> None:
    spec = preset("llama-3.1-8b")

    def made(name: str, bandwidth: float, dollars: float | None, memory: float = 16e9) -> Design:
        device = msgspec.structs.replace(CARD, name=name, mem_bandwidth_bytes_per_s=bandwidth, mem_bytes=memory)
        return design(device, dollars=dollars)

    listed = [
        made("cheap", 0.5e12, 500), made("dear and slow", 0.45e12, 2000), made("fast", 2e12, 1500),
        made("a hair dearer", 2e12, 1501), made("no price", 3e12, None), made("too small", 3e12, 100, 2e9),
    ]  # fmt: skip
    found, left_out = what_if.under_cost(spec, Q4, listed)
    by = {c.name: c for c in found}
    assert [c.name for c in found] == ["cheap", "fast", "a hair dearer", "dear and slow"], "by price"
    assert {c.name for c in found if c.on_front} == {"cheap", "fast"}
    assert by["dear and slow"].beaten_by == "cheap" and by["a hair dearer"].beaten_by == "fast"
    assert by["cheap"].stable > 0.9 and by["dear and slow"].stable < 0.1
    assert by["fast"].stable == pytest.approx(0.5, abs=0.05), "between two all but equal prices a coin decides"
    assert by["fast"].low < by["fast"].value < by["fast"].high
    assert any("no price" in line for line in left_out) and any("does not hold it" in line for line in left_out)
    first, _ = what_if.under_cost(spec, Q4, listed[:3], "ttft_s")
    assert {c.name for c in first if c.on_front} == {"cheap"}, "bandwidth does nothing for a prompt"


def test_die_costs() -> None:
    """CSET's wafer prices at D0 0.10/cm2 and alpha 3: 29, 172 and 550 dollars in 5 nm, 16, 95 and 303 in 7 nm."""
    assert [die_yield(a) for a in (100, 400, 814)] == pytest.approx([0.91, 0.69, 0.49], abs=0.006)
    assert [die_dollars(a, 16_988) for a in (100, 400, 814)] == pytest.approx([29, 172, 550], rel=0.01)
    assert [die_dollars(a, 9_346) for a in (100, 400, 814)] == pytest.approx([16, 95, 303], rel=0.015)
    parts = bill(
        die_mm2=814, n_dies=1, wafer_dollars=16_988, memory_bytes=80 * 2**30, dollars_per_gb=17, rest_dollars=1670
    )
    assert parts.memory == pytest.approx(1360) and parts.total == pytest.approx(550 + 1360 + 1670, rel=0.01)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (lambda: design(CARD, dollars=0.0), "price"),
        (lambda: design(CARD, dollars=-3.0), "price"),
        (lambda: design(CARD, dollars=math.nan), "price"),
        (lambda: design(CARD, Cache(size_bytes=0, bytes_per_s=1e13)), "cache"),
        (lambda: design(CARD, Cache(size_bytes=1e6, bytes_per_s=1e10)), "slower than its memory"),
        (lambda: design(msgspec.structs.replace(CARD, mem_bandwidth_bytes_per_s=0.0)), "bandwidth"),
        (lambda: design(msgspec.structs.replace(CARD, mem_bytes=math.inf)), "memory"),
        (lambda: changed(design(CARD), {BANDWIDTH: 0.0}), "factor"),
        (lambda: loaded(preset("gpt2"), Case(batch=0), design(CARD)), "batch"),
        (lambda: die_dollars(2000, 16_988), "die"),
        (lambda: die_dollars(100, 0), "wafer"),
        (lambda: what_if.under_cost(preset("bert-base-uncased"), Case(), [design(CARD, dollars=1.0)]), "encoder"),
    ],
)
def test_bad_input_is_one_sentence(bad: object, words: str) -> None:
    with pytest.raises(ExplorerError, match=words) as caught:
        bad()  # type: ignore[operator]
    assert caught.value.hint and "\n" not in str(caught.value)
