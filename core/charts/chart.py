"""What a drawing function returns: a description of a chart, with its data, that someone else shows.

A Vega-Lite chart keeps everything that changes in `datasets`, so that a live chart is fed and
never rebuilt. Every chart carries one sentence that says what it shows (`alt`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

Row = dict[str, Any]
SAID = 12  # things that the words for a chart name one by one
_WORDS = frozenset({"fontSize", "labelFontSize", "titleFontSize", "lineHeight", "labelLimit", "dx", "dy"})


class Chart(NamedTuple):
    """spec: a Vega-Lite dictionary, or an ECharts option; alt: the text for who cannot see it."""

    spec: dict[str, Any]
    alt: str


def fed(spec: Mapping[str, Any], alt: str, **datasets: Iterable[Row]) -> Chart:
    """The chart of a cached specification and its named data."""
    return Chart({**spec, "datasets": {name: list(rows) for name, rows in datasets.items()}}, alt)


def enlarged(chart: Chart, factor: float) -> Chart:
    """The same chart with larger words, to be read from the back of a room. Its data and its own size stay."""
    return chart._replace(spec=_larger(chart.spec, factor))


def _larger(part: Any, factor: float) -> Any:
    if isinstance(part, list):
        return [_larger(each, factor) for each in part]
    if not isinstance(part, dict):
        return part
    return {
        name: round(value * factor, 1)
        if name in _WORDS and isinstance(value, int | float)
        else value
        if name in ("datasets", "data")
        else _larger(value, factor)
        for name, value in part.items()
    }


def listed(words: str, things: Sequence[str]) -> str:
    """The words for a chart with its main numbers, one by one: `Decode on 2 devices: T4 5 tok/s, A100 40 tok/s`."""
    more = len(things) - SAID
    told = ", ".join(things[:SAID]) + (f", and {more} more" if more > 0 else "")
    return f"{words}: {told}" if things else words


# Pixels around a chart. Vega measures words before their font is there, when the machine is busy, and then too narrow.
ROOM = {"left": 8, "right": 8, "top": 4, "bottom": 4}
PRESENT = "pluck(data('present'), 'kind')"  # for the values of a legend that lists only what is drawn


def present(kinds: Iterable[str]) -> list[Row]:
    """The data set `present` of such a chart."""
    return [{"kind": kind} for kind in dict.fromkeys(kinds)]


def unseen() -> Any:
    """A layer that draws nothing: a chart knows only the data sets that something is drawn of."""
    import altair as alt

    return alt.Chart(alt.NamedData("present")).mark_point(opacity=0).encode(x=alt.value(0), y=alt.value(0))


def built(chart: Any, height: int | None) -> dict[str, Any]:
    """The specification of an Altair chart that fills its container; height None: as its steps need."""
    if height is not None:
        chart = chart.properties(height=height)
    spec: dict[str, Any] = chart.properties(width="container", padding=ROOM).to_dict()
    return spec


def si_label(unit: str) -> str:
    """A Vega expression for the labels of an axis: `1 TFLOP/s`, `20 ms`, `0`."""
    return f"datum.value == 0 ? '0' : replace(format(datum.value, '.3~s'), regexp('([a-zA-Zµ]?)$'), ' $1') + '{unit}'"
