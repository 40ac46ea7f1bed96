"""Runs on other machines: services on loopback with data folders of their own, and what is no service at all."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.paths import data_dir
from core.runs.foresight import foreseen
from core.runs.measuring import measuring
from core.runs.other_machine import LostMachineError, ServiceRunner
from core.runs.store import Run, Store
from core.service.app import Manner, build
from core.studies.conduct import make
from core.studies.ledger import Ledger
from core.studies.plan import Axis, Recipe
from core.studies.sweep import carry_out_on, planned
from core.types import Done, Generate, Made, Request, to_json
from hardware import detect
from hardware.errors import ExplorerError
from tests.runs.test_overheads import MADE
from tests.service.server import LONG_S, Server
from tests.studies.fake_cells import BASE

KEY = "an-open-secret"
PLAN = planned(BASE, (Axis(name="new_tokens", values=(2, 3)),), reference_every=0)


@pytest.fixture
def far(tmp_path: Path, home: Path) -> Iterator[Server]:
    root = tmp_path / "far"
    with Server(build(Store(root), Manner(key=KEY)), root) as server:
        yield server


def of(server: Server) -> Store:
    assert server.root is not None
    return Store(server.root)


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def nobody() -> str:
    """An address at which nobody listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{found.getsockname()[1]}"


def test_a_run_there_comes_home_as_it_is(far: Server, store: Store) -> None:
    runner = ServiceRunner(store, far.url, KEY)
    run = runner.wait(runner.start(BASE))
    there = of(far).open(run.id)
    assert run.path.is_relative_to(store.root) and run.status() == "done"
    assert (run.request, run.events(), run.created_s) == (there.request, there.events(), there.created_s)
    assert to_json(run.result()) == to_json(there.result())


