"""A clock that is set while something goes on: what was measured stays, and its end is told."""

from __future__ import annotations

import os
import signal
import time
from types import SimpleNamespace

import pytest

from core.runs import clock
from core.runs.owner import SILENT_S, Owner
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import Done, Generate, Phase, Request, Step, to_json
from core.worker.journal import Journal

HOUR_S, YEAR_S = 3600.0, 3.2e7
REQUEST = Request(
    model="tiny-moe", backend="fake", task=Generate(prompt="Hi", max_new_tokens=400), threads=1, warmup=0, profilers=()
)


@pytest.mark.parametrize(
    ("now_s", "found_s"), [(150.0, 50.0), (100.0 - HOUR_S, 7.0), (106.9, 7.0), (100.0 + YEAR_S, 7.0)]
)
def test_a_clock_that_was_set_tells_nothing(now_s: float, found_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock, "time", SimpleNamespace(time=lambda: now_s))
    assert clock.since_s(created_s=100.0, last_s=7.0) == pytest.approx(found_s)


def set_back(run: Run, by_s: float) -> None:
    """As if the clock had been set back by so much since the run was requested (ahead, below 0)."""
    (run.path / "created.json").write_bytes(to_json(time.time() + by_s))


@pytest.mark.parametrize("by_s", [HOUR_S, YEAR_S, -60 * YEAR_S])
def test_a_run_is_whole_although_the_clock_was_set_before_its_worker_began(by_s: float, store: Store) -> None:
    run = store.create(REQUEST)
    set_back(run, min(by_s, time.time() - 1) if by_s > 0 else max(by_s, 1.0 - time.time()))
    journal = Journal(run)
    journal.write(Phase(t_s=journal.now(), name="decode", note="a step"))
    journal.end(Done(t_s=journal.now()))
    found = Run(run.path)
    assert found.status() == "done" and len(found.events()) == 2
    assert all(0 <= event.t_s < 60 for event in found.events())


def test_a_retry_goes_on_behind_what_was_written(store: Store) -> None:
    run = store.create(REQUEST)
    run.append(Phase(t_s=500.0, name="decode", note="the first try"))
    journal = Journal(Run(run.path))
    assert 500.0 <= journal.now() < 560.0
    journal.end(Done(t_s=journal.now()))


def test_a_worker_killed_after_the_clock_was_set_back_has_failed_and_says_why(runner: Runner, store: Store) -> None:
    slow = Request(**{f: getattr(REQUEST, f) for f in REQUEST.__struct_fields__} | {"options": {"delay_s": 0.05}})
    run_id = runner.start(slow)
    run, end = store.open(run_id), time.monotonic() + 60
    while not any(isinstance(e, Step) for e in run.events()):
        assert time.monotonic() < end
        time.sleep(0.02)
    set_back(run, HOUR_S)
    assert runner._owner is not None
    os.kill(runner._owner.pid, signal.SIGKILL)
    ended = runner.wait(run_id)
    assert ended.status() == "failed" and "was killed" in (ended.result().error or "")


def test_a_process_of_another_container_is_not_alive_for_ever_because_the_clock_went_back() -> None:
    gone = Owner(pid=1, started=1.0, here="another container")
    assert gone.alive(SILENT_S / 2) and not gone.alive(abs(-HOUR_S))
