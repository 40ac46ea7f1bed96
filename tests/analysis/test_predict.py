"""Prediction: one case by hand, properties, bad input, and its errors on devices that were left out."""

from __future__ import annotations

import json
import statistics
from collections import Counter
from functools import cache
from pathlib import Path

import msgspec
import pytest

from core.analysis import calibrate, device_time, predict_here
from core.analysis.device_time import PUBLISHED, Calibration
from core.analysis.predict import Prediction, bounds_in_words, predict
from core.analysis.predict_here import Observation, Overhead, fit_overhead, observe, predict_local
from core.analysis.work import total, work
from core.dtypes import retype
from core.models.presets import presets
from core.models.spec import from_config
from core.types import ModelSpec
from hardware import catalogue
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from hardware.device import Device
from hardware.errors import ExplorerError
from hardware.published import runs
from tests.bench import published
from tests.bench.predict import leave_models_out

CARD = Device(
    name="Round card",
    kind="gpu",
    mem_bandwidth_bytes_per_s=1e12,
    mem_bytes=16e9,
    peak_flop_per_s={"fp32": 20e12, "fp16": 100e12, "int8": 200e12},
    tdp_w=200,
    sources=("invented",),
)


@cache
def preset(name: str) -> ModelSpec:
    path = next(e for e in presets() if e.id == name).files["config"]
    return from_config(json.loads(Path(path).read_text()), name=name)


def on(device: Device, model: str = "llama-3.1-8b", **changes: object) -> Prediction:
    options: dict[str, object] = {"prompt_tokens": 512, "new_tokens": 128, "weights": "q4_0", **changes}
    return predict(preset(model), device, **options)  # type: ignore[arg-type]


# ---------------------------------------------------------------- against what others measured


def test_errors_on_left_out_devices(capsys: pytest.CaptureFixture[str]) -> None:
    """The table is printed into the test log; the README states the same one."""
    with capsys.disabled():
        print()
        table = [msgspec.convert(row, calibrate.MethodError) for row in published.run()]
    by = {(row.phase, row.method, row.left_out): row for row in table}
    for left_out in ("device", "family"):
        ours = by["decode", "Roofscope", left_out]
        assert ours.median_error <= 0.10
        assert ours.coverage is not None and ours.coverage >= 0.90
        assert ours.median_error < by["decode", "ideal roofline (LLM-Viewer)", ""].median_error
        assert ours.median_error < by["decode", "bandwidth over size, times 0.55", ""].median_error
        prompt = by["prefill", "Roofscope", left_out]
        assert prompt.median_error <= 0.10 and prompt.coverage is not None and prompt.coverage >= 0.90
        assert prompt.median_error < by["prefill", "ideal roofline (LLM-Viewer)", ""].median_error


def test_the_first_rows_alone_tell_the_same() -> None:
    """The goal must not hang on the rows that were added."""
    first = [run for run in runs() if not run.added]
    ours = calibrate.calibration_table(first)[0]
    assert (ours.phase, ours.left_out, ours.n) == ("decode", "device", 43)
    assert ours.median_error <= 0.10 and ours.coverage is not None and ours.coverage >= 0.90


def test_the_shipped_calibration_is_the_fit() -> None:
    fitted = calibrate.fit(runs())
    for name in Calibration.__struct_fields__:
        if name.endswith("_unfamiliar") or name in ("decode", "prefill"):
            continue
        assert getattr(PUBLISHED, name) == pytest.approx(getattr(fitted, name), rel=0.01), name
    for phase in ("decode", "prefill", "decode_unfamiliar", "prefill_unfamiliar"):
        assert getattr(PUBLISHED, phase).low == pytest.approx(getattr(fitted, phase).low, rel=0.01)
        assert getattr(PUBLISHED, phase).high == pytest.approx(getattr(fitted, phase).high, rel=0.01)


def test_familiar_are_the_devices_that_several_were_measured_of() -> None:
    names = {(run.device.vendor, run.device.kind, run.device.name) for run in runs() if run.use != "depth"}
    counted = Counter(name[:2] for name in names)
    assert {which for which, n in counted.items() if n >= 3} == device_time.FAMILIAR
    pi, card = catalogue.find("Raspberry Pi 5"), catalogue.find("RTX 4090")
    assert PUBLISHED.spread(card, "decode") == PUBLISHED.decode
    assert PUBLISHED.spread(pi, "decode") == PUBLISHED.decode_unfamiliar


