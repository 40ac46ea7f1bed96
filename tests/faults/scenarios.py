"""Faults that need whole processes: kill -9, SIGSTOP, a clock that is set, too little memory, two apps.

A scenario is done on a stage of its own and raises WrongError where something is not as it must be.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import resource
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import msgspec

from core.advice.book import Book
from core.advice.record import Advice, Bottleneck, Gain
from core.loadtest.events import Answered, Opened
from core.models.artifact_cache import MARKER, PART
from core.runs.measuring import holder
from core.studies import ledger
from core.types import Generate, Loaded, Pass, Phase, Request, Step, to_json
from tests.faults import campaign
from tests.faults.stage import LIMIT_S, ROOT, Stage, WrongError, check
from tests.support.scripted_server import Answer, ScriptedServer, Seen, chat, json_answer

SLOW, TOKENS = "delay_s=0.05", "400"
HOUR_S, DAY_S = 3600, 86_400
CONVERTS_S = 240.0  # a whole model, and all that PyTorch loads, on a busy machine


class Scenario(NamedTuple):
    """done, seen, left: as in the table. group: of its rows. do: on its stage. unavailable: why it cannot be done."""

    group: str
    name: str
    done: str
    seen: str
    left: str
    do: Callable[[Stage], None]
    unavailable: Callable[[], str | None] = lambda: None


def performed(scenario: Scenario, home: Path) -> str:
    """What is wrong; empty where nothing is."""
    if reason := scenario.unavailable():
        return f"not tried: {reason}"
    try:
        with Stage(home) as stage:
            scenario.do(stage)
    except WrongError as wrong:
        return str(wrong)
    except Exception as error:  # whatever it is, it is no way to behave
        return f"{type(error).__name__}: {error}"[:300]
    return ""


# ---------------------------------------------------------------- kill -9: runs


def finished(stage: Stage) -> str:
    """A run that must never be lost."""
    stage.ends(stage.run("--max-new-tokens", "3", "--prompt", "Hi"))
    return stage.newest().id


PHASES: dict[str, Callable[[Stage], object]] = {
    "before its worker is there": lambda stage: stage.newest(),
    "while a model is loaded": lambda stage: stage.events(Phase),
    "in prefill": lambda stage: stage.events(Loaded),
    "while it is timed": lambda stage: stage.events(Step, 3),
    "while a profiler measures": lambda stage: stage.until(
        lambda: any(isinstance(e, Pass) and e.profiler for e in stage.newest().events()), "a profiler's pass"
    ),
}


def begun(stage: Stage, phase: str) -> subprocess.Popen[bytes]:
    """A run that goes on for long, once it has come to this phase."""
    old = set(stage.store.ids())
    tokens = "24" if "profiler" in phase else TOKENS
    made = stage.run("--max-new-tokens", tokens, "--prompt", "Hello there", "--option", SLOW, "--profilers", "memory")
    stage.until(lambda: set(stage.store.ids()) - old, "the run")
    PHASES[phase](stage)
    return made


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


# ---------------------------------------------------------------- kill -9: studies, searches, trials

SWEEP = (
    *("sweep", "--model", "tiny-moe", "--backend", "fake", "--threads", "1", "--warmup", "0", "--profilers", ""),
    *("--prompt-tokens", "4", "--option", "delay_s=0.02", "--axis", "new_tokens=2,3,20,21", "--reference-every", "2"),
)
SEARCH = (
    *("search", "--model", "tiny-moe", "--backend", "fake", "--threads", "1", "--warmup", "0", "--profilers", ""),
    *("--prompt-tokens", "4", "--option", "delay_s=0.01", "--axis", "new_tokens=2,3,4,5", "--goal", "latency_s"),
    *("--measurements", "5", "--final-rounds", "2"),
)


def state(stage: Stage, kind: str) -> ledger.State[Any] | None:
    folder = next((stage.data / "studies").glob(f"{kind}-*"), None)
    return None if folder is None else ledger.read(folder)


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


# ---------------------------------------------------------------- load tests, endpoints, the service


def answering(seen: Seen) -> Answer:
    """A model server with one model, whose answers take a fifth of a second."""
    if seen.path == "/v1/models":
        return json_answer({"data": [{"id": "tiny"}]})
    if seen.method == "GET":
        return json_answer({"detail": "Not Found"}, 404)
    n = int(seen.body.get("max_tokens") or 4)
    return chat(["a"] * min(n, 400), first_s=0.05, gap_s=0.05, tokens_each=1, usage={"completion_tokens": n})


LOAD = ("--users", "2", "--prompt-tokens", "8", "--answer-tokens", "4", "--warmup", "0.3", "--seconds", "2")


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


def service(stage: Stage) -> tuple[subprocess.Popen[bytes], str]:
    """`roofscope serve` with the fake backend, slow enough to be caught in the middle."""
    n = len(list(stage.home.glob("log-*.txt")))
    given = ("--port", "0", "--model", "tiny-moe", "--backend", "fake", "--threads", "1", "--option", "delay_s=0.02")
    serving = stage.core("serve", *given, "--json")
    log = stage.home / f"log-{n}.txt"
    stage.until(lambda: b'"url"' in log.read_bytes(), "the service")
    return serving, str(json.loads(log.read_text().splitlines()[0])["url"])


@contextmanager
def stream(url: str, tokens: int = 400) -> Iterator[http.client.HTTPResponse]:
    """An answer of the service that has begun."""
    connection = http.client.HTTPConnection(url.removeprefix("http://"), timeout=60)
    asked: dict[str, Any] = {"model": "tiny-moe", "prompt": "Hi", "max_tokens": tokens, "stream": True}
    try:
        connection.request("POST", "/v1/completions", json.dumps(asked), {"Content-Type": "application/json"})
        answer = connection.getresponse()
        check(answer.readline().startswith(b"data:"), "no stream")
        yield answer
    finally:
        connection.close()


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
    serving.send_signal(signal.SIGINT)
    stage.ends(serving, 0, 130)
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
    serving.send_signal(signal.SIGINT)
    stage.ends(serving, 0, 130)
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


# ---------------------------------------------------------------- converters


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


# ---------------------------------------------------------------- stops of what computes in native code

SMALL = {
    "model_type": "llama", "hidden_size": 64, "intermediate_size": 192, "num_hidden_layers": 4,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "max_position_embeddings": 4096,
}  # fmt: skip
ANSWERED = 3000  # tokens, so that a stop comes before the end
PREPARED = {
    "while it is converted": "Starting the ONNX export",
    "while the export is compared": "Starting ONNX Runtime for the ONNX export",
    "while it is opened": "Loading model.onnx",
}
PASSES: dict[str, tuple[str, str | None]] = {
    "in a live pass": ("live", None),
    "while it is timed": ("timing", None),
    "while its memory is sampled": ("profile", "memory"),
    "while its layers are profiled": ("profile", "layers"),
}


def small(stage: Stage) -> str:
    """A model with random weights that has to be converted: its configuration."""
    file = stage.home / "small" / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps(SMALL))
    return str(file)


def come_to(stage: Stage, phase: str, old: set[str]) -> str:
    """Waits until a run that is none of the old ones is there; its id."""
    (run_id,) = stage.until(lambda: set(stage.store.ids()) - old, "the run")
    run = stage.store.open(run_id)

    def there() -> bool:
        events = run.events()
        if phase in PREPARED:
            return any(isinstance(e, Phase) and PREPARED[phase] in e.note for e in events)
        last = next((e for e in reversed(events) if isinstance(e, Pass | Step)), None)
        if not isinstance(last, Step):  # its pass has not begun to answer
            return False
        of = next(e for e in reversed(events) if isinstance(e, Pass))
        return (of.kind, of.profiler) == PASSES[phase]

    stage.until(lambda: there() or run.status() not in ("queued", "running"), phase, CONVERTS_S)
    return str(run_id)


def interrupt(going: subprocess.Popen[bytes]) -> None:
    """Ctrl-C in a terminal, which all of its foreground's processes hear."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(going.pid, signal.SIGINT)


