"""A report opened from a file, with the network off: its charts are drawn, and it asks for nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core.report.many_runs import report as together
from core.report.page import MOST_BYTES
from core.report.runs import report
from core.report.studies import export_study
from core.runs.runner import Runner
from core.runs.store import Store
from core.studies import many_runs, study_store, sweep
from core.studies.plan import Axis, Sweep
from core.types import Generate, Request, from_json, to_json
from tests.report.test_report import made
from tests.report.test_studies import kept

pytestmark = pytest.mark.browser


EVIL = "</script><script>document.title = 'broken'</script>"


def test_the_charts_are_live_without_a_network(browser: Any, store: Store, runner: Runner, tmp_path: Path) -> None:
    task = Generate(prompt=EVIL, max_new_tokens=8)
    asked = Request(model="tiny-moe", backend="fake", task=task, threads=1, profilers=("memory", "layers"))
    file = tmp_path / "report.html"
    file.write_bytes(report([runner.wait(runner.start(asked))]))
    opened_offline(browser, file, "tiny-moe", charts=3)


def test_a_sweep_and_many_runs_are_live_without_a_network(browser: Any, store: Store, tmp_path: Path) -> None:
    base = Request(model="tiny-moe", backend="fake", task=Generate(prompt=EVIL, max_new_tokens=4), threads=2)
    axes = (Axis(name="strategy", values=("autoregressive", "native")), Axis(name="batch", values=(1, 2)))
    plan = from_json(to_json(sweep.planned(base, axes, title=f"Batches {EVIL}", reference_every=0)), Sweep)
    runs = {f"{c.id}/0": made(store, EVIL, c.request.strategy, scale=1 + n) for n, c in enumerate(sweep.cells(plan))}
    kept(store, plan, runs)
    pages = {
        "Batches": export_study(plan.name, "html", store),
        "Many runs": together(many_runs.view(many_runs.entries(list(runs.values())))),
        "Shapes cut from": export_study(next(iter(study_store.recorded_architectures())), "html", store),
    }
    for title, data in pages.items():
        file = tmp_path / f"{title}.html"
        file.write_bytes(data)
        assert len(data) < MOST_BYTES
        opened_offline(browser, file, title, charts=2)


def opened_offline(browser: Any, file: Path, title: str, charts: int) -> None:
    """Open a file with the network off: at least so many charts are drawn, nothing is asked for, and nothing fails."""
    from playwright.sync_api import expect

    context = browser.new_context(offline=True)
    page = context.new_page()
    asked_for, errors = [], []
    page.on("request", lambda request: asked_for.append(request.url))
    page.on("pageerror", lambda error: errors.append(str(error)))
    page.on("console", lambda line: errors.append(line.text) if line.type == "error" else None)
    page.goto(file.as_uri())
    found = page.locator(".chart")
    assert found.count() >= charts
    for n in range(found.count()):
        expect(found.nth(n)).to_have_attribute("data-drawn", "yes")
        expect(found.nth(n).locator("svg.marks").first).to_be_visible()
    assert page.title().startswith(title)
    assert asked_for == [file.as_uri()] and not errors
    context.close()
