"""Studies of earlier versions open as today's: the recorded ones as they are, ledgers as they were written."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.studies import ledger, old_form, study_store
from core.studies.findings import Findings
from core.studies.ledger import Ledger, State
from core.studies.plan import Benchmark, Configuration, Evaluation, Plan, Recipe
from core.studies.standings import Standings
from core.types import to_json

LADDER: dict[str, Any] = {
    "plan": {
        "type": "ladder", "name": "ladder-m", "title": "Ladder", "model": "m", "baseline": "plain",
        "recipes": [{"id": "plain", "label": "Plain", "backend": "fake"}],
        "exams": [{"eval": "choice", "label": "Choice", "metric": "acc"}],
    },
    "minutes": 5.0,
    "begun": "2026-11-20 10:00",
    "runs": {"plain/speed/0": "r1", "plain/exam/choice": "r2"},
    "failures": {"plain/exam/qa": "It failed."},
    "took_s": {"plain/exam/choice": 3.5},
    "items": {"choice": 20},
}  # fmt: skip
CONTEST: dict[str, Any] = {
    "plan": {
        "type": "contest", "name": "decoding-m", "title": "Decoding", "model": "m",
        "baseline": "teacher", "champion": "cllm",
        "recipes": [{"id": "teacher", "label": "Teacher", "backend": "fake"}],
        "contenders": [{"id": "teacher", "label": "Teacher, one by one", "recipe": "teacher", "backend": "fake",
                        "own": "teacher", "rounds": 2}],
    },
    "minutes": 5.0,
    "begun": "2026-11-20 10:00",
    "runs": {"teacher/ask/0": "r1"},
}  # fmt: skip


def recorded(name: str) -> tuple[Any, Any]:
    """The findings as they lie there, and as they are read."""
    folder = study_store.RECORDED / name
    return json.loads((folder / "findings.json").read_bytes()), study_store.read(str(folder))


def test_the_recorded_studies_know_their_machine() -> None:
    found = [study_store.read(study.path) for study in study_store.studies()]
    assert len(found) == 3
    assert all(f.machine is not None and f.machine.cpu.startswith("AMD EPYC") for f in found)


def test_a_recorded_benchmark_loses_nothing() -> None:
    raw, found = recorded("decoding-smollm2-135m")
    assert isinstance(found, Standings) and found.plan.candidate == "cllm-jacobi"
    assert len(found.plan.configurations) == len(raw["plan"]["contenders"]) == 27
    for before, after in zip(raw["rows"], found.rows, strict=True):
        assert after.label == before["label"].replace("one by one", "autoregressive")
        ratio = after.over_autoregressive
        assert (ratio and msgspec.structs.asdict(ratio)) == before["over_own"], after.id
    assert found.rows[1].over_autoregressive is not None and found.rows[1].over_autoregressive.n == 28


def test_a_recorded_ladder_loses_nothing() -> None:
    raw, found = recorded("ladder-smollm2-135m")
    assert isinstance(found, Findings)
    evals = ["choice", "sentiment", "qa", "perplexity", "divergence"]
    assert [e.eval for e in found.plan.evaluations] == [e["eval"] for e in raw["plan"]["exams"]] == evals
    for before, after in zip(raw["rows"], found.rows, strict=True):
        assert [c.evaluation for c in after.cells] == [c["exam"] for c in before["cells"]]
        assert [c.score and c.score.value for c in after.cells] == [
            c["score"] and c["score"]["value"] for c in before["cells"]
        ]


@pytest.mark.parametrize("name", [s.name for s in study_store.studies() if s.recorded])
def test_what_is_written_today_is_read_as_it_is(name: str) -> None:
    found = study_store.read(str(study_store.RECORDED / name))
    again = old_form.read(to_json(found), type(found))
    assert again == found == msgspec.json.decode(to_json(found), type=type(found)), "without the reader of old forms"


def test_a_ladder_of_an_earlier_version_goes_on_where_it_was(tmp_path: Path) -> None:
    plan = Plan(
        name="ladder-m", title="Ladder", model="m", baseline="plain",
        recipes=(Recipe(id="plain", label="Plain", backend="fake"),),
        evaluations=(Evaluation(eval="choice", label="Choice", metric="acc"),),
    )  # fmt: skip
    (tmp_path / ledger.FILE).write_text(json.dumps(LADDER))
    found: Ledger[Plan] = Ledger(tmp_path, plan, 5, None, lambda words: None)  # type: ignore[arg-type]
    key = f"plain/{plan.evaluations[0].key}"
    assert found.state.runs == {"plain/speed/0": "r1", key: "r2"} and found.state.took_s == {key: 3.5}
    assert found.state.failures == {"plain/evaluation/qa": "It failed."} and found.state.items == {"choice": 20}
    found.save()
    assert b"exam" not in (tmp_path / ledger.FILE).read_bytes() and ledger.read(tmp_path) == found.state


def test_a_contest_is_a_benchmark() -> None:
    state: State[Any] = old_form.read(json.dumps(CONTEST).encode(), State)
    mine = Configuration(
        id="teacher", label="Teacher, autoregressive", recipe="teacher", backend="fake", own="teacher", rounds=2
    )
    assert isinstance(state.plan, Benchmark) and state.plan.configurations == (mine,)
    assert state.plan.candidate == "cllm" and state.runs == {"teacher/ask/0": "r1"}


@pytest.mark.parametrize("data", [b"", b"3", b"[]", b"{}", b'{"plan": 3}', b'{"plan": {"type": "contest"}}', b"\xff"])
def test_what_is_no_study_is_refused(data: bytes) -> None:
    for kind in (State, Findings, Findings | Standings):
        with pytest.raises(msgspec.DecodeError):
            old_form.read(data, kind)
