"""The moving charts of a run: time per token, time per layer, memory. The same ones live and afterwards."""

from __future__ import annotations

import statistics

import streamlit as st

from core import plugins
from core.analysis.breakdown import Phase, by_kind
from core.analysis.under_roof import measured
from core.charts.bars import layer_bars
from core.charts.roofline import roofline
from core.charts.timeline import memory_timeline, token_timeline
from core.runs.store import Run
from core.types import GOING, Result
from pages.ui import text
from pages.ui.ceilings import THIS, kept_of, no_ceilings, own_name, reference_of, this_machine
from pages.ui.figure import figure
from pages.ui.links import link
from pages.ui.served_view import INSIDE

_CARD, _CHART = 380, 280  # pixels: fixed, so that nothing moves when a chart gets its first data


def draw_charts(run: Run, result: Result) -> None:
    """Cards two by two, each with a one-line reading above its chart."""
    with st.container(key="cards"):
        _cards(run, result)


def _cards(run: Run, result: Result) -> None:
    timed = {layer.phase for layer in result.layers if layer.seconds is not None}
    phase: Phase = "prefill" if timed == {"prefill"} and result.status not in GOING else "decode"
    served = plugins.served(result.backend)
    left, right = st.columns(2)
    with left.container(border=True, height=_CARD, gap="xsmall", key="card-tokens"):
        pieces = result.served is not None and not result.served.single
        st.markdown("**Time per piece of text**" if pieces else "**Time per token**")
        st.caption(_tokens_line(result))
        if result.itl_s:
            figure(token_timeline(result.itl_s, result.ttft_s, height=_CHART), key="live-tokens")
    if served:
        with right.container(border=True, height=_CARD, gap="xsmall", key="card-layers"):
            st.markdown(":gray[**Time per layer, roofline, memory**]")
            st.caption(INSIDE)
        return
    with right.container(border=True, height=_CARD, gap="xsmall", key="card-layers"):
        st.markdown(f"**Time per layer** in {'one decode step' if phase == 'decode' else 'prefill'}")
        ahead = "Measured in a pass of its own, after the timing."
        st.caption(
            _layers_line(result, phase)
            if phase in timed
            else ahead
            if result.status in GOING
            else "Not measured in this run."
        )
        if phase in timed:
            figure(layer_bars(result.layers, phase, top=10, height=_CHART), key="live-layers")
    left, right = st.columns(2)
    with left.container(border=True, height=_CARD, gap="xsmall", key="card-roofline"):
        _roofline(run, result)
    with right.container(border=True, height=_CARD, gap="xsmall", key="card-memory"):
        st.markdown("**Memory of the worker**")
        st.caption(f"At most {text.size(result.peak_memory_bytes)}, library included.")
        if result.memory:
            figure(memory_timeline(result.memory, height=_CHART), key="live-memory")


def _roofline(run: Run, result: Result) -> None:
    """Phases and layers under the roofs that were measured on this machine."""
    st.markdown("**Roofline**")
    found = kept_of(result)
    device = this_machine(found, own_name(result))
    if device is None:
        st.caption(no_ceilings(result))
        words = "Measure it, in half a minute" if own_name(result) == THIS else "Choose a data sheet"
        link("pages/understand/roofline.py", words, ":material/straighten:", run.id)
        return
    reference = reference_of(device, result, found)
    points = measured(result.phases, result.layers, "Layers", reference.ceiling)
    decode = next((p for p in points if p.whole and p.phase == "decode"), None)
    if decode is None:
        st.caption("Points appear with the first tokens.")
    else:
        st.caption(f"Decode is {decode.bound}-bound, at {text.percent(decode.efficiency)} of the roof.")
    roofs = tuple(roof for roof in reference.roofs if roof.main)  # a small chart has room for no more
    figure(roofline(roofs, points, height=_CHART, pick=False), key="live-roofline")


def _tokens_line(result: Result) -> str:
    if len(result.itl_s) < 2:
        return "One point for each new token of the last timing pass."
    median_s = statistics.median(result.itl_s)
    if not median_s:
        return "Most of the text came in one read, so that no time lies between its pieces."
    slowest = max(result.itl_s) / median_s
    return f"{len(result.itl_s)} steps, the slowest {text.ratio(slowest)} the median."


def _layers_line(result: Result, phase: Phase) -> str:
    largest = by_kind(result.layers, phase)[:1]
    if not largest or largest[0].share is None:
        return "The largest ten."
    kind = {"mlp": "MLP", "ssm": "State-space"}.get(largest[0].name, largest[0].name.capitalize())
    return f"The largest ten. {kind} layers take {text.percent(largest[0].share)}."
