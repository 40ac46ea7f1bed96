"""Sweeps on the fake backend: whole ones, stopped ones, ones whose cells fail, refuse or run something else."""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.paths import data_dir
from core.report.tables import as_csv
from core.runs import asked
from core.runs.store import Store
from core.studies import study_store
from core.studies import sweep as sweeping
from core.studies.ladder import ladder
from core.studies.ledger import Ledger, State, folder_of, in_use, load, names
from core.studies.plan import Axis, Limits, Search, Sweep, name_for
from core.studies.sweep import carry_out, drift_words, flat, planned, progress, report
from core.types import from_json, to_json
from hardware.errors import ExplorerError
from tests.studies.fake_cells import BASE, quiet


def lengths(*values: int) -> Axis:
    return Axis(name="new_tokens", values=values)


def runs_of(state: State[Sweep]) -> list[str]:
    return [k for k in state.runs if not k.startswith("reference")]


def test_a_sweep_measures_what_can_run_and_says_why_the_rest_cannot() -> None:
    # fake with 2 and 3 tokens; llama.cpp of a bf16 that it cannot load
    plan = planned(BASE, (Axis(name="dtype", values=(None, "int3")), lengths(2, 3, 4)), reference_every=2)
    ledger = carry_out(plan, 10, quiet)
    told = progress(ledger.state)
    assert (told.done, told.failed, told.refused, told.left) == (3, 0, 3, 0)
    assert told.eta is None and told.share == 1.0
    found = report(load(folder_of(plan), Sweep), Store(data_dir()))
    assert from_json(to_json(found), sweeping.Report) == found
    refused = [row for row in found.rows if row.status == "refused"]
    assert all("cannot load weights as int3" in row.reason for row in refused)
    done = {row.at["new_tokens"]: row for row in found.rows if row.status == "done"}
    assert set(done) == {2, 3, 4} and all(row.values["tok_per_s"].value > 0 for row in done.values())
    # three cells, a reference before the first and before the third
    assert [k for k in ledger.state.runs if k.startswith("reference")] == ["reference/0", "reference/1"]
    assert len(found.drift) == 2 and "measured 2 times" in drift_words(found.drift)
    ledger.state.refused |= {done[2].id: "its model is gone"}
    assert progress(ledger.state).done == 3, "what was measured stays so"
    table = flat(found)
    assert {"new_tokens", "status", "tok_per_s", "runs"} <= set(table[0]) and len(table) == 6
    assert as_csv(table).count("\n") == 7
    assert all(row["flops"] == round(row["flops"]) for row in table if row["status"] == "done"), "one value is itself"


def test_a_stopped_sweep_goes_on_and_no_cell_is_measured_twice() -> None:
    plan = planned(BASE, (lengths(2, 3, 4, 5),), reference_every=0)
    seen: list[str] = []

    def stop(words: str) -> None:
        seen.append(words)
        if len(seen) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        carry_out(plan, 10, stop)
    before = load(folder_of(plan), Sweep)
    assert (progress(before).done, progress(before).left) == (2, 2)
    ledger = carry_out(plan, 10, quiet)
    assert progress(ledger.state).done == 4
    assert before.runs.items() <= ledger.state.runs.items()
    store = Store(data_dir())
    assert sorted(store.ids()) == sorted(ledger.state.runs.values())
    carry_out(plan, 10, quiet)
    assert len(store.ids()) == 4


def test_begun_anew_it_measures_anew() -> None:
    """A run of the minute before is not taken for one that a killed sweep could not write down."""
    plan = planned(BASE, (lengths(2, 3),), reference_every=0)
    before = set(carry_out(plan, 10, quiet).state.runs.values())
    again = carry_out(plan, 10, quiet, again=True)
    assert progress(again.state).done == 2 and not before & set(again.state.runs.values())
    other = carry_out(planned(BASE, (lengths(3, 4),), reference_every=0), 10, quiet)
    assert not set(again.state.runs.values()) & set(other.state.runs.values()), "another sweep's run is not its own"


def test_a_title_says_what_varies_in_the_words_of_the_screen() -> None:
    varied = {"new_tokens": (2, 3), "kv_dtype": ("f16", "q8_0"), "llama_cpp.flash_attn": ("on", "off"), "batch": (1,)}
    axes = tuple(Axis(name=n, values=values) for n, values in varied.items())
    assert planned(BASE, axes).title == "smollm2-135m: new tokens, KV cache as, llama.cpp flash attention"
    assert planned(BASE, axes[2:]).title == "smollm2-135m: llama.cpp flash attention"
    assert planned(BASE, ()).title == "smollm2-135m: one cell"


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_killed_at_any_write_every_cell_counts_once(number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    plan = planned(BASE, (lengths(2, 3),), reference_every=0)
    count, save = 0, Ledger.save

    def killed(self: Ledger[Any]) -> None:
        nonlocal count
        count += 1
        if count == number:
            raise SystemExit("killed")
        if count < number:
            save(self)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "save", killed)
        with pytest.raises(SystemExit):
            carry_out(plan, 10, quiet)
    ledger = carry_out(plan, 10, quiet)
    assert progress(ledger.state).done == 2
    store = Store(data_dir())
    finished = [i for i in store.ids() if store.open(i).status() == "done"]
    assert sorted(finished) == sorted(ledger.state.runs.values()) and len(finished) == 2


