"""The report of many configurations beside each other: a chart per measure, ratios to a baseline, every figure."""

from __future__ import annotations

from collections.abc import Sequence

from core.charts.many_runs import Bar, side_by_side
from core.report.figures import NONE, between, times, with_interval
from core.report.page import Section, Table, html
from core.studies.many_runs import Line, View, cautions, unnamed
from core.studies.measures import MEASURES
from hardware.errors import ExplorerError

FIRST = ("tok_per_s", "ttft_s", "latency_s", "peak_memory_bytes", "flops", "joules")
MARKS = {"best": " ★", "not shown to differ": " ≈", "behind": ""}
KEY = (
    "★ the best; ≈ not shown to differ from it, which takes five runs each; ~ disturbed. In brackets 95 % intervals. "
    "The runs were not made in pairs, so intervals of ratios are wider than those of a study."
)


def report(found: View) -> bytes:
    """One HTML file of the view, without prompts, answers and names of machines.

    Raises ExplorerError for an empty one.
    """
    if not found.lines:
        raise ExplorerError("There is no run to compare.", "Name finished runs; History lists them.")
    found = unnamed(found)
    base = next(line.label for line in found.lines if line.entry.id == found.baseline)
    n = sum(len(line.entry.runs) for line in found.lines)
    several = f"{len(found.lines)} configuration{'' if len(found.lines) == 1 else 's'}"
    lead = f"{several}, {n} run{'' if n == 1 else 's'}. Ratios are to {base}."
    if found.shared:
        lead += f"\nAll of them: {found.shared}"
    lead = "\n".join((lead, *cautions(found)))
    return html("Many runs", lead, [*_charts(found), _table(found)])


def bars(found: View, measure: str) -> list[Bar]:
    """Every configuration's figure with its interval and what was predicted; zero has no place on the axis."""
    listed = []
    for line in found.lines:
        value = line.values.get(measure)
        if value is None or value.value <= 0:
            continue
        told = line.predicted.get(measure)
        known = told is not None and told.low > 0
        listed.append(
            Bar(
                line.label,
                value.value,
                value.value if value.low is None else value.low,
                value.value if value.high is None else value.high,
                told.low if told is not None and known else None,
                told.high if told is not None and known else None,
                "disturbed" if line.entry.disturbed else "",
            )
        )
    return listed


def _charts(found: View) -> list[Section]:
    sections = []
    for measure in (m for m in FIRST if m in found.measures):
        what, shown_bars = MEASURES[measure], bars(found, measure)
        if not shown_bars:
            continue
        told = any(b.predicted_low is not None for b in shown_bars)
        words = f"{what.better.capitalize()} is better; {what.provenance}."
        words += " Pale bars: predicted from ceilings." if told else ""
        chart = side_by_side(shown_bars, what.label, what.unit)
        sections.append(Section(title=what.label, words=words, chart=chart))
    return sections


def _table(found: View) -> Section:
    foretold = [m for m in found.measures if any(m in line.predicted for line in found.lines)]
    head = ["Configuration", "Runs"]
    for measure in found.measures:
        head += [MEASURES[measure].label, "over the baseline"]
        head += ["predicted"] if measure in foretold else []
    rows = tuple(_row(line, found, foretold) for line in found.lines)
    strong = tuple(n for n, line in enumerate(found.lines) if line.entry.id == found.baseline)
    return Section(title="Every figure", words=KEY, table=Table(header=tuple(head), rows=rows, strong=strong))


def _row(line: Line, found: View, foretold: Sequence[str]) -> tuple[str, ...]:
    cells = [line.label, str(len(line.entry.runs))]
    for measure in found.measures:
        what, value, told = MEASURES[measure], line.values.get(measure), line.predicted.get(measure)
        words = with_interval(value, what.unit)
        if value is not None:
            about = line.entry.disturbed and what.provenance == "measured"
            words = f"{'~ ' if about else ''}{words}{MARKS[line.standings.get(measure, 'behind')]}"
        cells += [words, NONE if line.entry.id == found.baseline else times(line.ratios.get(measure))]
        if measure in foretold:
            cells.append(NONE if told is None else between(told.low, told.high, what.unit).strip())
    return tuple(cells)
