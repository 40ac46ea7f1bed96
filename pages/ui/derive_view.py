"""A run that makes a model: its stages, its training curves as they grow, and what was made."""

from __future__ import annotations

import streamlit as st

from core import labels
from core.charts.curves import curve
from core.charts.labels import plain
from core.learn.glossary import explained
from core.models import catalogue
from core.runs.store import Run
from core.types import GOING, Made, Result
from hardware.errors import ExplorerError
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.models import spec_of
from pages.ui.run_report import draw_failure, export_menu
from pages.ui.run_view import draw_header, draw_stage
from pages.ui.table import table
from pages.ui.tile import tile

_FIRST = ("accuracy", "tokens_per_forward", "loss")
_TILE = 118


def draw_derive(run: Run, result: Result) -> None:
    """The run as it stands; one that failed says why before anything else."""
    draw_header(run, result)
    draw_stage(run, result)
    draw_failure(run, result)
    if result.made:
        draw_made(result.made)
        if words := larger(result.made, _weighs(run.request.model)):
            st.warning(words, icon=":material/expand:")
    draw_curves(result)
    for warning in result.warnings:
        st.warning(text.escape(warning), icon=":material/warning:")
    if result.status in ("cancelled", "interrupted", "failed") and result.curves:
        st.info(
            "Press the same button with the same settings: it goes on from the last checkpoint.",
            icon=":material/resume:",
        )
    if result.status not in GOING:
        export_menu(run)


def draw_curves(result: Result) -> None:
    """One small chart per value, the ones that decide first."""
    found = dict.fromkeys(name for point in result.curves for name in point.values)
    names = [*(n for n in _FIRST if n in found), *(n for n in found if n not in _FIRST)]
    if not names:
        return
    for row in range(0, len(names), 2):
        for place, (name, column) in enumerate(zip(names[row : row + 2], st.columns(2), strict=False), row):
            with column:
                last = next(c.values[name] for c in reversed(result.curves) if name in c.values)
                st.markdown(f"**{text.escape(labels.curve(name))}** · {plain(last)}")
                figure(curve(result.curves, name, place), key=f"curve-{name}")


def draw_made(made: Made) -> None:
    """The new model, what it weighs, and what can be done with it now."""
    st.success(text.escape(made.note), title=f"{text.escape(made.model)} is made", icon=":material/deployed_code:")
    with st.grid(3, min_column_width=150, row_height=_TILE):
        tile("Weights", text.size(made.size_bytes), "As stored, measured.")
        bits = explained("Bits per weight")
        tile("Bits per weight", f"{made.bits_per_weight:.2f}", bits)
        tile("Parameters", text.parameters(made.n_params))
    facts = {name: value for name, value in made.facts.items() if isinstance(value, str | int | float | bool)}
    if facts:
        rows = [{"What": labels.curve(k), "Found": _plain(v)} for k, v in facts.items()]
        table(rows, alt="What was found while it was made")
    others = {name: value for name, value in made.facts.items() if name not in facts}
    if others:
        with st.expander("More about how it was made", icon=":material/data_object:"):
            st.json(others, expanded=1)
    with st.container(horizontal=True):
        for page, label, icon in (
            ("pages/measure/run.py", "Run it", ":material/play_arrow:"),
            ("pages/measure/evaluate.py", "Evaluate it", ":material/fact_check:"),
            ("pages/measure/chat.py", "Talk to it", ":material/chat:"),
        ):
            link(page, label, icon, query={"model": made.model})
        if "window" in made.facts:  # trained to guess
            query = {"model": made.model, "backend": "pytorch"}
            link("pages/understand/jacobi.py", "Race it", ":material/sports_score:", query=query)


def _weighs(model: str) -> int | None:
    """Bytes of the weights of a model that is still here."""
    try:
        return spec_of(catalogue.find(model)).weight_bytes
    except ExplorerError:
        return None


def larger(made: Made, source_bytes: int | None) -> str:
    """What to say of a model that outweighs its source; nothing of others."""
    if source_bytes is None or made.size_bytes <= source_bytes:
        return ""
    sizes = f"{text.size(made.size_bytes)} against {text.size(source_bytes)}"
    return f"It is larger than what it was made from, {sizes}: choose a format with fewer bits for a smaller model."


def _plain(value: str | float | bool) -> str:
    return plain(value) if isinstance(value, float) else str(value)
