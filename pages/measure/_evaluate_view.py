"""An evaluation as it goes: scores with intervals, items as they are judged, and the comparison with another run."""

from __future__ import annotations

import streamlit as st

from core import labels
from core.learn.glossary import explained
from core.runs.store import Run
from core.types import GOING, Item, Result, Score
from pages.measure._paired_view import draw_paired
from pages.ui import marks, text
from pages.ui.run_report import draw_disturbance, draw_failure, draw_provenance, export_menu
from pages.ui.run_view import draw_header, draw_stage
from pages.ui.table import table
from pages.ui.tile import tile

_SHOWN = 500
_TILE = 148


def draw_evaluation(run: Run, result: Result) -> None:
    """The run as it stands; one that failed says why before anything else."""
    draw_header(run, result)
    draw_stage(run, result)
    draw_failure(run, result)
    if result.scores:
        draw_scores(result)
        draw_items(result)
    for warning in result.warnings:
        st.warning(text.escape(warning), icon=":material/warning:")
    if result.status not in GOING:
        if result.items:
            draw_paired(run, result)
        draw_disturbance(result)
        draw_provenance(result)
        export_menu(run)


def draw_scores(result: Result) -> None:
    """Every metric with its interval; speed and memory of the answers beside them."""
    with st.grid(3, min_column_width=170, row_height=_TILE):
        for score in result.scores:
            tile(
                score.label,
                _figure(score.value),
                explained(score.label, f"Over {score.n} items; {score.better} is better. The interval covers 95 %."),
                under=interval_text(score),
            )
        if result.tok_per_s:
            why = marks.explained(result)
            tile("Decode", text.token_rate(result.tok_per_s), explained("Decode", why), under=marks.mark(result))
        if result.tokens_per_forward and result.tokens_per_forward > 1.001:
            tile("Tokens per forward", f"{result.tokens_per_forward:.2f}", explained("Tokens per forward"))
        if result.depth is not None:
            tile("Mean depth", text.percent(result.depth))
        tile("Peak memory", text.size(result.peak_memory_bytes), explained("Peak memory"))


def interval_text(score: Score) -> str | None:
    if score.low is None or score.high is None:
        return score.unit or None
    return f"{_figure(score.low)} to {_figure(score.high)} {score.unit}".strip()


def _figure(value: float) -> str:
    """Three digits, and thousands in full: `0.137`, `2,980`."""
    return f"{float(f'{value:.3g}'):,.0f}" if 1000 <= abs(value) < 1e6 else f"{value:.3g}"


def draw_items(result: Result) -> None:
    """Items in the order they were judged, newest first while it runs."""
    items = result.items[::-1] if result.status in GOING else result.items
    with st.expander(f"Items ({len(result.items)})", icon=":material/list:", expanded=result.status in GOING):
        table([_row(item) for item in items[:_SHOWN]], height=300, alt="Items")
        if len(items) > _SHOWN:
            st.caption(f"The first {_SHOWN} are shown; the export has all.")


def _row(item: Item) -> dict[str, object]:
    return {
        "Item": item.id,
        **{labels.value(name): value for name, value in item.values.items()},
        "Answer": item.output,
        "Expected": item.expected,
        "Prompt": item.prompt[-300:],
    }
