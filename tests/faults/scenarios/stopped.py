"""SIGSTOP: processes that hang for a while or for good, and laptops that sleep."""

from __future__ import annotations

import signal
import time

from core.loadtest.events import Answered, Opened
from core.types import Step
from tests.faults.scenario import staged
from tests.faults.stage import Stage, check
from tests.faults.subjects import SLOW, TOKENS, answering, closed, finished, service, stream
from tests.support.scripted_server import ScriptedServer


def worker_stopped(stage: Stage) -> None:
    """For two seconds while it is timed: the run goes on, and its numbers say so."""
    going = stage.run("--max-new-tokens", "12", "--prompt", "Hi", "--option", "delay_s=0.2", "--retries", "0")
    stage.events(Step, 3)
    stage.stop(stage.worker())
    stage.ends(going)
    result = stage.newest().result()
    check(result.disturbed, "nobody says that it was stopped")
    stage.left(stage.newest().id)


def worker_stopped_and_repeated(stage: Stage) -> None:
    """With a repetition: the numbers are those of a pass in which nobody stopped it."""
    going = stage.run("--max-new-tokens", "12", "--prompt", "Hi", "--option", "delay_s=0.1", "--retries", "1")
    stage.events(Step, 3)
    stage.stop(stage.worker())
    stage.ends(going)
    result = stage.newest().result()
    check(result.total_s is not None and (result.tpot_s or 9) < 0.2, f"the stop counts: {result.tpot_s} s per token")
    stage.left(stage.newest().id)


def everything_stopped(stage: Stage, seconds: float = 3.0) -> None:
    """A suspended laptop: the command, and the worker, at the same moment."""
    going = stage.run("--max-new-tokens", "12", "--prompt", "Hi", "--option", "delay_s=0.2", "--retries", "0")
    stage.events(Step, 3)
    stage.stop(going, stage.worker(), seconds=seconds)
    stage.ends(going)
    check(stage.newest().result().disturbed, "nobody says that it was stopped")
    stage.left(stage.newest().id)


def everything_stopped_for_long(stage: Stage) -> None:
    everything_stopped(stage, seconds=60.0)


def command_stopped(stage: Stage) -> None:
    """The worker goes on without it."""
    going = stage.run("--max-new-tokens", "10", "--prompt", "Hi", "--option", "delay_s=0.1")
    stage.events(Step, 3)
    stage.stop(going, seconds=3.0)
    stage.ends(going)
    stage.left(stage.newest().id)


def worker_hangs(stage: Stage) -> None:
    """It is stopped and never goes on; the user stops the run."""
    going = stage.run("--max-new-tokens", TOKENS, "--prompt", "Hi", "--option", SLOW)
    stage.events(Step, 3)
    stage.worker().send_signal(signal.SIGSTOP)
    going.send_signal(signal.SIGINT)
    stage.ends(going, 130)
    check(stage.newest().status() == "cancelled", stage.newest().status())
    stage.left(finished(stage))


def worker_hangs_and_its_parent_dies(stage: Stage) -> None:
    going = stage.run("--max-new-tokens", TOKENS, "--prompt", "Hi", "--option", SLOW)
    stage.events(Step, 3)
    worker = stage.worker()
    worker.send_signal(signal.SIGSTOP)
    stage.kill(going)
    time.sleep(0.5)
    worker.send_signal(signal.SIGCONT)
    stage.until(lambda: not stage.processes(), "the end of the worker", 20.0)
    stage.left(finished(stage))


def generator_stopped(stage: Stage) -> None:
    """In open loop: requests that are late count from when they were due, and the point says so."""
    with ScriptedServer(answering) as server:
        given = ("--rate", "8", "--prompt-tokens", "8", "--answer-tokens", "4", "--warmup", "0.3", "--seconds", "5")
        going = stage.core("load", server.url, *given)
        test = stage.until(lambda: stage.loads.ids() and stage.loads.open(stage.loads.ids()[0]), "the load test")
        stage.until(lambda: any(isinstance(e, Opened) for e in test.events()), "its window")
        stage.stop(going, seconds=2.5)
        stage.ends(going)
        point = test.report().points[0].point
        late = max(o.outcome.delay_s or 0.0 for o in test.events() if isinstance(o, Answered))
        check(late > 1.0, f"nothing was late: {late:.2f} s")
        check(
            point.ttft.mean is not None and point.ttft.mean > (point.ttft_sent.mean or 0.0), "the wait does not count"
        )
        stage.left()


def service_stopped(stage: Stage) -> None:
    serving, url = service(stage)
    with stream(url, tokens=40) as answer:
        stage.stop(serving, stage.named("core.worker.answering"), seconds=3.0)
        check(b"[DONE]" in answer.read(), "the stream breaks off")
    closed(stage, serving)
    stage.left()


ROWS = staged(
    "stopped",
    (worker_stopped, "a worker is stopped for two seconds while it is timed", "a disturbed result", "the run"),
    (worker_stopped_and_repeated, "the same, and a pass may be repeated", "numbers without the stop", "the run"),
    (everything_stopped, "a laptop sleeps for three seconds in a run", "a disturbed result", "the run"),
    (everything_stopped_for_long, "a laptop sleeps for a minute in a run", "a disturbed result", "the run"),
    (command_stopped, "the command line is stopped for three seconds", "the run's end", "the run"),
    (worker_hangs, "a worker hangs for good, and the user presses Ctrl-C", "stopped, exit status 130", "no process"),
    (worker_hangs_and_its_parent_dies, "a worker hangs while its parent is killed", "nothing", "no process"),
    (
        generator_stopped,
        "a load test in open loop is stopped for 2.5 seconds",
        "late, and counted as late",
        "its answers",
    ),
    (
        service_stopped,
        "`serve` and its model sleep for three seconds in a stream",
        "the whole answer",
        "the service",
    ),
)
