"""Findings as one HTML file that opens without a network, and as a Markdown table.

Words and layout only: every figure comes from core.studies.findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from core.charts.chart import Chart
from core.charts.labels import si
from core.charts.tradeoff import Delta, Point, deltas, pareto
from core.report import page
from core.report.figures import NONE, about, engine
from core.report.page import Section, Table
from core.report.tables import as_markdown
from core.stats.intervals import Ratio, ends
from core.studies.composites import CANDIDATES
from core.studies.findings import DISCORDANCE, Cell, Findings, Row
from core.types import Energy, Record

MARKS = {"worse": " ▼", "better": " ▲", "": ""}


class Shown(Record):
    """A cell of a table: text and its interval."""

    text: str
    range: str = ""


class Line(Record):
    cells: tuple[Shown, ...]


def html(f: Findings) -> bytes:
    """The whole report, in the shape of all reports."""
    return page.html(f.plan.title, "\n".join([where(f), how(f), *f.remarks]), sections(f))


def sections(f: Findings) -> list[Section]:
    """Front, variants, differences, composite metrics with their evidence, how each was made, and the machine."""
    front = (
        "Speed-up of the standard answer and mean quality over all task items, with 95 % intervals. The dashed line is "
        "the Pareto front of the two; full colour marks the front of speed, quality and memory."
    )
    variants = (
        "▼ and ▲: shown to be worse or better than the baseline (p ≤ 0.05 after Holm's correction over the variants, "
        "column by column; exact McNemar, or randomisation over clusters). Quality is the mean over all task items. "
        "Marked rows: the baseline, and the front of speed, quality and memory. Memory is the peak of the process, "
        f"library included. {energy_words(f.rows)}"
    )
    found = [line(f, row) for row in f.rows]
    strong = tuple(n for n, row in enumerate(f.rows) if row.on_front or row.id == f.plan.baseline)
    table = Table(header=tuple(header(f)), rows=tuple(map(_plain, found)), strong=strong)
    return [
        Section(title="Speed against quality", words=front, chart=front_chart(f)),
        Section(title="Variants", words=variants, table=table),
        Section(title="Quality against the baseline", words=margin(f), chart=delta_chart(f)),
        *_one_number(f),
        _made(f),
        Section(title="Machine", words=_machine(f)),
    ]


def _plain(found: Line) -> tuple[str, ...]:
    return tuple(f"{c.text} {c.range}".strip() for c in found.cells)


def _one_number(f: Findings) -> list[Section]:
    """Composite metrics: those that were kept with their values, and for all the evidence."""
    about = (
        "Composite metrics are shown only if they pass a validation on this study's own data: they must fall where "
        "quality is known to fall, put broken models below the baseline, rank alike on halves of the data, not change "
        "when a variant is added, and not hang on their weights."
    )
    kept = [c for c in CANDIDATES if any(v.composite == c.name and v.kept for v in f.verdicts)]
    head = ("Variant", *(f"{c.label}{f' ({c.unit})' if c.unit else ''}" for c in kept))
    rows = tuple((row.label, *_plain(Line(cells=tuple(_value(row, c.name) for c in kept)))) for row in f.rows)
    volumes = _volumes(f.hypervolumes)
    return [
        Section(title="One number?", words=about, table=Table(header=head, rows=rows))
        if kept
        else Section(title="One number?", words=f"{about}\nNone of the candidates passed."),
        Section(
            title="The evidence",
            words=volumes,
            table=Table(header=("Metric", "Verdict", "Evidence"), rows=_evidence(f), prose=(0, 1, 2)),
        ),
    ]


def _made(f: Findings) -> Section:
    rows = tuple(
        (row.label, row.model, "\n".join(filter(None, (row.note, row.reason, *row.warnings)))) for row in f.rows
    )
    table = Table(header=("Variant", "Model", "Note"), rows=rows, prose=(1, 2))
    return Section(title="How each was made", table=table)


def markdown(f: Findings) -> str:
    """The table, and under it what the numbers mean."""
    table = as_markdown(header(f), [_plain(line(f, row)) for row in f.rows])
    kept = ", ".join(c.label for c in CANDIDATES if any(v.composite == c.name and v.kept for v in f.verdicts))
    words = [
        f"{where(f)} {how(f)}",
        margin(f),
        energy_words(f.rows),
        f"Composite metrics that passed their validation: {kept or 'none'}.",
        *f.remarks,
        *(f"{row.label}: {row.reason}" for row in f.rows if row.reason),
    ]
    return "\n".join([table, "", *(w for w in words if w)]) + "\n"


# ------------------------------------------------------------ the table


def header(f: Findings) -> list[str]:
    evaluations = [e.label + (f" ({e.metric})" if e.task else "") for e in f.plan.evaluations]
    return [
        "Variant",
        "Backend",
        "Bits",
        "Memory",
        "tok/s",
        "Speed-up",
        "Over own backend",
        "Quality",
        *evaluations,
        "Energy",
    ]


def line(f: Findings, row: Row) -> Line:
    """One variant's line of the table, under `header`."""
    cells = {c.evaluation: c for c in row.cells}
    base = next((r for r in f.rows if r.id == f.plan.baseline), row)
    beside = f.plan.base_of(f.plan.recipe(row.id))
    own_base = next((r for r in f.rows if beside is not None and r.id == beside.id), row)
    own = _ratio(row.own, row.disturbed or own_base.disturbed)
    if row.same_as_own:
        own = Shown(text=f"{own.text} =", range=own.range)
    return Line(
        cells=(
            Shown(text=row.label),
            Shown(text=engine(row.backend)),
            Shown(text=NONE if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}"),
            Shown(text=NONE if row.memory_bytes is None else si(row.memory_bytes, "B")),
            Shown(text=NONE if row.tok_per_s is None else f"{about(row.disturbed)}{row.tok_per_s:.1f}"),
            _ratio(row.speedup, row.disturbed or base.disturbed),
            own,
            _quality(row),
            *(_cell(cells.get(e.eval)) for e in f.plan.evaluations),
            _energy(row.energy),
        ),
    )


