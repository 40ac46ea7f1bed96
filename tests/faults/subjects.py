"""What scenarios disturb: runs, studies, load tests and services that go on for a while."""

from __future__ import annotations

import http.client
import json
import signal
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from core.studies import ledger
from core.types import Loaded, Pass, Phase, Step
from tests.faults.stage import Stage, check
from tests.support.scripted_server import Answer, Seen, chat, json_answer

SLOW, TOKENS = "delay_s=0.05", "400"
CONVERTS_S = 240.0  # a whole model, and all that PyTorch loads, on a busy machine


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


def answering(seen: Seen) -> Answer:
    """A model server with one model, whose answers take a fifth of a second."""
    if seen.path == "/v1/models":
        return json_answer({"data": [{"id": "tiny"}]})
    if seen.method == "GET":
        return json_answer({"detail": "Not Found"}, 404)
    n = int(seen.body.get("max_tokens") or 4)
    return chat(["a"] * min(n, 400), first_s=0.05, gap_s=0.05, tokens_each=1, usage={"completion_tokens": n})


LOAD = ("--users", "2", "--prompt-tokens", "8", "--answer-tokens", "4", "--warmup", "0.3", "--seconds", "2")


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


def closed(stage: Stage, serving: subprocess.Popen[bytes]) -> None:
    """The service, by Ctrl-C."""
    serving.send_signal(signal.SIGINT)
    stage.ends(serving, 0, 130)