def test_failures_are_kept_pause_their_backend_and_are_tried_again_when_asked() -> None:
    crash = Axis(name="fake.crash", values=("SIGSEGV",))
    plan = planned(BASE, (crash, lengths(2, 3, 4)), reference_every=0)
    said: list[str] = []
    ledger = carry_out(plan, 10, said.append)
    told = progress(ledger.state)
    assert (told.done, told.failed, told.left) == (0, 2, 1)
    assert any("2 failures in a row" in words for words in said)
    told = progress(carry_out(plan, 10, quiet).state)
    assert (told.failed, told.left) == (3, 0)
    n = len(Store(data_dir()).ids())
    carry_out(plan, 10, quiet, retry=True)
    assert len(Store(data_dir()).ids()) == n + 2
    rows = report(load(folder_of(plan), Sweep), Store(data_dir())).rows
    assert all(row.values == {} for row in rows) and all(row.reason for row in rows if row.status == "failed")


def test_a_cell_that_ran_something_else_is_a_failed_one(monkeypatch: pytest.MonkeyPatch) -> None:
    delays = Axis(name="fake.delay_s", values=(0.001, 0.002))
    plan = planned(BASE, (delays,), reference_every=0)
    told = {"fake": {"delay_s": lambda setup: 0.001}}  # as of a worker that never took the option over
    monkeypatch.setattr(asked, "SEEN", told)
    ledger = carry_out(plan, 10, quiet)
    assert (progress(ledger.state).done, progress(ledger.state).failed) == (1, 1)
    (reason,) = ledger.state.failures.values()
    assert reason == "Asked for delay s 0.002, and 0.001 ran."


def test_limits_end_a_sweep_early() -> None:
    plan = planned(BASE, (lengths(2, 3, 4),), reference_every=0, limits=Limits(cells=2))
    said: list[str] = []
    ledger = carry_out(plan, 10, said.append)
    assert (progress(ledger.state).done, progress(ledger.state).left) == (2, 1)
    assert any("2 cells are measured" in words for words in said)
    assert progress(ledger.state).eta is not None
    wider = msgspec.structs.replace(plan, limits=Limits())
    assert progress(carry_out(wider, 10, quiet).state).done == 3, "another limit goes on with the same sweep"

    over = planned(BASE, (lengths(7),), reference_every=0)
    assert progress(carry_out(over, 1e-9, quiet).state).done == 0


def test_rounds_follow_until_intervals_are_narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not sweeping.narrow([1.0] * 4, 0.5), "four runs give no interval"
    assert sweeping.narrow([1.0] * 5, 0.01)
    # ln of the values: mean 0, standard deviation 0.1; t of 4 degrees of freedom 2.776: e^0.124 - e^-0.124 = 0.249
    values = [math.exp(x) for x in (-0.1, -0.1, 0.0, 0.1, 0.1)]
    assert sweeping.narrow(values, 0.25) and not sweeping.narrow(values, 0.24)
    monkeypatch.setattr(sweeping, "PAIRS", 1)
    monkeypatch.setattr(sweeping, "MOST_ROUNDS", 2)
    plan = planned(BASE, (lengths(6),), reference_every=0, limits=Limits(width=0.01))
    assert len(runs_of(carry_out(plan, 10, quiet).state)) == 2


def test_nothing_that_can_run_is_said() -> None:
    plan = planned(BASE, (Axis(name="kv_dtype", values=("q8_0", "q4_0")),))
    with pytest.raises(ExplorerError, match="No cell of this grid can run") as caught:
        carry_out(plan, 10, quiet)
    assert "has no setting 'kv_dtype'" in caught.value.hint


def test_the_name_follows_from_what_is_measured() -> None:
    one = planned(BASE, (lengths(2, 3),), title="One", limits=Limits(cells=1))
    assert one.name == planned(BASE, (lengths(2, 3),), title="Two").name != planned(BASE, (lengths(2),)).name
    odd = planned(msgspec.structs.replace(BASE, model="/some where/../model.gguf"), ())
    assert odd.name.startswith("sweep-model.gguf-") and "/" not in odd.name


@pytest.fixture
def core(home: Path) -> Callable[..., Any]:
    return lambda *args: CliRunner().invoke(cli, list(args), prog_name="roofscope")