def _ratio(ratio: Ratio | None, disturbed: int) -> Shown:
    if ratio is None:
        return Shown(text=NONE)
    return Shown(text=f"{about(disturbed)}{ratio.value:.2f}", range=ends(ratio.low, ratio.high, ".2f").strip())


def _quality(row: Row) -> Shown:
    if row.quality is None:
        return Shown(text=NONE)
    between = ends(row.quality_low, row.quality_high, ".3f").strip()
    return Shown(text=f"{row.quality:.3f}{MARKS[row.mark]}", range=between)


def _cell(cell: Cell | None) -> Shown:
    if cell is None or cell.score is None:
        return Shown(text=NONE)
    score = cell.score
    digits = ".1f" if score.value >= 10 else ".3f" if score.value >= 0.1 or score.value == 0 else ".2g"
    return Shown(text=f"{score.value:{digits}}{MARKS[cell.mark]}")


def _energy(found: Sequence[Energy]) -> Shown:
    decode = next((e for e in found if e.phase == "decode" and e.joules_per_token is not None), None)
    if decode is None or decode.joules_per_token is None:
        return Shown(text=NONE)
    text = f"{decode.joules_per_token:.3g} J/token"
    if decode.comparable:
        return Shown(text=text)
    return Shown(text=text, range=f"est. {decode.low_j_per_token:.2g}–{decode.high_j_per_token:.2g}")


def _value(row: Row, name: str) -> Shown:
    value = next((v for v in row.composites if v.composite == name), None)
    if value is None or value.value is None:
        return Shown(text=NONE, range=value.reason if value else "")
    return Shown(text=f"{value.value:.3g}", range=ends(value.low, value.high, ".3g").strip())


# ------------------------------------------------------------ the charts


def front_chart(f: Findings, pick: bool = False) -> Chart:
    """Speed-up against quality. pick: a variant can be clicked."""
    points = [
        Point(
            id=row.id,
            label=row.label,
            group=engine(row.backend),
            x=row.speedup.value,
            y=row.quality,
            x_low=row.speedup.low,
            x_high=row.speedup.high,
            y_low=row.quality_low,
            y_high=row.quality_high,
            on_front=row.on_front,
            member=row.member,
            note=row.note,
        )
        for row in f.rows
        if row.speedup is not None and row.quality is not None
    ]
    baseline = f.plan.recipe(f.plan.baseline).label
    return pareto(points, f"Speed-up over {baseline}", "Quality", pick=pick)