def test_a_device_and_model_that_were_never_fitted() -> None:
    """Raspberry Pi 5, Llama-3.2-3B Q4: 4.88 tok/s (measured by others); a processor whose figures are upper bounds."""
    config = {
        "model_type": "llama", "hidden_size": 3072, "num_hidden_layers": 28, "num_attention_heads": 24,
        "num_key_value_heads": 8, "head_dim": 128, "intermediate_size": 8192, "vocab_size": 128256,
        "max_position_embeddings": 131072, "tie_word_embeddings": True, "rms_norm_eps": 1e-5,
    }  # fmt: skip
    pi = predict(
        from_config(config, name="Llama-3.2-3B"), catalogue.find("Raspberry Pi 5"),
        prompt_tokens=128, new_tokens=128, weights="q4_k",
    )  # fmt: skip
    assert pi.decode_tok_per_s is not None
    assert pi.decode_tok_per_s.low <= 4.88 <= pi.decode_tok_per_s.high


# Single-card rows of the LLaMA 2 table (Dec 2023) of the benchmark collection in llama_bench_published.csv's
# sources: tokens per second over 1024 tokens after a prompt of 258. Never fitted to. 7B Q4_0, 7B F16, 70B Q4_0.
NEVER_FITTED = {
    "RTX 4080": (118.01, 44.2, None),
    "RTX 3090": (120.6, 51.85, None),
    "RTX 4090": (149.37, 60.78, None),
    "RTX A6000": (111.57, 44.01, 15.18),
    "RTX 6000 Ada": (127.45, 50.56, 17.02),
    "A100 SXM4 80GB": (136.24, 73.83, 25.68),
    "H100 PCIe 80GB": (133.77, 83.32, 25.88),
    "Apple M2 Ultra (76c GPU)": (91.89, 40.68, 14.37),
    "Apple M3 Max (40c GPU)": (63.11, 24.76, None),
}


def test_measurements_that_were_never_fitted_to(capsys: pytest.CaptureFixture[str]) -> None:
    seven = from_config(llama_2(4096, 32, 32, 11008), name="Llama-2-7B")
    seventy = from_config(llama_2(8192, 80, 8, 28672), name="Llama-2-70B")
    # these builds start a card's kernels one by one
    old = msgspec.structs.replace(PUBLISHED, gpu_layer_s=PUBLISHED.gpu_layer_2024_s)
    ratios = []
    for name, rates in NEVER_FITTED.items():
        for (spec, weights), measured in zip(((seven, "q4_0"), (seven, "fp16"), (seventy, "q4_0")), rates, strict=True):
            if measured is not None:
                p = predict(
                    spec, catalogue.find(name), prompt_tokens=258, new_tokens=1024, weights=weights, calibration=old
                )
                assert p.decode_tok_per_s is not None
                ratios.append((p.decode_tok_per_s.calibrated / measured, p.decode_tok_per_s, measured))
    median = statistics.median(abs(ratio - 1) for ratio, _, _ in ratios)
    inside = sum(figure.low <= measured <= figure.high for _, figure, measured in ratios) / len(ratios)
    with capsys.disabled():
        print(f"\n  decode, {len(ratios)} rows never fitted to: median error {median:.1%}, {inside:.0%} inside")
    assert len(ratios) == 23 and median <= 0.10 and inside >= 0.90


def llama_2(d_model: int, n_layers: int, n_kv_heads: int, intermediate: int) -> dict[str, object]:
    return {
        "model_type": "llama", "hidden_size": d_model, "num_hidden_layers": n_layers,
        "num_attention_heads": d_model // 128, "num_key_value_heads": n_kv_heads, "intermediate_size": intermediate,
        "vocab_size": 32000, "max_position_embeddings": 4096, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    }  # fmt: skip


def test_the_fit_recovers_known_numbers_in_spite_of_an_outlier() -> None:
    terms = [{"a": float(i), "b": 10.0 / i} for i in range(1, 12)]
    seconds = [2 * row["a"] + 0.5 * row["b"] for row in terms]
    seconds[3] *= 3
    assert calibrate.relative_fit(terms, seconds) == pytest.approx({"a": 2.0, "b": 0.5}, rel=0.01)
    assert calibrate.relative_fit([{"a": 1.0, "b": 1.0}, {"a": 1.0, "b": 2.0}], [2.0, 1.0])["b"] == 0.0


