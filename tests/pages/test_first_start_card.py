"""The card of a first start on the screen, its three ways, and the tour from page to page."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.learn.first_start import MARK, TOUR
from core.runs.demo import OFFERED
from tests.pages.conftest import sound

Open = Callable[..., AppTest]


def keys(at: AppTest) -> set[str]:
    return {b.key for b in at.button if b.key}


def place(at: AppTest) -> int:
    """Which of the page's parts the form and the view are."""
    return next(n for n, part in at.main.children.items() if "panes" in getattr(part.proto, "id", ""))


@pytest.fixture
def fresh(home: Path, app: Open) -> AppTest:
    (home / "data" / OFFERED).unlink()
    at = sound(app())
    assert {"first-run", "first-tour", "first-lesson"} <= keys(at)
    return at


def test_begun_with_run_it_never_comes_again(fresh: AppTest, home: Path, app: Open) -> None:
    before = place(fresh)
    sound(fresh.button(key="first-run").click().run())
    assert "first-run" not in keys(fresh) and (home / "data" / MARK).exists()
    assert place(fresh) == before  # moved, the page would be seen twice until it is drawn
    assert "first-run" not in keys(sound(app()))


def test_the_tour_goes_from_page_to_page_and_ends(fresh: AppTest) -> None:
    at = sound(fresh.button(key="first-tour").click().run())
    for stop in TOUR[1:3]:
        assert "first-run" not in keys(at)
        sound(at.button(key="tour-on").click().run())
        assert at.title[0].value == stop.title and any(stop.words[:20] in m.value for m in at.markdown)
    sound(at.button(key="tour-end").click().run())
    assert "tour-end" not in keys(at)


def test_a_lesson_is_open_at_once(fresh: AppTest) -> None:
    at = sound(fresh.button(key="first-lesson").click().run())
    assert at.title[0].value == "Lessons" and "What must be read" in at.header[0].value
