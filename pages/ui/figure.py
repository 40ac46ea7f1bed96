"""Shows a chart that core/charts made. Knows Streamlit's two chart engines, and nothing of what is drawn."""

from __future__ import annotations

from typing import Any, Literal

import streamlit as st

from core.charts.chart import Chart


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
    if "series" in chart.spec:
        return st.echarts_chart(chart.spec, key=key, height=height, on_select=on_select, alt=chart.alt)
    return st.vega_lite_chart(
        spec=chart.spec, key=key, height=height, on_select=on_select, selection_mode=selection_mode, alt=chart.alt
    )
