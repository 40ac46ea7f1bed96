"""kill -9: of runs, studies, searches, trials, load tests, services, converters, in each of their phases."""

from __future__ import annotations

import json
import subprocess
import sys
import time

from core.advice.book import Book
from core.advice.record import Advice, Bottleneck, Gain
from core.loadtest.events import Answered, Opened
from core.models.artifact_cache import MARKER, PART
from core.runs.measuring import holder
from core.types import Curve, Generate, Phase, Request, Step
from tests.faults.scenario import backends, staged
from tests.faults.scenarios.interrupted import small
from tests.faults.stage import ROOT, Stage, check
from tests.faults.subjects import (
    CONVERTS_S,
    LOAD,
    PHASES,
    SEARCH,
    SWEEP,
    TOKENS,
    answering,
    begun,
    closed,
    finished,
    service,
    state,
    stream,
)
from tests.support.scripted_server import ScriptedServer


def command_killed(stage: Stage) -> None:
    done = [finished(stage)]
    for phase in PHASES:
        stage.kill(begun(stage, phase))
        stage.until(lambda: not stage.processes(), f"the end of the worker ({phase})", 20.0)
        check(stage.newest().status() in ("interrupted", "cancelled"), f"{phase}: {stage.newest().status()}")
        done.append(finished(stage))
    stage.left(*done)


def worker_killed(stage: Stage) -> None:
    done = [finished(stage)]
    for phase in list(PHASES)[1:]:
        made = begun(stage, phase)
        stage.kill(stage.worker())
        stage.ends(made, 1)
        failed = stage.newest().failure()
        check(failed and "was killed" in failed.message, f"{phase}: {stage.newest().status()} {failed}")
        done.append(finished(stage))
    stage.left(*done)


def study_killed(stage: Stage, kind: str, command: tuple[str, ...]) -> None:
    """Killed as soon as there are 0, 1, 2, ... runs in its ledger, and once in the middle of one; then it goes on."""
    for n in (0, 1, 2, 4):
        going = stage.core(*command)
        stage.until(
            lambda n=n, going=going: (
                going.poll() is not None or ((found := state(stage, kind)) and len(found.runs) >= n)
            ),
            f"{n} runs of a {kind}",
        )
        if going.poll() is None:
            stage.kill(going)
        stage.until(lambda: not stage.processes(), "the end of its worker", 20.0)
    stage.ends(stage.core(*command))
    found = state(stage, kind)
    check(found is not None and not found.failures, f"failures: {found and found.failures}")
    assert found is not None
    runs = list(found.runs.values())
    check(len(set(runs)) == len(runs), "a run counts twice")
    check(all(stage.store.open(run_id).status() == "done" for run_id in runs), "a run that counts has not ended well")
    n_runs = len(stage.store.ids())
    stage.ends(stage.core(*command))
    check(len(stage.store.ids()) == n_runs, "what was measured is measured again")
    stage.left(*runs)


def sweep_killed(stage: Stage) -> None:
    study_killed(stage, "sweep", SWEEP)


def search_killed(stage: Stage) -> None:
    study_killed(stage, "search", SEARCH)


TRIAL = """
import sys
from pathlib import Path
from core.advice.book import Book
from core.advice.trial import attempt
from core.runs.runner import Runner
from core.runs.store import Store
store = Store(Path(sys.argv[1]))
runner, book = Runner(store), Book(store.root)
try:
    attempt(book.case("trial"), runner, book, int(sys.argv[2]))
finally:
    runner.close()
"""


def trial_killed(stage: Stage) -> None:
    """Killed in the middle of a pair, again and again; what it has are pairs, in turn, each of two finished runs."""
    asked = Request(
        model="tiny-moe", backend="fake", threads=1, warmup=1, profilers=(), options={"delay_s": 0.02},
        task=Generate(prompt="Hi", max_new_tokens=12),
    )  # fmt: skip
    changed = Request(**{f: getattr(asked, f) for f in asked.__struct_fields__} | {"options": {"delay_s": 0.01}})
    book = Book(stage.data)
    book.offer([advised(asked, changed)])
    for n in (1, 2, 3):
        going = stage.start(sys.executable, "-c", TRIAL, str(stage.data), "2")
        stage.until(
            lambda n=n, going=going: going.poll() is not None or (_tried(book) >= n and holder(stage.data) is not None),
            "a run of the trial",
        )
        if going.poll() is None:
            stage.kill(going)
        stage.until(lambda: not stage.processes(), "the end of its worker", 20.0)
    stage.ends(stage.start(sys.executable, "-c", TRIAL, str(stage.data), "1"))
    case = book.case("trial")
    runs = (*case.baseline_runs, *case.changed_runs)
    check(len(case.baseline_runs) == len(case.changed_runs) > 1, f"no pairs: {runs}")
    check(case.verdict is not None, "no verdict")
    stage.left(*runs)


