"""One measurement at a time, whatever is measured, and a process that dies gives the machine back."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from click.testing import CliRunner
from filelock import FileLock

from core.cli import cli
from core.paths import data_dir
from core.runs.ceilings import measure
from core.runs.measuring import LOCK, NOTE, SPOILED, BusyError, Holder, holder, measuring
from core.runs.owner import Owner
from core.runs.runner import Runner
from core.studies.ledger import Ledger
from core.studies.plan import Plan
from core.types import Generate, Request, to_json
from hardware.errors import ExplorerError

ROOT = Path(__file__).parents[2]
HOLD = "import sys; from pathlib import Path; from core.runs.measuring import measuring\n"
HOLD += "with measuring(Path(sys.argv[1]), 'a bench'): print('held', flush=True); sys.stdin.read()"


@contextmanager
def held_elsewhere() -> Iterator[subprocess.Popen[bytes]]:
    """Another process holds the machine."""
    data_dir().mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-c", HOLD, str(data_dir())]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=ROOT) as child:
        assert child.stdout and child.stdout.readline().strip() == b"held"
        try:
            yield child
        finally:
            child.kill()


def test_a_bench_refuses_runs_and_ceilings_and_its_death_frees_the_machine(
    runner: Runner, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    with held_elsewhere() as child:
        with pytest.raises(BusyError, match=rf"A bench \(process {child.pid}\)") as refused:
            runner.start(fake_request)
        assert SPOILED in refused.value.message and str(child.pid) in refused.value.hint
        with pytest.raises(BusyError, match="A bench"):
            measure(data_dir(), 1)
        said = CliRunner().invoke(cli, ["ceilings", "--measure", "--threads", "1"])
        assert said.exit_code == 2 and "A bench" in said.output
        child.kill()
        child.wait()
        assert (data_dir() / NOTE).exists() and holder(data_dir()) is None, "its note is nobody's"
    assert runner.wait(runner.start(fake_request)).status() == "done"
    assert holder(data_dir()) is None and not (data_dir() / NOTE).exists()


def test_a_run_that_lost_the_race_says_so(runner: Runner, fake_request: Request) -> None:
    """Somebody took the machine after the look at the note and before the worker began."""
    lock = FileLock(data_dir() / LOCK)
    with lock:
        failed = runner.wait(runner.start(fake_request)).failure()
    assert failed and failed.message.endswith(SPOILED) and failed.user_error


def test_it_is_free_within_itself_and_not_for_another_thread(tmp_path: Path) -> None:
    refused: list[BusyError] = []

    def other() -> None:
        try:
            with measuring(tmp_path, "another"):
                pass
        except BusyError as error:
            refused.append(error)

    with measuring(tmp_path, "the bench"):
        with measuring(tmp_path, "its ceilings"):
            assert holder(tmp_path).what == "the bench"  # type: ignore[union-attr]
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        assert len(refused) == 1 and str(psutil.Process().pid) in refused[0].message
    other()
    assert len(refused) == 1, "it was given back"


def test_a_process_of_another_container_is_waited_for_by_its_note(runner: Runner) -> None:
    """Its lock may not be seen here; a study that does not wait for it would ask for its run again and again."""
    note = data_dir() / NOTE
    data_dir().mkdir(parents=True, exist_ok=True)
    note.write_bytes(to_json(Holder("the run x", Owner(pid=1, started=1.0, here="another container"))))
    waited = threading.Event()
    waiting = threading.Thread(target=runner.free, args=(waited.set,), daemon=True)
    waiting.start()
    assert waited.wait(60) and waiting.is_alive()
    note.unlink()
    waiting.join(60)
    assert not waiting.is_alive()


def test_a_study_that_is_never_quick_enough_asks_for_ever_and_not_ever_deeper(tmp_path: Path) -> None:
    class Busy:
        tries = 0

        def free(self, waiting: object) -> None: ...

        def start(self, request: Request) -> str:
            self.tries += 1
            if self.tries <= sys.getrecursionlimit():
                raise BusyError(None)
            raise ExplorerError("That model is gone.")

    busy = Busy()
    plan = Plan(name="p", title="P", model="m", recipes=(), evaluations=(), baseline="b")
    ledger: Ledger[Plan] = Ledger(tmp_path, plan, 5, busy, lambda words: None)  # type: ignore[arg-type]
    assert ledger.perform("a", Request(model="m", backend="fake", task=Generate(prompt="Hi"))) is None
    assert ledger.state.failures == {"a": "That model is gone."} and busy.tries > sys.getrecursionlimit()
