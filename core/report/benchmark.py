"""Standings as one HTML file that opens without a network, and as a Markdown table. Words and layout only."""

from __future__ import annotations

from typing import Any

import msgspec

from core.charts.curves import curve
from core.charts.labels import si
from core.charts.standings import speedups
from core.report import page
from core.report.figures import NONE, about, engine
from core.report.page import Section, Table
from core.report.tables import as_markdown
from core.stats.intervals import Interval, in_words
from core.stats.paired import Comparison, noninferiority
from core.studies.standings import Standing, Standings

HEADER = (
    "Way to decode",
    "Engine",
    "Accuracy",
    "Tokens per forward",
    "tok/s",
    "Speed-up",
    "Over autoregressive",
    "Predicted",
    "Error",
    "Over the fastest",
    "Whole answer",
    "Output match",
    "Peak memory",
    "J per token",
)


def html(s: Standings) -> bytes:
    """The whole report, in the shape of all reports."""
    return page.html(s.plan.title, "\n".join([where(s), *words(s)]), sections(s))


def sections(s: Standings) -> list[Section]:
    """Speed-ups, configurations, training curves."""
    named = tuple(n for n, row in enumerate(s.rows) if row.id in (s.plan.baseline, s.plan.candidate))
    rows = tuple(cells(s, row) for row in s.rows)
    return [
        Section(title="Speed-up over autoregressive in each engine, measured and predicted", chart=speedups(s.rows)),
        Section(title="Configurations", table=Table(header=HEADER, rows=rows, strong=named)),
        *(
            Section(title=f"Training, {name}: {value.replace('_', ' ')}", chart=curve(points, value, place))
            for name, value, points, place in _curves(s)
        ),
    ]


def markdown(s: Standings) -> str:
    """The table, and under it what the numbers mean."""
    return "\n\n".join([as_markdown(HEADER, [cells(s, row) for row in s.rows]), where(s), *words(s)]) + "\n"


def cells(s: Standings, row: Standing) -> tuple[str, ...]:
    """One line of the table; a configuration that could not take part says why."""
    if not row.n:
        return (row.label, engine(row.backend), row.reason, *[NONE] * (len(HEADER) - 3))
    energy = row.energy
    joules = si(energy.joules_per_token, "J") if energy is not None and energy.joules_per_token else NONE
    if energy is not None and energy.provenance == "estimated":
        joules += " (estimated)"
    noted = {r.id: r.disturbed for r in s.rows}
    own = next(c.own for c in s.plan.configurations if c.id == row.id)
    return (
        row.label,
        engine(row.backend),
        f"{row.accuracy:.3f} (n = {row.n})" if row.accuracy is not None else NONE,
        NONE if row.tokens_per_forward is None else f"{row.tokens_per_forward:.2f}",
        NONE if row.tok_per_s is None else f"{about(row.disturbed)}{row.tok_per_s:.1f}",
        _interval(row.speedup, row.disturbed or noted.get(s.plan.baseline, 0)),
        _interval(row.over_autoregressive, row.disturbed or noted.get(own, 0)),
        NONE if row.predicted is None else f"{row.predicted:.2f}",
        NONE if row.error is None else f"{row.error:+.0%}",
        _interval(row.over_fastest, row.disturbed or noted.get(s.fastest, 0)),
        _interval(row.latency, row.disturbed or noted.get(s.plan.baseline, 0)),
        NONE if row.same is None else f"{row.same:.0%}",
        NONE if row.memory_bytes is None else si(row.memory_bytes, "B"),
        joules,
    )


def words(s: Standings) -> list[str]:
    """What was compared with what, and the claim in sentences."""
    return [
        _compared(s),
        *_claim(s),
        *_closely(s),
        *_out_of_domain(s),
        *_slower(s),
        *_early(s),
        *_disturbed(s),
        *(f"{r.label}: {r.reason}" for r in s.rows if r.reason and r.n),
    ]


def _compared(s: Standings) -> str:
    plan, baseline = s.plan, _row(s, s.plan.baseline)
    fastest = next((r.label for r in s.rows if r.id == s.fastest), s.fastest)
    return (
        "Questions from tables that no training has seen; every configuration answers the same ones, "
        f"{plan.questions} per round and fresh process, in a random order. Speed: tokens per second of decoding after "
        f"the first token; speed-up over {baseline.label} in {engine(baseline.backend)}; intervals are 95 % "
        "bootstraps over questions. "
        f"The fastest autoregressive configuration is {fastest}. Predicted: tokens per forward over what drafting "
        f"and a forward of as many tokens cost, v(n), the median of {plan.looks} looks at it in processes of their own."
    )


