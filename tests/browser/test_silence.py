"""While a run is timed, no tab says or hears anything; afterwards each shows the result by itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from core.runs.store import Run, Store
from core.types import Pass
from tests.browser.conftest import WAIT_MS, Server
from tests.browser.test_browser import finished, metric, start

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.browser
Tab = Callable[[], Any]

# Moments of every message of the page's websockets, as the page itself sees them.
COUNT = """
window.messages = [];
const Plain = window.WebSocket;
window.WebSocket = class extends Plain {
  constructor(...given) {
    super(...given);
    this.addEventListener("message", () => window.messages.push(Date.now() / 1000));
  }
  send(data) {
    window.messages.push(Date.now() / 1000);
    super.send(data);
  }
};
"""


@pytest.fixture
def counted(tab: Tab) -> Tab:
    def open_tab() -> Any:
        page = tab()
        page.add_init_script(COUNT)
        return page

    return open_tab


def timed(run: Run) -> tuple[float, float]:
    """From the first step of the first timing pass to the last of the last one, in wall-clock seconds."""
    passes = {e.number: e for e in run.events() if isinstance(e, Pass)}
    numbers = {n for n, p in passes.items() if p.kind == "timing"}
    begun = min(passes[n].t_s for n in numbers)
    ended = max(e.t_s for e in run.events() if getattr(e, "pass_no", None) in numbers)
    return run.created_s + begun, run.created_s + ended


def test_nothing_is_said_while_a_run_is_timed(server: Server, counted: Tab) -> None:
    page, other = counted(), counted()
    other.goto(server.address("compare"))
    expect(other.get_by_role("heading", name="Side by side", exact=True)).to_be_visible()
    run_id = start(page, server, 0.15, 40, live="true")
    other.get_by_role("link", name="History").click()
    expect(other.locator(".st-key-strip")).to_be_visible()  # while the live pass is still going
    line = page.locator(".rest .words")
    expect(line).to_contain_text("the screen rests so that the number is clean")
    expect(other.locator(".rest .words")).to_contain_text("the screen rests")
    for shown, what in ((page, "[class*=st-key-run-bar-]"), (other, ".st-key-strip")):
        expect(shown.locator(what)).to_be_hidden()  # it stands still and would tell the same
    expect(line).to_be_hidden(timeout=3 * WAIT_MS)  # on a busy machine the timing is repeated, each time after a calm
    finished(page)
    expect(metric(page, "Decode")).to_have_count(1)
    expect(metric(page, "Decode")).not_to_contain_text("~")
    expect(metric(page, "Decode")).not_to_contain_text("provisional")
    expect(other.locator(".st-key-strip")).to_have_count(0)
    run = Store(server.home / "data").open(run_id)
    assert next(p.kind for p in run.events() if isinstance(p, Pass)) == "live"
    begun, ended = timed(run)
    assert ended - begun > 3
    for name, shown in (("watched", page), ("other", other)):
        messages = shown.evaluate("window.messages")
        inside = [round(m - begun, 2) for m in messages if begun <= m <= ended]
        assert not inside, f"{name} page: {len(inside)} messages, seconds after the timing began: {inside[:20]}"
        assert min(messages) < begun and max(messages) > ended, "it drew before and after"


def test_a_run_is_stopped_from_a_page_that_rests(server: Server, counted: Tab) -> None:
    page, other = counted(), counted()
    run_id = start(page, server, 0.1, 60, live="true")
    expect(page.locator(".rest .words")).to_contain_text("the screen rests")
    other.goto(server.address("layers"))
    expect(other.locator(".rest .words")).to_contain_text("the screen rests")
    expect(other.get_by_test_id("stHeading")).to_have_count(0)
    other.locator(".rest button").click()
    expect(page.get_by_text("Stopped").first).to_be_visible()
    expect(other.get_by_role("heading", name="Layers", exact=True)).to_be_visible()
    result = Store(server.home / "data").open(run_id).result()
    assert result.status == "cancelled" and result.tok_per_s
