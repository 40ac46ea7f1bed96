"""What a drawing function returns: a description of a chart, with its data, that someone else shows.

A Vega-Lite chart keeps everything that changes in `datasets`, so that a live chart is fed and
never rebuilt. Every chart carries one sentence that says what it shows (`alt`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

Row = dict[str, Any]


class Chart(NamedTuple):
    """spec: a Vega-Lite dictionary, or an ECharts option; alt: the text for who cannot see it."""

    spec: dict[str, Any]
    alt: str


def fed(spec: Mapping[str, Any], alt: str, **datasets: Iterable[Row]) -> Chart:
    """The chart of a cached specification and its named data."""
    return Chart({**spec, "datasets": {name: list(rows) for name, rows in datasets.items()}}, alt)