def temporary(stage: Stage) -> list[str]:
    """What our own code has left in the folder for temporary files; libraries have names of theirs."""
    return sorted(path.name for name in ("tmp*", "roofscope-*") for path in stage.temporary.glob(name))


def onnx_interrupted(stage: Stage) -> None:
    """The next run goes on with what was made whole before. Where nothing can be interrupted, the user is impatient."""
    asked = ("run", "--model", small(stage), "--backend", "onnxruntime", "--prompt-tokens", "16", "--threads", "1")
    for phase in (*PREPARED, *list(PASSES)[1:]):
        old = set(stage.store.ids())
        going = stage.core(*asked, "--max-new-tokens", str(ANSWERED), "--retries", "0")
        run_id = come_to(stage, phase, old)
        interrupt(going)
        if phase in PREPARED:
            time.sleep(0.3)
            interrupt(going)
        stage.ends(going, 130)
        check(stage.store.open(run_id).status() == "cancelled", f"{phase}: {stage.store.open(run_id).status()}")
        stage.until(lambda: not stage.processes(), f"the end of its processes ({phase})", 20.0)
        check(not temporary(stage), f"{phase}: {temporary(stage)}")
    stage.ends(stage.core(*asked, "--max-new-tokens", "4"))
    stage.left(stage.newest().id)