def delta_chart(f: Findings) -> Chart:
    """Of the quality; the colour tells what is shown after Holm's correction."""
    base = next(row for row in f.rows if row.id == f.plan.baseline)
    rows = []
    for row in f.rows:
        d = row.difference
        if d is None or row.id == base.id:
            continue
        effect = row.mark or "not shown to differ"
        sentence = row.equal.sentence if row.equal else ""
        rows.append(Delta(row.id, row.label, "Quality", d.value, d.low, d.high, effect, sentence))
    return deltas(rows, f"Quality against {base.label}", margin=f.plan.margin)


# ------------------------------------------------------------ the words


def where(f: Findings) -> str:
    cpu = f.machine.cpu if f.machine else "an unknown processor"
    cores = f.machine.usable_cores if f.machine else "?"
    return f"Measured on {f.date} on {cpu}, {cores} cores, in {f.minutes:.0f} minutes."


def how(f: Findings) -> str:
    p = f.plan
    return (
        f"Speed: the time of a standard answer ({p.prompt_tokens} tokens in, {p.new_tokens} out) in {f.rounds} "
        f"interleaved rounds of fresh processes, as a ratio of geometric means to {p.recipe(p.baseline).label}, with "
        f"bootstrap 95 % intervals; '=' marks speeds shown to be the same within 3 %. Quality: {f.n_items} items in "
        f"{f.n_clusters} clusters, the same for every variant."
    )


def margin(f: Findings) -> str:
    """What counted as equal, and what was found to be."""
    power = (
        f"If {DISCORDANCE:.0%} of the answers change, differences from about {100 * f.detectable:.1f} points are found "
        "with 80 % power in a single comparison. "
        if f.detectable is not None
        else ""
    )
    equal = [row.label for row in f.rows if row.equal is not None and row.equal.verdict == "non-inferior"]
    return (
        f"Stated before the runs: quality counts as equal within {100 * f.plan.margin:g} points. {power}"
        f"Shown to be equal so: {', '.join(equal) or 'none'}."
    )


def energy_words(rows: Sequence[Row]) -> str:
    """Whether the joules are measured or estimated, and how."""
    found = [e for row in rows for e in row.energy]
    if not found:
        return "No energy was recorded."
    if all(e.comparable for e in found):
        return f"Energy is measured ({found[0].method})."
    guess = next(e for e in found if not e.comparable)
    return (
        f"Energy is an {guess.method}. {guess.missing or 'There was no counter.'} It has a range, says no more than "
        "time and load do, and enters no test and no composite."
    )


def _evidence(f: Findings) -> tuple[tuple[str, ...], ...]:
    by_name = {c.name: c for c in CANDIDATES}
    return tuple(
        (
            f"{by_name[v.composite].label}\n{by_name[v.composite].formula}",
            "kept" if v.kept else "dropped" if any(c.passed is False for c in v.checks) else "not testable",
            "\n".join([v.reason, *(f"{c.name}: {c.sentence}" for c in v.checks)]),
        )
        for v in f.verdicts
    )


def _volumes(found: Mapping[str, float]) -> str:
    if not found:
        return ""
    parts = ", ".join(f"{engine(n)} {v:.3g}" for n, v in found.items())
    return (
        "Hypervolume of the fronts, in halvings of time times quality above chance, from a sixteenth of the baseline's "
        f"speed and the quality of guessing: {parts}."
    )


def _machine(f: Findings) -> str:
    m, versions = f.machine, ", ".join(f"{name} {version}" for name, version in sorted(f.versions.items()))
    if m is None:
        return f"An unknown machine. {versions}."
    return f"{m.cpu}, {m.usable_cores} cores ({', '.join(m.isa)}), {si(m.mem_bytes, 'B')}, {m.os}. {versions}."
