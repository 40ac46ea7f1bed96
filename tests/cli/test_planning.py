"""`what-if` and `advice`: sentences, the front, a trial, and bad input in one sentence with exit status 2."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner, Result

from core.advice.gather import evidence_of
from core.advice.rules import RULES
from core.cli import cli
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Evaluate, Generate, Request
from tests.support.undisturbed import undisturbed

ARGS = ("what-if", "--model", "llama-2-7b", "--device", "RTX 4090", "--weights", "q4_0")


def core(*args: str) -> Result:
    return CliRunner().invoke(cli, [*args])


def test_what_if(home: Path) -> None:
    done = core(*ARGS, "--change", "bandwidth=2", "--dollars", "2500", "--price", "T4=700@2026-05", "--json")
    found = json.loads(done.stdout)
    assert found["device"] == "RTX 4090, changed"
    assert "twice the bandwidth buys ×" in found["sentences"][1]
    decode = {p["name"]: p for p in found["phases"]}["decode"]
    assert decode["speedup"] > 1.5
    for phase in found["elasticities"].values():
        assert sum(e["share"] for e in phase) == pytest.approx(1.0)
    assert {c["name"] for c in found["front"] if c["on_front"]} == {"T4", "RTX 4090, changed"}
    told = core(*ARGS).stdout
    assert "twice buys" in told and "It needs a device of" in told


@pytest.mark.parametrize(
    "more",
    [
        ("--change", "bandwidth=0"),
        ("--change", "bandwidth"),
        ("--change", "wings=2"),
        ("--dollars", "0"),
        ("--price", "T4=0@2026"),
        ("--price", "T4=cheap@2026"),
        ("--memory-gb", "0"),
        ("--cache-mb", "10"),
        ("--prompt-tokens", "0"),
        ("--against", "abacus"),
        ("--weights", "float3"),
    ],
)
def test_what_if_refuses_what_cannot_be(home: Path, more: tuple[str, ...]) -> None:
    done = core(*ARGS, *more)
    assert done.exit_code == 2 and len(done.stderr.strip().splitlines()) == 2, done.stderr


def test_advice_on_a_run_and_its_score(store: Store, runner: Runner) -> None:
    task = Generate(prompt="Hello there", max_new_tokens=8)
    asked = Request(model="tiny-moe", backend="fake", task=task, threads=1, profilers=("forward_cost",), retries=0)
    run = undisturbed(runner.wait(runner.start(msgspec.structs.replace(asked, options={"delay_s": 0.03}))))
    found = json.loads(core("advice", run.id, "--json").stdout)
    assert [c["advice"]["rule"] for c in found["advice"]] == ["guess"]
    assert len(found["silent"]) == len(RULES) - 1
    assert "Guess tokens [guess]" in core("advice", run.id).stdout
    tried = core("advice", run.id, "--try", "guess", "--pairs", "1", "--json")
    assert json.loads(tried.stdout)["verdict"]["outcome"] == "undecided", "one pair has no interval"
    score = json.loads(core("advice", "--score", "--json").stdout)
    assert (score[0]["offered"], score[0]["tried"]) == (1, 0)
    for bad in ((), ("no-such-run",), (run.id, "--try", "lighter_cache"), (run.id, "--pairs", "0")):
        assert core("advice", *bad).exit_code == 2


def test_what_an_evaluation_said_of_the_model_is_known_to_its_advice(store: Store, runner: Runner) -> None:
    asked = Request(
        model="tiny-moe", backend="fake", task=Generate(prompt="Hi", max_new_tokens=2), threads=1, retries=0
    )
    of = Evaluate(eval="divergence", settings={"n": 1, "context": 16})
    judged = runner.wait(runner.start(msgspec.structs.replace(asked, task=of, profilers=())))
    run = runner.wait(runner.start(msgspec.structs.replace(asked, profilers=())))
    (found,) = evidence_of(store, run.id).judged
    assert (found.loss.run_id, found.loss.reference) == (judged.id, "tiny-moe")
    assert found.loss.score.value == pytest.approx(0.0, abs=1e-6), "a model is as far from itself as nothing"
    other = runner.wait(runner.start(msgspec.structs.replace(asked, model="gpt2", profilers=())))
    assert evidence_of(store, other.id).judged == ()
