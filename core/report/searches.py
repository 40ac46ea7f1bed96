"""What a search shows of itself, and its report: the choice and why, the plane of its goals, the audit, every cell."""

from __future__ import annotations

from core.charts.chart import Chart
from core.charts.labels import plain
from core.charts.many_runs import Bar, side_by_side
from core.charts.search import Spot, plane
from core.report.figures import NONE, between, shown, times, with_interval
from core.report.page import Section, Table, html
from core.report.sweeps import MOST_ROWS, asked_section
from core.stats.intervals import Interval
from core.studies.measures import MEASURES
from core.studies.plan import Search
from core.studies.search import Found, SearchReport, measure_of

ORDER = ("finalist", "measured", "audited", "failed", "predicted only", "dropped", "cannot run")
MOST_SPOTS = 1000


def report(found: SearchReport, texts: bool = True) -> bytes:
    """One HTML file of a search as it stands. texts: with the prompt."""
    first, *rest = found.answer.words
    spent = f"{found.measured} measurements in {plain(found.spent_s / 60, 3)} minutes, finals included"
    lead = f"{first}\n{spent}; a sweep of every cell was expected to take {plain(found.expected_s / 60, 3)} minutes."
    open_ = [] if found.complete or not found.answer.cell else ["The final rounds are not over."]
    sections = [Section(title="Why", words="\n".join([*rest, *open_, audit_words(found)]))]
    if (chart := goal_chart(found)) is not None:
        words = (
            "Measured and predicted cells; squares are finalists and the baseline, measured anew. Only their figures "
            "are results."
        )
        sections.append(Section(title="The goals", words=words, chart=chart))
    if found.plan.constraints:
        limits = tuple(
            (measure_of(found.plan, c.measure).label, "at most" if c.better == "lower" else "at least",
             shown(c.limit, measure_of(found.plan, c.measure).unit))
            for c in found.plan.constraints
        )  # fmt: skip
        sections.append(Section(title="Limits", table=Table(header=(), rows=limits)))
    return html(
        found.plan.title, lead, [*sections, _cells(found), asked_section(found.plan.base, found.plan.axes, texts)]
    )


def audit_words(found: SearchReport) -> str:
    """How often dropping was wrong, as far as the audit tells."""
    if not found.dropped:
        return "Nothing was dropped."
    if found.bound is None:
        return f"{found.dropped} cells were dropped, none of them audited."
    return (
        f"{found.dropped} cells were dropped; {found.missed} of {found.audited} audited ones would have been on the "
        f"front (at most {found.bound:.0%} of the dropped, at 95 %)."
    )


def goal_chart(found: SearchReport) -> Chart | None:
    """The plane of the first two goals, or the only goal cell by cell; None while nothing is there to draw."""
    goals = found.plan.goals
    if len(goals) < 2:
        what = MEASURES[goals[0]]
        bars = [_bar(row, goals[0]) for row in found.rows if goals[0] in row.measured]
        return side_by_side(bars, what.label, what.unit) if bars else None
    one, two = goals[:2]
    spots = []
    for row in found.rows:
        if one in row.measured and two in row.measured:
            spots.append(Spot(row.label, row.stage, row.measured[one], row.measured[two], row.reason[:100]))
        elif one in row.predicted and two in row.predicted and row.stage in ("predicted only", "dropped"):
            x, y = row.predicted[one].likely, row.predicted[two].likely
            spots.append(Spot(row.label, row.stage, x, y, row.reason[:100]))
        if one in row.final and two in row.final:
            spots.append(Spot(row.label, "final", row.final[one].value, row.final[two].value, "measured anew"))
    spots.sort(key=lambda spot: spot.stage in ("predicted only", "dropped"))
    across, up = MEASURES[one], MEASURES[two]
    ends = (across.label, across.unit, across.better), (up.label, up.unit, up.better)
    return plane(spots[:MOST_SPOTS], *ends)


def _bar(row: Found, goal: str) -> Bar:
    value, told = row.measured[goal], row.predicted.get(goal)
    return Bar(row.label, value, value, value, told.low if told else None, told.high if told else None, row.stage)


def _cells(found: SearchReport) -> Section:
    plan = found.plan
    names = list(dict.fromkeys((*plan.goals, *(c.measure for c in plan.constraints))))
    parts = ("predicted", "measured", "final", "final over measured")
    head = ("Cell", "Stage", "Runs", *(f"{measure_of(plan, n).label}, {part}" for n in names for part in parts), "Why")
    rows = sorted(found.rows, key=lambda row: ORDER.index(row.stage))
    strong = tuple(n for n, row in enumerate(rows[:MOST_ROWS]) if row.id == found.answer.cell)
    table = Table(
        header=head,
        rows=tuple(_row(row, plan, names) for row in rows[:MOST_ROWS]),
        prose=(len(head) - 1,),
        strong=strong,
    )
    more = f" Of {len(rows)} cells the first {MOST_ROWS}." if len(rows) > MOST_ROWS else ""
    words = (
        "Predicted before anything ran; measured in the search; final: anew, in fresh processes. The best of many "
        f"noisy figures is too good, so only final figures are results.{more}"
    )
    return Section(title="Cells", words=words, table=table)


def _row(row: Found, plan: Search, names: list[str]) -> tuple[str, ...]:
    cells = [row.label, row.stage, str(row.n) if row.n else NONE]
    for name in names:
        unit, told = measure_of(plan, name).unit, row.predicted.get(name)
        ratio = row.shrinkage.get(name)
        cells += [
            NONE if told is None else between(told.low, told.high, unit).strip(),
            shown(row.measured.get(name), unit),
            with_interval(row.final.get(name), unit),
            NONE if ratio is None else times(Interval(value=ratio, low=None, high=None, n=1)),
        ]
    return (*cells, row.reason)
