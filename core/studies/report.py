"""Findings as one HTML file that opens without a network, and as a Markdown table.

Words and layout only: every figure comes from core.studies.findings.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from core.charts.chart import Chart
from core.charts.labels import si
from core.charts.tradeoff import Delta, Point, deltas, pareto
from core.stats.intervals import Ratio
from core.studies.composites import CANDIDATES
from core.studies.findings import DISCORDANCE, Cell, Findings, Row
from core.types import Energy, Record

TEMPLATE = Path(__file__).with_name("report.html")
NONE = "–"
MARKS = {"worse": " ▼", "better": " ▲", "": ""}
BACKENDS = {"llama_cpp": "llama.cpp", "onnxruntime": "ONNX Runtime", "pytorch": "PyTorch"}


class Shown(Record):
    """A cell of a table: text, its interval, and a class of style."""

    text: str
    range: str = ""
    kind: str = ""


class Line(Record):
    cells: tuple[Shown, ...]
    kind: str = ""


def html(f: Findings) -> str:
    """The whole report, charts included as SVG."""
    import jinja2

    environment = jinja2.Environment(autoescape=True, trim_blocks=True)
    kept = [c for c in CANDIDATES if any(v.composite == c.name and v.kept for v in f.verdicts)]
    return environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        f=f,
        where=where(f),
        how=how(f),
        charts={"front": svg(front_chart(f), 980), "deltas": svg(delta_chart(f), 760)},
        header=header(f),
        lines=[line(f, row) for row in f.rows],
        energy=energy_words(f.rows),
        margin=margin(f),
        composite_header=["Variant", *(f"{c.label}{f' ({c.unit})' if c.unit else ''}" for c in kept)],
        composite_lines=[
            Line(cells=(Shown(text=row.label), *(_value(row, c.name) for c in kept)), kind=_kind(f, row))
            for row in f.rows
        ]
        if kept
        else [],
        evidence=_evidence(f),
        volumes=_volumes(f.hypervolumes),
        machine=_machine(f),
    )


def markdown(f: Findings) -> str:
    """The table, and under it what the numbers mean."""
    lines = ["| " + " | ".join(header(f)) + " |", "|" + "---|" * len(header(f))]
    for row in f.rows:
        cells = [f"{c.text} {c.range}".strip().replace("|", "/") for c in line(f, row).cells]
        lines.append("| " + " | ".join(cells) + " |")
    kept = ", ".join(c.label for c in CANDIDATES if any(v.composite == c.name and v.kept for v in f.verdicts))
    words = [
        f"{where(f)} {how(f)}",
        margin(f),
        energy_words(f.rows),
        f"Composite metrics that passed their validation: {kept or 'none'}.",
        *f.remarks,
        *(f"{row.label}: {row.reason}" for row in f.rows if row.reason),
    ]
    return "\n".join([*lines, "", *(w for w in words if w)]) + "\n"


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
            Shown(text=BACKENDS.get(row.backend, row.backend)),
            Shown(text=NONE if row.bits_per_weight is None else f"{row.bits_per_weight:.2f}"),
            Shown(text=NONE if row.memory_bytes is None else si(row.memory_bytes, "B")),
            Shown(text=NONE if row.tok_per_s is None else f"{about(row.disturbed)}{row.tok_per_s:.1f}"),
            _ratio(row.speedup, row.disturbed or base.disturbed),
            own,
            _quality(row),
            *(_cell(cells.get(e.eval)) for e in f.plan.evaluations),
            _energy(row.energy),
        ),
        kind=_kind(f, row),
    )


def _kind(f: Findings, row: Row) -> str:
    return " ".join(filter(None, ("base" if row.id == f.plan.baseline else "", "front" if row.on_front else "")))


def about(disturbed: int) -> str:
    """The sign before a speed, or a ratio of speeds, that is not the machine's own."""
    return "~" if disturbed else ""


def _ratio(ratio: Ratio | None, disturbed: int) -> Shown:
    if ratio is None:
        return Shown(text=NONE)
    ends = f"[{ratio.low:.2f}, {ratio.high:.2f}]" if ratio.low is not None and ratio.high is not None else ""
    return Shown(text=f"{about(disturbed)}{ratio.value:.2f}", range=ends)


def _quality(row: Row) -> Shown:
    if row.quality is None:
        return Shown(text=NONE, kind="missing")
    ends = f"[{row.quality_low:.3f}, {row.quality_high:.3f}]" if row.quality_low is not None else ""
    return Shown(text=f"{row.quality:.3f}{MARKS[row.mark]}", range=ends, kind=row.mark)


def _cell(cell: Cell | None) -> Shown:
    if cell is None or cell.score is None:
        return Shown(text=NONE, kind="missing")
    score = cell.score
    digits = ".1f" if score.value >= 10 else ".3f" if score.value >= 0.1 or score.value == 0 else ".2g"
    return Shown(text=f"{score.value:{digits}}{MARKS[cell.mark]}", kind=cell.mark)


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
        return Shown(text=NONE, range=value.reason if value else "", kind="missing")
    ends = f"[{value.low:.3g}, {value.high:.3g}]" if value.low is not None and value.high is not None else ""
    return Shown(text=f"{value.value:.3g}", range=ends)


# ------------------------------------------------------------ the charts


def front_chart(f: Findings, pick: bool = False) -> Chart:
    """Speed-up against quality. pick: a variant can be clicked."""
    points = [
        Point(
            id=row.id,
            label=row.label,
            group=BACKENDS.get(row.backend, row.backend),
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


def svg(chart: Chart, width: int) -> str:
    import vl_convert

    found: str = vl_convert.vegalite_to_svg({**chart.spec, "width": width}, vl_version="6.1")
    return found


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
        f"Energy is estimated with its range ({guess.method}; {guess.missing or 'no counter'}): it says no more than "
        "time and load do, and enters no test and no composite."
    )


def _evidence(f: Findings) -> list[dict[str, object]]:
    by_name = {c.name: c for c in CANDIDATES}
    return [
        {
            "label": by_name[v.composite].label,
            "formula": by_name[v.composite].formula,
            "verdict": "kept" if v.kept else "dropped" if any(c.passed is False for c in v.checks) else "not testable",
            "reason": v.reason,
            "checks": [f"{c.name}: {c.sentence}" for c in v.checks],
        }
        for v in f.verdicts
    ]


def _volumes(found: Mapping[str, float]) -> str:
    if not found:
        return ""
    parts = ", ".join(f"{BACKENDS.get(n, n)} {v:.3g}" for n, v in found.items())
    return (
        "Hypervolume of the fronts, in halvings of time times quality above chance, from a sixteenth of the baseline's "
        f"speed and the quality of guessing: {parts}."
    )


def _machine(f: Findings) -> str:
    m, versions = f.machine, ", ".join(f"{name} {version}" for name, version in sorted(f.versions.items()))
    if m is None:
        return f"An unknown machine. {versions}."
    return f"{m.cpu}, {m.usable_cores} cores ({', '.join(m.isa)}), {si(m.mem_bytes, 'B')}, {m.os}. {versions}."
