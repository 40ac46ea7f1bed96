"""Disturbed passes: which are repeated, by verdicts made by hand; and a run that is disturbed on purpose."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.analysis.disturbance import Verdict
from core.runs.runner import Runner
from core.types import Disturbance, Generate, Pass, Request
from core.worker import generate, silence
from hardware import load
from hardware.detect import usable_cores

AGAIN = ("warmup", "timing")  # once the machine is calm
CLEAN, NOISY = Verdict(), Verdict(reasons=("its steps came in bursts",))


@pytest.fixture(autouse=True)
def calm(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is planned does not depend on how calm the machine is that tests it."""
    monkeypatch.setattr(generate, "await_calm", lambda request, journal: None)


def planned(request: Request, *verdicts: Verdict) -> list[str]:
    """The kinds of pass that a run makes when its timing passes end like this."""
    told, ended, kinds = iter(verdicts), list[Verdict](), []
    session: Any = SimpleNamespace(capabilities=frozenset())
    journal: Any = SimpleNamespace(warn=lambda message: None, root=Path("no such folder"))
    for kind, _ in generate._plan(request, session, journal, ended):
        kinds.append(kind)
        ended.append(next(told) if kind == "timing" else NOISY)
    return kinds


def request(**more: Any) -> Request:
    return Request(model="m", backend="fake", profilers=(), warmup=0, **more)


def test_a_disturbed_pass_is_repeated_until_there_are_enough_clean_ones() -> None:
    assert planned(request(), CLEAN) == ["timing"]
    assert planned(request(), NOISY, CLEAN) == ["timing", *AGAIN]
    assert planned(request(repeats=2), CLEAN, NOISY, CLEAN) == ["timing", "timing", *AGAIN]


def test_repetitions_end() -> None:
    assert planned(request(), NOISY, NOISY, NOISY) == ["timing", *AGAIN, *AGAIN]
    assert planned(request(repeats=2, retries=1), NOISY, CLEAN, NOISY) == ["timing", *AGAIN, "timing"]
    assert planned(request(retries=0), NOISY) == ["timing"]
    assert planned(request(repeats=0)) == []


def waited(monkeypatch: pytest.MonkeyPatch, *stolen_s: float) -> int:
    """How often a worker looks until it finds the machine calm; stolen_s: what the hypervisor takes at every look."""
    clock = iter(range(1000))
    shared = [load.Load(0.3, 0.6, 0.0, 0.0, s) for s in stolen_s]
    seen: list[int] = []

    def probe(n_threads: int, seconds: float) -> load.Load:
        seen.append(n_threads)
        return shared[len(seen) - 1]

    monkeypatch.setattr(silence, "load", SimpleNamespace(probe=probe))
    monkeypatch.setattr(silence, "time", SimpleNamespace(sleep=lambda s: None, monotonic=lambda: next(clock)))
    journal: Any = SimpleNamespace(stop_if_asked=lambda: None, now=lambda: 0.0)
    silence.await_calm(request(threads=2), journal)
    assert set(seen) <= {2}
    return len(seen)


def test_a_repetition_waits_until_nobody_takes_from_it(monkeypatch: pytest.MonkeyPatch) -> None:
    assert waited(monkeypatch, 0.0) == 1
    assert waited(monkeypatch, 0.2, 0.1, 0.01) == 3


def test_it_does_not_wait_for_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    """The clock is a second further at every look, and six are waited at most."""
    assert waited(monkeypatch, *[0.2] * 100) == 5


@contextmanager
def everything_busy() -> Iterator[None]:
    """A process per core that does nothing but compute."""
    busy = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(usable_cores())]
    try:
        yield
    finally:
        for process in busy:
            process.kill()
            process.wait()


@pytest.mark.model
def test_a_run_beside_a_busy_process_on_each_core_is_flagged_and_repeated(runner: Runner) -> None:
    asked = Request(
        model="smollm2-135m",
        backend="llama_cpp",
        task=Generate(prompt="Hello", max_new_tokens=24, ignore_eos=True),
        profilers=(),
        retries=1,
    )
    with everything_busy():
        run = runner.wait(runner.start(asked))
    result = run.result()
    assert result.status == "done", result.error
    assert [p.kind for p in run.events() if isinstance(p, Pass)] == ["warmup", "timing", *AGAIN]
    assert len([e for e in run.events() if isinstance(e, Disturbance)]) == 2
    told = result.disturbance
    assert told is not None and result.disturbed and told.sentence
    assert (told.n_disturbed, told.n_passes) == (2, 2)
    assert result.tok_per_s, "the numbers are there, with their mark"
    assert told.others_cores is None or told.others_cores > 0.1