# ---------------------------------------------------------------- by hand


def test_decode_by_hand() -> None:
    spec = preset("llama-3.1-8b")
    step = total(work(spec, 1, 512 + 64, weight_dtype="q4_0", activation_dtype="fp16"))
    # 30 attention and feed-forward matrices of 32 layers and the head in 4.5 bits, one row of the table
    matrices = 32 * (2 * 4096 * 4096 + 2 * 4096 * 1024 + 3 * 4096 * 14336) + 128256 * 4096
    assert step.weight_bytes == pytest.approx(matrices * 4.5 / 8, rel=1e-3)
    kv = 2 * 32 * 8 * 128 * 2 * (512 + 64 + 1)
    p = on(CARD)
    assert p.tpot_s is not None
    assert p.tpot_s.ideal == pytest.approx((matrices * 4.5 / 8 + kv) / 1e12, rel=2e-3)
    c = PUBLISHED
    expected = c.memory * matrices * 4.5 / 8 / 1e12 + c.unpack * matrices * 4.5 / 8 / 20e12
    # 32 query heads read 8 KV heads: each byte four times
    expected += 32 * c.gpu_layer_s + 4 * kv / (c.gpu_kv_share * 1e12)
    assert p.tpot_s.calibrated == pytest.approx(expected, rel=2e-3)
    assert p.tpot_s.high == pytest.approx(c.decode_unfamiliar.high * p.tpot_s.calibrated)  # of no known maker
    assert p.bound_by == "memory" and p.prefill_bound_by == "compute"
    assert p.starting == pytest.approx(32 * c.gpu_layer_s / expected, rel=2e-3), "as What if says"
    told = f"{p.starting:.0%} of decode"
    assert bounds_in_words(p).startswith("By the ridge, decode is memory-bound and prefill is compute-bound")
    assert ("does not count" in bounds_in_words(p) and told in bounds_in_words(p)) == (p.starting >= 0.05)
    assert on(CARD, prompt_tokens=513).prefill_bound_by == "compute", "a last chunk of one token decides nothing"


def test_prefill_by_hand() -> None:
    spec = preset("llama-3.1-8b")
    prompt = total(work(spec, 512, weight_dtype="q4_0", activation_dtype="fp16"))
    p = on(CARD)
    c = PUBLISHED
    flops = prompt.flops_executed
    assert p.ttft_s.calibrated == pytest.approx(
        c.flops * flops / 100e12 + c.joules_per_flop * flops / 200 + 32 * c.gpu_layer_s, rel=1e-6
    )
    assert p.ttft_s.ideal == pytest.approx(prompt.flops / 200e12)
    assert p.prefill_tok_per_s.calibrated == pytest.approx(512 / p.ttft_s.calibrated)
    assert p.prefill_tok_per_s.low == pytest.approx(512 / p.ttft_s.high)


def test_memory_and_fit() -> None:
    p = on(CARD, new_tokens=512)
    assert p.memory.kv_bytes == 2 * 32 * 8 * 128 * 2 * 1024
    assert p.peak_memory_bytes.ideal == p.memory.weights_bytes + p.memory.kv_bytes
    assert p.fits and p.usable_memory_bytes == pytest.approx(0.95 * 16e9)
    assert not on(CARD, weights="fp16").fits
    assert not on(CARD, prompt_tokens=131072, new_tokens=1).fits


# ---------------------------------------------------------------- properties


@pytest.mark.parametrize(
    "name", ["RTX 4090", "H200 SXM 141GB", "Ryzen 9 7950X", "Apple M4 (10c GPU)", "TPU v5e (chip)"]
)
@pytest.mark.parametrize("model", ["smollm2-135m", "llama-3.1-8b", "mixtral-8x7b", "mamba-130m"])
def test_every_interval_is_in_order(name: str, model: str) -> None:
    p = on(catalogue.find(name), model)
    assert p.tpot_s is not None and p.decode_tok_per_s is not None
    for time in (p.ttft_s, p.tpot_s, p.peak_memory_bytes):
        assert 0 < time.ideal <= time.low <= time.calibrated <= time.high
    for rate in (p.prefill_tok_per_s, p.decode_tok_per_s):
        assert rate.ideal >= rate.high >= rate.calibrated >= rate.low > 0
    assert len(p.assumptions) >= 5 and p.inputs["weight_bytes"] > 0


