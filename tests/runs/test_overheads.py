"""Prediction from this machine's own runs: whole fake runs observed, overheads kept, and the command line."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import numpy as np
import pytest
from click.testing import CliRunner
from msgspec import structs

from core.analysis.predict_here import Observation, Overhead, Terms, fit_overhead, forward_seconds, typical
from core.cli import cli
from core.paths import data_dir
from core.runs import overheads
from core.runs.runner import Runner
from core.types import Generate, Pass, Request, Result, Step, to_json
from hardware import ceilings as roofs
from hardware.ceilings import Ceilings, Gemm, ReadPoint
from hardware.detect import machine_id
from tests.support.undisturbed import undisturbed

MADE = Ceilings(
    machine_id=machine_id(), device="cpu", threads=1, date="2026-11-21T00:00:00Z", quick=True, seconds=9.0,
    gemms=(Gemm("fp32", 512, 512, 512, 400e9, "x"), Gemm("int8", 512, 512, 512, 1600e9, "x")),
    reads=(ReadPoint(2**20, 200e9, 190e9), ReadPoint(2**28, 40e9, 40e9)), mem_bytes=16 * 2**30,
)  # fmt: skip


def observed(runner: Runner, request: Request, **changes: object) -> tuple[Observation, ...]:
    request = msgspec.structs.replace(request, profilers=(), options={"delay_s": 0.02}, **changes)
    return overheads.observe_run(runner.wait(runner.start(request)), MADE)


def test_a_run_becomes_observations(runner: Runner, fake_request: Request) -> None:
    """Two chunks of a prompt and the mean step, from two timing passes; the warm-up does not count."""
    task = Generate(prompt_tokens=12, max_new_tokens=5)
    first, second, decode = observed(runner, fake_request, task=task, repeats=2, params={"prefill_chunk": 8})
    (run_id,) = runner.store.ids()
    run = runner.store.open(run_id)
    events, counted = (
        run.events(),
        run.recording().headline.numbers,
    )  # on a busy machine one of the two may be disturbed
    assert set(counted) <= {e.number for e in events if isinstance(e, Pass) and e.kind == "timing"}
    passes = [
        [e.seconds for e in events if isinstance(e, Step) and e.pass_no == number and e.counts.forwards]
        for number in counted
    ]
    assert [o.phase for o in (first, second, decode)] == ["prefill", "prefill", "decode"]
    wanted = [np.median([p[0] for p in passes]), np.median([p[1] for p in passes]),
              np.median([np.mean(p[2:]) for p in passes])]  # fmt: skip
    assert passes and [o.seconds for o in (first, second, decode)] == pytest.approx(wanted)
    assert all(o.seconds >= 0.02 for o in (first, second, decode))
    assert first.terms.computing_s > second.terms.computing_s > decode.terms.computing_s
    assert first.arithmetic == decode.arithmetic == "int8", "the embedded model is quantized"
    assert first.terms.reading_s == pytest.approx(second.terms.reading_s, rel=0.01), "weights are read once a forward"


def test_a_run_on_another_decoding_tells_only_of_its_prompt(runner: Runner, fake_request: Request) -> None:
    assert {o.phase for o in observed(runner, fake_request, strategy="encode")} == {"prefill"}


def test_overheads_are_kept_for_their_ceilings_only(runner: Runner, fake_request: Request, tmp_path: Path) -> None:
    made = overheads.calibrate({"fake": observed(runner, fake_request)}, MADE)
    overheads.save(made, tmp_path)
    again = overheads.load(tmp_path, MADE)
    assert again == made and again.of("fake", "int8").n_runs == 2
    assert again.of("fake", "bf16") == typical("fake", "bf16")
    assert again.of("fake", "int8", "q4_1") == again.of("fake", "int8", "q8_0") == again.fitted[0]
    other = msgspec.structs.replace(made.fitted[0], weights="q8_0", reading=9.0)
    both = msgspec.structs.replace(made, fitted=(*made.fitted, other))
    assert both.of("fake", "int8", "Q8_0").reading == 9.0 != both.of("fake", "int8", "q4_1").reading
    assert overheads.load(tmp_path, msgspec.structs.replace(MADE, date="2026-11-22T00:00:00Z")).fitted == ()
    assert overheads.load(tmp_path, msgspec.structs.replace(MADE, threads=2)).fitted == ()
    next(tmp_path.glob("*.json")).write_text("{")
    assert overheads.load(tmp_path, MADE).fitted == ()


def test_the_command_line_and_the_pages_know_the_same(
    runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bench's observations and the store's runs together; a file of before, with a fit alone, still counts."""
    bench = seen(0.01, 0.002, 0.05)
    overheads.save(overheads.calibrate({"pytorch": (bench,)}, MADE), data_dir() / overheads.FOLDER)
    assert overheads.known(runner.store, MADE).of("pytorch", "fp32", "fp32").n_runs == 1
    run = undisturbed(runner.wait(runner.start(structs.replace(fake_request, profilers=()))))
    request = structs.replace(run.request, backend="llama_cpp")  # as if it had run there
    (run.path / "request.json").write_bytes(to_json(request))
    found = overheads.known(runner.store, MADE)
    assert found.of("pytorch", "fp32", "fp32").n_runs == 1 and found.of("llama_cpp", "int8", "q4_1").n_runs == 2
    with monkeypatch.context() as patch:
        patch.setattr(Result, "disturbed", True)
        assert {o.backend for o in overheads.known(runner.store, MADE).fitted} == {"pytorch"}, "of others, not of it"
    old = structs.replace(found, fitted=(structs.replace(found.fitted[0], backend="onnxruntime"),), observed={})
    overheads.save(old, data_dir() / overheads.FOLDER)
    assert {o.backend for o in overheads.known(runner.store, MADE).fitted} == {"llama_cpp", "onnxruntime"}