def test_a_machine_without_ceilings_says_so(far: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    said: list[str] = []
    machine = ServiceRunner(store, far.url, KEY, said.append)
    machine.hello()
    assert said == ["127.0.0.1: its ceilings are not measured; `roofscope ceilings` there measures them"]
    assert machine.machine() == detect.machine() and machine.labels["host"] == "127.0.0.1"
    monkeypatch.setattr("core.service.run_routes.kept", lambda *_: MADE)
    machine.hello()
    assert len(said) == 1


def test_what_it_will_do_there_it_says_itself(far: Server, store: Store) -> None:
    long = msgspec.structs.replace(BASE, dtype="int3")
    asked = [BASE, long] * 60  # more than are asked about at once
    told = ServiceRunner(store, far.url, KEY).foresee(asked)
    assert told == foreseen(asked, of(far)) and len(told) == 120
    assert "cannot load weights as int3" in told[1].reason and not told[0].reason
    assert told[0].seconds > 0 and told[0].ranges["tok_per_s"].high > told[0].ranges["tok_per_s"].low
    with pytest.raises(LostMachineError, match="is no Roofscope"):
        Silent(store, far.url, KEY).foresee([BASE])


class Silent(ServiceRunner):
    """A service that answers something else."""

    def _call(self, method: str, path: str, body: bytes | None = None) -> tuple[int, Any]:
        return 200, {"x": 1}


def test_a_sweep_on_machines_that_are_there_and_on_others(far: Server, store: Store, tmp_path: Path) -> None:
    other = tmp_path / "other"
    gone = nobody()
    with Server(build(Store(other), Manner(key=KEY)), other) as second:
        machines = [ServiceRunner(store, url, KEY) for url in (far.url, second.url, gone)]
        said: list[str] = []
        ledgers, reasons = carry_out_on(machines, PLAN, 10, said.append)
        assert list(reasons) == [f"127.0.0.1-{gone.rpartition(':')[2]}"]
        assert "does not answer" in reasons[machines[2].name] and "serve" in reasons[machines[2].name]
        for machine, server in zip(machines, (far, second), strict=False):
            made = set(ledgers[machine.name].state.runs.values())
            assert made == set(of(server).ids()) and len(made) == 2, "each measured the whole grid, and nothing twice"
        assert set(store.ids()) == {*of(far).ids(), *of(second).ids()}, "all of it is here"
        again, _ = carry_out_on(machines[:2], PLAN, 10, said.append)
        assert len(store.ids()) == 4 and set(again) == set(ledgers), "what is done is not done again"


def test_the_command_names_who_could_not_be_asked(far: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAR_KEY", KEY)
    words = ["sweep", "--backend", "fake", "--threads", "1", "--axis", "new_tokens=2,3", "--warmup", "0"]
    words += ["--profilers", "", "--reference-every", "0", "--json"]
    done = CliRunner().invoke(cli, [*words, "--on", far.url, "--key-from", "FAR_KEY"])
    assert done.exit_code == 0, done.stderr
    (found,) = json.loads(done.stdout)["machines"].values()
    assert [row["status"] for row in found["rows"]] == ["done", "done"]
    refused = CliRunner().invoke(cli, [*words, "--on", f"{far.url},{nobody()}"])
    assert refused.exit_code == 1 and "does not answer" in refused.stderr and "key is missing" in refused.stderr
    assert KEY not in refused.stderr + done.stderr + done.stdout
    for more, says in ((("--on", " , "), "No machine"), (("--on", "a", "--key-from", "NO_KEY"), "NO_KEY")):
        bad = CliRunner().invoke(cli, [*words, *more])
        assert bad.exit_code == 2 and says in bad.stderr
    assert not [file for file in data_dir().rglob("*") if file.is_file() and KEY.encode() in file.read_bytes()]


def test_what_cannot_run_there_is_told_in_its_words(far: Server, store: Store) -> None:
    runner = ServiceRunner(store, far.url, KEY)
    with pytest.raises(ExplorerError, match="no model called 'nope'") as refused:
        runner.start(Request(model="nope", backend="fake"))
    assert not isinstance(refused.value, LostMachineError) and refused.value.hint
    with pytest.raises(LostMachineError, match="key"):
        ServiceRunner(store, far.url, "wrong").hello()


def test_a_machine_that_measures_something_else_is_waited_for(far: Server, store: Store) -> None:
    said: list[str] = []
    runner = ServiceRunner(store, far.url, KEY, said.append)
    begun: list[str] = []
    with measuring(of(far).root, "a bench of somebody"):
        asking = threading.Thread(target=lambda: begun.append(runner.start(BASE)), daemon=True)
        asking.start()
        until(lambda: said)
        assert "A bench of somebody" in said[0] and not begun
    asking.join(LONG_S)
    assert runner.wait(begun[0]).status() == "done"


def test_a_stop_brings_home_what_was_measured(far: Server, store: Store) -> None:
    long = Request(
        model="smollm2-135m", backend="fake", task=Generate(prompt_tokens=4, max_new_tokens=5000), threads=1,
        warmup=0, retries=0, profilers=(), options={"delay_s": 0.02},
    )  # fmt: skip
    runner = ServiceRunner(store, far.url, KEY)
    run_id = runner.start(long)
    until(lambda: len(of(far).open(run_id).events()) > 10)
    runner.stop()
    with pytest.raises(KeyboardInterrupt):
        runner.wait(run_id)
    runner.cancel(run_id)
    run = runner.wait(run_id)
    assert run.status() == "cancelled" and run.result().n_new_tokens > 0


class Page(BaseHTTPRequestHandler):
    """A web server that is somebody else's."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()
        self.wfile.write(b"<html>It works!</html>")

    def log_message(self, *_: Any) -> None:
        """Nothing is printed."""


def test_what_is_no_roofscope(store: Store) -> None:
    with HTTPServer(("127.0.0.1", 0), Page) as web:
        threading.Thread(target=web.handle_request, daemon=True).start()
        with pytest.raises(LostMachineError, match="is no Roofscope"):
            ServiceRunner(store, f"127.0.0.1:{web.server_port}").hello()


@pytest.mark.parametrize(
    ("typed", "name"),
    [
        ("Lab.Example", "lab.example-8765"),
        ("lab:99", "lab-99"),
        ("http://lab", "lab-80"),
        ("https://lab:8443/", "lab-8443"),
        ("[::1]", "1-8765"),
    ],
)
def test_a_host_alone_means_our_port(store: Store, typed: str, name: str) -> None:
    assert ServiceRunner(store, typed).name == name


@pytest.mark.parametrize("typed", ["", "ftp://lab", "a b", "http://me:secret@lab"])
def test_no_address(store: Store, typed: str) -> None:
    with pytest.raises(ExplorerError):
        ServiceRunner(store, typed)


def test_a_study_on_another_machine(far: Server, store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.studies.study_list import KINDS, Kind
    from tests.studies.test_studies import SMALL

    kinds = {**KINDS, "ladder": Kind("Small", 10, lambda model: SMALL)}
    monkeypatch.setattr("core.cli.studying.KINDS", kinds)
    monkeypatch.setenv("FAR_KEY", KEY)
    gone = nobody()
    words = ["study", "ladder", "--on", f"{far.url},{gone}", "--key-from", "FAR_KEY", "--json"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1 and "does not answer" in done.stderr, "one machine is not there, the other one is done"
    told = json.loads(done.stdout)
    name = ServiceRunner(store, far.url).name
    assert list(told["machines"]) == [name] and list(told["reasons"]) == [ServiceRunner(store, gone).name]
    rows = told["machines"][name]["rows"]
    assert [row["id"] for row in rows] == ["plain", "slow"] and all(row["tok_per_s"] for row in rows)
    assert set(store.ids()) == set(of(far).ids()) and len(store.ids()) == 4
    folder = data_dir() / "studies" / f"{SMALL.name}-{name}"
    assert {"study.json", "report.html", "table.md", "findings.json"} <= {file.name for file in folder.iterdir()}
    again = CliRunner().invoke(cli, [*words[:2], "--on", far.url, *words[4:]])
    assert again.exit_code == 0 and len(store.ids()) == 4, "what is done is not done again"


class Workshop(ServiceRunner):
    """A machine that makes models at once. there: those that it has."""

    there: frozenset[str] = frozenset({"smollm2-135m"})
    made = 0

    def models(self) -> frozenset[str]:
        return self.there

    def start(self, request: Request, keep: int = 1) -> str:
        run = self.store.create(request)
        self.made += 1
        name = f"made-{self.made}"
        run.append(Made(t_s=1.0, model=name, label=name, note="", size_bytes=8, n_params=8, bits_per_weight=8.0))
        run.append(Done(t_s=2.0))
        self.there |= {name}
        return run.id

    def wait(self, run_id: str, poll_s: float = 0.5) -> Run:
        return self.store.open(run_id)


def test_what_a_study_makes_on_another_machine_is_that_machines(store: Store) -> None:
    from core.studies.conduct import maker
    from tests.studies.test_studies import SMALL, quiet

    recipe = Recipe(id="small", label="Small", backend="llama_cpp", steps=(("gguf_quantize", {"target": "Q4_K_M"}),))
    plan = msgspec.structs.replace(SMALL, recipes=(recipe,))
    machine = Workshop(store, "lab")
    ledger = Ledger(data_dir() / "studies" / "x", plan, 10, machine, quiet)
    assert make(ledger, recipe) == "made-1" == make(ledger, recipe), "it is made once"
    machine.there = frozenset({"smollm2-135m"})
    assert make(ledger, recipe) == "made-2", "and anew where it was deleted"
    assert maker("smollm2-135m", machine) is machine
    with pytest.raises(ExplorerError, match="has no model called"):
        maker("nope", machine)
