"""python -m tests.faults tabs [--record]: what eight tabs in two browsers cost the app, and that all see one run.

Memory of the server's process is read after each tab has drawn the Run page with the same finished run. Then all are
closed, which must end their sessions and free their files, and as many are opened again: AGAIN times.
Recorded in tests/bench/recorded/tabs.json.
"""

from __future__ import annotations

import argparse
import json
import os
import tempfile
import time
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any
from unittest import mock

import psutil

from tests.bench.recording import record
from tests.faults.soak import MB, seen
from tests.faults.stage import check
from tests.faults.trend import trend

EACH, BROWSERS = 4, 2
REST_MS = 1500  # for what a tab asks behind its first drawing
AGAIN, LEFT_S = 2, 5
FILES_EACH = 3  # of a session: its event loop's
LIMIT_S = 120.0


def measured(home: Path) -> dict[str, Any]:
    """Figures by name. Raises WrongError where a tab does not see what another one started."""
    from tests.browser.conftest import chromium
    from tests.faults.visitor import Visitor, address, served, settled, tab

    with chromium(BROWSERS) as browsers, left_for(LEFT_S), served(home) as server:
        assert server.process is not None
        app = psutil.Process(server.process.pid)
        first = tab(browsers[0])
        visitor = Visitor(server, 0, ("fake",)).takes(browsers[0])
        run = visitor.runs(first, "fake", 64, live=False)
        visitor.until_over(first, run)
        first.goto(address(server, "run", run=run.id))  # all that a drawing loads is there before anything is counted
        settled(first)
        first.reload()
        settled(first)
        points = []
        tabs = [first]
        for n in range(1, BROWSERS * EACH + 1):
            if n > 1:
                page = tab(browsers[(n - 1) // EACH])
                page.goto(address(server, "run", run=run.id))
                settled(page)
                tabs.append(page)
            tabs[-1].wait_for_timeout(REST_MS)
            points.append((float(n), seen(app).rss_bytes / MB))
            print(f"{n} tabs: {points[-1][1]:.1f} MB", flush=True)
        files, threads = seen(app).files, seen(app).threads
        see_the_same(visitor, tabs)
        again = []
        for n in range(AGAIN):
            close_all(app, tabs)
            tabs = [tab(browsers[i // EACH]) for i in range(BROWSERS * EACH)]
            for page in tabs:
                page.goto(address(server, "run", run=run.id))
                settled(page)
            tabs[-1].wait_for_timeout(REST_MS)
            again.append(seen(app).rss_bytes / MB)
            print(f"opened again, {n + 1}: {again[-1]:.1f} MB", flush=True)
        line = trend([points], blocks=len(points))
        assert line is not None
        return {
            "tabs": len(tabs),
            "browsers": BROWSERS,
            "one tab MB": points[0][1],
            "all tabs MB": points[-1][1],
            **{f"all tabs MB, opened again, {n}": value for n, value in enumerate(again, 1)},
            "each further tab MB": line.slope,
            "each further tab MB, low": line.low,
            "each further tab MB, high": line.high,
            "open files with all tabs": files,
            "threads with all tabs": threads,
            "tabs that saw the run of another tab, and its end": len(tabs),
        }


def left_for(seconds: int) -> AbstractContextManager[Any]:
    """A server that starts meanwhile keeps the session of a closed tab for so long."""
    return mock.patch.dict(os.environ, {"STREAMLIT_SERVER_DISCONNECTED_SESSION_TTL": str(seconds)})


def close_all(app: psutil.Process, tabs: Sequence[Any]) -> None:
    """Close the tabs and wait for the end of their sessions. Raises WrongError where their files stay open."""
    before = app.num_fds()
    for page in tabs:
        page.context.close()
    end = time.monotonic() + LIMIT_S
    while (now := app.num_fds()) > before - FILES_EACH * len(tabs):
        check(time.monotonic() < end, f"{before} open files with {len(tabs)} tabs, {now} without")
        time.sleep(1.0)


def see_the_same(visitor: Any, tabs: list[Any]) -> None:
    """A run that the first tab starts is seen in every other one, on whatever page, and so is its stop."""
    pages = ("history", "roofline", "storage", "glossary", "memory", "devices", "lessons")
    for page, name in zip(tabs[1:], pages, strict=False):
        page.goto(page.url.split("?")[0].rstrip("/") + f"/{name}")
    run = visitor.runs(tabs[0], "fake", 4000, delay_s=0.05)
    for page in tabs[1:]:
        page.locator(".st-key-strip").first.wait_for()
        page.locator(".st-key-strip").get_by_text("of 4,000 tokens").wait_for()
    tabs[-1].locator(".st-key-strip button").first.click()
    visitor.until_over(tabs[0], run)
    for page in tabs[1:]:
        page.wait_for_function("!document.querySelector('.st-key-strip')")
    check(run.status() == "cancelled", f"the run is {run.status()}")


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.faults tabs", description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--record", action="store_true", help="keep the figures with the project")
    given = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as home:
        found = measured(Path(home))
    print(json.dumps(found, indent=1))
    if given.record:
        record("tabs", found, "python -m tests.faults tabs")
    return 0
