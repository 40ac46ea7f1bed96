"""A decoding study on the screen: speed-ups measured and predicted, the table, the training curves."""

from __future__ import annotations

import streamlit as st

from core import labels
from core.charts.curves import curve
from core.charts.standings import speedups
from core.report import benchmark as report
from core.studies.standings import Standings
from pages.ui import text
from pages.ui.figure import figure
from pages.ui.table import table


def draw_benchmark(found: Standings) -> None:
    """Everything of one study."""
    st.caption(f"{text.escape(report.where(found))} {text.provenance('measured')}")
    for words in report.words(found)[1:]:
        st.markdown(text.escape(words))
    figure(speedups(found.rows), key="speedups")
    st.caption(
        "Bars: measured, over autoregressive in the same model and engine. Diamonds: predicted from tokens per forward "
        "pass over v(n), which is what a forward pass of n tokens costs in passes of one."
    )
    rows = [dict(zip(report.HEADER, report.cells(found, row), strict=True)) for row in found.rows]
    table(rows, height="content", alt="Ways to decode")
    st.caption(text.escape(report.words(found)[0]))
    if found.curves:
        st.header("Training", anchor=False)
    recipes = {r.id: r.label for r in found.plan.recipes}
    for name, points in found.curves:
        values = list(dict.fromkeys(v for p in points for v in p.values))
        with st.expander(text.escape(recipes.get(name, name)), expanded=name == "cllm"):
            for row in range(0, len(values), 2):
                for place, (value, column) in enumerate(zip(values[row : row + 2], st.columns(2), strict=False), row):
                    with column:
                        st.markdown(f"**{text.escape(labels.curve(value))}**")
                        figure(curve(points, value, place), key=f"study-{name}-{value}")