def test_the_command_line(core: Callable[..., Any], tmp_path: Path) -> None:
    common = (
        "sweep",
        "--backend",
        "fake",
        "--threads",
        "1",
        "--warmup",
        "0",
        "--profilers",
        "",
        "--prompt-tokens",
        "4",
    )
    dry = core(*common, "--axis", "new_tokens=2,3", "--axis", "batch=1,2", "--dry-run", "--json")
    assert dry.exit_code == 0, dry.stderr
    assert json.loads(dry.stdout)["cells"] == 4 and not Store(data_dir()).ids()
    done = core(*common, "--axis", "new_tokens=2,3", "--json", "--csv", str(tmp_path / "rows.csv"))
    assert done.exit_code == 0, done.stderr
    assert json.loads(done.stdout)["progress"]["done"] == 2
    assert (tmp_path / "rows.csv").read_text().startswith("new_tokens,status,reason,")
    plan = load(data_dir() / "studies" / names(Sweep)[0], Sweep).plan
    (tmp_path / "plan.json").write_bytes(to_json(plan))
    again = core("sweep", "--plan", str(tmp_path / "plan.json"))
    assert again.exit_code == 0 and "2 done, 0 failed" in again.stdout
    (tmp_path / "plan.json").write_text("{")
    for wrong in (("--plan", str(tmp_path / "plan.json")), ("--axis", "colour=red"), ("--axis", "threads=x")):
        assert core(*common, *wrong).exit_code == 2
    for minutes in ("inf", "nan"):  # JSON has neither, so that the ledger could not be read any more
        assert "has no end" in core(*common, "--axis", "new_tokens=2,3", "--minutes", minutes).output
    assert progress(load(folder_of(plan), Sweep)).done == 2, "nothing is lost"


def test_a_sweep_in_a_process_of_its_own() -> None:
    plan = planned(BASE, (), reference_every=0)
    study_store.start_sweep(plan, 10)
    with pytest.raises(ExplorerError, match="A study is going already"):
        study_store.start_sweep(plan, 10)
    end = time.monotonic() + 60
    while study_store.going() and time.monotonic() < end:
        time.sleep(0.1)
    assert study_store.going() is None and names(Sweep) == (plan.name,), study_store.last_words(plan.name, 20)
    assert progress(load(folder_of(plan), Sweep)).done == 1


def test_a_study_that_is_no_sweep_is_not_taken_for_one(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="There is no sweep"):
        load(tmp_path, Sweep)
    assert isinstance(planned(BASE, ()), Sweep)


