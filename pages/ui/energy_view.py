"""Joules per token of a run, with the label and the range that keep an estimate from passing for a measurement."""

from __future__ import annotations

import streamlit as st

from core.types import Energy, Result
from pages.ui import text


def draw_energy(result: Result) -> None:
    """One line per phase; nothing where energy was not asked for."""
    if not result.energy:
        return
    with st.container(border=True, key="run-energy"):
        st.markdown("**Energy**")
        for energy in result.energy:
            st.markdown(energy_line(energy), help=_how(energy))


def energy_line(energy: Energy) -> str:
    """`Decode: 0.42 J per token (0.21 to 0.63 J) · 13.4 J in 12.1 s` and the badge."""
    line = f"{energy.phase.capitalize()}: **{text.si(energy.joules_per_token, 'J')} per token**"
    if energy.provenance == "estimated":
        line += f" ({text.si(energy.low_j_per_token, 'J')} to {text.si(energy.high_j_per_token, 'J')})"
    line += f" · {text.si(energy.joules, 'J')} in {text.seconds(energy.seconds)}"
    if energy.provenance == "measured" and energy.net_j is not None:
        line += f", {text.si(energy.net_j, 'J')} above idle"
    return f"{line} {text.provenance(energy.provenance)}"


def _how(energy: Energy) -> str:
    if energy.provenance == "measured":
        return (
            f"Counted by {text.escape(energy.method)}, in a pass of its own. A counter covers the whole chip and "
            "everything that runs on it."
        )
    method = text.escape(energy.method[:1].upper() + energy.method[1:])
    return (
        f"{method}, from the processor time of a pass of its own. It follows from time and load alone, so it enters "
        f"no test and no ranking. {text.escape(energy.missing)}"
    )
