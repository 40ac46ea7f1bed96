"""A sweep, a search and an advice by clicks, from the empty page to what came of it, on the fake backend."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import pytest

from core.advice.book import Book
from core.runs.runner import Runner
from core.runs.store import Store
from core.studies.ledger import State, read
from core.types import Generate, Request
from tests.browser.conftest import Server, still
from tests.support.undisturbed import undisturbed

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.browser
Tab = Callable[[], Any]
LIMIT_S = 60.0


def until(condition: Callable[[], Any]) -> None:
    end = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < end, "nothing happened for a minute"
        time.sleep(0.1)


def fill(page: Any, key: str, words: str) -> None:
    field = page.locator(f".st-key-sweep-{key} input")
    field.fill(words)
    field.press("Enter")
    still(page)


def click(page: Any, key: str) -> None:
    button = page.locator(f".st-key-{key} button").first
    expect(button).to_be_enabled()
    button.click()


def grid_of_the_fake(page: Any, server: Server, new_tokens: str) -> None:
    """Open the page and fill in its form: the fake backend alone, four tokens in."""
    page.goto(server.address("sweep"))
    expect(page.get_by_text("can run").first).to_be_visible()
    still(page)
    box = page.locator(".st-key-sweep-backends")
    box.get_by_role("button", name="Clear all").click()
    expect(page.get_by_text("Choose at least one model, backend and strategy.")).to_be_visible()
    box.locator("input").fill("Fake")
    page.get_by_role("option", name=re.compile("^Fake")).first.click()
    expect(box.locator("[data-tag]")).to_have_count(1)
    page.keyboard.press("Escape")
    fill(page, "prompt_tokens", "4")
    fill(page, "new_tokens", new_tokens)
    fill(page, "threads", "1")


def ledger(server: Server, kind: str) -> State[Any] | None:
    """Of the one study of this kind."""
    found = [read(path) for path in (server.home / "data" / "studies").glob(f"{kind}-*")]
    return found[0] if found else None


def measured(server: Server, kind: str, key: str = "") -> int:
    state = ledger(server, kind)
    return 0 if state is None else sum(key in name for name in state.took_s)


def test_a_sweep_is_filled_in_measured_and_taken_along(server: Server, tab: Tab) -> None:
    page = tab()
    grid_of_the_fake(page, server, "2, 3")
    expect(page.get_by_text("No sweep yet")).to_be_visible()
    expect(page.get_by_text("2 cells: 2 can run")).to_be_visible()
    click(page, "sweep-start")
    expect(page.locator(".st-key-sweep-stop button").first).to_be_visible()
    for n in range(1, 4):  # the reference cell and both
        until(lambda n=n: measured(server, "sweep") >= n)
    expect(page.locator(".st-key-sweep-stop")).to_have_count(0)
    expect(page.get_by_text("2 done · 0 failed").first).to_be_visible()
    expect(page.get_by_role("button", name=re.compile("2 by 1 tiles, 2 of them measured")).first).to_be_attached()
    expect(page.locator(".st-key-sweep-start button").first).to_be_disabled()  # nothing of this grid is left
    page.get_by_role("button", name="Share").first.click()
    with page.expect_download() as held:
        click(page, "sweep-share-0")
    assert b'class="chart' in held.value.path().read_bytes() and held.value.suggested_filename.endswith(".html")


def test_a_search_that_is_stopped_has_an_answer_and_goes_on(server: Server, tab: Tab) -> None:
    page = tab()
    grid_of_the_fake(page, server, "5")
    page.get_by_role("radio", name="Search for the best").click()
    expect(page.get_by_text("No search yet")).to_be_visible()
    click(page, "search-start")
    until(lambda: measured(server, "search") >= 1)
    until(lambda: (state := ledger(server, "search")) is not None and any("final-" in key for key in state.runs))
    click(page, "sweep-stop")
    expect(page.locator(".st-key-sweep-stop")).to_have_count(0)
    expect(page.get_by_text("of all that meet the constraints it has the best decode speed")).to_be_visible()
    expect(page.locator(".st-key-search-start")).to_contain_text("Go on")


def test_an_advice_is_tried_with_one_click(server: Server, tab: Tab) -> None:
    runner = Runner(Store(server.home / "data"))
    asked = Request(
        model="tiny-moe",
        backend="fake",
        task=Generate(prompt="Hello there", max_new_tokens=6),
        threads=1,
        warmup=0,
        profilers=("forward_cost",),
        options={"delay_s": 0.02},
        retries=0,
    )
    run = undisturbed(runner.wait(runner.start(asked)))
    runner.close()
    book = Book(server.home / "data")
    page = tab()
    page.goto(server.address("advice", run=run.id))
    button = page.get_by_role("button", name="Try it: 5 pairs of runs")
    expect(button).to_be_enabled()
    expect(page.get_by_text("not tried").first).to_be_visible()
    button.click()
    expect(page.get_by_text("of 10 runs")).to_be_visible()
    for n in range(1, 11):
        until(lambda n=n: sum(len(c.baseline_runs) + len(c.changed_runs) for c in book.cases()) >= n)
    until(lambda: all(c.verdict is not None for c in book.cases()))  # it is judged after the last run
    expect(page.get_by_role("button", name="5 more pairs", disabled=False)).to_have_count(1)
    (case,) = book.cases()
    assert case.verdict is not None and len(case.baseline_runs) == len(case.changed_runs) == 5
    expect(page.get_by_text(case.verdict.outcome).first).to_be_visible()
