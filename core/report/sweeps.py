"""What a sweep shows of itself, and its report: how far it is, a map of each measure, every cell, what drifted.

The page Sweep draws the same tiles; only the choice of axes is a person's there.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.charts.labels import plain
from core.charts.sweep import DISTURBED, Tile, drift, heat, multiples
from core.report.figures import NONE, with_interval
from core.report.page import Section, Table, html
from core.studies.grid import axis_inside, axis_words, value_words
from core.studies.measures import MEASURES
from core.studies.plan import Axis
from core.studies.sweep import CellRow, Progress, Report, drift_words, spots
from core.types import Generate, Request

FIRST = ("tok_per_s", "ttft_s", "latency_s", "peak_memory_bytes", "joules")  # measures that get a chart
MOST_TILES = 250  # of a chart: more cannot be read, and would make the file too large
MOST_ROWS = 1000  # of the table


def report(found: Report, texts: bool = True) -> bytes:
    """One HTML file of a sweep as it stands. texts: with the prompt."""
    plan, told = found.plan, found.progress
    grid = f"Every combination of these settings, each measured in a run of its own: {_listed(plan.axes)}."
    lead = f"{grid}\n{progress_words(told)}"
    sections = [*_best(found), *_maps(found), cells_section(found), *_drift(found)]
    return html(plan.title, lead, [*sections, asked_section(plan.base, plan.axes, texts)])


def progress_words(told: Progress) -> str:
    """`12 done, 1 failed, 8 cannot run, 3 left; 14.2 of 30 minutes used.`"""
    used = f"{told.spent_s / 60:.1f} of {plain(told.minutes, 6)} minutes used"
    return f"{told.done} done, {told.failed} failed, {told.refused} cannot run, {told.left} left; {used}."


def varied(found: Report) -> list[str]:
    """The axes along which anything differs that is measured or still to be; all of them where there is none."""
    rows = [row for row in found.rows if row.values or row.status == "left"]
    seen = {a.name: {repr(row.at.get(a.name)) for row in rows} for a in found.plan.axes}
    return [name for name, values in seen.items() if len(values) > 1] or [a.name for a in found.plan.axes]


def measured(found: Report) -> list[str]:
    """The measures that any cell has."""
    return [m for m in MEASURES if any(m in row.values for row in found.rows)]


def tiles(found: Report, measure: str, x: str, y: str = "", panel: str = "") -> list[Tile]:
    """The best cell at each pair of values, panel by panel, with its figure of the measure."""
    listed, timed = [], MEASURES[measure].provenance == "measured"
    for spot in spots(found.rows, measure, x, y, panel):
        best = spot.best
        value = best.values[measure] if best else None
        listed.append(
            Tile(
                x=spot.x,
                y=spot.y,
                panel=spot.panel,
                value=value.value if value else None,
                low=value.low if value else None,
                high=value.high if value else None,
                label=best.label if best else "",
                n=spot.n,
                note=DISTURBED if best and best.disturbed and timed else spot.reason[:120],
            )
        )
    return listed


def _listed(axes: Sequence[Axis]) -> str:
    return ", ".join(axis_inside(a.name) for a in axes if len(a.values) > 1) or "one value of each"


def _best(found: Report) -> list[Section]:
    rows = []
    for measure in (m for m in FIRST if m in measured(found)):
        what = MEASURES[measure]
        known = [row for row in found.rows if measure in row.values]
        best = (max if what.better == "higher" else min)(known, key=lambda row: row.values[measure].value)
        about = "~ " if best.disturbed else ""
        rows.append((what.label, f"{about}{with_interval(best.values[measure], what.unit)}", best.label))
    if not rows:
        return []
    words = "The best cell of each measure. The best of many figures is a little too good; ~ marks a disturbed one."
    return [Section(title="In short", words=words, table=Table(header=("", "Best", "Cell"), rows=tuple(rows)))]


def _maps(found: Report) -> list[Section]:
    axes = varied(found)
    if not axes:
        return []
    x, y = axes[-1], axes[0] if len(axes) > 1 else ""
    panel = axes[1] if len(axes) > 2 else ""
    sections = []
    for measure in (m for m in FIRST if m in measured(found)):
        what = MEASURES[measure]
        flat = tiles(found, measure, x, y)
        if len(flat) > MOST_TILES:
            continue
        hidden = [axis_inside(name) for name in axes if name not in (x, y)]
        words = f"{what.better.capitalize()} is better."
        words += f" Each place shows the best over {', '.join(hidden)}." if hidden else ""
        names = axis_words(x), axis_words(y) if y else ""
        chart = heat(flat, *names, what.label, what.unit, what.better)
        sections.append(Section(title=what.label, words=words, chart=chart))
        parts = tiles(found, measure, x, y, panel) if panel else []
        if 0 < len(parts) <= MOST_TILES:
            lines = multiples(parts, *names, axis_words(panel), what.label, what.unit)
            sections.append(Section(title=f"{what.label} by {axis_inside(panel)}", chart=lines))
    return sections


def cells_section(found: Report) -> Section:
    """Every cell with its figures, or why it has none."""
    names, measures = [a.name for a in found.plan.axes], measured(found)
    head = ("Cell", *map(axis_words, names), "Status", *(MEASURES[m].label for m in measures), "Why")
    rows = [_cell_row(row, names, measures) for row in found.rows]
    more = f" Of {len(rows)} cells the first {MOST_ROWS}." if len(rows) > MOST_ROWS else ""
    words = f"In brackets 95 % intervals, which need five rounds; ~ marks a disturbed run.{more}"
    table = Table(header=head, rows=tuple(rows[:MOST_ROWS]), prose=(len(head) - 1,))
    return Section(title="Cells", words=words, table=table)


def _cell_row(row: CellRow, names: Sequence[str], measures: Sequence[str]) -> tuple[str, ...]:
    at = (value_words(name, row.at[name]) if name in row.at else NONE for name in names)
    figures = []
    for measure in measures:
        what, value = MEASURES[measure], row.values.get(measure)
        words = with_interval(value, what.unit)
        about = value is not None and row.disturbed and what.provenance == "measured"
        figures.append(f"~ {words}" if about else words)
    return (row.label, *at, row.status, *figures, row.reason)


def _drift(found: Report) -> list[Section]:
    words = drift_words(found.drift)
    if not words:
        return []
    chart = drift([(s.created_s, s.ratio, s.disturbed) for s in found.drift])
    return [Section(title="Drift of the machine", words=f"{found.reference}. {words}", chart=chart)]


def asked_section(base: Request, axes: Sequence[Axis], texts: bool) -> Section:
    """The values of the axes, and what all cells have in common."""
    task = base.task
    assert isinstance(task, Generate)
    own = {axis.name: ", ".join(value_words(axis.name, v) for v in axis.values) for axis in axes}
    common = {
        "model": base.model,
        "backend": value_words("backend", base.backend),
        "strategy": value_words("strategy", base.strategy),
        "dtype": base.dtype or "own",
        "threads": str(base.threads) if base.threads else "all physical cores",
        "batch": str(base.batch),
        "prompt_tokens": f"{task.prompt_tokens} random" if task.prompt_tokens else "a text",
        "new_tokens": str(task.max_new_tokens),
        "warmup": str(base.warmup),
        "repeats": str(base.repeats),
        "seed": str(base.seed),
        **{f"{base.backend}.{name}": str(value) for name, value in base.options.items()},
        **{f"{base.strategy}.{name}": str(value) for name, value in base.params.items()},
    }
    rows = [(axis_words(name), value) for name, value in (common | own).items()]
    if texts and task.prompt:
        rows.append(("Prompt", task.prompt))
    if texts and task.system:
        rows.append(("System message", task.system))
    return Section(title="What was asked", table=Table(header=(), rows=tuple(rows)))
