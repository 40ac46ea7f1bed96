"""Watched runs: the order of their passes, provisional numbers, and the note that lets the screens rest."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from core.runs import screens
from core.runs.recording import Recording
from core.runs.runner import Runner
from core.runs.summarize import summarize
from core.types import Disturbance, Generate, Pass, Phase, Request, Step
from core.worker import generate, silence
from core.worker.journal import Cancelled
from hardware import load


def live(request: Request, **more: object) -> Request:
    return msgspec.structs.replace(request, live=True, **more)


def test_a_watched_run_is_shown_before_it_is_timed(runner: Runner, fake_request: Request) -> None:
    run = runner.wait(runner.start(live(fake_request, repeats=2, profilers=("memory",))))
    events, result = run.events(), run.result()
    assert result.status == "done", result.error
    kinds = [p.kind for p in events if isinstance(p, Pass)]
    assert kinds == ["live", "warmup", "timing", "timing", "profile"]
    assert not result.provisional and result.tpot_samples_s
    assert [e.pass_no for e in events if isinstance(e, Disturbance)] == [2, 3]
    assert result.disturbance is not None and result.disturbance.n_passes == 2
    assert screens.rest(runner.store.root) is None and not (runner.store.root / screens.REST).exists()

    until = next(i for i, e in enumerate(events) if isinstance(e, Phase) and e.name == "resting")
    first = summarize(run.id, Recording(run.request, events[:until]), "running")
    assert first.provisional and first.tok_per_s and first.text == result.text and first.n_new_tokens == 6


def test_a_warm_worker_shows_and_times_as_well(runner: Runner, fake_request: Request) -> None:
    runner.wait(runner.start(msgspec.structs.replace(fake_request, profilers=())))
    run = runner.wait(runner.start(live(fake_request, profilers=())))
    assert run.result().warm is True, "watching is no part of the session"
    assert [p.kind for p in run.events() if isinstance(p, Pass)] == ["live", "warmup", "timing"]


def test_nobody_watches_a_request_by_default(runner: Runner, fake_request: Request) -> None:
    run = runner.wait(runner.start(fake_request))
    assert not any(isinstance(e, Phase) and e.name == "resting" for e in run.events())
    assert next(p.kind for p in run.events() if isinstance(p, Pass)) == "warmup"
    assert any(isinstance(e, Disturbance) for e in run.events()), "measured always"


@contextmanager
def drawing(root: Path) -> Iterator[None]:
    """A screen that draws until it shall rest."""
    over = threading.Event()

    def draw() -> None:
        while screens.rest(root) is None and not over.wait(0.2):
            screens.drew(root)

    thread = threading.Thread(target=draw)
    screens.drew(root)
    thread.start()
    try:
        yield
    finally:
        over.set()
        thread.join()


def test_screens_that_draw_rest_also_without_a_pass_to_look_at(runner: Runner, fake_request: Request) -> None:
    run_id = runner.start(msgspec.structs.replace(fake_request, profilers=()))
    with drawing(runner.store.root):
        run = runner.wait(run_id)
    assert [e.note for e in run.events() if isinstance(e, Phase) and e.name == "resting"]
    assert [p.kind for p in run.events() if isinstance(p, Pass)][-1] == "timing"
    assert not any(p.kind == "live" for p in run.events() if isinstance(p, Pass))
    assert not (runner.store.root / screens.REST).exists()


def test_the_note_lies_there_while_steps_are_timed_and_a_stop_removes_it(runner: Runner, fake_request: Request) -> None:
    task = Generate(prompt="Hello", max_new_tokens=40)
    run_id = runner.start(live(fake_request, task=task, options={"delay_s": 0.05}, profilers=()))
    run = runner.store.open(run_id)
    end = time.monotonic() + 60
    while not any(isinstance(e, Step) and e.pass_no == 2 for e in run.events()):
        assert time.monotonic() < end, run.events()[-3:]
        time.sleep(0.02)
    note = screens.rest(runner.store.root)
    assert note is not None and note.run == run_id and note.every_s is None and note.expected_s > 2
    runner.cancel(run_id)
    assert runner.wait(run_id).status() == "cancelled"
    assert not (runner.store.root / screens.REST).exists()


class Waiting:
    """A journal that says nothing, on a clock that goes on as often as it is looked at."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch, quiet_s: list[float], others: list[float]) -> None:
        self.root, self.run, self.slept_s, self.stop = root, SimpleNamespace(id="r1"), 0.0, False
        self.notes: list[str] = []
        monkeypatch.setattr(silence, "time", SimpleNamespace(monotonic=lambda: self.slept_s, sleep=self.sleep))
        monkeypatch.setattr(silence.screens, "quiet_s", lambda root: quiet_s.pop(0) if quiet_s else float("inf"))
        busy = SimpleNamespace(read=lambda: None, between=lambda a, b: self.load(others.pop(0) if others else 0.0))
        monkeypatch.setattr(silence, "load", busy)
        monkeypatch.setattr(silence, "await_calm", lambda request, journal: None)  # see test_disturbed

    def load(self, cores: float) -> load.Load:
        return load.Load(silence.WINDOW_S, 0.0, 0.0, cores * silence.WINDOW_S, 0.0)

    def sleep(self, seconds: float) -> None:
        self.slept_s += seconds

    def phase(self, name: str, note: str = "") -> None:
        self.notes.append(note)

    def stop_if_asked(self) -> None:
        if self.stop:
            raise Cancelled


