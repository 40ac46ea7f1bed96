"""Measure a model's quality on a task, item by item."""

from __future__ import annotations

from core.types import Evaluate
from pages.measure._evaluate_form import evaluate_form
from pages.measure._evaluate_view import draw_evaluation
from pages.ui.live import live
from pages.ui.page import guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.start import start_button
from pages.ui.state import current_run

with page("Evaluate", "How good are its answers: perplexity, divergence from the original, and tasks, item by item."):
    form, view = panes()
    with form, guard():
        start_button("Evaluate", ":material/fact_check:", evaluate_form())
    with view, guard():
        run = current_run(Evaluate)
        if run is None:
            nothing_yet(
                "Nothing was evaluated yet",
                "Press Evaluate: perplexity on the shipped texts takes about a minute.",
                ":material/fact_check:",
            )
        else:
            live(run, draw_evaluation, "items")
