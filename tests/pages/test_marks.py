"""What a disturbed or provisional number carries, on the pages and in words."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable

import msgspec
import pytest
from streamlit.testing.v1 import AppTest

from core.runs.store import Run, Store
from core.types import Disturbance, Pass, ProfilerCost, Step, to_json
from pages.ui import marks
from tests.pages.conftest import sound

Open = Callable[..., AppTest]


def rewritten(store: Store, change: Callable[[object], list[object]], run_id: str) -> Run:
    """A copy of a recorded run under a newer name, with other events."""
    source = store.open(run_id)
    path = store.folder / f"2099{run_id[4:]}"
    shutil.copytree(source.path, path)
    changed = [new for event in source.events() for new in change(event)]
    (path / "events.jsonl").write_bytes(b"".join(to_json(event) + b"\n" for event in changed))
    return Run(path)


@pytest.fixture
def disturbed(filled: Store) -> Run:
    """A finished run in which others took half of the processor."""

    def change(event: object) -> list[object]:
        if isinstance(event, Disturbance):
            return [msgspec.structs.replace(event, seconds=4.0, cpu_s=2.0, waited_s=2.0)]
        return [event]

    run = rewritten(filled, change, filled.ids()[0])
    assert run.result().disturbed
    return run


@pytest.fixture
def watched(filled: Store) -> Run:
    """A run that is going, of which only the live pass has been seen."""
    numbers: set[int] = set()

    def change(event: object) -> list[object]:
        if isinstance(event, Pass):
            numbers.add(event.number)
            return [msgspec.structs.replace(event, kind="live")] if len(numbers) == 1 else []
        if isinstance(event, Step):
            return [event] if len(numbers) == 1 else []
        return [event] if not numbers or type(event).__name__ == "Loaded" else []

    run = rewritten(filled, change, filled.ids()[0])
    run.own(os.getpid())
    assert run.result().provisional and run.status() == "running"
    return run


def test_a_disturbed_result_says_so_wherever_its_speed_stands(app: Open, filled: Store, disturbed: Run) -> None:
    at = sound(app(run=disturbed.id))
    tile = next(m for m in at.metric if m.label == "Decode")
    assert tile.delta == marks.DISTURBED and "~" not in tile.value
    assert "processor time" in tile.proto.help and "Passes found disturbed: 1 of 1" in tile.proto.help
    assert any(marks.DISTURBED in m.value and "processor time" in m.value for m in at.markdown), "the end of the run"

    for page in ("roofline", "layers", "memory"):
        at = sound(app(f"pages/understand/{page}.py", run=disturbed.id))
        assert any(marks.DISTURBED in m.value and "processor time" in m.proto.help for m in at.markdown), page

    at = sound(app("pages/compare/history.py"))
    table = at.dataframe[0].value
    assert "processor time" in table["Disturbed"].iloc[0]
    assert table["Disturbed"].count() == 1, "nothing is said of the others"

    clean = next(i for i in filled.ids() if i != disturbed.id)
    at = sound(app("pages/compare/compare.py", first=clean, second=disturbed.id))
    deltas = {m.label: m.delta for m in at.metric}
    assert deltas["Decode speed"].startswith("~") and not deltas["Peak memory"].startswith("~")
    assert any("second run" in w.proto.title + w.value for w in at.warning)


def test_a_watched_number_is_provisional(app: Open, watched: Run) -> None:
    at = sound(app(run=watched.id))
    tile = next(m for m in at.metric if m.label == "Decode")
    assert tile.value.startswith("~ ") and tile.delta == marks.PROVISIONAL
    assert "silent passes" in tile.proto.help


def test_a_profiler_that_beats_the_plain_pass_is_a_sign_and_no_number() -> None:
    costs = [ProfilerCost(profiler=n, ratio=r, seconds=1.0) for n, r in (("layers", 1.4), ("memory", 0.31))]
    words = marks.profiler_line(costs)
    assert "the pass of “Layer times” ran 1.40 × as long per step" in words
    assert "0.31" not in words and "the pass of “Memory” beat the plain pass" in words
    assert marks.profiler_line([]) == ""
    assert marks.profiler_line([ProfilerCost(profiler="memory", ratio=0.97, seconds=1.0)]) == (
        "the pass of “Memory” cost nothing that shows"
    )