WATCHED = Request(model="m", backend="fake", live=True)


def test_it_waits_for_the_screens_and_then_for_the_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    drawing = [0.1] * 30 + [1.3]
    journal: Any = Waiting(tmp_path, monkeypatch, drawing, [0.8, 0.05])
    with silence.silence(WATCHED, journal, 3.0) as waited:
        note = screens.rest(tmp_path)
        assert waited and note is not None and note.run == "r1" and note.expected_s > 3.0
    assert journal.slept_s == pytest.approx(30 * silence.POLL_S + 2 * silence.WINDOW_S)
    assert screens.rest(tmp_path) is None and journal.notes


def test_a_screen_that_was_still_has_time_to_hear_of_the_rest(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal: Any = Waiting(tmp_path, monkeypatch, [], [])
    with silence.silence(WATCHED, journal, 3.0):
        assert screens.PAUSE_S <= journal.slept_s <= screens.PAUSE_S + silence.POLL_S + silence.WINDOW_S


def test_what_never_rests_does_not_stop_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal: Any = Waiting(tmp_path, monkeypatch, [0.0] * 10_000, [2.0] * 10_000)
    with silence.silence(WATCHED, journal, 3.0):
        pass
    assert journal.slept_s == pytest.approx(silence.SCREENS_MOST_S + silence.OTHERS_MOST_S, abs=1)


def test_a_stop_while_it_waits_and_a_failure_remove_the_note(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal: Any = Waiting(tmp_path, monkeypatch, [0.1] * 10, [])
    journal.stop = True
    with pytest.raises(Cancelled), silence.silence(WATCHED, journal, 3.0):
        pass
    assert not (tmp_path / screens.REST).exists()
    journal.stop = False
    with pytest.raises(MemoryError), silence.silence(WATCHED, journal, 3.0):
        assert (tmp_path / screens.REST).exists()
        raise MemoryError
    assert not (tmp_path / screens.REST).exists()


def test_an_evaluation_lets_the_screens_draw_rarely(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    journal: Any = Waiting(tmp_path, monkeypatch, [], [])
    with silence.rare_drawing(WATCHED, journal):
        note = screens.rest(tmp_path)
        assert note is not None and note.every_s == silence.EVALUATION_EVERY_S
    with silence.rare_drawing(Request(model="m", backend="fake"), journal):
        assert screens.rest(tmp_path) is None
    assert journal.slept_s == 0


@pytest.mark.parametrize(
    ("shown_s", "rests"),
    [
        (60.0, [["warmup", "timing", "memory"]]),
        (-1.0, [["warmup", "timing"], ["warmup", "memory"]]),
    ],
)
def test_profilers_rest_too_and_long_timing_is_shown_before_them(
    shown_s: float, rests: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[list[str]] = []

    @contextmanager
    def resting(*_: object) -> Iterator[bool]:
        seen.append([])
        yield True

    monkeypatch.setattr(generate, "silence", resting)
    monkeypatch.setattr(generate, "SHOWN_BETWEEN_S", shown_s)
    ended: list[Any] = []
    request = msgspec.structs.replace(WATCHED, profilers=("memory",))
    session: Any = SimpleNamespace(capabilities=frozenset())
    for kind, profiler in generate._plan(request, session, SimpleNamespace(), ended):  # type: ignore[arg-type]
        ended.append(SimpleNamespace(disturbed=False))
        if seen:
            seen[-1].append(profiler or kind)
    assert seen == rests
