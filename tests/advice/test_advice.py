"""Advice: every rule on a run where it must speak and on one where it must not; verdicts, the book, the score."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.advice import gather, rules, trial
from core.advice.book import Book
from core.advice.evidence import Evidence, Guessed, Judged, Lighter
from core.advice.record import Advice, Case, Gain, Loss, Outcome, Silence, Verdict
from core.advice.score import ordered, scores
from core.analysis.device_time import Spread
from core.analysis.predict_here import Overhead
from core.analysis.work import total, work
from core.dtypes import retype
from core.stats.intervals import Ratio
from core.types import ForwardCost, Generate, ModelSpec, PhaseResult, Request, Result, Score, Setup, Unrest
from core.types.events import ForwardTime
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from tests.analysis.test_predict import preset

MB = 2**20
BANDWIDTH, FP32, BF16 = 20e9, 200e9, 600e9


def ceilings(bandwidth: float = BANDWIDTH, threads: int = 2, bf16: float = BF16) -> Ceilings:
    return Ceilings(
        machine_id="m", device="cpu", threads=threads, date="2026-11-27T00:00:00Z", quick=True, seconds=1.0,
        gemms=(Gemm("fp32", 9, 9, 9, FP32, "k"), Gemm("bf16", 9, 9, 9, bf16, "k"), Gemm("int8", 9, 9, 9, FP32, "k")),
        reads=tuple(ReadPoint(n * MB, bandwidth, bandwidth) for n in (1, 64, 512)), mem_bytes=16 * 2**30,
    )  # fmt: skip


def overhead(backend: str, **changes: Any) -> Overhead:
    values = {"reading": 1.2, "computing": 1.5, "caching": 1.2, "touching": 1.0, "forward_s": 1e-4, "layer_s": 1e-6}
    return Overhead(
        backend=backend, **{**values, **changes}, spread=Spread(low=0.9, high=1.2), weights="fp32", n_runs=20
    )


SPEC = retype(preset("smollm2-135m"), "fp32")


def evidence(
    spec: ModelSpec = SPEC,
    *,
    of_roof: float = 0.8,
    prompt: int = 64,
    new: int = 9,
    batch: int = 1,
    prefill_roof: float = 0.8,
    backend: str = "pytorch",
    request: dict[str, Any] | None = None,
    result: dict[str, Any] | None = None,
    **known: Any,
) -> Evidence:
    """A run at these shares of the roof, with all ceilings and fitted overheads known unless `known` says otherwise."""
    forwards = {
        "prefill": [total(work(spec, prompt, 0, batch))],
        "decode": [total(work(spec, 1, prompt + i, batch)) for i in range(1, new)],
    }
    phases = []
    for name, n_tokens, share in (("prefill", prompt, prefill_roof), ("decode", new - 1, of_roof)):
        flops, n_bytes = sum(f.flops for f in forwards[name]), sum(f.bytes for f in forwards[name])
        seconds = max(flops / FP32, n_bytes / BANDWIDTH) / share
        phases.append(
            PhaseResult(
                name=name, seconds=seconds, n_tokens=n_tokens * batch, n_forward=len(forwards[name]),
                tok_per_s=n_tokens * batch / seconds, flops=flops, bytes=n_bytes,
            )  # type: ignore[arg-type]
        )  # fmt: skip
    tpot = phases[1].seconds / (new - 1)
    setup = Setup(weight_dtype=spec.dtype, activation_dtype="fp32", kv_dtype="fp16", threads=2)
    values: dict[str, Any] = {
        **dict.fromkeys(("load_s", "warm", "total_s", "peak_memory_bytes", "host")),
        **dict.fromkeys(("itl_s", "memory", "layers", "profiler_costs", "warnings"), ()),
        **dict.fromkeys(("ttft_samples_s", "tpot_samples_s"), ()),
        "run_id": "r1", "status": "done", "model": spec.name, "backend": backend, "strategy": "autoregressive",
        "dtype": spec.dtype, "threads": 2, "batch": batch, "text": "Paris", "n_prompt_tokens": prompt,
        "n_new_tokens": new, "n_forward": new, "ttft_s": phases[0].seconds, "tpot_s": tpot, "tok_per_s": batch / tpot,
        "prefill_tok_per_s": 1.0, "phases": tuple(phases), "setup": setup,
    }  # fmt: skip
    asked = Request(model=spec.name, backend=backend, threads=2, batch=batch)
    facts: dict[str, Any] = {
        "ceilings": ceilings(),
        "overheads": {name: (overhead(name), spec) for name in ("pytorch", "llama_cpp", "onnxruntime")},
        "fitted_models": {"pytorch": ("gpt2",)},
        "engines": frozenset({"pytorch", "llama_cpp", "onnxruntime"}),
        "limit_bytes": 16e9,
    }
    return Evidence(
        run_id="r1",
        request=msgspec.structs.replace(asked, **(request or {})),
        result=Result(**{**values, **(result or {})}),
        spec=spec,
        **{**facts, **known},
    )


def lighter(dtype: str = "bf16", **changes: Any) -> Lighter:
    request = Request(model=SPEC.name, backend="pytorch", threads=2, dtype=dtype)
    return Lighter(request=request, spec=retype(SPEC, dtype), words=dtype, **changes)


def cost(v4: float, v8: float) -> dict[str, Any]:
    times = tuple(ForwardTime(n=n, seconds=v, low_s=v, high_s=v) for n, v in ((1, 1.0), (4, v4), (8, v8), (16, 2 * v8)))
    return {"forward_cost": ForwardCost(t_s=1.0, pass_no=1, n_past=64, repeats=5, times=times)}


NOISE = {"disturbance": Unrest(disturbed=True, sentence="Something else took half of the machine.")}
Q4 = retype(preset("smollm2-135m"), "q4_0")
FUSED = Request(model=SPEC.name, backend="pytorch", threads=2, options={"fused": True})
UNFUSED: dict[str, Any] = {"overheads": {"pytorch": (overhead("pytorch", layer_s=4e-5), SPEC)}}
DEAR_CALLS = UNFUSED | {"fused": FUSED}
LLAMA = {"backend": "llama_cpp"}

# rule: (a run on which it must speak, runs on which it must not, a run that is short of its evidence)
CASES: dict[str, tuple[dict[str, Any], list[dict[str, Any]], dict[str, Any] | None]] = {
    "repeat": ({"result": NOISE}, [{}], None),
    "lighter_weights": (
        {"lighter": (lighter(),)},
        [{"lighter": (lighter(),), "of_roof": 0.4}, {"spec": Q4, "lighter": (lighter(),)}],
        {"lighter": ()},
    ),
    "other_engine": (
        {"of_roof": 0.3},
        [{"of_roof": 0.9}, {"of_roof": 0.55, "overheads": {"llama_cpp": (overhead("llama_cpp", reading=9.0), SPEC)}}],
        {"of_roof": 0.3, "overheads": {}},
    ),
    "more_threads": (
        {"of_roof": 0.3, "by_threads": {4: ceilings(2 * BANDWIDTH, 4)}},
        [{"of_roof": 0.3, "by_threads": {4: ceilings(BANDWIDTH, 4)}}],
        {"of_roof": 0.3, "by_threads": {}},
    ),
    "fewer_calls": (
        DEAR_CALLS,
        [{"fused": FUSED}, UNFUSED],
        {"overheads": {}, "fused": FUSED},
    ),
    "guess": (
        {"result": cost(1.2, 1.5)},
        [{"result": cost(2.0, 3.5)}, {"result": cost(1.2, 1.5), "request": {"strategy": "prompt_lookup"}},
         {"result": cost(1.2, 1.5), "batch": 4}],
        {},
    ),
    "do_not_guess": ({"result": cost(3.0, 5.0)}, [{"result": cost(2.0, 3.5)}], {}),
    "lighter_cache": (
        {"backend": "llama_cpp", "prompt": 6000, "new": 9},
        [LLAMA, {"backend": "llama_cpp", "prompt": 6000, "new": 9, "request": {"options": {"kv_dtype": "q8_0"}}}],
        {"backend": "llama_cpp", "prompt": 6000, "new": 9, "overheads": {}},
    ),
    "lighter_head": (
        {"lighter": (lighter(),)},
        [{"spec": retype(preset("llama-2-7b"), "fp32"), "prompt": 8, "new": 3}],
        {"lighter": ()},
    ),
    "bf16_prefill": (
        {"prompt": 512},
        [{"prompt": 1}, {"prompt": 512, "ceilings": ceilings(bf16=FP32)}, {"prompt": 512, "backend": "onnxruntime"}],
        {"prompt": 512, "ceilings": None},
    ),
    "larger_batch": ({"batch": 2}, [{"batch": 1}, {"batch": 64, "new": 3}], {"batch": 2, "overheads": {}}),
    "less_memory": (
        {"backend": "llama_cpp", "result": {"peak_memory_bytes": 15 * 10**9}, "packed_bytes": 4 * 10**9},
        [{"backend": "llama_cpp", "result": {"peak_memory_bytes": 4 * 10**9}, "packed_bytes": 10**9},
         {"result": {"peak_memory_bytes": 15 * 10**9}}],
        {},
    ),
    "zeros_are_not_faster": ({"zeros": 0.5, "parent": "whole"}, [{}], {"zeros": 0.5, "parent": ""}),
}  # fmt: skip


def test_every_rule_is_tested() -> None:
    assert set(CASES) == set(rules.RULES) == set(rules.LABELS)


@pytest.mark.parametrize("rule", CASES)
def test_a_rule_speaks_where_it_must(rule: str) -> None:
    found = rules.RULES[rule](evidence(**CASES[rule][0]))
    assert isinstance(found, Advice), found
    assert found.rule == rule and found.evidence[0] == "r1"
    assert found.gain.low <= found.gain.likely <= found.gain.high and found.gain.basis.endswith(".")
    assert found.finding and found.change and found.quality in ("unknown", "unchanged")
    assert (found.changed != found.baseline) == (rule != "repeat")
    assert not found.changed.live and found.changed.repeats == 1
    if found.against:
        assert found.gain.likely < 1
    elif rule not in ("repeat", "zeros_are_not_faster"):
        assert found.gain.likely > 1


@pytest.mark.parametrize(("rule", "quiet"), [(rule, quiet) for rule, case in CASES.items() for quiet in case[1]])
def test_a_rule_is_silent_where_it_must_not_speak(rule: str, quiet: dict[str, Any]) -> None:
    found = rules.RULES[rule](evidence(**quiet))
    assert isinstance(found, Silence) and not found.short and found.reason.endswith("."), found


@pytest.mark.parametrize("rule", [rule for rule, case in CASES.items() if case[2] is not None])
def test_short_of_evidence_it_says_so(rule: str) -> None:
    found = rules.RULES[rule](evidence(**CASES[rule][2] or {}))
    assert isinstance(found, Silence) and found.short and found.reason.endswith("."), found


def test_a_run_through_the_librarys_loop_is_advised_another_loop() -> None:
    found = rules.fewer_calls(evidence(**DEAR_CALLS, request={"strategy": "native"}))
    assert isinstance(found, Advice) and found.change.startswith("Decode autoregressively with the fused step")


@pytest.mark.parametrize(
    ("asked", "ran_fused", "there"),
    [
        ({"options": {"fused": False}}, False, True),
        ({}, True, False),
        ({"options": {"compile": True}}, False, False),
        ({"options": {"attention": "eager"}}, False, False),
        ({"model": "gpt2"}, False, False),
        ({"strategy": "native"}, True, True),
        ({"strategy": "native", "model": "gpt2"}, False, False),
        ({"backend": "llama_cpp", "strategy": "native"}, False, False),
        ({"backend": "onnxruntime"}, False, False),
    ],
)
def test_the_fused_step_is_advised_where_it_can_be(asked: dict[str, Any], ran_fused: bool, there: bool) -> None:
    request = Request(
        **{"model": "smollm2-135m", "backend": "pytorch", "threads": 2, "task": Generate(prompt="Hi"), **asked}
    )
    result = evidence().result
    assert result.setup is not None
    setup = msgspec.structs.replace(result.setup, fused=ran_fused)
    changed = gather.fused_step(request, msgspec.structs.replace(result, setup=setup))
    assert (changed is not None) == there
    if changed is not None:
        assert changed.strategy == "autoregressive" and changed.options["fused"] is True


def test_nothing_is_advised_on_a_disturbed_run() -> None:
    loud = CASES["guess"][0]["result"] | NOISE
    advices, silences = rules.advise(evidence(result=loud, lighter=(lighter(),)))
    assert [a.rule for a in advices] == ["repeat"]
    assert len(silences) == len(rules.RULES) - 1 and all(s.short for s in silences)


def test_the_largest_effect_comes_first_and_every_rule_answers() -> None:
    advices, silences = rules.advise(evidence(result=cost(1.2, 1.5), lighter=(lighter(),)))
    effects = [abs(math.log(a.gain.likely)) for a in advices]
    assert effects == sorted(effects, reverse=True) and len(advices) >= 2
    assert len(advices) + len(silences) == len(rules.RULES)


def test_without_ceilings_or_runs_it_asks_for_them() -> None:
    advices, silences = rules.advise(evidence(ceilings=None, overheads={}))
    assert not advices
    assert {s.lacks for s in silences if s.lacks} == {"ceilings", "forward_cost", "memory"}


def test_earlier_runs_tell_what_guessing_brings() -> None:
    found = rules.guess(evidence(result=cost(1.2, 1.5), guessed=(Guessed("a", 2.0), Guessed("b", 3.0))))
    assert isinstance(found, Advice)
    assert (found.gain.low, found.gain.high) == pytest.approx((2.0 / 1.5, 3.0 / 1.5))
    assert found.evidence == ("r1", "a", "b")


def test_lighter_weights_promise_what_their_bytes_are() -> None:
    """Half the bytes of weights by the fitted equation: reading 1.2, 1e-4 s per forward, 1e-6 s per layer."""
    found = rules.lighter_weights(evidence(lighter=(lighter(),)))
    assert isinstance(found, Advice) and 1.7 < found.gain.likely < 2.0
    assert found.gain.low < found.gain.likely / 1.2, "bf16 kernels are others than those it was fitted to"
    assert found.gain.models == ("gpt2",) and found.gain.n_runs == 20


def judged_as(kl: float, **request: Any) -> Judged:
    score = Score(
        name="kl", label="KL divergence", value=kl, low=kl / 2, high=2 * kl, n=9, better="lower", unit="nat/token"
    )
    asked = Request(**{"model": SPEC.name, "backend": "pytorch", "threads": 1, **request})
    return Judged(request=asked, loss=Loss(run_id="e1", reference=SPEC.name, score=score))


def test_quality_is_what_an_evaluation_of_the_same_arithmetic_said() -> None:
    known = (judged_as(0.9, dtype="q8_0"), judged_as(0.8, dtype="bf16", options={"fused": True}))
    found = rules.lighter_weights(evidence(lighter=(lighter(),), judged=known))
    assert isinstance(found, Advice) and found.quality == "unknown", "other weights or another kernel say nothing"
    found = rules.lighter_weights(evidence(lighter=(lighter(),), judged=(*known, judged_as(0.004, dtype="bf16"))))
    assert isinstance(found, Advice) and isinstance(found.quality, Loss), "threads change no figure"
    assert found.quality.words == f"KL divergence 0.004 [0.002, 0.008] nat/token from {SPEC.name}"
    same = rules.guess(evidence(result=cost(1.2, 1.5), judged=known))
    assert isinstance(same, Advice) and same.quality == "unchanged"


# ---------------------------------------------------------------- verdicts


def advice(likely: float = 1.5, low: float = 1.2, high: float = 1.8, against: bool = False, **changes: Any) -> Advice:
    found = rules.RULES["guess"](evidence(result=cost(1.2, 1.5)))
    assert isinstance(found, Advice)
    gain = Gain(likely=likely, low=low, high=high, basis="b.", models=changes.pop("models", ()))
    return msgspec.structs.replace(found, gain=gain, against=against, **changes)


@pytest.mark.parametrize(
    ("given", "low", "high", "outcome"),
    [
        (advice(), 1.3, 1.6, "kept"),
        (advice(), 1.9, 2.2, "kept"),
        (advice(), 1.05, 1.1, "less than promised"),
        (advice(), 0.99, 1.02, "none"),
        (advice(), 0.7, 0.9, "harmful"),
        (advice(), 0.9, 1.4, "undecided"),
        (advice(), None, None, "undecided"),
        (advice(0.8, 0.6, 0.95, against=True), 0.7, 0.9, "kept"),
        (advice(0.8, 0.6, 0.95, against=True), 1.1, 1.3, "harmful"),
        (advice(0.8, 0.6, 0.95, against=True), 0.99, 1.01, "none"),
        (advice(1.0, 0.97, 1.03), 0.99, 1.01, "kept"),
        (advice(1.0, 0.97, 1.03), 0.7, 0.8, "harmful"),
        (advice(1.0, 0.97, 1.03), 1.2, 1.3, "less than promised"),
    ],
)
def test_verdicts(given: Advice, low: float | None, high: float | None, outcome: Outcome) -> None:
    value = 1.0 if low is None or high is None else math.sqrt(low * high)
    assert trial.judge(given, Ratio(value=value, low=low, high=high, n=5)) == outcome


def test_a_verdict_over_pairs() -> None:
    def one(tpot: float, **more: Any) -> Result:
        return msgspec.structs.replace(evidence().result, tpot_s=tpot, **more)

    pairs = [(one(0.10 + 0.001 * i), one(0.07 + 0.001 * i)) for i in range(5)]
    found = trial.verdict(advice(), pairs)
    assert found.outcome == "kept" and found.same_text is True
    assert found.ratio is not None and found.ratio.value == pytest.approx(1.417, abs=0.02)
    few = trial.verdict(advice(), [*pairs[:4], (one(0.1, **NOISE), one(0.07, text="Rome"))])
    assert few.outcome == "undecided" and few.n_disturbed == 1 and few.same_text is False
    assert "five more may decide" in few.sentence and "1 pair was disturbed and does not count" in few.sentence
    gone = trial.verdict(advice(), pairs, n_gone=2)
    assert gone.outcome == "kept" and gone.sentence.endswith("The runs of 2 pairs were deleted since and do not count.")
    memory = trial.verdict(advice(metric="peak_memory_bytes"), pairs)
    assert memory.ratio is None and memory.outcome == "undecided"
    faster = trial.verdict(advice(metric="tok_per_s"), [(one(1, tok_per_s=10.0), one(1, tok_per_s=15.0))] * 5)
    assert faster.ratio is not None and faster.ratio.value == pytest.approx(1.5), "more is better"


# ---------------------------------------------------------------- book and score


def judged(given: Advice, outcome: Outcome, value: float | None) -> Case:
    ratio = None if value is None else Ratio(value=value, low=value, high=value, n=5)
    found = Verdict(outcome=outcome, sentence="s", ratio=ratio, n_disturbed=0, same_text=None, at=1.0)
    return Case(advice=given, verdict=found)


def test_the_book_keeps_what_was_offered(tmp_path: Path) -> None:
    book = Book(tmp_path)
    (case,) = book.offer([advice()])
    assert book.cases() == (case,)
    kept = book.save(msgspec.structs.replace(case, baseline_runs=("a",)))
    assert book.offer([replace_time(advice())]) == (kept,), "offered again it is the same advice"
    loss = judged_as(0.1).loss
    later = msgspec.structs.replace(replace_time(advice(likely=1.6)), quality=loss)
    kept = msgspec.structs.replace(kept, advice=msgspec.structs.replace(kept.advice, quality=loss))
    assert book.offer([later]) == (kept,), "what is known of the quality is new, the promise is the first one"
    (book.folder / "0bad.json").write_text("{")
    assert book.cases() == (kept,) and book.find("0bad") is None


def replace_time(given: Advice) -> Advice:
    return msgspec.structs.replace(given, made_at=given.made_at + 60)


def test_the_score_per_rule() -> None:
    kept = [judged(advice(), "kept", 1.4) for _ in range(6)]
    harmful = [judged(advice(rule="lighter_cache"), "harmful", 0.8) for _ in range(10)]
    waiting = Case(advice=advice(rule="repeat"))
    unable = judged(advice(), "could not run", None)
    everything, *by_rule = scores([*kept, *harmful, waiting, unable])
    by = {s.rule: s for s in by_rule}
    assert list(by) == ["repeat", "guess", "lighter_cache"]
    assert (everything.offered, everything.tried, everything.n_kept) == (18, 17, 6)
    guess = by["guess"]
    assert (guess.offered, guess.tried, guess.n_kept) == (7, 7, 6)
    # Wilson's interval of 6 in 7 (Newcombe 1998, method 3): 0.4869 to 0.9743
    assert guess.kept is not None and (guess.kept.low, guess.kept.high) == pytest.approx((0.4869, 0.9743), abs=1e-4)
    assert guess.error == pytest.approx(abs(math.log(1.4 / 1.5))) and guess.coverage is not None
    assert guess.coverage.value == 1.0 and not guess.demoted
    assert by["lighter_cache"].demoted == "It kept its word in 0 of 10 tries." and by["lighter_cache"].coverage
    assert by["lighter_cache"].coverage.value == 0.0
    assert by["repeat"].kept is None and by["repeat"].tried == 0
    assert [c.advice.rule for c in ordered([harmful[0], kept[0]], by_rule)] == ["guess", "lighter_cache"]


def test_few_tries_give_counts_and_fitted_models_do_not_flatter() -> None:
    own = [judged(advice(models=(SPEC.name,)), "kept", 1.5) for _ in range(3)]
    (_, guess) = scores([*own, judged(advice(), "less than promised", 1.1)])
    assert guess.kept is None and guess.tried == 4 and guess.n_kept == 3
    assert guess.elsewhere == 1 and guess.error == pytest.approx(abs(math.log(1.1 / 1.5)))
    undecided = judged(advice(), "undecided", 9.0)
    assert undecided.verdict is not None
    pair = Ratio(value=9.0, low=None, high=None, n=1)
    few = msgspec.structs.replace(undecided, verdict=msgspec.structs.replace(undecided.verdict, ratio=pair))
    (_, guess) = scores([few])
    assert (guess.tried, guess.elsewhere, guess.error) == (0, 0, None), "one pair that counts is no measure"