def _tried(book: Book) -> int:
    case = book.case("trial")
    return len(case.baseline_runs) + len(case.changed_runs)


def advised(asked: Request, changed: Request) -> Advice:
    return Advice(
        id="trial",
        rule="a rule",
        evidence=(),
        bottleneck=Bottleneck(phase="decode", group="all"),
        finding="It is slow.",
        change="Make it faster.",
        baseline=asked,
        changed=changed,
        metric="tpot_s",
        gain=Gain(likely=2.0, low=1.0, high=3.0, basis="by hand"),
        quality="unchanged",
        against=False,
        made_at=time.time(),
    )


def generator_killed(stage: Stage) -> None:
    """Before its window, in it, and between two levels."""
    with ScriptedServer(answering) as server:
        for n, wanted in enumerate((Answered, Opened)):
            going = stage.core("load", server.url, *LOAD, "--seconds", "60", "--max-minutes", "1")
            test = stage.until(lambda n=n: len(stage.loads.ids()) > n and stage.loads.open(stage.loads.ids()[0]), "it")
            stage.until(lambda test=test, k=wanted: any(isinstance(e, k) for e in test.events()), wanted.__name__)
            stage.kill(going)
            check(test.status() == "interrupted", f"it is {test.status()}")
            check(any(isinstance(e, Answered) for e in test.events()), "nothing is kept")
            stage.until(lambda: holder(stage.data) is None, "the machine")
        stage.ends(stage.core("load", server.url, *LOAD))
        check(len(stage.loads.rows()) == 3, "a row is missing")
        stage.left()


def server_killed(stage: Stage) -> None:
    """The server of a load test dies in the window."""
    serving, url = service(stage)
    going = stage.core("load", url, "--model", "tiny-moe", *LOAD, "--answer-tokens", "40", "--seconds", "20")
    test = stage.until(lambda: stage.loads.ids() and stage.loads.open(stage.loads.ids()[0]), "the load test")
    stage.until(lambda: sum(isinstance(e, Answered) for e in test.events()) > 2, "three answers")
    stage.kill(serving)
    stage.ends(going, 0, 1)  # 1 where a level had nothing else
    check("Every request failed" in stage.said() or "failed:" in stage.said(), stage.said()[-300:])
    check(any(isinstance(e, Answered) and not e.outcome.failure for e in test.events()), "nothing is kept")
    stage.left()


def service_killed(stage: Stage) -> None:
    """While a model is loaded, and in the middle of a stream."""
    for open_stream in (False, True):
        serving, url = service(stage)
        if open_stream:
            with stream(url):
                stage.kill(serving)
        else:
            stage.kill(serving)
        stage.until(lambda: not stage.processes(), "the end of the model's process", 20.0)
        stage.until(lambda: holder(stage.data) is None, "the machine")
    serving, url = service(stage)
    with stream(url, tokens=4) as answer:
        check(b"[DONE]" in answer.read(), "no whole answer")
    closed(stage, serving)
    stage.left(finished(stage))


def model_killed(stage: Stage) -> None:
    """The process that has the model, under a stream: the service lives."""
    serving, url = service(stage)
    for _ in range(3):
        with stream(url) as answer:
            stage.kill(stage.named("core.worker.answering"))
            said = answer.read()
            check(b"was killed" in said and b"[DONE]" not in said, f"the client sees {said[-200:]!r}")
    with stream(url, tokens=4) as answer:
        check(b"[DONE]" in answer.read(), "no whole answer")
    closed(stage, serving)
    stage.left()


