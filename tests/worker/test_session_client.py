"""A session in a process of its own: the same rows as beside us, and every way in which that process may end."""

from __future__ import annotations

import io
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import psutil
import pytest

from core import plugins
from core.models import catalogue
from core.models import spec as specs
from core.runs.runner import Runner
from core.types import Asked, Evaluate, Item, Loaded, Memory, Request
from core.worker import frames
from core.worker.session_client import LostError, SessionClient, open_in_own_process
from hardware.errors import ExplorerError
from tests.support.beside import Book, Quiet, never

ROOT = Path(__file__).parents[2]
LONG_S = 60.0  # a forward that nobody waits for; and the most that a test waits for anything
CONFIG = {  # ids are bytes, as the fake backend's are
    "model_type": "llama",
    "vocab_size": 256,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "max_position_embeddings": 128,
}


def fake(**options: Any) -> Request:
    return Request(model="smollm2-135m", backend="fake", threads=1, options=options)


def until(condition: Callable[[], Any]) -> Any:
    end = time.monotonic() + LONG_S
    while not (found := condition()):
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.02)
    return found


def gone(pid: int) -> bool:
    return not psutil.pid_exists(pid) or psutil.Process(pid).status() == psutil.STATUS_ZOMBIE


@pytest.fixture
def apart() -> Iterator[SessionClient]:
    session = SessionClient(fake(), Quiet(), never)
    yield session
    session.close()


# ---------------------------------------------------------------- what crosses the pipe


def test_numbers_cross_as_they_are_and_a_cut_frame_is_an_end() -> None:
    rows = np.random.default_rng(0).normal(size=(2, 3, 5)).astype(np.float32)
    pipe = io.BytesIO()
    for message, numbers in (({"a": [1, "é"]}, rows), ("empty", rows[:, :0]), (None, None)):
        frames.send(pipe, message, numbers)
    whole = pipe.getvalue()
    pipe.seek(0)
    for message, numbers in (({"a": [1, "é"]}, rows), ("empty", rows[:, :0]), (None, None)):
        frame = frames.receive(pipe)
        assert frame is not None and frame[0] == message
        assert numbers is None if frame[1] is None else np.array_equal(frame[1], numbers)
    assert frames.receive(pipe) is None
    assert frames.receive(io.BytesIO(whole[:60])) is None


def test_it_is_the_session_that_it_would_be_beside_us(apart: SessionClient) -> None:
    fmt, file = next(iter(catalogue.find("smollm2-135m").files.items()))
    near: Any = plugins.get("backend", "fake").open(file, specs.read(file, fmt), fake(), lambda *_, **__: None)
    assert apart.encode("Two é") == near.encode("Two é") and apart.decode([84, 195, 169]) == "Té"
    assert (apart.max_context, apart.eos_ids, apart.chat_template) == (near.max_context, near.eos_ids, None)
    assert apart.capabilities == near.capabilities & {"forward", "cache", "rollback", "rewind", "batch"}
    ids = np.array([near.encode("The cat sat on the mat")])
    for session in (apart, near):
        session.reset()
        session.forward(ids[:, :9])
        session.commit(5)
        session.rewind(1)
    for keep in (None, 3):
        logits = apart.forward(ids, keep), near.forward(ids, keep)
        assert np.array_equal(logits[0].numpy(), logits[1].numpy()) and logits[0].numpy().dtype == np.float32
        assert np.array_equal(logits[0].argmax(), logits[1].argmax())
    assert apart.n_committed == near.n_committed == 4


def test_a_refusal_is_the_callers_and_leaves_the_session_open(apart: SessionClient) -> None:
    with pytest.raises(ExplorerError, match="is full") as refused:
        apart.forward(np.zeros((1, apart.max_context + 1), np.int64))
    assert refused.value.hint and not isinstance(refused.value, LostError)
    assert apart.alive and apart.encode("a") == [97]


def test_what_cannot_be_opened_is_said_and_leaves_no_process() -> None:
    others = psutil.Process().children()  # of tests before this one, or of pytest
    with pytest.raises(ExplorerError, match="nobody/nothing") as refused:
        SessionClient(Request(model="nobody/nothing", backend="fake"), Quiet(), never)
    assert refused.value.hint and not isinstance(refused.value, LostError)
    assert set(psutil.Process().children()) <= set(others)


# ---------------------------------------------------------------- how it ends


@pytest.mark.parametrize(
    ("sig", "says"), [("SIGKILL", "memory ran out"), ("SIGILL", "instruction"), ("SIGSEGV", "native code")]
)
def test_a_crash_is_told_as_a_workers_is(sig: str, says: str) -> None:
    with pytest.raises(LostError, match=says) as died:
        SessionClient(fake(crash=sig), Quiet(), never)
    assert died.value.hint


