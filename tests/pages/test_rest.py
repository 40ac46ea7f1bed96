"""What moves and what rests: the still line in place of a page, how often parts are drawn, the browser's question."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import QueryParams
from streamlit.testing.v1 import AppTest

from core.runs import screens
from core.runs.measuring import measuring
from core.runs.store import Run, Store
from core.types import Done, Request, Warned
from pages.ui import live, rest, watch
from tests.pages.conftest import TINY, sound

Open = Callable[..., AppTest]


@pytest.fixture
def root(home: Path) -> Path:
    return home / "data"


MOVING = ("roofscope-rest", "roofscope-pulse")  # pages/ui/rest.py; another one only names what is there


def told(at: AppTest) -> list[dict[str, Any]]:
    """What the page's components were told."""
    return [json.loads(c.proto.json) for c in at.get("bidi_component") if c.proto.component_name in MOVING]


def going(store: Store, request: Request = TINY) -> Run:
    """A run that this process performs, as far as anybody can see."""
    run = store.create(request)
    run.own(os.getpid())
    run.append(Warned(t_s=0.1, message="begun"))
    return run


@pytest.mark.parametrize("page", [None, "pages/compare/history.py", "pages/understand/layers.py"])
def test_a_page_is_one_still_line_while_numbers_are_taken(
    app: Open, filled: Store, root: Path, page: str | None
) -> None:
    screens.begin(root, filled.ids()[0], 4.2)
    at = sound(app(page))
    (line,) = told(at)
    assert line["kind"] == "line" and line["drawn_resting"]
    assert line["rest"]["words"] == "Timing: the screen rests so that the number is clean, about 4 s"
    kinds = ("title", "metric", "button", "markdown", "caption", "vega_lite_chart", "dataframe", "progress")
    assert {kind: len(at.get(kind)) for kind in kinds} == dict.fromkeys(kinds, 0)
    assert screens.quiet_s(root) > 0
    screens.end(root)
    sound(at.run())
    assert at.title and all(not t["rest"] for t in told(at) if t["kind"] == "line")


def test_a_form_keeps_what_was_typed_while_the_screen_rests(app: Open, root: Path) -> None:
    at = app()
    at.number_input(key="max_new_tokens").set_value(7).run()
    screens.begin(root, "some-run", 1.0)
    assert not sound(at.run()).number_input
    screens.end(root)
    assert sound(at.run()).number_input(key="max_new_tokens").value == 7


