"""Many runs in one view: which belong together, who is best, ratios, and what the prepared plan holds."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from core.analysis.predict import Figure
from core.cli import cli
from core.models import catalogue, places
from core.paths import data_dir
from core.report.many_runs import report
from core.runs.check import check, estimate
from core.runs.foresight import Foresight, foreseen
from core.runs.resolve import resolve
from core.runs.runner import Runner
from core.runs.store import Store
from core.studies.grid import cells
from core.studies.many_runs import (
    Entry,
    cautions,
    configuration,
    entries,
    families,
    newest_runs,
    predictions,
    runs_of_sweep,
    unnamed,
    view,
)
from core.studies.plan import Axis
from core.studies.sweep import carry_out, foretold, planned
from core.types import Done, Generate, Request, to_json
from hardware import ceilings as roofs
from hardware.detect import machine_id
from hardware.errors import ExplorerError
from tests.runs.test_overheads import MADE
from tests.studies.fake_cells import BASE


def entry(
    name: str, speed: tuple[float, ...], memory: tuple[float, ...] = (), machine: str = "here", origin: str = ""
) -> Entry:
    samples = {"tok_per_s": speed, **({"peak_memory_bytes": memory} if memory else {})}
    return Entry(
        id=name,
        request=BASE,
        parts=("m", name),
        machine=machine,
        origin=origin,
        runs=tuple(f"{name}{i}" for i in range(len(speed))),
        samples=samples,
        disturbed=False,
    )


def test_the_best_those_near_it_and_ratios() -> None:
    quick = entry("quick", (10.0, 10.2, 9.8, 10.1, 9.9), (8.0,))
    near = entry("near", (9.9, 10.1, 9.7, 10.1, 9.8), (4.0,))
    slow = entry("slow", (5.0, 5.1, 4.9, 5.0, 5.0))
    once = entry("once", (9.0,))
    found = view([slow, quick, near, once], baseline="slow", predictions={"quick": {"tok_per_s": Figure(1, 2, 1, 3)}})  # type: ignore[call-arg]
    told = {line.label: line for line in found.lines}
    assert (found.shared, found.measures, found.baseline) == ("m", ("tok_per_s", "peak_memory_bytes"), "slow")
    assert {name: line.standings["tok_per_s"] for name, line in told.items()} == {
        "quick": "best",
        "near": "not shown to differ",
        "slow": "behind",
        "once": "behind",
    }
    assert told["near"].standings["peak_memory_bytes"] == "best" and "peak_memory_bytes" not in told["slow"].standings
    ratio = told["quick"].ratios["tok_per_s"]
    assert ratio.value == pytest.approx(2.0, abs=0.01) and ratio.low is not None and 1.9 < ratio.low < 2
    assert told["once"].ratios["tok_per_s"].low is None
    assert told["slow"].ratios["tok_per_s"].value == 1.0 and "peak_memory_bytes" not in told["quick"].ratios
    assert told["quick"].predicted["tok_per_s"].high == 3
    assert view([]).lines == ()
    assert view([quick], baseline="nobody").baseline == "quick"
    same = view([entry("a", (1.0,)), msgspec.structs.replace(entry("a", (2.0,)), id="b")])
    assert [line.label for line in same.lines] == ["m · a (1)", "m · a (2)"]


def test_what_differs_besides_the_configuration_is_said() -> None:
    here, there = entry("a", (1.0,)), entry("b", (2.0,), machine="there")
    assert cautions(view([here, entry("c", (2.0,))])) == ()
    assert ["2 machines" in words for words in cautions(view([here, there]))] == [True]
    short = msgspec.structs.replace(here, n_prompt=21, n_new=8)
    long = msgspec.structs.replace(entry("d", (1.0,)), n_prompt=21, n_new=64)
    encoder = msgspec.structs.replace(entry("e", (1.0,)), n_prompt=21)
    assert cautions(view([short, encoder])) == ()
    assert ["differ in length" in words for words in cautions(view([short, long]))] == [True]


def test_a_prediction_is_of_an_answer_as_long_as_it_was(store: Store) -> None:
    """The model ended its answer after 8 of 64 tokens; the prompt is as long as it was read."""
    roofs.save(MADE, store.root / "ceilings")
    asked = Request(model="smollm2-135m", backend="llama_cpp", threads=1, task=Generate(prompt="Hello " * 300))
    ended = msgspec.structs.replace(entry("ended", (1.0,)), request=asked, machine=machine_id(), n_prompt=21, n_new=8)
    told = predictions([ended], store)["ended"]
    exact = msgspec.structs.replace(asked, task=Generate(prompt_tokens=21, max_new_tokens=8))
    found = Foresight(store).predict(resolve(exact))
    assert found is not None and found.tpot_s is not None
    assert told["latency_s"].calibrated == pytest.approx(found.ttft_s.calibrated + 7 * found.tpot_s.calibrated)
    assert told["ttft_s"] == found.ttft_s
    timed = estimate(resolve(msgspec.structs.replace(exact, profilers=())))
    assert told["peak_memory_bytes"].calibrated == timed.total_bytes, "as the page Run says, without profilers"
    assert predictions([msgspec.structs.replace(ended, machine="another")], store) == {}


def test_how_often_it_was_measured_is_no_part_of_a_configuration() -> None:
    watched = msgspec.structs.replace(BASE, live=True, repeats=5, seed=3, profilers=("memory",), fresh_process=True)
    assert configuration(watched) == configuration(BASE)
    assert configuration(msgspec.structs.replace(BASE, threads=2)) != configuration(BASE)


def test_two_machines_of_one_kind_are_two(store: Store, runner: Runner, tmp_path: Path) -> None:
    """Their runs say the same id: what tells them apart is where a run came from."""
    mine = runner.wait(runner.start(BASE))
    runner.close()
    other = Store(tmp_path / "other")
    for name in ("desk", "lab"):
        bundle = other.create(BASE)
        for event in mine.events():
            bundle.append(event)
        store.load(bundle.bundle(), name)
    found = entries(newest_runs(store))
    assert sorted(e.origin for e in found) == ["", "desk", "lab"] and len({e.machine for e in found}) == 1
    assert {len(e.runs) for e in found} == {1}
    labels = {line.label for line in view(found).lines}
    assert len(labels) == 3 and {"desk", "lab"} < labels, "each by its name"
    assert "3 machines" in cautions(view(found))[0]
    assert sorted(row["origin"] for row in store.history()) == ["", "desk", "lab"]
    assert {"machine-1", "machine-2"} < {line.label for line in unnamed(view(found)).lines}
    for shared in (report(view(found)), to_json(unnamed(view(found)))):
        assert b"machine-1" in shared and b"desk" not in shared, "others are told no names"
    for run in store.runs():
        assert "origin.json" not in zipfile.ZipFile(io.BytesIO(run.bundle())).namelist()


def test_runs_of_the_store_and_of_a_sweep(store: Store, runner: Runner) -> None:
    for seed in (0, 1):
        runner.wait(runner.start(msgspec.structs.replace(BASE, seed=seed)))
    runner.close()
    (only,) = entries(newest_runs(store))
    assert len(only.runs) == 2 and list(only.runs) == sorted(only.runs) and only.samples["tok_per_s"][0] > 0
    assert newest_runs(store, "smollm2 FAKE") and not newest_runs(store, "pytorch")
    assert predictions([only], store) == {}, "no ceilings, no prediction"

    stopped = store.create(BASE)
    for event in store.open(only.runs[0]).events():
        stopped.append(Done(t_s=event.t_s, cancelled=True) if isinstance(event, Done) else event)
    assert stopped.status() == "cancelled" and stopped.result().tok_per_s is not None
    assert entries([stopped, *map(store.open, only.runs)])[0].runs == only.runs, "what was stopped is no measurement"
    told = CliRunner().invoke(cli, ["export", *only.runs, stopped.id, "--format", "many.html"])
    assert told.exit_code == 0 and f"Left out, not being finished: {stopped.id}." in told.stderr
    assert "1 configurations" not in told.stdout and "1 configuration, 2 runs" in told.stdout

    plan = planned(BASE, (Axis(name="new_tokens", values=(2, 4)),), reference_every=1)
    carry_out(plan, 10, lambda words: None)
    found = entries(runs_of_sweep(store, plan.name))
    assert sorted(e.samples["n_params"][0] for e in found) and {len(e.runs) for e in found} == {1}
    with pytest.raises(ExplorerError, match="no sweep called 'nothing'"):
        runs_of_sweep(store, "nothing")


def test_the_prepared_plan_holds_encoders_and_decoders_and_refuses_what_encoders_cannot() -> None:
    plan = families()
    listed = cells(plan)
    assert {c.request.model for c in listed} >= {"bert-base-uncased", "mobilebert-uncased", "gpt2", "smollm2-135m"}
    refused, _ = foretold(listed, foreseen([c.request for c in listed], Store(data_dir())))
    odd = {c.request.model for c in listed if c.id in refused and "an encoder cannot do" in refused[c.id]}
    assert odd - {places.ENCODER} == {"bert-base-uncased", "distilbert-base-uncased", "mobilebert-uncased"}
    assert plan == families() and plan.rounds == 5
    bert = msgspec.structs.replace(BASE, model="bert-base-uncased")
    with pytest.raises(ExplorerError, match="needs 'cache', which an encoder cannot do"):
        check(bert)
    assert check(msgspec.structs.replace(bert, strategy="encode"))


def test_an_encoder_with_weights_joins_the_prepared_plan(monkeypatch: pytest.MonkeyPatch) -> None:
    there = tuple(e for e in catalogue.entries() if "minilm" not in e.id.lower())
    monkeypatch.setattr(catalogue, "entries", lambda: there)
    without = families()
    real = msgspec.structs.replace(there[0], id=places.ENCODER)
    monkeypatch.setattr(catalogue, "entries", lambda: (real, *there))
    models = next(axis.values for axis in families().axes if axis.name == "model")
    assert models == (*next(axis.values for axis in without.axes if axis.name == "model"), places.ENCODER)
