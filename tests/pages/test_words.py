"""The text of a run as the browser asks for it and is told, and the place that it has on the page."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from starlette.datastructures import QueryParams
from streamlit.testing.v1 import AppTest

from core.runs import screens
from core.runs.measuring import measuring
from core.runs.store import Run, Store
from core.types import Counts, Done, Pass, PassKind, Step
from pages.ui import watch, words
from tests.pages.conftest import TINY, sound


class Asked:
    """As much of a request as the route reads."""

    def __init__(self, **query: object) -> None:
        self.query_params = QueryParams({name: str(value) for name, value in query.items()})

    async def is_disconnected(self) -> bool:
        return False


def answer(**query: object) -> dict[str, Any]:
    response = asyncio.run(words.words(Asked(**query)))  # type: ignore[arg-type]
    return dict(json.loads(bytes(response.body)))


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Questions to which there is no answer are soon over."""
    monkeypatch.setattr(words, "LATEST_S", 0.2)
    monkeypatch.setattr(words, "REST_S", 0.05)


@pytest.fixture
def run(filled: Store) -> Run:
    """One that has begun to write: the beginning of a finished run."""
    whole = filled.open(filled.ids()[0])
    begun = filled.create(TINY)
    begun.own(os.getpid())
    for event in whole.events():
        if isinstance(event, Pass):
            break
        begun.append(event)
    return begun


def write(run: Run, kind: PassKind, *pieces: str, number: int = 0) -> None:
    run.append(Pass(t_s=1.0, number=number, kind=kind))
    for text in pieces:
        run.append(
            Step(t_s=1.0, pass_no=number, phase="decode", seconds=0.1, counts=Counts(1, 1, 1), n_context=9, text=text)
        )


def test_the_text_is_told_as_soon_as_there_is_more_of_it(run: Run, home: Path) -> None:
    assert answer(run=run.id) == {}, "nothing yet"
    write(run, "live", "It was ", "a dark")
    told = answer(run=run.id, seen=0)
    assert (told["text"], told["length"], told["over"], told["resting"]) == ("It was a dark", 13, False, "")
    assert told["again_s"] >= words.AGAIN_S and screens.quiet_s(home / "data") < 60, "what is shown was drawn"
    assert answer(run=run.id, seen=13) == {}
    assert answer(run=run.id, seen="many")["length"] == 13
    run.append(Done(t_s=2.0))
    assert answer(run=run.id, seen=13)["over"]


def test_only_the_end_of_a_long_text_is_told() -> None:
    assert words.tail("a" * 5000) == "… " + "a" * words.TAIL and words.tail("short") == "short"


def test_after_a_press_the_run_is_the_one_that_begins_then(
    run: Run, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A press that is refused because of another run does not show that one's text as its own."""
    write(run, "live", "Hello")
    assert answer(but="") == {}, "nobody measures"
    with measuring(home / "data", f"the run {run.id}", run.id):
        assert answer(but="an-earlier-one") == {}, "it went on before the press"
    looks = iter(["", "", "an-earlier-one"])
    monkeypatch.setattr(words.rest, "going", lambda: next(looks, run.id))
    assert answer(but="an-earlier-one")["run"] == run.id
    assert answer(run="../secret") == {} and answer(run="gone") == {}


def test_in_a_rest_there_is_one_answer_and_then_silence(run: Run, home: Path) -> None:
    """The end of the live pass is shown; whatever the timing passes write is not."""
    write(run, "live", "Hello")
    note = screens.begin(home / "data", run.id, 3.0)
    told = answer(run=run.id, seen=2)
    assert told["text"] == "Hello" and told["resting"] == f"{note.since_s:.3f}"
    assert answer(run=run.id, seen=2, resting=told["resting"]) == {}
    screens.end(home / "data")
    assert answer(run=run.id, seen=2, resting=told["resting"])["text"] == "Hello"


def told(at: AppTest) -> list[dict[str, Any]]:
    """What the place of the text was told."""
    components = at.get("bidi_component")
    return [json.loads(c.proto.json) for c in components if c.proto.component_name == "roofscope-words"]


def test_the_page_has_a_place_for_it_before_there_is_a_run_and_after(
    app: Callable[..., AppTest], run: Run, filled: Store
) -> None:
    write(run, "live", "<b>Hello</b>")
    going = sound(app(run=run.id))
    assert told(going) == [{"run": run.id, "text": "<b>Hello</b>", "going": True}]
    assert "<b>Hello</b>" not in [t.value for t in going.text], "not twice"
    over = filled.open(filled.ids()[-1])
    ended = sound(app(run=over.id))
    assert told(ended) == [{"run": over.id, "text": "", "going": False}]
    assert over.result().text in [t.value for t in ended.text]


def test_the_empty_page_has_a_place_for_it_too(app: Callable[..., AppTest], home: Path) -> None:
    assert told(sound(app())) == [{"run": "", "text": "", "going": False}]


def test_a_damaged_run_has_no_text_and_a_deleted_one_is_over(run: Run, home: Path) -> None:
    """Another tab deletes a run that this one looks at, or its folder is damaged under it."""
    seen = len((run.path / "events.jsonl").read_bytes())
    assert watch._news(run, seen + 1, due=True) and not watch._news(run, seen, due=True)
    (run.path / "request.json").write_bytes(b"{")
    told = answer(run=run.id)
    assert told["over"] and told["text"] == ""
    shutil.rmtree(run.path)
    assert watch._news(run, seen, due=False)
    assert answer(run=run.id) == {}
