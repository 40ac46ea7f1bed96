"""The guesses of a run: its forward passes, what they gave, and what was right before its turn."""

from __future__ import annotations

from collections.abc import Iterable

import streamlit as st

from core.analysis.decoding import Acceptance, acceptance
from core.charts.decoding import accepted_bars
from core.learn.glossary import explained
from core.runs.store import Run
from core.types import Result, Step
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.state import result_of
from pages.ui.tile import tile

Tile = tuple[str, str, str | None]  # label, value, help


def timed_steps(run: Run) -> list[Step]:
    """The steps of the last pass that counts: of timing, or the one that is watched before."""
    timing = run.recording().timing
    return timing[-1] if timing else []


def guess_tiles(found: Acceptance | None) -> tuple[Tile, ...]:
    """Tokens per forward, and how many guesses were accepted; dashes where nothing was decoded."""
    values = (
        ("Tokens per forward", f"{found.tokens_per_forward:.2f}" if found else text.NONE),
        ("Guessed right", text.count(found.fast_forwarded) if found else text.NONE),
        ("Right before their turn", text.count(found.stationary) if found else text.NONE),
    )
    terms = ("Tokens per forward", "Fast-forwarded", "Stationary")  # as the papers call them
    return tuple((label, value, explained(term)) for term, (label, value) in zip(terms, values, strict=True))


def draw_tiles(tiles: Iterable[Tile]) -> None:
    with st.grid(4, min_column_width=200, row_height=118):
        for label, value, words in tiles:
            tile(label, value, words)


def helped(result: Result) -> str:
    """What drafts and trained heads took of the FLOPs of decoding; empty where there are none."""
    phase = next((p for p in result.phases if p.name == "decode"), None)
    if phase is None or not phase.parts:
        return ""
    who = {
        "blocks": "drafts by its first blocks",
        "draft": "the draft model",
        "heads": "the trained heads",
        "exits": "the trained exit heads",
    }
    shares = (f"{who[p.of]} {text.percent(p.flops / phase.flops)}" for p in phase.parts)
    return f"Of decoding's FLOPs: {', '.join(shares)}; the rest is the model's own forward passes."


def draw_guesses(run: Run) -> None:
    """Of the last timing pass; nothing for a run that did not guess."""
    steps = [s for s in timed_steps(run) if s.phase == "decode"]
    found = acceptance(steps)
    if found is None or not any(s.guess for s in steps):
        return
    each = sum(s.seconds for s in steps) / found.n_forward
    words = f"{found.n_forward} of them" + (f", and {found.n_draft} of the draft" if found.n_draft else "")
    words += "; what else a step does is in it."
    draw_tiles((*guess_tiles(found), ("Time per forward pass", text.seconds(each), words)))
    with st.expander("Tokens accepted per step", icon=":material/bar_chart:"):
        figure(accepted_bars(found.histogram), key="run-accepted")
        st.caption(
            f"{len(steps)} steps, {found.n_forward} forward passes, {found.n_tokens} tokens. "
            f"{text.provenance('measured')}"
        )
    if words := helped(result_of(run)):
        st.caption(f"{words} {text.provenance('computed')}")
    link("pages/understand/decoding.py", "Whether guessing pays here", ":material/speed:", run.id)