def test_a_study_that_another_process_carries_out_is_left_to_it(core: Callable[..., Any]) -> None:
    plan = planned(BASE, (lengths(2),), reference_every=0)
    folder = folder_of(plan)
    folder.mkdir(parents=True)
    code = "import sys, filelock; f = filelock.FileLock(sys.argv[1]); f.acquire(); print('held', flush=True); input()"
    command = [sys.executable, "-c", code, str(folder / "study.lock")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        (folder / "plan.json").write_bytes(to_json(plan))
        done = core("sweep", "--plan", str(folder / "plan.json"))
        assert done.exit_code == 2 and "Another process carries out this study already." in done.output
        with pytest.raises(ExplorerError, match="Another process carries out this study already"):
            study_store.start_sweep(plan, 10)
        assert study_store.going() is None and not Store(data_dir()).ids()
        other.communicate("\n")
    assert not in_use(folder)


def test_a_grid_of_a_million_cells_and_an_axis_that_nobody_has_are_said_before(core: Callable[..., Any]) -> None:
    thousand = ",".join(map(str, range(1, 1001)))
    for more in ((), ("--dry-run",)):
        done = core("sweep", "--axis", f"prompt_tokens={thousand}", "--axis", f"new_tokens={thousand}", *more)
        assert done.exit_code == 2 and "The grid has 1,000,000 cells" in done.output
        done = core("search", "--axis", f"batch={thousand}", "--axis", f"new_tokens={thousand}")
        assert done.exit_code == 2 and "The grid has 1,000,000 cells" in done.output
        done = core("sweep", "--axis", "llama_cpp.no_such=1,2", *more)
        assert done.exit_code == 2 and "No backend and no strategy has an axis 'llama_cpp.no_such'" in done.output
    assert not list((data_dir() / "studies").glob("*")) and not Store(data_dir()).ids()


@pytest.mark.parametrize("command", [("sweep", "--plan"), ("search", "--plan"), ("import",), ("community", "add")])
def test_what_has_no_end_is_no_file(command: tuple[str, ...]) -> None:
    done = CliRunner().invoke(cli, [*command, "/dev/zero"])
    assert done.exit_code == 2 and "/dev/zero cannot be read: It is neither a file nor a pipe." in done.stderr


def test_a_plan_may_come_through_a_pipe(tmp_path: Path) -> None:
    os.mkfifo(pipe := tmp_path / "plan")
    with ThreadPoolExecutor(1) as other:
        other.submit(pipe.write_bytes, b"{}")
        done = CliRunner().invoke(cli, ["sweep", "--plan", str(pipe)])
    assert "neither" not in done.stderr and "is not such a plan" in done.stderr


@pytest.mark.parametrize("name", ["../up", "/up", "a/b", "..", ".hidden", "", "a\0b", "x" * 201, "a\\b"])
def test_a_plan_of_somebody_else_writes_into_no_other_folder(tmp_path: Path, name: str) -> None:
    plan = tmp_path / "plan.json"
    made = json.loads(to_json(planned(BASE, (lengths(2),))))
    plan.write_text(json.dumps(made | {"name": name}))
    done = CliRunner().invoke(cli, ["sweep", "--plan", str(plan), "--dry-run"])
    assert done.exit_code == 2 and "is not such a plan" in done.output
    assert [path.name for path in tmp_path.rglob("*.json")] == ["plan.json"]
    plan.write_text(json.dumps(made))
    assert CliRunner().invoke(cli, ["sweep", "--plan", str(plan), "--dry-run"]).exit_code == 0


def test_a_study_of_any_model_has_a_folder_of_its_own_that_is_listed() -> None:
    """A path and a publisher's name have slashes, and two models may end alike."""
    assert name_for("ladder", "smollm2-135m") == "ladder-smollm2-135m"
    assert name_for("ladder", "my_model.v2") == "ladder-my_model.v2"
    odd = ("org/model", "other/model", "/data/model", "../../model", "a b", "é/ü", "m" * 300, "/")
    found = [name_for("ladder", model) for model in odd]
    assert len(set(found)) == len(odd) and not any("/" in name or len(name) > 64 for name in found)
    for model in odd:
        folder = Path(folder_of(ladder(model)))
        assert folder.parent == data_dir() / "studies"
        folder.mkdir(parents=True)
        (folder / "findings.json").write_bytes(b"{}")
    assert {study.name for study in study_store.studies() if not study.recorded} == set(found)


BOUNDS: list[tuple[type[Any], str, dict[str, Any]]] = [
    (Sweep, "sweep", {"limits": {"cells": 0}}),
    (Sweep, "sweep", {"limits": {"cells": -3}}),
    (Sweep, "sweep", {"limits": {"width": -0.1}}),
    (Sweep, "sweep", {"limits": {"width": 1.5}}),
    (Sweep, "sweep", {"rounds": -1}),
    (Sweep, "sweep", {"reference_every": -1}),
    (Search, "search", {"goals": ["tok_per_s"], "total": -1}),
    (Search, "search", {"goals": ["tok_per_s"], "final_rounds": 0}),
]


@pytest.mark.parametrize(("kind", "command", "wrong"), BOUNDS, ids=lambda value: str(value)[:60])
def test_a_plan_with_a_limit_that_is_none_ends_in_a_sentence(
    kind: type[Any], command: str, wrong: dict[str, Any], tmp_path: Path
) -> None:
    plan = {"type": command, "name": "sweep-x", "title": "x", "base": json.loads(to_json(BASE)), "axes": []}
    (tmp_path / "plan.json").write_text(json.dumps({**plan, **wrong}))
    told = CliRunner().invoke(cli, [command, "--plan", str(tmp_path / "plan.json")])
    assert told.exit_code == 2 and "is not such a plan" in told.stderr and "Expected" in told.stderr, told.output
    assert not (data_dir() / "studies").exists()


@pytest.mark.parametrize(
    "words",
    [
        ["sweep", "--minutes", "-5"], ["sweep", "--minutes", "nan"], ["sweep", "--width", "nan"],
        ["sweep", "--width", "-0.1"], ["sweep", "--cells", "-1"], ["search", "--minutes", "-5"],
        ["search", "--at-most", "latency_s=-2"], ["search", "--at-most", "latency_s=0"],
        ["search", "--at-least", "tok_per_s=-1"], ["architectures", "cut", "--at-most", "tpot_s=-1"],
        ["architectures", "free", "--device", "RTX 4090", "--at-least", "tok_per_s=-1"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_a_limit_that_is_none_ends_in_a_sentence(words: list[str]) -> None:
    fake = ["--backend", "fake", "--axis", "new_tokens=2"] if words[0] != "architectures" else []
    told = CliRunner().invoke(cli, [*words, *fake])
    assert told.exit_code == 2 and "Traceback" not in told.output and told.stderr.strip(), told.output
    assert not list((data_dir() / "studies").glob("*/study.json"))
    with pytest.raises(ExplorerError, match="has no time"):
        carry_out(planned(BASE, (lengths(2),)), -5, quiet)
