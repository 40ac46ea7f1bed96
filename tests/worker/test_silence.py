"""Watched runs: the order of their passes, provisional numbers, and the note that lets the screens rest."""

from __future__ import annotations

import time

import msgspec

from core.runs import screens
from core.runs.runner import Runner
from core.runs.summarize import summarize
from core.types import Disturbance, Generate, Pass, Phase, Request, Step


def live(request: Request, **more: object) -> Request:
    return msgspec.structs.replace(request, live=True, **more)


def test_a_watched_run_is_shown_before_it_is_timed(runner: Runner, fake_request: Request) -> None:
    run = runner.wait(runner.start(live(fake_request, repeats=2, profilers=("memory",))))
    events, result = run.events(), run.result()
    assert result.status == "done", result.error
    kinds = [p.kind for p in events if isinstance(p, Pass)]
    assert kinds == ["live", "warmup", "timing", "timing", "profile"]
    assert not result.provisional and len(result.tpot_samples_s) == 2
    assert [e.pass_no for e in events if isinstance(e, Disturbance)] == [2, 3]
    assert result.disturbance is not None and result.disturbance.n_passes == 2
    assert screens.rest(runner.store.root) is None and not (runner.store.root / screens.REST).exists()

    until = next(i for i, e in enumerate(events) if isinstance(e, Phase) and e.name == "resting")
    first = summarize(run.id, run.request, events[:until], "running")
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


def test_screens_that_draw_rest_also_without_a_pass_to_look_at(runner: Runner, fake_request: Request) -> None:
    screens.drew(runner.store.root)
    run = runner.wait(runner.start(msgspec.structs.replace(fake_request, profilers=())))
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
