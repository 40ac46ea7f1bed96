"""The moving charts of a run: time per token, time per layer, memory. The same ones live and afterwards."""

from __future__ import annotations

import statistics

import streamlit as st

from core.analysis.breakdown import by_kind
from core.charts.bars import layer_bars
from core.charts.timeline import memory_timeline, token_timeline
from core.runs.store import Run
from core.types import Result
from pages.ui import text
from pages.ui.figure import figure

_CARD, _CHART = 380, 280  # pixels: fixed, so that nothing moves when a chart gets its first data


def draw_charts(run: Run, result: Result) -> None:
    """Cards two by two, each with a one-line reading above its chart."""
    measured = any(layer.seconds is not None and layer.phase == "decode" for layer in result.layers)
    left, right = st.columns(2)
    with left.container(border=True, height=_CARD, gap="xsmall"):
        st.markdown("**Time per token**")
        st.caption(_tokens_line(result))
        if result.itl_s:
            figure(token_timeline(result.itl_s, result.ttft_s, height=_CHART), key="live-tokens")
    with right.container(border=True, height=_CARD, gap="xsmall"):
        st.markdown("**Time per layer** in one decode step")
        st.caption(_layers_line(result) if measured else "Measured in a pass of its own, after the timing.")
        if measured:
            figure(layer_bars(result.layers, "decode", top=10, height=_CHART), key="live-layers")
    left, right = st.columns(2)
    with left.container(border=True, height=_CARD, gap="xsmall"):
        st.markdown("**Memory of the worker**")
        st.caption(f"At most {text.size(result.peak_memory_bytes)}, library included.")
        if result.memory:
            figure(memory_timeline(result.memory, height=_CHART), key="live-memory")


def _tokens_line(result: Result) -> str:
    if len(result.itl_s) < 2:
        return "One point for each new token of the last timing pass."
    slowest = max(result.itl_s) / statistics.median(result.itl_s)
    return f"{len(result.itl_s)} steps, the slowest {text.ratio(slowest)} the median."


def _layers_line(result: Result) -> str:
    largest = by_kind(result.layers, "decode")[:1]
    if not largest or largest[0].share is None:
        return "The largest ten."
    return f"The largest ten. {largest[0].name.capitalize()} layers take {text.percent(largest[0].share)}."