def endpoint_gone(stage: Stage) -> None:
    """The server of an endpoint dies in the middle of a run's answer; then the run's worker is killed there."""
    serving, url = service(stage)
    stage.ends(stage.core("endpoints", "add", url))
    listed = subprocess.run(
        [sys.executable, "-m", "core", "endpoints", "list", "--json"],
        cwd=ROOT, env=stage.environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    served = json.loads(listed.stdout)[0]
    model = f"{served['url'].partition('://')[2].removesuffix('/v1')}/{served['models'][0]['id']}"
    asked = ("run", "--model", model, "--backend", "endpoint", "--prompt", "Hi", "--profilers", "", "--warmup", "0")
    going = stage.core(*asked, "--max-new-tokens", TOKENS)
    stage.events(Step)
    stage.kill(stage.worker())
    stage.ends(going, 1)
    check("was killed" in str(stage.newest().failure()), f"{stage.newest().failure()}")
    old = set(stage.store.ids())
    going = stage.core(*asked, "--max-new-tokens", TOKENS)
    stage.until(lambda: set(stage.store.ids()) - old, "the second run")
    stage.events(Step)
    stage.kill(serving)
    stage.ends(going, 1)
    failed = stage.newest().failure()
    check(failed is not None and failed.message.endswith("."), f"no sentence: {failed}")
    stage.left()


def converter_killed(stage: Stage) -> None:
    """PyTorch needs another form of the embedded model: killed while that is made, worker and converter in turn."""
    asked = ("run", "--backend", "pytorch", "--prompt", "Hi", "--max-new-tokens", "2", "--threads", "1")
    cache = stage.home / "cache" / "artifacts"
    for module in ("core.worker.worker", ""):
        going = stage.core(*asked, "--profilers", "")
        stage.until(lambda: cache.is_dir() and any(cache.glob(f"{PART}*")), "the beginning of a conversion")
        worker = stage.worker()
        child = next(iter(worker.children(recursive=True)), worker)
        stage.kill(worker if module else child)
        stage.ends(going, 1, 2)
        stage.until(lambda: not stage.processes(), "the end of its processes", 20.0)
        whole = [p.parent for p in cache.glob(f"*/{MARKER}")]
        check(all(p.name.startswith(PART) for p in whole), "half an artifact passes for a whole one")
    going = stage.core(*asked, "--profilers", "")
    stage.until(lambda: going.poll() is not None, "the end of the conversion and its run", CONVERTS_S)
    stage.ends(going)
    stage.left(stage.newest().id)


TRAINED = (
    *("transform", "finetune", "--name", "tuned", "--threads", "1", "--param", "minutes=0.1", "--param", "batch=2"),
    *("--param", "examples=40", "--param", "probe_questions=2", "--param", "probe_minutes=0.05"),
)
TRAINS = ("Loading the model", "Writing the first questions", "Looking at its answers", "Training")


def trainer_killed(stage: Stage) -> None:
    """In each phase of a training; from the first checkpoint on, the next try goes on behind it."""
    asked = (*TRAINED, "--model", small(stage))
    work, made = stage.data / "work", stage.data / "models" / "tuned"

    def there(phase: str, old: set[str], going: subprocess.Popen[bytes]) -> bool:
        new = set(stage.store.ids()) - old
        events = stage.store.open(new.pop()).events() if new else ()
        return going.poll() is not None or any(isinstance(e, Phase) and phase in e.note for e in events)

    for phase in TRAINS:
        going, old = stage.core(*asked), set(stage.store.ids())
        stage.until(lambda p=phase, o=old, g=going: there(p, o, g), phase, CONVERTS_S)
        stage.kill(stage.worker())
        stage.ends(going, 1)
        check("was killed" in str(stage.newest().failure()), f"{phase}: {stage.newest().failure()}")
        stage.until(lambda: not stage.processes(), f"the end of its processes ({phase})", 20.0)
        check(not made.exists(), f"{phase}: half a model")
    check(any(work.glob("*/*.pt")), "no checkpoint is left")
    going = stage.core(*asked)
    stage.until(lambda: going.poll() is not None, "the end of the training", CONVERTS_S)
    stage.ends(going)
    check(made.is_dir() and not any(work.glob("*")), "no model, or what was left of its making")
    steps = [e.step for e in stage.newest().events() if isinstance(e, Curve)]
    check(steps == sorted(steps), f"its curve goes back: {steps}")
    stage.left(stage.newest().id)


ROWS = (
    *staged(
        "killed",
        (command_killed, "kill -9 of the command line in each phase of a run", "it ended early", "no process"),
        (worker_killed, "kill -9 of the worker in each phase of a run", "why, in a sentence", "the runs before"),
        (sweep_killed, "kill -9 of a sweep after 0, 1, 2 and 4 runs", "it goes on", "each cell once"),
        (search_killed, "kill -9 of a search after 0, 1, 2 and 4 runs", "it goes on", "each run once"),
        (trial_killed, "kill -9 of an advice's trial in the middle of pairs", "it goes on", "whole pairs"),
        (generator_killed, "kill -9 of a load test before and in its window", "interrupted", "its answers"),
        (server_killed, "kill -9 of the server under a load test", "why, in a sentence", "its answers"),
        (service_killed, "kill -9 of `serve`, idle and in a stream", "nothing", "no process, a free machine"),
        (
            model_killed,
            "kill -9 of the model's process under `serve`, three times",
            "an error in the stream",
            "the service",
        ),
        (endpoint_gone, "kill -9 of a worker and of its server in an endpoint's run", "why, in a sentence", "the runs"),
    ),
    *staged(
        "killed",
        (converter_killed, "kill -9 of a worker and of its converter", "why, in a sentence", "no half artifact"),
        (trainer_killed, "kill -9 of a training in each of its phases", "why, in a sentence", "its checkpoint"),
        needs=backends("pytorch"),
    ),
)