STOPPING = """
import sys, time
from pathlib import Path
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Request, from_json
runner, stop = Runner(Store(Path(sys.argv[1]))), Path(sys.argv[2])
long, short = (from_json(text.encode(), Request) for text in sys.argv[3:])
run_id = runner.start(long)
while not stop.exists():
    time.sleep(0.01)
runner.cancel(run_id)
ends = [runner.wait(run_id).status(), runner.wait(runner.start(short)).status()]
print(ends)
runner.close()
sys.exit(ends != ["cancelled", "done"])
"""


def onnx_stopped(stage: Stage) -> None:
    """As the app does it, whose next run follows at once."""
    long = Request(
        model=small(stage), backend="onnxruntime", threads=1, live=True, retries=0,
        task=Generate(prompt_tokens=16, max_new_tokens=ANSWERED), profilers=("memory", "layers"),
    )  # fmt: skip
    short = msgspec.structs.replace(long, task=Generate(prompt_tokens=4, max_new_tokens=4))
    for phase in (*PREPARED, *PASSES):
        old, stop = set(stage.store.ids()), stage.home / "stop"
        stop.unlink(missing_ok=True)
        if phase in list(PREPARED)[:2]:
            shutil.rmtree(stage.home / "cache" / "artifacts", ignore_errors=True)
        asked = (str(stage.data), str(stop), to_json(long).decode(), to_json(short).decode())
        app = stage.start(sys.executable, "-c", STOPPING, *asked)
        come_to(stage, phase, old)
        stop.touch()
        stage.until(lambda app=app: app.poll() is not None, f"the next run ({phase})", CONVERTS_S)
        stage.ends(app)
        check(not temporary(stage), f"{phase}: {temporary(stage)}")
    stage.left(stage.newest().id)


CUT = (
    *("architectures", "cut", "--engine", "onnxruntime", "--speedup", "1", "--deepest", "2", "--step", "64"),
    *("--scored", "4", "--finished", "2", "--checks", "0", "--score-tokens", "64", "--texts", "2", "--rounds", "2"),
    *("--train", "minutes=0.1", "--train", "texts=20", "--train", "length=16", "--threads", "1"),
    *("--prompt-tokens", "8", "--new-tokens", "8"),
)
CUT_SAYS = ("whole/make/1", "ceilings with", "fitting prices", "masked 1 of", "/make/2", "judging", "round 1")


def cut_interrupted(stage: Stage) -> None:
    """Whatever the search is at, it goes on from there. The app's Stop is heard by the search alone."""
    asked = (*CUT, "--model", small(stage))
    for number, words in enumerate(CUT_SAYS):
        said = len(stage.said())
        going = stage.core(*asked)
        stage.until(
            lambda n=said, words=words, going=going: words in stage.said()[n:] or going.poll() is not None,
            words,
            CONVERTS_S,
        )
        time.sleep(0.3)  # into it
        interrupt(going) if number % 2 else going.send_signal(signal.SIGINT)
        stage.ends(going, 130)
        stage.until(lambda: not stage.processes(), f"the end of its processes ({words})", 20.0)
    going = stage.core(*asked)
    stage.until(lambda: going.poll() is not None, "the end of the search", CONVERTS_S)
    stage.ends(going)
    found = state(stage, "architectures")
    check(found is not None and not found.failures, f"failures: {found and found.failures}")
    assert found is not None
    check(len(set(found.runs.values())) == len(found.runs), "a run counts twice")
    stage.left(*found.runs.values())


# ---------------------------------------------------------------- SIGSTOP


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


