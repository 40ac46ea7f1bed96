"""The app as a person meets it: the real server, a real browser, the fake backend."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from typing import Any

import psutil
import pytest

from core.runs.store import Store
from tests.browser.conftest import Server, still

expect = pytest.importorskip("playwright.sync_api", reason="playwright is not installed").expect
pytestmark = pytest.mark.browser
FAKE = {"model": "tiny-moe", "backend": "fake", "warmup": 0, "live": "false", "threads": 1}
Tab = Callable[[], Any]


def start(page: Any, server: Server, delay_s: float, tokens: int, **more: object) -> str:
    """Open the Run page with this configuration, press Run, and return the run's id."""
    page.goto(server.address(**FAKE | more, max_new_tokens=tokens, **{"o-fake-delay_s": delay_s}))
    page.locator(".st-key-start button").first.click()
    page.wait_for_url(re.compile(r"run=\d{8}-\d{6}-\w{6}"))
    expect(page.locator(".st-key-stop button").first).to_be_visible()
    return str(re.search(r"run=([\w-]+)", page.url).group(1))  # type: ignore[union-attr]


def metric(page: Any, label: str) -> Any:
    return page.get_by_test_id("stMetric").filter(has_text=label)


def finished(page: Any) -> None:
    """Wait for the end of the run on the page: before it starts, the run shown there says `Finished` too."""
    expect(page.locator(".st-key-stop")).to_have_count(0)
    expect(page.get_by_text("Finished")).to_have_count(1)  # what was there before it was drawn anew is gone
    expect(page.get_by_text("Finished")).to_be_visible()


def tick_first_row(page: Any) -> None:
    """Tick the check box of the first row of History: a canvas has no elements, so it is found by its place."""
    expect(page.get_by_role("heading", name="History", exact=True)).to_be_visible()
    expect(page.locator(".st-key-strip")).to_have_count(0)
    still(page)
    table = page.get_by_test_id("stDataFrame")
    expect(table).to_be_visible()
    box = table.bounding_box()
    page.mouse.click(box["x"] + 18, box["y"] + 52)


def stop(page: Any) -> None:
    page.locator(".st-key-stop button").first.click()
    expect(page.locator(".st-key-stop")).to_have_count(0)


# Which parts of the page were drawn again, and whether one was asked for while another was still being drawn.
CLOCK = """() => {
  const clock = window.roofscopeClock, fire = clock.fire.bind(clock), enter = clock.enter.bind(clock);
  [window.moved, window.crowded, window.asked] = [new Set(), false, new Set()];
  clock.fire = (key) => { window.crowded ||= clock.drawing() > 0; window.asked.add(key); fire(key); };
  clock.enter = (key, ...rest) => { if (window.asked.has(key)) window.moved.add(key); enter(key, ...rest); };
}"""


# The chart of a tile that has words under its number, too, ends in the tile.
WHOLE_CHARTS = """() => {
  const foot = (node) => node.getBoundingClientRect().bottom;
  const find = (tile, part) => tile.querySelector(`[data-testid=stMetric${part}]`);
  const tiles = [...document.querySelectorAll("[data-testid=stMetric]")];
  const full = tiles.filter((tile) => find(tile, "Delta") && find(tile, "Chart"));
  return full.length >= 2 && full.every((tile) => foot(find(tile, "Chart")) <= foot(tile) + 1);
}"""


def together(page: Any) -> None:
    """Form and run at two sizes: all of a run that goes on is on one small screen, and a narrow one stacks the two."""
    whole = page.viewport_size
    page.set_viewport_size({"width": 1280, "height": 800})
    for key in ("start button", "stop button", "run-text"):
        expect(page.locator(f".st-key-{key}").first).to_be_in_viewport(ratio=1)
    page.set_viewport_size({"width": 820, "height": 800})
    page.wait_for_function("document.querySelector('.st-key-start').getBoundingClientRect().width > 400")
    page.set_viewport_size(whole)


def test_a_live_pass_moves_and_does_not_flicker(server: Server, tab: Tab) -> None:
    page = tab()
    start(page, server, 0.12, 2000, live="true")  # longer than any machine looks at it
    expect(page.get_by_text("of 2,000 tokens").first).to_be_visible()
    page.evaluate(CLOCK)
    expect(metric(page, "Decode")).to_contain_text("tok/s")
    page.wait_for_function(WHOLE_CHARTS)
    chart = page.locator(".st-key-card-tokens [data-testid=stVegaLiteChart] svg.marks")
    drawn = chart.element_handle()
    before = page.locator(".st-key-run-text").inner_text()
    page.wait_for_function(
        "before => document.querySelector('.st-key-run-text').innerText.length > before.length + 8", arg=before
    )
    assert drawn.evaluate("node => node.isConnected"), "a tick built the chart anew"
    page.wait_for_function("window.moved.size === 3")  # where it is, tiles, charts
    expect(page.get_by_role("log", name="Text as it is generated")).to_have_text(re.compile(r"\w"))  # it is read out
    assert not page.evaluate("window.crowded"), "of several parts that are fired at once, Streamlit draws one"
    stop(page)


def test_a_whole_run_is_seen_to_its_end(server: Server, tab: Tab) -> None:
    page = tab()
    run_id = start(page, server, 0.12, 25, live="true")
    expect(page.get_by_text("of 25 tokens").first).to_be_visible()
    finished(page)
    expect(page.get_by_text("· python 3.").first).to_be_visible()  # where the numbers come from
    expect(page.locator(".st-key-card-layers [data-testid=stVegaLiteChart]")).to_be_visible()
    result = Store(server.home / "data").open(run_id).result()
    assert result.status == "done"
    late = {"run": run_id, "text": result.text, "length": len(result.text), "over": True, "resting": ""}
    page.evaluate("late => window.roofscopeWords.tell(late)", late)  # an answer that the drawn end has overtaken
    expect(page.locator(".st-key-run-text")).to_have_text(result.text.strip(), use_inner_text=True)  # what is seen


