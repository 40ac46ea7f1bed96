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
from core.worker.generate import _plan
from hardware.detect import usable_cores

CLEAN, NOISY = Verdict(), Verdict(reasons=("its steps came in bursts",))


def planned(request: Request, *verdicts: Verdict) -> list[str]:
    """The kinds of pass that a run makes when its timing passes end like this."""
    told, ended, kinds = iter(verdicts), list[Verdict](), []
    session: Any = SimpleNamespace(capabilities=frozenset())
    journal: Any = SimpleNamespace(warn=lambda message: None, root=Path("no such folder"))
    for kind, _ in _plan(request, session, journal, ended):
        kinds.append(kind)
        ended.append(next(told) if kind == "timing" else NOISY)
    return kinds


def request(**more: Any) -> Request:
    return Request(model="m", backend="fake", profilers=(), warmup=0, **more)


def test_a_disturbed_pass_is_repeated_until_there_are_enough_clean_ones() -> None:
    assert planned(request(), CLEAN) == ["timing"]
    assert planned(request(), NOISY, CLEAN) == ["timing"] * 2
    assert planned(request(repeats=2), CLEAN, NOISY, CLEAN) == ["timing"] * 3


def test_repetitions_end() -> None:
    assert planned(request(), NOISY, NOISY, NOISY) == ["timing"] * 3
    assert planned(request(repeats=2, retries=1), NOISY, CLEAN, NOISY) == ["timing"] * 3
    assert planned(request(retries=0), NOISY) == ["timing"]
    assert planned(request(repeats=0)) == []


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
    assert [p.kind for p in run.events() if isinstance(p, Pass)] == ["warmup", "timing", "timing"]
    assert len([e for e in run.events() if isinstance(e, Disturbance)]) == 2
    told = result.disturbance
    assert told is not None and result.disturbed and told.sentence
    assert (told.n_disturbed, told.n_passes) == (2, 2)
    assert result.tok_per_s, "the numbers are there, with their mark"
    assert told.others_cores is None or told.others_cores > 0.1