def everything_stopped(stage: Stage) -> None:
    """A suspended laptop: the command, and the worker, at the same moment."""
    going = stage.run("--max-new-tokens", "12", "--prompt", "Hi", "--option", "delay_s=0.2", "--retries", "0")
    stage.events(Step, 3)
    stage.stop(going, stage.worker(), seconds=3.0)
    stage.ends(going)
    check(stage.newest().result().disturbed, "nobody says that it was stopped")
    stage.left(stage.newest().id)


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
    serving.send_signal(signal.SIGINT)
    stage.ends(serving, 0, 130)
    stage.left()


def silent_clients(stage: Stage) -> None:
    """They are closed after twenty seconds, in the middle of an answer that takes longer."""
    serving, url = service(stage)
    at = urlsplit(url)
    with contextlib.ExitStack() as held, stream(url, tokens=1500) as answer:
        address = (str(at.hostname), int(at.port or 0))
        silent = [held.enter_context(socket.create_connection(address, timeout=LIMIT_S)) for _ in range(50)]
        silent[0].sendall(b"GET /hea")
        check(not any(one.recv(1) for one in silent), "a client that asks nothing is answered")
        check(b"[DONE]" in answer.read(), "the answer was cut")
    serving.send_signal(signal.SIGINT)
    stage.ends(serving, 0, 130)
    stage.left()


# ---------------------------------------------------------------- the clock


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


# ---------------------------------------------------------------- memory

GROUP = Path("/sys/fs/cgroup/memory")


def limited(stage: Stage, n_bytes: int) -> Callable[[], None]:
    """A limit for a process and its children: a control group where one may be made, else of its address space."""
    group = GROUP / f"roofscope-{stage.home.name}"
    try:
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(n_bytes))
        return lambda: (group / "cgroup.procs").write_text(str(os.getpid())) and None
    except OSError:
        return lambda: resource.setrlimit(resource.RLIMIT_AS, (n_bytes, n_bytes))


def short_of_memory(stage: Stage) -> None:
    """llama.cpp with less than the model needs: by the kernel's killer, or by a refused allocation."""
    asked = ("run", "--backend", "llama_cpp", "--prompt", "Hi", "--max-new-tokens", "4", "--threads", "1")
    group = GROUP / f"roofscope-{stage.home.name}"
    for n_bytes in (170_000_000, 220_000_000):
        going = stage.core(*asked, "--allow-oversize", "--profilers", "", before=limited(stage, n_bytes))
        try:
            code = going.wait(120)
        except subprocess.TimeoutExpired:
            raise WrongError("it goes on for ever") from None
        run = next(stage.store.runs(), None)
        if code > 0 and run is not None:
            failed = run.failure()
            check(failed is not None and failed.message.endswith("."), f"status {run.status()}: {stage.said()[-300:]}")
        check("Traceback" not in stage.said() or code < 0, f"a traceback: {stage.said()[-400:]}")
    stage.ends(stage.core(*asked, "--profilers", ""))
    stage.until(lambda: not stage.processes(), "the end of its processes", 20.0)
    with contextlib.suppress(OSError):
        group.rmdir()
    check(stage.newest().status() == "done", stage.newest().status())


# ---------------------------------------------------------------- two of everything


def two_commands(stage: Stage) -> None:
    """Two runs, a sweep and a load test at once on one folder: one measures, the others wait or say who does."""
    first = stage.run("--max-new-tokens", "40", "--prompt", "Hi", "--option", "delay_s=0.1")
    stage.events(Step)
    stage.ends(stage.run("--max-new-tokens", "2", "--prompt", "Hi"), 2)
    check("is going on this machine" in stage.said(), stage.said()[-300:])
    with ScriptedServer(answering) as server:
        stage.ends(stage.core("load", server.url, *LOAD), 2)
    sweeping = stage.core(*SWEEP)
    stage.ends(first)
    stage.ends(sweeping)
    found = state(stage, "sweep")
    check(found is not None and not found.failures, f"{found and found.failures}")
    stage.left(*(found.runs.values() if found else ()))


def two_sweeps(stage: Stage) -> None:
    """The same sweep twice at the same moment: one is told of the other, no run is lost."""
    one, other = stage.core(*SWEEP), stage.core(*SWEEP)
    codes = sorted((one.wait(120), other.wait(120)))
    check(codes == [0, 2] or codes == [0, 0], f"exit statuses {codes}: {stage.said()[-300:]}")
    check(codes == [0, 0] or "carries out this study already" in stage.said(), stage.said()[-300:])
    found = state(stage, "sweep")
    check(found is not None and not found.failures and len(found.took_s) >= 4, f"{found}")
    stage.left(*(found.runs.values() if found else ()))


