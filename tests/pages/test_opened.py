"""Which runs the app holds in memory: each once for all tabs, and few long ones."""

from __future__ import annotations

import pytest

from core.runs.store import Store
from pages.ui import state


def test_a_run_is_held_once_and_makes_room_for_others(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = filled.ids()
    run = state.open_run(first)
    result = state.result_of(run)
    assert state.open_run(first) is run and state.result_of(run) is result
    state.open_run(second).events()
    assert state.open_run(first) is run, "there is room for both"
    monkeypatch.setattr(state, "_KEPT_EVENTS", run.n_events)
    state.open_run(second)
    again = state.open_run(first)
    assert again is not run and again.n_events == 0, "it was read no more than it is asked for"
    assert state.result_of(again) == result
