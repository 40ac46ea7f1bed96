"""How the guesses of a run fared: its forwards, what they gave, and what was right before its turn."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from core.analysis.decoding import Acceptance, acceptance
from core.charts.decoding import accepted_bars
from core.runs.passes import headline
from core.runs.store import Run
from core.types import Step
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.links import link

Tile = tuple[str, str, str | None]  # label, value, help


def timed_steps(run: Run) -> list[Step]:
    """The steps of the last pass that counts: of timing, or the one that is watched before."""
    passes = headline(run.events()).numbers
    return [e for e in run.events() if isinstance(e, Step) and passes and e.pass_no == passes[-1]]


def fared(found: Acceptance | None) -> tuple[Tile, ...]:
    """Tokens per forward, and how many guesses were accepted; dashes where nothing was decoded."""
    fast = "Guesses accepted: tokens beyond the one that every forward gives."
    still = "Of these, right already while a token before them was wrong."
    return (
        ("Tokens per forward", f"{found.tokens_per_forward:.2f}" if found else text.NONE, None),
        ("Fast-forwarded", text.count(found.fast_forwarded) if found else text.NONE, fast),
        ("Stationary", text.count(found.stationary) if found else text.NONE, still),
    )


def draw_tiles(tiles: Iterable[Tile]) -> None:
    with st.grid(4, min_column_width=200, row_height=118):
        for label, value, words in tiles:
            st.metric(label, value, border=True, height="stretch", help=words)


def draw_guesses(run: Run) -> None:
    """Of the last timing pass; nothing for a run that did not guess."""
    steps = [s for s in timed_steps(run) if s.phase == "decode"]
    found = acceptance(steps)
    if found is None or not any(s.guess for s in steps):
        return
    each = sum(s.seconds for s in steps) / found.n_forward
    words = f"{found.n_forward} of them" + (f", and {found.n_draft} of the draft" if found.n_draft else "")
    draw_tiles((*fared(found), ("Time per forward", text.seconds(each), f"{words}; what else a step does is in it.")))
    with st.expander("Tokens accepted per step", icon=":material/bar_chart:"):
        figure(accepted_bars(found.histogram), key="run-accepted")
        st.caption(
            f"{len(steps)} steps, {found.n_forward} forwards, {found.n_tokens} tokens. {text.provenance('measured')}"
        )
    link("pages/understand/decoding.py", "Whether guessing pays here", ":material/speed:", run.id)
