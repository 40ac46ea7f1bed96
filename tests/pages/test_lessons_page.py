"""The lessons on the screen: every step draws, answers are told, progress is kept, and a step has an address."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.learn import progress
from core.learn.lesson import Choice, Number, get, names
from core.paths import data_dir
from core.runs.demo import OFFERED
from core.runs.store import Store
from core.types import Request
from pages.ui import lesson_view, text
from tests.pages.conftest import ROOT, sound

Open = Callable[..., AppTest]
PAGE = str(ROOT / "pages/learn/lessons.py")


def opened(**query: str) -> AppTest:
    at = AppTest.from_file(PAGE, default_timeout=120)
    for name, value in query.items():
        at.query_params[name] = value
    return sound(at.run())


@pytest.fixture
def fresh(home: Path) -> Path:
    """A fresh machine: the recorded run is offered."""
    (home / "data" / OFFERED).unlink()
    return home


@pytest.mark.parametrize("name", names())
def test_every_step_draws(fresh: Path, name: str) -> None:
    at = opened(lesson=name)
    for place, step in enumerate(get(name).steps, 1):
        assert text.escape(step.title) in at.header[0].value, place
        assert not at.error
        for element in at.get("vega_lite_chart"):
            assert element.proto.alt
        if isinstance(step.check, Choice):
            assert len(at.radio[0].options) == len(step.check.options)
        if isinstance(step.check, Number):
            assert step.check.unit in at.text_input[0].label
        if step.kind == "do":
            assert [m.label for m in at.metric] == ["Measured", "Computed", "Ratio"]
            assert "recorded" in " ".join(c.value for c in at.caption)
        if place < len(get(name).steps):
            sound(at.button(key="lesson-on").click().run())
    assert progress.done(data_dir())[name] >= {i for i, s in enumerate(get(name).steps, 1) if s.check is None}


def test_a_lesson_from_start_to_end(home: Path) -> None:
    at = opened()
    assert len([b for b in at.button if (b.key or "").startswith("open-")]) == 13
    sound(at.button(key="open-kv_cache").click().run())
    at.radio[0].set_value(0)
    sound(at.button[[b.label for b in at.button].index("Check")].click().run())
    assert at.warning[0].proto.title == "Not quite" and "It sees as many" in at.warning[0].value
    at.radio[0].set_value(1)
    sound(at.button[[b.label for b in at.button].index("Check")].click().run())
    assert at.success[0].proto.title == "Right"
    assert progress.done(data_dir()) == {"kv_cache": frozenset({1})}
    for _ in range(3):
        sound(at.button(key="lesson-on").click().run())
    at.text_input[0].set_value("11 520")
    sound(at.button[[b.label for b in at.button].index("Check")].click().run())
    assert "keys or values" in at.warning[0].value and not at.expander
    at.text_input[0].set_value("768")
    sound(at.button[[b.label for b in at.button].index("Check")].click().run())
    assert "one block" in at.warning[0].value and "23,040 B" in at.expander[0].markdown[0].value
    at.text_input[0].set_value("23,04 k")
    sound(at.button[[b.label for b in at.button].index("Check")].click().run())
    assert at.success[0].proto.title == "Right"
    assert 4 in progress.done(data_dir())["kv_cache"]


def test_behind_the_last_step_the_same_button_leads_to_the_next_lesson(home: Path) -> None:
    at = opened(lesson="one_token", step=str(len(get("one_token").steps)))
    on = at.button(key="lesson-on")
    following = get(names()[names().index("one_token") + 1])
    assert on.label == f"Next lesson: {following.title}"
    sound(on.click().run())
    assert text.escape(following.steps[0].title) in at.header[0].value and at.query_params["step"] == "1"


def test_a_step_has_an_address_and_nonsense_is_none(home: Path) -> None:
    assert "Per token" in opened(lesson="kv_cache", step="4").header[0].value
    assert "Fewer heads" in opened(lesson="kv_cache", step="99").header[0].value
    assert not opened(lesson="nonsense", step="x").header


def test_the_control_is_kept_from_move_to_check(home: Path) -> None:
    at = opened(lesson="one_token", step="2")
    sound(at.select_slider[0].set_value("fp32").run())
    sound(at.button(key="lesson-on").click().run())
    assert at.select_slider[0].value == "fp32"
    sound(at.button(key="lesson-on").click().run())
    assert "fp32" in " ".join(m.value for m in at.markdown)


def test_a_question_is_asked_with_other_numbers_and_back(home: Path) -> None:
    at = opened(lesson="guessing", step="4")
    usual = at.markdown[-1].value
    at.text_input[0].set_value("8")
    sound(at.button(key="lesson-variant").click().run())
    other = at.markdown[-1].value
    assert other != usual and at.text_input[0].value == "" and at.query_params["variant"]
    assert opened(lesson="guessing", step="4", variant=at.query_params["variant"][0]).markdown[-1].value == other
    sound(at.button(key="lesson-own").click().run())
    assert at.markdown[-1].value == usual
    assert opened(lesson="guessing", step="4", variant="x").markdown[-1].value == usual


def test_lecture_mode_goes_along_and_ends(app: Open, filled: Store) -> None:
    at = sound(app("pages/learn/lessons.py", lesson="roofline", lecture="1"))
    assert at.button(key="lecture-off") and not [b for b in at.button if b.key == "lecture-begin"]
    sound(at.switch_page("pages/understand/jacobi.py").run())
    assert at.button(key="lecture-off")
    sound(at.button(key="lecture-off").click().run())
    assert not [b for b in at.button if b.key == "lecture-off"]


def test_one_run_is_started_from_the_lesson(filled: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Request] = []

    class StandIn:
        def active(self) -> None:
            return None

        def start(self, request: Request) -> str:
            asked.append(request)
            return filled.ids()[0]

    monkeypatch.setattr(lesson_view, "runner", StandIn)
    at = opened(lesson="batching", step=str(len(get("batching").steps)))
    sound(at.button(key="lesson-do").click().run())
    (request,) = asked
    assert (request.model, request.backend, request.batch) == ("smollm2-135m", "pytorch", 4)


def test_who_is_sent_to_another_page_finds_the_way_back(app: Open, filled: Store) -> None:
    last = len(get("quantization").steps)
    at = sound(app("pages/learn/lessons.py", lesson="quantization", step=str(last)))
    assert not [b for b in at.button if b.key == "way-back-go"]
    at = sound(at.button(key="lesson-do").click().run())
    assert at.title[0].value == "Transform"
    at._page_hash = ""  # else AppTest opens the page of the last switch_page again
    at = sound(at.button(key="way-back-go").click().run())
    assert at.title[0].value == "Lessons" and text.escape(get("quantization").steps[-1].title) in at.header[0].value
    at = sound(at.switch_page("pages/measure/transform.py").run())
    assert not [b for b in at.button if b.key == "way-back-go"]
