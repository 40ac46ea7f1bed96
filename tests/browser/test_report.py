"""A report opened from a file, with the network off: its charts are drawn, and it asks for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.report.runs import report
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Generate, Request

pytestmark = pytest.mark.browser


def test_the_charts_are_live_without_a_network(browser: Any, store: Store, runner: Runner, tmp_path: Path) -> None:
    from playwright.sync_api import expect

    task = Generate(prompt="</script><script>document.title = 'broken'</script>", max_new_tokens=8)
    asked = Request(model="tiny-moe", backend="fake", task=task, threads=1, profilers=("memory", "layers"))
    file = tmp_path / "report.html"
    file.write_bytes(report([runner.wait(runner.start(asked))]))
    context = browser.new_context(offline=True)
    page = context.new_page()
    asked_for, errors = [], []
    page.on("request", lambda request: asked_for.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(file.as_uri())
    charts = page.locator(".chart")
    assert charts.count() >= 3
    for n in range(charts.count()):
        expect(charts.nth(n)).to_have_attribute("data-drawn", "yes")
        expect(charts.nth(n).locator("svg.marks").first).to_be_visible()
    assert page.title().startswith("tiny-moe")
    assert asked_for == [file.as_uri()] and not errors
    context.close()