def test_reload_in_the_middle_and_stop(server: Server, tab: Tab) -> None:
    page = tab()
    run_id = start(page, server, 0.3, 400, live="true")
    page.reload()
    expect(page.locator(".st-key-stop button").first).to_be_visible()
    assert run_id in page.url
    expect(metric(page, "Decode")).to_contain_text("tok/s")
    second = tab()
    second.goto(server.address())
    expect(second.locator(".st-key-stop button").first).to_be_visible()
    second.goto(server.address("history"))
    expect(second.locator(".st-key-strip")).to_contain_text("of 400 tokens")
    together(page)
    stop(page)
    expect(page.get_by_text("Stopped").first).to_be_visible()
    expect(second.locator(".st-key-strip")).to_have_count(0)
    result = Store(server.home / "data").open(run_id).result()
    assert result.status == "cancelled" and result.n_new_tokens > 0 and result.tok_per_s


def test_the_way_back_leads_to_what_was_chosen(server: Server, tab: Tab) -> None:
    page = tab()
    page.goto(server.address(**FAKE, max_new_tokens=33))
    box = page.get_by_role("spinbutton", name="New tokens")
    expect(box).to_have_value("33")
    still(page)
    page.get_by_role("link", name="Glossary").click()
    expect(page.get_by_role("heading", name="Glossary", exact=True)).to_be_visible()
    still(page)
    page.go_back()
    expect(page.get_by_role("heading", name="Run", exact=True)).to_be_visible()
    expect(box).to_have_value("33")
    page.go_forward()
    expect(page.get_by_role("heading", name="Glossary", exact=True)).to_be_visible()


def test_history_finds_opens_and_deletes(server: Server, tab: Tab) -> None:
    page = tab()
    run_id = start(page, server, 0.25, 5)
    finished(page)
    page.get_by_role("link", name="History").click()
    tick_first_row(page)
    assert f"run={run_id}" in page.url, "the run stays in the address across pages"
    page.locator(".st-key-open button").first.click()
    expect(page.get_by_role("heading", name="Run")).to_be_visible()
    finished(page)
    page.get_by_role("link", name="History").click()
    tick_first_row(page)
    delete = page.locator(".st-key-delete button").first
    expect(delete).to_be_enabled()
    runs, newer = server.home / "data" / "runs", "20990101-000000-abcdef"
    shutil.copytree(runs / run_id, runs / newer)
    page.get_by_placeholder("Model, backend").fill("tiny")
    page.keyboard.press("Enter")
    expect(delete).to_be_disabled()  # what was ticked is no longer in the first row
    shutil.rmtree(runs / newer)
    page.goto(server.address("history"))
    tick_first_row(page)
    delete.click()
    expect(page.get_by_role("dialog")).to_contain_text("tiny-moe")  # what is deleted, in words
    page.locator(".st-key-delete-yes button").first.click()
    expect(page.locator(".st-key-delete-yes")).to_have_count(0)
    assert run_id not in Store(server.home / "data").ids()


def test_words_from_outside_are_no_links_pictures_or_icons(server: Server, tab: Tab) -> None:
    """Streamlit looks for some of them in text whose escapes are gone already, which no test without a browser sees."""
    words = "http://evil.example/x www.evil.example a@evil.example :material/delete: :streamlit: <img src=x> & _b_ 1. y"
    page = tab()
    page.goto(server.address("glossary", run=words))
    told = page.get_by_role("alert")
    expect(told).to_contain_text("There is no run")
    shown = told.inner_text().replace("\u2060", "")
    assert f"There is no run '{words}' here" in shown
    assert told.locator("a, img, em, [data-testid=stIconMaterial]:text('delete')").count() == 0


def test_deep_links_on_a_fresh_server(server: Server, tab: Tab) -> None:
    run_id = Store(server.home / "data").ids()[0]
    for path, heading in (("history", "History"), ("layers", "Layers")):
        server.fresh()
        page = tab()
        page.goto(server.address(path, run=run_id))
        expect(page.get_by_role("heading", name=heading, exact=True)).to_be_visible()
        expect(page.get_by_test_id("stSidebarNav")).to_contain_text("Understand")
        expect(page.get_by_test_id("stException")).to_have_count(0)
        expect(page.get_by_text("Page not found")).to_have_count(0)
        assert run_id in page.url


def test_the_server_is_alone_with_this_machine_and_leaves_nothing_behind(server: Server, tab: Tab) -> None:
    page = tab()
    start(page, server, 0.2, 400)
    assert server.process is not None
    process = psutil.Process(server.process.pid)
    listening = [c for c in process.net_connections("tcp") if c.status == psutil.CONN_LISTEN]
    assert listening and {c.laddr.ip for c in listening} == {"127.0.0.1"}
    workers = process.children(recursive=True)
    assert workers, "the model runs in a process of its own"
    server.stop()
    psutil.wait_procs(workers, timeout=60)
    assert not [w for w in workers if w.is_running() and w.status() != psutil.STATUS_ZOMBIE]
    gone = page.get_by_role("dialog")
    expect(gone).to_contain_text("Roofscope's server has ended")
    expect(gone.get_by_text("streamlit run yourscript.py")).to_be_hidden()
    server.start()
    expect(gone).to_have_count(0)  # it takes up again by itself
