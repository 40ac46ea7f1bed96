"""What every profiler must do, on every backend: tell what the pass did, in its own pass, and leave no trace.

All profilers are found by the registry; tiny models as in test_backends.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.types import Counts, Phase, Profiler, Session, Step, Warned, from_json, to_json
from tests.support.tiny_session import BACKENDS, opened

PASS_NO = 3
PROMPT = np.random.default_rng(5).integers(33, 120, size=(1, 12))


@pytest.fixture(scope="module", params=BACKENDS)
def session(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Session]:
    made = opened(str(request.param), tmp_path_factory.mktemp("tiny"))
    yield made
    made.close()


@pytest.fixture(params=plugins.names("profiler"))
def profiler(request: pytest.FixtureRequest, session: Session) -> Profiler:
    found = plugins.get("profiler", request.param)
    if missing := found.needs - session.capabilities:
        pytest.skip(f"the session cannot {', '.join(sorted(missing))}")
    if reason := found.unavailable():
        pytest.skip(reason)
    return found


def step(phase: Any, n_input: int, n_context: int, seconds: float) -> Step:
    return Step(
        t_s=0.0,
        pass_no=PASS_NO,
        phase=phase,
        seconds=seconds,
        counts=Counts(tokens=1, forwards=1, inputs=n_input),
        n_context=n_context,
    )


def ran(session: Session, attachment: Any = None, n: int = 4) -> tuple[list[int], list[Any]]:
    """(tokens, events) of a pass as the worker makes it."""
    session.reset()
    tokens, events, ids = list[int](), list[Any](), PROMPT
    for i in range(n):
        phase = "decode" if i else "prefill"
        if attachment and i < 2:
            attachment.phase(phase)
        started = time.perf_counter()
        logits = session.forward(ids, keep=1).argmax()
        session.commit(ids.shape[1])
        session.sync()
        seconds = time.perf_counter() - started
        if attachment:
            attachment.step(step(phase, ids.shape[1], session.n_committed, seconds))
            events += attachment.events()
        tokens.append(int(logits[0, 0]))
        ids = logits
    if attachment:
        attachment.close()
        events += attachment.events()
    return tokens, events


def needs_cache(session: Session) -> None:
    if "cache" not in session.capabilities:
        pytest.skip("the session keeps no cache")


def test_a_pass_is_told_and_computes_what_it_does_without(session: Session, profiler: Profiler) -> None:
    needs_cache(session)
    plain, _ = ran(session)
    began = time.perf_counter()
    tokens, events = ran(session, profiler.attach(session, PASS_NO))
    assert tokens == plain
    assert events, "a profiler that says nothing measures nothing"
    for event in events:
        assert from_json(to_json(event), type(event)) == event
        assert began <= event.t_s <= time.perf_counter()
        if isinstance(event, Phase):  # how far it is
            assert event.name == "profiling" and event.note
            continue
        assert isinstance(event, Warned) or event.pass_no == PASS_NO
        assert getattr(event, "phase", "prefill") in ("start", "prefill", "decode")


def test_it_leaves_the_session_and_the_process_as_they_were(session: Session, profiler: Profiler) -> None:
    needs_cache(session)
    plain, _ = ran(session)
    threads = threading.active_count()
    attachment = profiler.attach(session, PASS_NO)
    ran(session, attachment)
    attachment.close()  # twice does no harm
    assert threading.active_count() <= threads
    assert ran(session)[0] == plain


def test_a_pass_that_is_broken_off_can_be_closed(session: Session, profiler: Profiler) -> None:
    needs_cache(session)
    plain, _ = ran(session)
    profiler.attach(session, PASS_NO).close()
    attachment = profiler.attach(session, PASS_NO)
    attachment.phase("prefill")
    session.reset()
    session.forward(PROMPT, keep=1)
    attachment.close()
    assert ran(session)[0] == plain