def test_a_stop_in_the_line_is_a_stop_of_the_run(filled: Store, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = filled.open(filled.ids()[0])
    screens.begin(root, run.id, 1.0)
    rest._stop()
    assert run.cancel_requested
    screens.begin(root, "gone", 1.0)
    rest._stop()


def test_what_goes_on_has_a_pulse_and_what_has_ended_has_none(app: Open, store: Store) -> None:
    run = going(store)
    seen = rest.heard(run)
    at = sound(app(run=run.id))
    pulses = [t for t in told(at) if t["kind"] == "pulse"]
    assert {p["run"] for p in pulses} == {run.id} and {p["seen"] for p in pulses} == {seen}
    run.append(Done(t_s=1.0))
    assert [t["kind"] for t in told(sound(at.run()))] == ["line"]


@pytest.mark.parametrize(
    "page", ["pages/compare/tradeoffs.py", "pages/compare/history.py", "pages/understand/roofline.py"]
)
def test_what_only_idles_never_asks_to_be_drawn(app: Open, filled: Store, page: str) -> None:
    assert [t["kind"] for t in told(sound(app(page)))] == ["line"]


def test_charts_are_drawn_as_often_as_the_machine_can_spare(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = {}
    for cores in (2, 16):
        monkeypatch.setattr(live, "usable_cores", lambda cores=cores: cores)
        found[cores] = live.paces("charts")[0]
    assert found == {2: 2.0, 16: 1.0}
    assert live.paces("text", first=True)[0] < live.paces("text")[0]


def test_an_evaluation_asks_for_rare_drawing_and_the_screen_obeys(home: Path, root: Path) -> None:
    screens.begin(root, "some-run", 0.0, every_s=10.0)
    assert rest.resting() is None, "it draws, but rarely"
    assert {live.paces(pace)[0] for pace in ("text", "strip", "charts")} == {10.0}
    screens.end(root)
    assert live.paces("text")[0] < 1


class Asked:
    """As much of a request as the route reads."""

    def __init__(self, gone: bool = False, **query: object) -> None:
        self.query_params = QueryParams({name: str(value) for name, value in query.items()})
        self.gone = gone

    async def is_disconnected(self) -> bool:
        return self.gone


def answer(**query: object) -> dict[str, Any]:
    response = asyncio.run(watch.watch(Asked(**query)))  # type: ignore[arg-type]
    return dict(json.loads(bytes(response.body)))


def test_the_question_is_answered_when_a_rest_begins_or_ends(store: Store, root: Path) -> None:
    note = screens.begin(root, "some-run", 3.0)
    found = answer(resting="", after_s=30)
    assert found["news"] == "" and found["rest"]["expected_s"] == 3.0
    since = found["rest"]["since"]
    assert since == f"{note.since_s:.3f}"
    screens.end(root)
    assert answer(resting=since) == {"rest": None, "news": ""}


def test_the_question_is_answered_when_there_are_news(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "LATEST_S", 0.2)
    run = going(store)
    size = rest.heard(run)
    assert answer(resting="", after_s=0, run=run.id, seen=0)["news"] == "new"
    assert answer(resting="", after_s=0, run=run.id, seen=size)["news"] == "late"
    assert answer(resting="", after_s=30, run=run.id, seen=0)["news"] == "late", "its pace does not allow it yet"
    assert answer(resting="", after_s=0.01, latest_s=0.01)["news"] == "late", "what belongs to no run"
    run.append(Done(t_s=1.0))
    assert answer(resting="", after_s=30, run=run.id, seen=size)["news"] == "new", "its end is told at once"
    assert answer(resting="", after_s=0, run="../secret", seen="x")["news"] == "late"


def test_a_tab_in_which_nothing_moves_hears_of_a_run_of_another_app(app: Open, filled: Store, root: Path) -> None:
    """By a question that is answered at once; the page drawn then has the run's strip, and a way to stop it."""
    quiet = sound(app("pages/manage/storage.py"))
    assert [t["going"] for t in told(quiet) if t["kind"] == "line"] == [""] == [answer(idle="1")["going"]]
    run = going(filled)
    with measuring(root, f"the run {run.id}", run.id):
        assert answer(idle="1") == {"rest": None, "going": run.id}
        at = sound(quiet.run())
        assert [t["going"] for t in told(at) if t["kind"] == "line"] == [run.id]
        at.button(key="strip-stop").click().run()
        assert run.cancel_requested
    run.append(Done(t_s=1.0, cancelled=True))
    assert answer(idle="1")["going"] == ""


def test_a_load_test_is_no_run_and_has_no_strip(root: Path) -> None:
    with measuring(root, "the load test x", "x"):
        assert rest.going() == ""


def test_a_tab_that_may_still_draw_keeps_the_worker_from_timing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_restless", {})
    drawn = root / screens.DREW

    async def tab_comes_to_rest() -> None:
        note = screens.begin(root, "some-run", 3.0)
        since = f"{note.since_s:.3f}"
        await watch.watch(Asked(tab="one", resting=""))  # type: ignore[arg-type]
        while not drawn.exists():
            await asyncio.sleep(0.01)
        drawn.unlink()
        while not drawn.exists():  # again and again, for it has not said that it rests
            await asyncio.sleep(0.01)
        question = asyncio.create_task(watch.watch(Asked(tab="one", resting=since)))  # type: ignore[arg-type]
        assert watch._holder is not None
        await watch._holder
        drawn.unlink()
        screens.end(root)
        await question

    asyncio.run(asyncio.wait_for(tab_comes_to_rest(), 60))
    assert not drawn.exists(), "nobody draws once all rest"


def test_a_tab_that_hung_up_is_not_waited_for_long(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watch, "_restless", {})
    until = {}
    for name, gone in (("gone", True), ("here", False)):
        asyncio.run(watch.watch(Asked(gone, tab=name, resting="", after_s=0.01, latest_s=0.01)))  # type: ignore[arg-type]
        until[name] = watch._restless[name]
    assert until["gone"] < until["here"]
