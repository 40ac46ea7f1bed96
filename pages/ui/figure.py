"""Shows a chart that core/charts made. Knows Streamlit's two chart engines, and nothing of what is drawn."""

from __future__ import annotations

import re
from typing import Any, Literal

import streamlit as st

from core.charts.chart import Chart, enlarged
from pages.ui import lecture
from pages.ui.live import ticking


def steady(words: str) -> str:
    """What a chart shows, without the numbers that change.

    Streamlit writes the words into the drawn view, so new words would build the whole view anew: flicker.
    """
    return re.split(r"[,:;]| (?:over |of |at |with )?\d", words)[0] + ", live"


def figure(
    chart: Chart,
    key: str,
    height: int | Literal["content", "stretch"] = "content",
    on_select: Any = "ignore",
    selection_mode: Any = None,
) -> Any:
    """Draw a Vega-Lite specification or an ECharts option under a key of its own.

    The key keeps the drawn view across updates. on_select: "rerun" or a callback, then the
    selection comes back.
    """
    if lecture.on():
        chart = enlarged(chart, lecture.LARGER)
    alt = steady(chart.alt) if ticking() else chart.alt
    if "series" in chart.spec:
        return st.echarts_chart(chart.spec, key=key, height=height, on_select=on_select, alt=alt)
    return st.vega_lite_chart(
        spec=chart.spec, key=key, height=height, on_select=on_select, selection_mode=selection_mode, alt=alt
    )
