"""Roofline and Layers in a real browser, on the recorded run: sliders, overlay, click-through."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from core.runs.demo import recorded_id
from tests.browser import axe
from tests.browser.conftest import Server, still

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
pytestmark = pytest.mark.browser
Tab = Callable[[], Any]


@pytest.fixture(scope="module")
def server(shown: Server) -> Server:
    return shown


POINTS = "[class*=st-key-roof-] svg .mark-symbol path[aria-label*=Distance]"


def opened(server: Server, tab: Tab, page: str, **query: str) -> Any:
    """The page with the recorded run, whatever other runs are there."""
    found = tab()
    found.goto(server.address(page, run=recorded_id(), **query))
    expect(found.get_by_text("Recorded run").first).to_be_visible()
    still(found)
    return found


def roofline(server: Server, tab: Tab) -> Any:
    """The page with phases only: few enough points to be elements and not pixels."""
    page = opened(server, tab, "roofline", **{"roofline-level": "Phases"})
    expect(page.locator(POINTS).first).to_be_visible()
    return page


def point(page: Any, phase: str, kind: str) -> Any:
    return page.locator(f"{POINTS}[aria-label*='Layer: {phase}'][aria-label*='Point: {kind}']")


def test_sliders_move_the_predicted_points_and_no_measured_one(server: Server, tab: Tab) -> None:
    page = roofline(server, tab)
    predicted, measured = point(page, "decode", "predicted"), point(page, "decode", "measured")
    places = predicted.get_attribute("transform"), measured.get_attribute("transform")
    slider = page.get_by_role("slider", name="Batch")
    slider.focus()
    for _ in range(4):
        slider.press("ArrowRight")
    expect(predicted).not_to_have_attribute("transform", places[0])
    expect(measured).to_have_attribute("transform", places[1])


def test_another_devices_roofs_lie_over_the_chart(server: Server, tab: Tab) -> None:
    page = roofline(server, tab)
    lines = page.locator("[class*=st-key-roof-] svg path[aria-label*='RTX 4090']")
    expect(lines).to_have_count(0)
    box = page.locator(".st-key-roofline-overlay input").first
    box.click()
    box.fill("RTX 4090")
    page.get_by_role("option", name="RTX 4090", exact=True).click()
    expect(lines.first).to_be_attached()


def test_a_click_on_a_point_writes_its_arithmetic_out(server: Server, tab: Tab) -> None:
    page = roofline(server, tab)
    expect(page.locator(".katex")).to_have_count(0)
    point(page, "decode", "measured").click(force=True)
    expect(page.locator(".katex").first).to_be_visible()


def test_a_block_of_the_graph_opens_on_a_click(server: Server, tab: Tab) -> None:
    page = opened(server, tab, "layers")
    graph = page.locator("[data-testid=stEChartsChart] canvas").first
    expect(graph).to_be_visible()
    graph.scroll_into_view_if_needed()
    page.wait_for_timeout(800)  # the first drawing is animated
    box = graph.bounding_box()
    for at in (0.215, 0.18, 0.2, 0.23) * 3:  # columns depend on the width; on a busy machine a click may come early
        page.mouse.click(box["x"] + box["width"] * at, box["y"] + box["height"] * 0.045 + 20)
        with contextlib.suppress(sync_api.TimeoutError):
            page.wait_for_url(lambda url: "open=" in url, timeout=6_000)
            break
    expect(page.get_by_text("Close all blocks")).to_be_visible()


def test_sections_of_the_menu_fold_by_keys(server: Server, tab: Tab) -> None:
    page = opened(server, tab, "layers")
    head = page.get_by_role("button", name="Compare", exact=False).and_(page.get_by_test_id("stNavSectionHeader"))
    link = page.get_by_test_id("stSidebarNav").get_by_role("link", name="Trade-offs")
    expect(head).to_have_attribute("aria-expanded", "true")
    head.press("Enter")
    expect(link).to_have_count(0)
    expect(head).to_have_attribute("aria-expanded", "false")
    head.press("Space")
    expect(link).to_be_visible()


def test_another_run_is_chosen_by_keys_and_the_focus_stays(server: Server, tab: Tab) -> None:
    axe.filled(server.home / "data")
    page = opened(server, tab, "memory")
    page.get_by_role("button", name="Other run").focus()
    page.keyboard.press("Enter")
    box = page.get_by_role("combobox", name="Show this run")
    expect(box).to_be_visible()
    box.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.type("tiny-moe")
    page.keyboard.press("Enter")
    expect(page.get_by_text("Recorded run")).to_have_count(0)
    expect(box).to_be_focused()
    page.keyboard.press("Escape")
    expect(page.get_by_role("button", name="Other run")).to_be_focused()


def test_a_run_is_selected_and_opened_by_keyboard_alone(server: Server, tab: Tab) -> None:
    page = tab()
    page.goto(server.address("history"))
    expect(page.locator("[data-testid=stDataFrame] canvas").first).to_be_visible()
    still(page)
    page.locator(".st-key-import button").first.focus()
    at = "document.activeElement.tagName"
    for _ in range(10):
        page.keyboard.press("Tab")
        if page.evaluate(at) == "CANVAS":
            break
    opener = page.get_by_role("button", name="Open", exact=False).first
    expect(opener).to_be_disabled()
    page.keyboard.press("Shift+Space")
    expect(opener).to_be_enabled()
    for _ in range(40):  # Tab goes from cell to cell, and then on
        page.keyboard.press("Tab")
        if "Open" in page.evaluate("document.activeElement.innerText"):
            break
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Run", exact=True)).to_be_visible()