def _claim(s: Standings) -> list[str]:
    """The candidate against the baseline: its speed, its accuracy, and whether it is shown to be no worse."""
    baseline, candidate = _row(s, s.plan.baseline), _row(s, s.plan.candidate)
    found = []
    if candidate.speedup is not None and candidate.accuracy is not None and baseline.accuracy is not None:
        faster = _interval(candidate.speedup, candidate.disturbed or baseline.disturbed)
        found.append(
            f"{candidate.label}: {faster} times the speed of {baseline.label} at "
            f"{candidate.tokens_per_forward:.2f} tokens per forward; accuracy {candidate.accuracy:.3f} against "
            f"{baseline.accuracy:.3f}."
        )
    return found if candidate.against is None else [*found, _difference(candidate.against, s.plan.margin)]


def _closely(s: Standings) -> list[str]:
    """Accuracy over many more questions, of the two that the plan names for it."""
    if s.quality is None or s.plan.quality is None:
        return []
    a, b = (_row(s, name).label for name in (s.plan.quality.baseline, s.plan.quality.candidate))
    found = s.quality
    return [
        f"Accuracy alone, over {found.n:,} further questions about {found.n_clusters:,} tables: {b} "
        f"{found.variant:.3f}, {a} {found.baseline:.3f}. {_difference(found, s.plan.margin)}"
    ]


def _difference(c: Comparison, margin: float) -> str:
    verdict = noninferiority(c, margin)
    return (
        f"Difference of accuracy {in_words(c.difference, '+.3f')} over {c.n:,} questions, {len(c.lost)} lost and "
        f"{len(c.gained)} gained, p = {c.p:.3g} ({c.test}). Margin {margin:g}, stated before: "
        f"{verdict.verdict}. {verdict.sentence}"
    )


def _out_of_domain(s: Standings) -> list[str]:
    if s.away is None:
        return []
    asked, per_forward = f"{s.away.label.lower()}, {s.away.n} items", s.away.tokens_per_forward
    return [
        f"Out of domain ({asked}): {_interval(s.away.speedup)} times the speed"
        + (f" at {per_forward:.2f} tokens per forward" if per_forward is not None else "")
        + f"; score {s.away.score:.2f} against {s.away.baseline_score:.2f}."
    ]


def _slower(s: Standings) -> list[str]:
    slower = [
        f"{r.label} ({engine(r.backend)}), whose forwards cost {r.tokens_per_forward / r.predicted:.1f} times one of "
        f"a single token and give {r.tokens_per_forward:.2f} tokens"
        for r in s.rows
        if r.over_autoregressive is not None
        and r.over_autoregressive.value < 1
        and r.predicted
        and r.tokens_per_forward
    ]
    return [f"Slower here than their own model autoregressively: {'; '.join(slower)}."] if slower else []


def _early(s: Standings) -> list[str]:
    early = [c.label for c in s.plan.configurations if c.params.get("early")]
    if not early:
        return []
    return [
        f"{' and '.join(early)}: the forward that reads the prompt carries the first guesses, so that one step of "
        "its decoding is counted to the first token; its column to compare is the whole answer."
    ]


def _disturbed(s: Standings) -> list[str]:
    disturbed = [f"{r.label} ({engine(r.backend)}) in {r.disturbed}" for r in s.rows if r.disturbed]
    if not disturbed:
        return []
    return [
        f"Rounds that were disturbed by other work on the machine: {', '.join(disturbed)}. Speeds and ratios in "
        "which they count are marked ~."
    ]


def _row(s: Standings, name: str) -> Standing:
    return next(r for r in s.rows if r.id == name)


def where(s: Standings) -> str:
    cpu = s.machine.cpu if s.machine else "an unknown processor"
    cores = s.machine.usable_cores if s.machine else "?"
    return (
        f"Measured on {s.begun[:16]} on {cpu}, {cores} cores, in {s.spent_s / 60:.0f} minutes, "
        "without the training of models that were there already."
    )


def _interval(found: Interval | None, disturbed: int = 0) -> str:
    return in_words(found, ".2f") if found is None else f"{about(disturbed)}{in_words(found, '.2f')}"


def _curves(s: Standings) -> list[tuple[str, str, Any, int]]:
    labels = {r.id: r.label for r in s.plan.recipes}
    found = []
    for name, points in s.curves:
        values = list(dict.fromkeys(v for p in points for v in msgspec.to_builtins(p.values)))
        found += [(labels[name], value, points, place) for place, value in enumerate(values)]
    return found