def test_more_work_is_never_faster() -> None:
    def decode(**changes: object) -> float:
        figure = on(CARD, **changes).tpot_s
        assert figure is not None
        return figure.calibrated

    assert decode() < decode(weights="q8_0") < decode(weights="fp16")
    assert decode() < decode(prompt_tokens=8192)
    assert decode() < decode(batch=8) < decode(batch=64)
    assert on(CARD).ttft_s.calibrated < on(CARD, prompt_tokens=1024).ttft_s.calibrated
    assert on(CARD, batch=64).decode_tok_per_s.calibrated > on(CARD).decode_tok_per_s.calibrated  # type: ignore[union-attr]
    slower = on(catalogue.find("Ryzen 9 7950X"), thread_share=0.25)
    assert slower.tpot_s.calibrated > on(catalogue.find("Ryzen 9 7950X")).tpot_s.calibrated  # type: ignore[union-attr]


def test_experts_that_are_not_used_are_not_read() -> None:
    moe, dense = on(catalogue.find("A100 SXM4 80GB"), "mixtral-8x7b"), preset("mixtral-8x7b")
    assert moe.tpot_s is not None
    all_weights = dense.n_params * 4.5 / 8 / 2039e9
    assert moe.tpot_s.ideal < 0.4 * all_weights
    assert any("experts" in line for line in moe.assumptions)


def test_an_encoder_does_not_decode() -> None:
    p = on(CARD, "bert-base-uncased")
    assert p.tpot_s is None and p.decode_tok_per_s is None and p.memory.kv_bytes == 0
    assert any("encoder" in line for line in p.assumptions)


def test_doubtful_figures_are_named() -> None:
    spark = on(catalogue.find("DGX Spark (GB10)"))
    assert "fp16 peak" in spark.doubts and spark.doubts in spark.assumptions
    assert on(catalogue.find("RTX 3090")).doubts == ""
    assert any("guess" in line for line in on(catalogue.find("TPU v5e (chip)")).assumptions)
    assert any("131072" in line for line in on(CARD, prompt_tokens=200_000).assumptions)


@pytest.mark.parametrize(
    "changes", [{"prompt_tokens": 0}, {"new_tokens": -1}, {"batch": 0}, {"batch": 10**9}, {"weights": "q3.5"}]
)
def test_sizes_that_make_no_sense(changes: dict[str, object]) -> None:
    with pytest.raises(ExplorerError) as caught:
        on(CARD, **changes)
    assert caught.value.hint


# ---------------------------------------------------------------- on this machine


def ceilings(**changes: object) -> Ceilings:
    fields: dict[str, object] = {
        "machine_id": "m", "device": "cpu", "threads": 2, "date": "2026-11-21T00:00:00Z", "quick": True, "seconds": 9.0,
        "gemms": (Gemm("fp32", 512, 512, 512, 400e9, "x"),),
        "reads": (ReadPoint(2**20, 200e9, 190e9), ReadPoint(2**24, 200e9, 190e9), ReadPoint(2**28, 40e9, 40e9)),
    }  # fmt: skip
    return Ceilings(**{**fields, **changes})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("half", "weights", "arithmetic"),
    [
        (1e9, "bf16", "fp32"),
        (1e12, "bf16", "bf16"),
        (1e9, "fp16", "fp32"),
        (1e9, "fp32", "fp32"),
        (1e9, "q4_0", "fp32"),
    ],
)
def test_halves_are_multiplied_in_what_is_faster(half: float, weights: str, arithmetic: str) -> None:
    """With AVX2 alone a library's product in bf16 makes 1.3 GFLOP/s; engines widen such weights as they are read."""
    gemms = tuple(Gemm(d, 512, 512, 512, f, "x") for d, f in (("fp32", 139e9), ("bf16", half), ("fp16", half)))
    assert predict_here.arithmetic_dtype(weights, ceilings(gemms=gemms)) == arithmetic