def deletes_meanwhile(stage: Stage) -> None:
    """One process frees everything it may while another one sweeps; what that one needs stays."""
    sweeping = stage.core(*SWEEP, "--option", "delay_s=0.2")
    stage.until(lambda: (found := state(stage, "sweep")) and found.runs, "a run")
    n = 0
    while sweeping.poll() is None:
        for kind in ("studies", "runs", "leftovers", "artifacts"):
            stage.ends(stage.core("storage", "--free", kind, "--yes"))
            if sweeping.poll() is None:
                check(state(stage, "sweep") is not None, "the study was freed under its process")
                n += 1
    stage.ends(sweeping)
    check(n > 3, "it was over before anything was freed")
    check("Another" not in stage.said(), stage.said()[-300:])
    stage.left()


def _torch() -> str | None:
    from core import plugins

    return plugins.get("backend", "pytorch").unavailable()


def _onnx() -> str | None:
    from core import plugins

    return plugins.get("backend", "onnxruntime").unavailable() or _torch()


def _llama() -> str | None:
    from core import plugins

    return plugins.get("backend", "llama_cpp").unavailable()


def staged(
    group: str, *rows: tuple[Callable[[Stage], None], str, str, str], needs: Callable[[], str | None] = lambda: None
) -> tuple[Scenario, ...]:
    """Scenarios of a group: what is performed, done, seen, left."""
    return tuple(Scenario(group, do.__name__, done, seen, left, do, needs) for do, done, seen, left in rows)


K, S, C, M, T = "killed", "stopped", "clock", "memory", "together"
SCENARIOS = (
    *staged(
        K,
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
        K,
        (converter_killed, "kill -9 of a worker and of its converter", "why, in a sentence", "no half artifact"),
        needs=_torch,
    ),
    *staged(
        S,
        (worker_stopped, "a worker is stopped for two seconds while it is timed", "a disturbed result", "the run"),
        (worker_stopped_and_repeated, "the same, and a pass may be repeated", "numbers without the stop", "the run"),
        (everything_stopped, "a laptop sleeps for three seconds in a run", "a disturbed result", "the run"),
        (command_stopped, "the command line is stopped for three seconds", "the run's end", "the run"),
        (
            worker_hangs,
            "a worker hangs for good, and the user presses Ctrl-C",
            "stopped, exit status 130",
            "no process",
        ),
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
        (
            silent_clients,
            "fifty connections that never ask, beside a stream of `serve`",
            "each closed, the whole answer",
            "the service",
        ),
    ),
    *staged(
        S,
        (
            onnx_interrupted,
            "Ctrl-C in each phase of a run in ONNX Runtime, its conversion's too",
            "stopped, exit status 130",
            "no process; the next run",
        ),
        (
            onnx_stopped,
            "the app's Stop in each phase of a run in ONNX Runtime, its live pass too",
            "stopped",
            "the next run of the same app",
        ),
        (
            cut_interrupted,
            "Ctrl-C or the app's Stop in each phase of `architectures cut`",
            "exit status 130; it goes on",
            "no process; each run once",
        ),
        needs=_onnx,
    ),
    *staged(
        C,
        (clock_in_a_run, "the clock is set by -1 hour, 2 days, 30 years in a run", "done", "every event"),
        (clock_in_a_load_test, "the clock is set by -1 hour and 2 days in a load test", "done", "every answer"),
        (clock_in_a_sweep, "the clock is set back by an hour in a sweep", "done", "each cell once"),
        needs=campaign.unavailable,
    ),
    *staged(
        M,
        (
            short_of_memory,
            "memory limits below what llama.cpp needs (control group, else address space)",
            "one sentence",
            "the next run",
        ),
        needs=_llama,
    ),
    *staged(
        T,
        (two_commands, "a run, a load test and a sweep while another run goes", "who is measuring", "all of them"),
        (two_sweeps, "the same sweep twice at the same moment", "who carries it out", "each cell once"),
        (deletes_meanwhile, "everything is freed again and again during a sweep", "what stays, and why", "the study"),
    ),
)
