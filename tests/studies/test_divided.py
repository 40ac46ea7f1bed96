"""A sweep whose cells are divided among machines: services on loopback, each with a data folder of its own."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.cli.machines import chosen
from core.paths import data_dir
from core.report import study_bundle
from core.report.studies import export_study
from core.runs.foresight import Foreseen
from core.runs.other_machine import LostMachineError, ServiceRunner, kind_of
from core.runs.store import Run, Store
from core.service.app import Manner, build
from core.studies.divided import carry_out_divided, divided
from core.studies.ledger import folder_of, load, title
from core.studies.plan import Axis, Limits, Sweep
from core.studies.sweep import drift_words, flat, planned, progress, report
from core.types import Request
from hardware.detect import Machine, machine
from hardware.errors import ExplorerError
from tests.service.server import Server
from tests.studies.fake_cells import BASE, quiet

PLAN = planned(BASE, (Axis(name="new_tokens", values=(2, 3, 4, 5, 6, 7)),), reference_every=0)
GONE = "lab does not answer any more."


@pytest.fixture
def two(tmp_path: Path, home: Path) -> Iterator[tuple[Server, Server]]:
    roots = tmp_path / "one", tmp_path / "two"
    with Server(build(Store(roots[0]), Manner()), roots[0]) as one, Server(build(Store(roots[1]), Manner())) as other:
        other.root = roots[1]
        yield one, other


def runners(servers: Sequence[Server], store: Store) -> list[ServiceRunner]:
    return [ServiceRunner(store, server.url) for server in servers]


def there(server: Server) -> set[str]:
    assert server.root is not None
    return set(Store(server.root).ids())


class Fading(ServiceRunner):
    """A machine that is lost while its run number `lives` goes."""

    lives = 0

    def wait(self, run_id: str, poll_s: float = 0.1) -> Run:
        if self.lives == 0:
            raise LostMachineError(GONE, "Look at it, and go on.")
        self.lives -= 1
        return super().wait(run_id, poll_s)


def test_every_cell_is_measured_once_and_the_reference_on_each_machine(
    two: tuple[Server, Server], store: Store
) -> None:
    plan = planned(BASE, PLAN.axes, rounds=2, reference_every=2)
    said: list[str] = []
    ledger, reasons = carry_out_divided(runners(two, store), plan, 10, said.append)
    assert reasons == {} and ledger.plan.name == f"{plan.name}-divided" and divided(ledger.plan) == ledger.plan
    state = load(folder_of(ledger.plan), Sweep)
    told = progress(state)
    assert (told.done, told.failed, told.refused, told.left) == (6, 0, 0, 0)
    names = {runner.name: there(server) for runner, server in zip(runners(two, store), two, strict=True)}
    assert set(state.kinds) == set(names) == set(state.machines.values())
    for key, name in state.machines.items():
        assert state.runs[key] in names[name], "each ran where it is written"
    assert len(state.runs) == len(set(store.ids())) == sum(map(len, names.values())), "and once"
    cells = {key.partition("/")[0] for key in state.runs if not key.startswith("reference")}
    assert len(cells) == 6 and all(state.machines[f"{c}/0"] == state.machines[f"{c}/1"] for c in cells)
    found = report(state, store)
    assert {s.machine for s in found.drift} == set(names) and len({s.machine for s in found.drift}) == 2
    assert "its median is" in drift_words(found.drift)
    assert {row["machine"] for row in flat(found)} == set(names)
    assert [words for words in said if words.startswith(f"{min(names)}: ")], "who says what is told"

    again, _ = carry_out_divided(runners(two, store), plan, 10, quiet)
    assert again.state.runs == state.runs, "what is done is not done again"


def test_a_cell_that_a_lost_machine_had_begun_fails_and_the_others_are_measured(
    two: tuple[Server, Server], store: Store
) -> None:
    good, lost = ServiceRunner(store, two[0].url), Fading(store, two[1].url)
    ledger, reasons = carry_out_divided([good, lost], PLAN, 10, quiet)
    assert list(reasons) == [lost.name] and GONE in reasons[lost.name]
    told = progress(ledger.state)
    assert (told.done, told.failed, told.left) == (5, 1, 0)
    (why,) = ledger.state.failures.values()
    assert why.startswith(GONE)
    ledger, reasons = carry_out_divided([ServiceRunner(store, two[0].url)], PLAN, 10, quiet)
    assert progress(ledger.state).failed == 1, "nothing is tried again unasked"
    ledger, reasons = carry_out_divided([ServiceRunner(store, two[0].url)], PLAN, 10, quiet, retry=True)
    assert progress(ledger.state).done == 6 and reasons == {}


def test_with_retry_another_machine_takes_the_cell_at_once(two: tuple[Server, Server], store: Store) -> None:
    good, lost = ServiceRunner(store, two[0].url), Fading(store, two[1].url)
    ledger, reasons = carry_out_divided([good, lost], PLAN, 10, quiet, retry=True)
    assert list(reasons) == [lost.name]
    assert progress(ledger.state).done == 6 and set(ledger.state.machines.values()) == {good.name}


def test_further_rounds_of_a_lost_machines_cells_wait_for_it(two: tuple[Server, Server], store: Store) -> None:
    """Rounds of one cell on two machines would hold their difference; whoever wants that says --retry."""
    plan = planned(BASE, PLAN.axes, rounds=2, reference_every=0)
    good, lost = ServiceRunner(store, two[0].url), Fading(store, two[1].url)
    lost.lives = 1
    said: list[str] = []
    ledger, _ = carry_out_divided([good, lost], plan, 10, said.append)
    told = progress(ledger.state)
    assert told.failed == 1 and told.left == 1 and told.done == 4
    assert any("1 cell is left for machines that are gone" in words for words in said)
    ledger, _ = carry_out_divided([ServiceRunner(store, two[0].url)], plan, 10, quiet, retry=True)
    assert progress(ledger.state).done == 6


def test_a_stop_stops_all_and_no_cell_is_measured_twice(two: tuple[Server, Server], store: Store) -> None:
    machines = runners(two, store)

    def stop(words: str) -> None:
        if words.startswith(machines[0].name) and "tokens" in words:
            raise KeyboardInterrupt

    _, reasons = carry_out_divided(machines, PLAN, 10, stop)
    assert reasons == {machines[0].name: "It was stopped."}
    before = set(store.ids())
    assert len(before) < 6
    ledger, _ = carry_out_divided(runners(two, store), PLAN, 10, quiet)
    assert progress(ledger.state).done == 6 and set(ledger.state.runs.values()) == set(store.ids()) >= before


def test_a_limit_of_cells_holds_for_all_machines_together(two: tuple[Server, Server], store: Store) -> None:
    plan = msgspec.structs.replace(PLAN, limits=Limits(cells=3))
    ledger, _ = carry_out_divided(runners(two, store), plan, 10, quiet)
    assert progress(ledger.state).done == 3 and len(store.ids()) == 3


class Another(ServiceRunner):
    """A machine with another processor."""

    def machine(self) -> Machine:
        return msgspec.structs.replace(super().machine(), cpu="Z80")


class Poor(ServiceRunner):
    """A machine that cannot run answers of more than three tokens."""

    def foresee(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]:
        wanted = [r.task.max_new_tokens for r in requests]  # type: ignore[union-attr]
        return tuple(Foreseen(reason="Too long." if n > 3 else "", seconds=1.0) for n in wanted)


def test_machines_of_two_kinds_divide_nothing(two: tuple[Server, Server], store: Store) -> None:
    odd = [ServiceRunner(store, two[0].url), Another(store, two[1].url)]
    with pytest.raises(ExplorerError, match=r"are not.* is Z80, \d+ core"):
        carry_out_divided(odd, PLAN, 10, quiet)
    assert store.ids() == []
    carry_out_divided(odd[:1], PLAN, 10, quiet)
    with pytest.raises(ExplorerError, match="are not"):
        carry_out_divided(odd[1:], PLAN, 10, quiet)
    with pytest.raises(ExplorerError, match=r"None of the machines.*does not answer"):
        carry_out_divided([ServiceRunner(store, "127.0.0.1:1")], PLAN, 10, quiet)


def test_cells_go_where_they_can_run(two: tuple[Server, Server], store: Store) -> None:
    poor, good = Poor(store, two[0].url), ServiceRunner(store, two[1].url)
    ledger, _ = carry_out_divided([poor, good], PLAN, 10, quiet)
    rows = report(ledger.state, store).rows
    assert {row.status for row in rows} == {"done"}
    assert all(row.machine == good.name for row in rows if row.at["new_tokens"] not in (2, 3))
    ledger, _ = carry_out_divided([Poor(store, two[0].url)], PLAN, 10, quiet, again=True)
    told = progress(ledger.state)
    assert (told.done, told.refused) == (2, 4) and set(ledger.state.refused.values()) == {"Too long."}


def test_what_is_sent_to_others_names_no_machine(two: tuple[Server, Server], store: Store) -> None:
    plan = planned(BASE, PLAN.axes, reference_every=3)
    good, lost = ServiceRunner(store, two[0].url), Fading(store, two[1].url)
    lost.lives = 1  # its reference
    ledger, _ = carry_out_divided([good, lost], plan, 10, quiet)
    data = study_bundle.bundle(ledger.plan.name, store, texts=True)
    with zipfile.ZipFile(io.BytesIO(data)) as whole:
        words = whole.read("study.json").decode()
    assert good.name not in words and "machine-1" in words and "reference/machine-1-0" in words
    page = export_study(ledger.plan.name, "html", store).decode()
    assert good.name not in page and lost.name not in page and "On machine-" in page
    name = study_bundle.load(data, store)
    there = load(data_dir() / "studies" / name, Sweep)
    assert set(there.machines.values()) <= {"machine-1", "machine-2"} and progress(there).done == 5


def test_the_command_says_who_does_what_before_it_starts(two: tuple[Server, Server]) -> None:
    words = ["sweep", "--backend", "fake", "--threads", "1", "--axis", "new_tokens=2,3", "--warmup", "0"]
    words += ["--profilers", "", "--reference-every", "0"]
    on = ["--on", f"{two[0].url},{two[1].url}"]
    done = CliRunner().invoke(cli, [*words, *on, "--divide", "--json"])
    assert done.exit_code == 0, done.stderr
    first = done.stderr.splitlines()[0]
    assert first.startswith("2 cells divided among 2 machines (127.0.0.1-") and "without --divide each" in first
    rows = json.loads(done.stdout)["rows"]
    assert [row["status"] for row in rows] == ["done", "done"] and all(row["machine"] for row in rows)
    both = CliRunner().invoke(cli, [*words, *on])
    assert both.exit_code == 0 and "each measures all of 2 cells, to compare them; --divide" in both.stderr
    alone = CliRunner().invoke(cli, [*words, "--divide"])
    assert alone.exit_code == 2 and "nobody to divide" in alone.stderr
    for option in (["--where", "host=a"], ["--key-from", "X"]):
        for command in (words, ["search", *words[1:-2], "--goal", "tok_per_s"], ["study", "ladder"]):
            lonely = CliRunner().invoke(cli, [*command, *option])
            assert lonely.exit_code == 2 and "is about other machines" in lonely.stderr, lonely.output
    dry = CliRunner().invoke(cli, [*words, *on, "--dry-run"])
    assert dry.exit_code == 0 and "the others say themselves" in dry.stderr and "2 cells; 0 cannot run" in dry.stdout
    gone = CliRunner().invoke(cli, [*words, "--on", "127.0.0.1:1"])
    assert gone.exit_code == 1 and gone.stdout == "" and gone.stderr.startswith("127.0.0.1-1 measures all of 2 cells\n")
    none = CliRunner().invoke(cli, [*words, *on, "--where", "host=nowhere"])
    assert none.exit_code == 2 and "No machine has host=nowhere. There are: 127.0.0.1-" in none.stderr.replace(
        "\n", " "
    )


def test_a_search_on_two_machines(two: tuple[Server, Server], store: Store) -> None:
    words = ["search", "--backend", "fake", "--threads", "1", "--axis", "fake.delay_s=0.001,0.02", "--warmup", "0"]
    words += ["--profilers", "", "--new-tokens", "3", "--prompt-tokens", "4", "--goal", "tok_per_s", "--json"]
    words += ["--measurements", "2", "--final-rounds", "1", "--on", f"{two[0].url},{two[1].url},127.0.0.1:1"]
    done = CliRunner().invoke(cli, words)
    assert done.exit_code == 1 and "does not answer" in done.stderr, "the third machine is not there"
    assert "each searches by itself" in done.stderr.splitlines()[0]
    found = json.loads(done.stdout)
    assert len(found["machines"]) == 2 and len(found["reasons"]) == 1
    for told in found["machines"].values():
        assert told["complete"] and "delay per step 0.001" in told["answer"]["words"][0]
        assert all(row["predicted"] for row in told["rows"])
    assert all(there(server) for server in two) and set(store.ids()) == there(two[0]) | there(two[1])


def test_machines_are_chosen_by_their_labels(store: Store) -> None:
    one, other = ServiceRunner(store, "lab:1"), ServiceRunner(store, "desk:2")
    assert chosen([one, other], ()) == [one, other]
    assert chosen([one, other], ("host=lab",)) == [one] and chosen([one, other], ("host = desk , lab",)) == [one, other]
    assert chosen([one, other], ("host=lab,desk", "machine=desk-2")) == [other]
    for where, says in (
        (("host",), "is not a label"),
        (("host=",), "is not a label"),
        (("=lab",), "is not a label"),
        (("host=lab,dexk",), r"No machine has host=dexk.*lab-1 \(host=lab\); desk-2 \(host=desk\)"),
        (("gpu=a100",), "No machine has gpu=a100"),
        (("host=lab", "machine=desk-2"), "No machine has all of host=lab and machine=desk-2"),
    ):
        with pytest.raises(ExplorerError, match=says):
            chosen([one, other], where)


def test_a_kind_is_what_figures_depend_on() -> None:
    here = machine()
    same = msgspec.structs.replace(here, machine_id="x", os="another", python="3.99")
    assert kind_of(same) == kind_of(here) and here.cpu in kind_of(here)
    for change in ({"cpu": "Z80"}, {"usable_cores": here.usable_cores + 1}, {"mem_bytes": here.mem_bytes * 2}):
        assert kind_of(msgspec.structs.replace(here, **change)) != kind_of(here)


def test_a_study_elsewhere_is_told_apart_by_its_digest(two: tuple[Server, Server], store: Store) -> None:
    ledger, _ = carry_out_divided(runners(two, store)[:1], PLAN, 10, quiet)
    assert title(ledger.plan.name) == f"smollm2-135m: new tokens, divided · {PLAN.name[-4:]}"
