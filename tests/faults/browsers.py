"""Faults seen from a browser: the real server and Chromium, one of them killed, or two apps on one data folder."""

from __future__ import annotations

import contextlib
import os
import time
from contextlib import AbstractContextManager
from typing import Any
from unittest import mock

import psutil

from core.runs.store import Run
from core.types import GOING, Loaded, Pass, Step
from tests.faults.scenario import staged
from tests.faults.stage import MARK, Stage, WrongError, check

B = "browsers"
SLOW_S = 0.05


def marked(stage: Stage) -> AbstractContextManager[Any]:
    """What this process starts meanwhile belongs to the stage."""
    return mock.patch.dict(os.environ, {MARK: stage.environment[MARK]})


def unavailable() -> str | None:
    """Why there is no browser; None where there is one."""
    try:
        import playwright.sync_api  # noqa: F401
    except ImportError:
        return "playwright is not installed"
    from tests.browser.conftest import CHROMIUM

    return None if CHROMIUM else "there is no Chromium"


def until(page: Any, run: Run, kind: type[Any], n: int = 1) -> None:
    """Until the run has written n events of a kind, while the page goes on."""
    end = time.monotonic() + 60
    while sum(isinstance(e, kind) for e in run.events()) < n:
        check(time.monotonic() < end, f"no {kind.__name__} in a run that is {run.status()}")
        page.wait_for_timeout(50)


def browser_killed(stage: Stage) -> None:
    """kill -9 of Chromium while a live pass is drawn: the run comes to its end, its timing too, and the app lives."""
    from tests.browser.conftest import chromium
    from tests.faults.visitor import Visitor, address, served, settled, tab

    with marked(stage), served(stage.home) as server:
        with chromium() as (browser,):
            page = tab(browser)
            run = Visitor(server, 0, ("fake",)).takes(browser).runs(page, "fake", 40, delay_s=SLOW_S)
            until(page, run, Step, 5)
            for process in stage.processes():
                with contextlib.suppress(psutil.Error):
                    if "chrom" in process.name():
                        process.kill()
        stage.until(lambda: run.status() not in GOING, "the end of the run")
        check(run.status() == "done" and not run.result().provisional, f"{run.status()}, only watched")
        with chromium() as (browser,):
            page = tab(browser)
            page.goto(address(server, "run", run=run.id))
            settled(page)
    stage.left(run.id)


def app_killed(stage: Stage) -> None:
    """kill -9 of the app in each phase of a run: no process, the run has ended, and the app starts again beside it."""
    from tests.browser.conftest import chromium
    from tests.faults.visitor import Visitor, address, served, settled, tab

    phases = {"loading": (Loaded, 1), "live": (Step, 5), "timing": (Pass, 2)}
    done = []
    with marked(stage), chromium() as (browser,):
        for phase, (kind, n) in phases.items():
            with served(stage.home) as server:
                page = tab(browser)
                visitor = Visitor(server, 0, ("fake",)).takes(browser)
                whole = visitor.runs(page, "fake", 3, live=False)
                visitor.until_over(page, whole)
                settled(page)
                done.append(whole.id)
                run = visitor.runs(page, "fake", 400 if phase == "live" else 60, delay_s=SLOW_S)
                until(page, run, kind, n)
                assert server.process is not None
                stage.kill(server.process)
                page.wait_for_timeout(200)
                page.context.close()
            stage.until(lambda: run.status() not in GOING, f"the end of the run ({phase})", 20.0)  # noqa: B023
            workers = [p for p in stage.processes() if "core.worker" in " ".join(p.cmdline())]
            check(not psutil.wait_procs(workers, timeout=20)[1], f"{phase}: its worker goes on")
        with served(stage.home) as server:
            page = tab(browser)
            for name in ("history", "run", "storage"):
                page.goto(address(server, name))
                settled(page)
    stage.left(*done)


def two_apps(stage: Stage) -> None:
    """On one data folder: the second one refuses a run and says who measures; the first is killed, it goes on."""
    from tests.browser.conftest import chromium
    from tests.faults.visitor import Visitor, address, served, settled, tab

    with marked(stage), chromium(2) as (one, two), served(stage.home) as first, served(stage.home) as second:
        page, other = tab(one), tab(two)
        run = Visitor(first, 0, ("fake",)).takes(one).runs(page, "fake", 2000, delay_s=SLOW_S)
        until(page, run, Step, 3)
        visitor = Visitor(second, 0, ("fake",)).takes(two)
        try:
            visitor.runs(other, "fake", 3)
        except WrongError as refused:
            check("is going on this machine" in str(refused), f"the second app says: {refused}")
        else:
            raise WrongError("two runs at once")
        for name in ("history", "storage"):
            other.goto(address(second, name))
            settled(other)
        assert first.process is not None
        stage.kill(first.process)
        stage.until(lambda: run.status() not in GOING, "the end of the run", 20.0)
        mine = visitor.runs(other, "fake", 3)
        visitor.until_over(other, mine)
        settled(other)
        check(mine.status() == "done", f"the second app's run: {mine.status()}")
    stage.left(mine.id)


def eight_tabs(stage: Stage) -> None:
    """Two browsers with four tabs each."""
    from tests.faults.tabs import measured

    with marked(stage):
        measured(stage.home)
    stage.left()


VISITS = (
    *staged(
        B,
        (browser_killed, "kill -9 of the browser in a live pass", "the run's end", "its timing, the app"),
        (app_killed, "kill -9 of the app while a run is loaded, shown, timed", "its end", "no process"),
        (
            two_apps,
            "two apps with a browser each on one data folder, one is killed",
            "who is measuring",
            "the other app",
        ),
        (eight_tabs, "two browsers with four tabs each, a run is started in one", "it, in all of them", "one run"),
        needs=unavailable,
    ),
)