def seen(reading: float, computing: float, seconds: float) -> Observation:
    terms = Terms(reading_s=reading, caching_s=0, computing_s=computing, touching_s=0, ideal_s=0, n_layers=100)
    return Observation(model=f"{reading}", phase="prefill", seconds=seconds, terms=terms)


@pytest.mark.parametrize("overlaps", [True, False])
def test_the_fit_finds_whether_reading_hides_computing(overlaps: bool) -> None:
    true = Overhead(
        backend="x", reading=1.5, computing=1.2, caching=0, forward_s=1e-4, layer_s=1e-5,
        spread=typical("x").spread, overlaps=overlaps,
    )  # fmt: skip
    pairs = [(r, c) for r in (0.005, 0.01, 0.04) for c in (0.001, 0.008, 0.03, 0.1)]
    runs = [seen(r, c, forward_seconds(true, seen(r, c, 1).terms)) for r, c in pairs]
    fitted = fit_overhead("x", runs)
    assert fitted.overlaps is overlaps
    assert (fitted.reading, fitted.computing) == pytest.approx((1.5, 1.2), rel=0.05)


def test_predict_here(home: Path) -> None:
    def call(*arguments: str, status: int = 0) -> str:
        done = CliRunner().invoke(cli, ["predict", "--device", "here", "--threads", "1", *arguments])
        assert done.exit_code == status, done.output
        return done.stdout if status == 0 else done.stderr

    assert "have not been measured" in call("--model", "gpt2", status=2)
    roofs.save(MADE, data_dir() / "ceilings")
    asked = ("--model", "smollm2-135m", "--backend", "llama_cpp", "--json")
    guess = json.loads(call(*asked))
    assert guess["bound_by"] == "memory" and guess["fits"] and guess["peak_memory_bytes"]["ideal"] > 80e6
    assert any("no undisturbed run here yet" in line for line in guess["assumptions"])
    fitted = msgspec.structs.replace(typical("llama_cpp", "int8"), reading=6.0, n_runs=4)
    kept = overheads.Overheads(
        machine_id=machine_id(), threads=1, date="x", ceilings_date=MADE.date, fitted=(fitted,)
    )  # fmt: skip
    overheads.save(kept, data_dir() / "overheads")
    slower = json.loads(call(*asked))
    assert slower["tpot_s"]["calibrated"] > 1.5 * guess["tpot_s"]["calibrated"]
    assert any("4 measured forward passes" in line for line in slower["assumptions"])
    assert "fits: yes" in call("--model", "gpt2", "--backend", "pytorch", "--weights", "fp32")