def test_a_death_in_the_middle_of_a_forward() -> None:
    session = SessionClient(fake(delay_s=LONG_S), Quiet(), never)
    threading.Timer(0.2, os.kill, (session.pid, signal.SIGKILL)).start()
    with pytest.raises(LostError, match="reference's process was killed"):
        session.forward(np.array([[1, 2]]))
    assert not session.alive
    with pytest.raises(ExplorerError, match="has ended"):
        session.encode("a")
    session.close()


def test_a_death_with_advice_is_tried_again_as_advised(monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp built without its flag dies on AMX, in a reference's process as in a worker."""
    backend, book = plugins.get("backend", "fake"), Book()
    monkeypatch.setattr(backend, "signal_advice", {int(signal.SIGILL): ("It crashed.", "Without.", {"crash": ""})})
    session, _ = open_in_own_process(fake(crash="SIGILL"), book)  # type: ignore[arg-type]
    assert book.warnings == ["It crashed. Without."] and session.n_committed == 0
    session.close()
    with pytest.raises(LostError, match="native code"):
        open_in_own_process(fake(crash="SIGSEGV"), book)  # type: ignore[arg-type]
    assert len(book.warnings) == 1


class StopAskedError(Exception):
    pass


def test_a_stop_does_not_wait_for_a_forward() -> None:
    def check() -> None:
        raise StopAskedError

    session = SessionClient(fake(delay_s=LONG_S), Quiet(), never)
    session.check = check
    with pytest.raises(StopAskedError):
        session.forward(np.array([[1, 2]]))
    assert not session.alive and gone(session.pid)


def test_it_dies_with_its_parent() -> None:
    code = (
        "import numpy as np; from core.types import Request; from core.worker.session_client import SessionClient;"
        "from tests.support.beside import Quiet, never; from tests.worker.test_session_client import fake;"
        f"s = SessionClient(fake(delay_s={LONG_S}), Quiet(), never); print(s.pid, flush=True);"
        "s.forward(np.array([[1]]))"
    )
    parent = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE)
    assert parent.stdout is not None
    with parent.stdout:
        pid = int(parent.stdout.readline())
    parent.kill()
    parent.wait()
    until(lambda: gone(pid))


# ---------------------------------------------------------------- a run with a reference in another engine


@pytest.fixture
def request_apart(tmp_path: Path) -> Request:
    """The fake backend measured against PyTorch's random weights: one native engine, and it is apart."""
    (tmp_path / "bytes").mkdir()
    (tmp_path / "bytes" / "config.json").write_text(json.dumps(CONFIG))
    texts = tmp_path / "texts.jsonl"
    texts.write_text("".join(json.dumps({"text": f"text number {i}"}) + "\n" for i in range(400)))
    task = Evaluate(
        eval="divergence", settings={"reference_backend": "pytorch", "text": str(texts), "context": 64, "n": 3}
    )
    return Request(
        model=str(tmp_path / "bytes" / "config.json"),
        backend="fake",
        task=task,
        threads=1,
        profilers=(),
        warmup=0,
        options={"delay_s": 0.02},
    )


def served(runner: Runner) -> psutil.Process | None:
    children = psutil.Process(next(iter(runner._workers.values())).pid).children()
    return next((child for child in children if "core.worker.session_server" in child.cmdline()), None)


def test_the_reference_has_a_process_whose_memory_counts_and_whose_death_is_told(
    runner: Runner, request_apart: Request
) -> None:
    run = runner.wait(runner.start(request_apart))
    assert run.status() == "done", run.failure()
    process = served(runner)
    assert process is not None
    rss = process.memory_info().rss
    events = run.events()
    assert sum(isinstance(e, Item) for e in events) == 3
    assert max(e.rss_bytes for e in events if isinstance(e, Memory)) > rss > 100_000_000, "PyTorch's is in it"

    assert isinstance(request_apart.task, Evaluate)
    many = msgspec.structs.replace(request_apart.task, settings={**request_apart.task.settings, "n": 0})
    slow = msgspec.structs.replace(request_apart, task=many)
    again = runner.store.open(runner.start(slow))
    until(lambda: any(isinstance(e, Asked) for e in again.events()))
    assert any(isinstance(e, Loaded) and e.warm for e in again.events())
    assert served(runner) == process, "it stays open between runs with equal settings"
    process.kill()
    failed = runner.wait(again.id).failure()
    assert (
        failed is not None
        and "reference's process was killed" in failed.message
        and failed.hint
        and not failed.user_error
    )
    assert runner.wait(runner.start(request_apart)).status() == "done", "the next run opens another"
