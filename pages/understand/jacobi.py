"""Jacobi decoding, live: the window converging step by step, in a race with autoregressive decoding."""

from __future__ import annotations

import streamlit as st

from core.analysis.decoding import acceptance, first_divergence, frames
from core.runs.store import Run
from core.types import Request, Result
from pages.ui import text
from pages.ui.guess_view import draw_tiles, guess_tiles, timed_steps
from pages.ui.live import live
from pages.ui.page import guard, nothing_yet, page
from pages.ui.panes import panes
from pages.ui.pickers import strategy_label
from pages.ui.race import race
from pages.ui.rival_form import rival_form
from pages.ui.run_report import draw_failure
from pages.ui.run_view import draw_header, draw_stage
from pages.ui.sequence import Sequence
from pages.ui.state import result_of, runner, shared
from pages.ui.studies import draw_busy


def draw_going(run: Run, result: Result) -> None:
    draw_header(run, result)
    draw_stage(run, result)
    draw_failure(run, result)
    steps = timed_steps(run)
    if steps:
        st.text(result.text)


def draw_race(runs: list[Run]) -> None:
    """Both recordings on one clock, and what they say in numbers."""
    results = [result_of(run) for run in runs]
    steps = [timed_steps(run) for run in runs]
    labels = [strategy_label(run.request.strategy) for run in runs]
    race(list(zip(labels, map(frames, steps), strict=True)), key=f"race-{runs[-1].id}", autoplay=True)
    found = acceptance(steps[1])
    speedup = results[0].tpot_s / results[1].tpot_s if results[0].tpot_s is not None and results[1].tpot_s else None
    pair = "Of this one pair, without an interval: the Decoding page measures pairs."
    draw_tiles((("Speed-up over autoregressive", text.ratio(speedup), pair), *guess_tiles(found)))
    before, after = (sum(step.seconds for step in way) for way in steps)
    st.caption(
        f"The clock counts reading the prompt too: {text.seconds(after)} instead of {text.seconds(before)} for the "
        f"whole answer, a ratio of {text.ratio(before / after)}. {text.provenance('measured')}"
    )
    where = first_divergence(steps[0], steps[1])
    if where is None:
        st.caption(
            f":material/check: Both produced the same {results[0].n_new_tokens} tokens. {text.provenance('measured')}"
        )
    else:
        st.caption(
            f":material/call_split: The two texts differ from token {where + 1} on. In low precision a forward pass of "
            f"many tokens rounds otherwise than one of one token, and a near tie may tip. {text.provenance('measured')}"
        )


with page(
    "Jacobi, live",
    "One forward pass corrects a whole window of guessed tokens: watch it converge, beside autoregressive.",
):
    left, view = panes()
    pair = shared("race", Sequence)
    asked = shared("race-asked", list[Request])
    with left, guard():
        requests = rival_form()
        if st.button(
            "Race",
            type="primary",
            icon=":material/sports_score:",
            key="start",
            width="stretch",
            disabled=requests is None or runner().active() is not None,
        ):
            assert requests is not None
            asked[:] = requests
            pair.runs, pair.total = [], 2
        if not pair.going:
            draw_busy()
    with view, guard():
        runs = [run for place in range(2) if (run := pair.run(place)) is not None]
        if not runs:
            nothing_yet(
                "No race yet",
                "Press Race: first autoregressive, then the window, then both on one clock.",
                ":material/sports_score:",
            )
        elif pair.going or len(runs) < 2 or any(result_of(r).status != "done" for r in runs):
            for run in runs:
                live(run, draw_going)
        else:
            draw_race(runs)
    with guard():
        pair.go_on(lambda place: asked[place])
