"""Run a model and watch it: form on the left, the run as it goes on the right."""

from __future__ import annotations

import streamlit as st

from core.runs.store import Run
from core.types import GOING, Result
from pages.measure._again import draw_again, draw_note
from pages.measure._request_form import request_form
from pages.measure._run_charts import draw_charts
from pages.ui.first_start import draw_card
from pages.ui.guess_view import draw_guesses
from pages.ui.live import live
from pages.ui.page import empty, guard, page
from pages.ui.panes import panes
from pages.ui.run_report import draw_end, draw_failure
from pages.ui.run_view import draw_header, draw_numbers, draw_stage, draw_text
from pages.ui.start import start_button
from pages.ui.state import current_run, result_of


def draw_above(run: Run, result: Result) -> None:
    """Where the run is; one that failed says why before anything else."""
    draw_header(run, result)
    draw_note(run)
    draw_stage(run, result)
    draw_failure(run, result)


def draw_figures(run: Run, result: Result) -> None:
    if begun(result):
        draw_numbers(run, result)


def draw_after(run: Run, result: Result) -> None:
    draw_guesses(run)
    draw_end(run, result)


def draw_below(run: Run, result: Result) -> None:
    if begun(result):
        draw_charts(run, result)


def begun(result: Result) -> bool:
    """Whether there is, or soon will be, something measured."""
    return result.status in GOING or result.load_s is not None


with page("Run", "Choose a model, a backend and a prompt, and watch where the time and the memory go."):
    with st.container(), guard():  # its place stays when it goes after the first run
        draw_card()
    form, view = panes()
    with form, guard():
        start_button("Run", ":material/play_arrow:", request_form(), anew=False)
    run = current_run()
    with view, guard():
        above, words = st.container(), st.container()  # the text's place is there before a run is, and stays
        with above:
            if run is not None:
                live(run, draw_above, "strip")
                if run.status() not in GOING:
                    draw_again(run, result_of(run))
        with words:
            draw_text(run)
        if run is None:
            empty("Nothing has run yet", "Press Run: the embedded model needs no download.", ":material/play_circle:")
        else:
            live(run, draw_figures, "strip", key="figures")
            if run.status() not in GOING:
                live(run, draw_after, key="after")
    if run is not None:
        live(run, draw_below, "charts")
