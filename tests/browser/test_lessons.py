"""A lesson from its list to its end, answered with the keyboard, and lecture mode by its keys alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.learn.lesson import get
from tests.browser import lecture
from tests.browser.conftest import Server, still

pytestmark = pytest.mark.browser
LESSON = "one_token"


@pytest.fixture(scope="module")
def server(shown: Server) -> Server:
    return shown


def step(page: Any, place: int, lesson: str = LESSON) -> Any:
    """Waits until the step at this place is on the screen."""
    from playwright.sync_api import expect

    title = page.get_by_role("heading", name=get(lesson).steps[place - 1].title, exact=False)
    expect(title).to_be_visible()
    way = ".st-key-lesson-on, .st-key-lesson-back"
    expect(page.locator(way).last.locator("button").first).to_be_visible()  # its keys are heard from then on
    still(page)
    return title


def test_a_lesson_is_taken_with_the_keyboard(server: Server, tab: Callable[[], Any]) -> None:
    from playwright.sync_api import expect

    page = tab()
    page.goto(server.address("lessons"))
    page.locator(f".st-key-open-{LESSON} button").first.click()
    step(page, 1)
    page.get_by_role("radio", name="All of them").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Check").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_text("every matrix takes part")).to_be_visible()
    page.locator(".st-key-lesson-on button").first.focus()
    page.keyboard.press("Enter")
    step(page, 2)
    expect(
        page.locator("[data-testid=stVegaLiteChart] svg, [data-testid=stVegaLiteChart] canvas").first
    ).to_be_visible()
    page.goto(server.address("lessons", lesson=LESSON, step=4))
    step(page, 4)
    link = page.get_by_role("link", name="Skip to main content")
    link.focus()  # it stands before all others
    expect(page.locator("a, button, input").first).to_be_focused()
    page.keyboard.press("Enter")
    expect(page.locator("#stMain")).to_be_focused()
    page.get_by_role("textbox", name="Your answer in bytes").fill("2,15 G")
    page.keyboard.press("Enter")
    expect(page.get_by_text("These are bits.")).to_be_visible()
    page.get_by_role("textbox", name="Your answer in bytes").fill("269 M")
    page.keyboard.press("Enter")
    expect(page.get_by_text("weights in bf16: 269 MB")).to_be_visible()


def test_lecture_mode_has_arrow_keys_and_escape(server: Server, tab: Callable[[], Any]) -> None:
    from playwright.sync_api import expect

    page = tab()
    page.goto(server.address("lessons", lesson=LESSON, lecture=1))
    step(page, 1)
    expect(page.get_by_test_id("stSidebar")).to_be_hidden()
    for place in (2, 3):
        page.keyboard.press("ArrowRight")
        step(page, place)
    page.keyboard.press("ArrowLeft")
    step(page, 2)
    page.keyboard.press("Escape")
    expect(page.locator(".st-key-lecture-off")).to_have_count(0)
    expect(page.get_by_test_id("stSidebar")).to_be_visible()


def test_the_fullest_steps_of_a_lecture_fit_on_one_screen(server: Server, tab: Callable[[], Any]) -> None:
    """Of each kind the step with the most words, and the stepper; `python -m tests.browser.lecture` looks at all."""
    page = tab()
    for lesson, place in lecture.fullest():
        page.goto(server.address("lessons", lesson=lesson, step=place, lecture=1))
        step(page, place, lesson)
        for width, height in lecture.SCREENS:
            page.set_viewport_size({"width": width, "height": height})
            page.wait_for_function(lecture.FITS)


def test_stepper_and_graph_obey_the_keys_in_a_lecture(server: Server, tab: Callable[[], Any]) -> None:
    from playwright.sync_api import expect

    page = tab()
    page.goto(server.address("lessons", lesson="jacobi", step=2, lecture=1))
    step(page, 2, "jacobi")
    said = page.locator(".race [role=status]")
    page.get_by_role("button", name="Step ▶").focus()
    page.keyboard.press("Enter")
    expect(said).to_contain_text("New: ")
    time = page.get_by_role("slider", name="Time of the race")
    before = time.get_attribute("aria-valuetext")
    time.focus()
    page.keyboard.press("ArrowLeft")  # its own key; the step stays
    expect(time).not_to_have_attribute("aria-valuetext", str(before))
    step(page, 2, "jacobi")
    page.get_by_role("button", name="Pages").focus()
    page.keyboard.press("Enter")
    page.get_by_role("link", name="Layers").focus()
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Layers", exact=True, level=1)).to_be_visible()
    expect(page.get_by_test_id("stSidebar")).to_be_hidden()
    still(page)  # a list that is drawn anew forgets what was typed
    names = page.get_by_role("combobox", name="Open a block, or look at a layer")
    names.focus()
    page.keyboard.type("Block")
    expect(page.get_by_role("option", name="Block 0", exact=True)).to_be_visible()
    page.keyboard.press("Enter")
    close = page.get_by_role("button", name="Close all blocks")
    expect(close).to_be_visible()
    expect(names).to_be_focused()  # the next block is opened from the same place
    expect(names).to_have_value("")
    close.focus()  # in a list Escape is the list's own key
    page.keyboard.press("Escape")
    expect(page.get_by_test_id("stSidebar")).to_be_visible()
