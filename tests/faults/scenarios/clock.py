"""A clock that is set while something is measured."""

from __future__ import annotations

import subprocess
from collections.abc import Callable

from tests.faults import campaign
from tests.faults.scenario import staged
from tests.faults.stage import Stage, check
from tests.faults.subjects import LOAD, SWEEP, answering, state
from tests.support.scripted_server import ScriptedServer

HOUR_S, DAY_S = 3600, 86_400


def with_clock(stage: Stage, *arguments: str) -> tuple[subprocess.Popen[bytes], Callable[[int], None]]:
    """A command whose wall clock can be set, and the way to do it."""
    library, told = campaign.built("clock.c", stage.home), stage.home / "clock"
    told.write_text("0")

    def put(ahead_s: int) -> None:
        new = told.with_suffix(".new")
        new.write_text(str(ahead_s))
        new.replace(told)

    return stage.core(*arguments, more={"LD_PRELOAD": str(library), "FAULTS_CLOCK": str(told)}), put


def clock_in_a_run(stage: Stage) -> None:
    """An hour back, two days ahead and 30 years ahead, each in the middle of a run."""
    done = []
    for ahead_s in (-HOUR_S, 2 * DAY_S, 11_000 * DAY_S):
        given = ("--max-new-tokens", "12", "--prompt", "Hi", "--option", "delay_s=0.1", "--profilers", "memory")
        old = set(stage.store.ids())
        going, put = with_clock(stage, "run", *("--model", "tiny-moe", "--backend", "fake", "--threads", "1"), *given)
        (run_id,) = stage.until(lambda old=old: set(stage.store.ids()) - old, "the run")
        put(ahead_s)  # most of it lies before the worker's first event
        stage.ends(going)
        run = stage.store.open(run_id)
        check(run.status() == "done", f"{ahead_s} s: {run.status()}")
        check(all(0 <= e.t_s < 120 for e in run.events()), f"{ahead_s} s: events lie {run.events()[-1].t_s:.0f} s on")
        check((run.result().tpot_s or 9) < 1.0, f"{ahead_s} s: {run.result().tpot_s} s per token")
        done.append(run_id)
    stage.left(*done)


def clock_in_a_load_test(stage: Stage) -> None:
    with ScriptedServer(answering) as server:
        for n, ahead_s in enumerate((-HOUR_S, 2 * DAY_S)):
            going, put = with_clock(stage, "load", server.url, *LOAD)
            test = stage.until(lambda n=n: len(stage.loads.ids()) > n and stage.loads, "the load test")
            put(ahead_s)
            stage.ends(going)
            reports = [stage.loads.open(name).report() for name in test.ids()]
            check(len(reports) == n + 1 and all(r.status == "done" for r in reports), f"{[r.status for r in reports]}")
            check(all(r.points and r.points[0].point.counted > 5 for r in reports), f"{ahead_s} s: answers are lost")
        stage.left()


def clock_in_a_sweep(stage: Stage) -> None:
    going, put = with_clock(stage, *SWEEP)
    stage.until(lambda: (found := state(stage, "sweep")) and len(found.runs) >= 2, "two runs")
    put(-HOUR_S)
    stage.ends(going)
    found = state(stage, "sweep")
    check(found is not None and not found.failures and len(found.took_s) >= 4, f"{found}")
    n_runs = len(stage.store.ids())
    stage.ends(stage.core(*SWEEP))
    check(len(stage.store.ids()) == n_runs, "what was measured is measured again")
    stage.left()


ROWS = staged(
    "clock",
    (clock_in_a_run, "the clock is set by -1 hour, 2 days, 30 years in a run", "done", "every event"),
    (clock_in_a_load_test, "the clock is set by -1 hour and 2 days in a load test", "done", "every answer"),
    (clock_in_a_sweep, "the clock is set back by an hour in a sweep", "done", "each cell once"),
    needs=campaign.unavailable,
)