TRUE = {"reading": 1.4, "computing": 1.25, "forward_s": 4e-4, "layer_s": 2e-5}


def seen(model: str, phase: str, n_new: int, n_past: int = 0) -> Observation:
    """A forward as a backend with the overheads TRUE would take it."""
    spec = retype(preset(model), "fp32")
    blank = observe(spec, ceilings(), phase, 1.0, n_new=n_new, n_past=n_past)  # type: ignore[arg-type]
    exact = Overhead(backend="x", spread=PUBLISHED.decode, **TRUE)
    seconds = predict_here.forward_seconds(exact, blank.terms)
    return observe(spec, ceilings(), phase, seconds, n_new=n_new, n_past=n_past)  # type: ignore[arg-type]


def test_overheads_are_found_again_and_predict_another_model() -> None:
    known = [
        seen(model, phase, n, past)
        for model in ("smollm2-135m", "gpt2", "qwen2.5-0.5b", "pythia-160m")
        for phase, n, past in (("decode", 1, 64), ("prefill", 256, 0))
    ]
    fitted = fit_overhead("pytorch", known)
    assert fitted.n_runs == 8
    assert fitted.reading == pytest.approx(TRUE["reading"], rel=0.1)
    assert fitted.computing == pytest.approx(TRUE["computing"], rel=0.2), "activations grow with it: hard to tell apart"
    for o in known:
        again = predict_here.forward_seconds(fitted, o.terms)
        assert again == pytest.approx(o.seconds, rel=0.05)
    left_out = leave_models_out("pytorch", known)
    assert len(left_out) == 8 and statistics.median(row.error for row in left_out) < 0.05
    assert leave_models_out("pytorch", known[:2]) == (), "one model alone tells nothing of another"
    other = seen("llama-3.2-1b", "decode", 1, 64)
    p = predict_local(retype(preset("llama-3.2-1b"), "fp32"), ceilings(), fitted, prompt_tokens=48, new_tokens=32)
    assert p.tpot_s is not None and p.tpot_s.calibrated == pytest.approx(other.seconds, rel=0.05)
    assert p.tpot_s.ideal < p.tpot_s.calibrated and p.bound_by == "memory"
    starting = fitted.forward_s + fitted.layer_s * len(preset("llama-3.2-1b").layers)
    assert p.starting == pytest.approx(starting / p.tpot_s.calibrated)
    assert p.tpot_s.high < 1.5 * p.tpot_s.calibrated
    others = predict_local(preset("llama-3.2-1b"), ceilings(), fitted, prompt_tokens=48, new_tokens=32, weights="bf16")
    assert others.tpot_s is not None and others.tpot_s.high > 1.9 * others.tpot_s.calibrated
    assert any("kernels differ" in line for line in others.assumptions)


def test_without_runs_the_range_is_wide_and_said_to_be() -> None:
    with pytest.raises(ExplorerError, match="no run of PyTorch"):
        fit_overhead("pytorch", [])
    p = predict_local(
        preset("gpt2"), ceilings(), predict_here.typical("pytorch"), prompt_tokens=64, new_tokens=64, weights="fp32"
    )
    assert p.tpot_s is not None and p.tpot_s.high > 1.9 * p.tpot_s.calibrated
    assert any("no undisturbed run here yet" in line for line in p.assumptions)


def test_a_small_model_is_read_from_the_cache() -> None:
    """The curve counts, not one number: what fits the cache is faster than memory allows."""
    small = observe(preset("tiny-moe"), ceilings(), "decode", 1.0, n_new=1)
    moved = total(work(preset("tiny-moe"), 1, activation_dtype="fp32"))
    assert small.terms.reading_s + small.terms.caching_s == pytest.approx(
        (moved.weight_bytes + moved.kv_read_bytes + moved.kv_write_bytes) / 200e9, rel=0.3
    )


def test_ceilings_without_the_dtype() -> None:
    with pytest.raises(ExplorerError, match="bf16"):
        observe(preset("gpt2"), ceilings(), "decode", 1.0, n_new=1, compute_dtype="bf16")
    with pytest.raises(ExplorerError):
        observe(preset("gpt2"), ceilings(reads=()), "decode", 1.0, n_new=1)
