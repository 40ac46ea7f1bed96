"""What a report says of one run, or of several side by side. Words and layout; every figure comes from the results."""

from __future__ import annotations

from collections.abc import Sequence

from core import plugins
from core.analysis.breakdown import by_kind
from core.analysis.breakdown import compare as layers_compared
from core.analysis.predict_here import arithmetic_dtype
from core.analysis.roofline import ceiling_here, roofs_here
from core.analysis.under_roof import measured, working_set_bytes
from core.charts.bars import change_bars, layer_bars
from core.charts.chart import Chart
from core.charts.curves import curve
from core.charts.labels import distinct, numbered, plain, si
from core.charts.roofline import roofline
from core.charts.timeline import memory_timeline, token_timeline
from core.labels import curve as curve_label
from core.report.figures import NONE, shown
from core.report.page import Section, Table, html
from core.runs.ceilings import ceilings_of
from core.runs.compare import differences, headlines, ratios, settings
from core.runs.store import Run
from core.types import Generate, Request, Result
from hardware.errors import ExplorerError

TOP = 20  # layers in the table
MOST_RUNS = 12
TEXTS = frozenset({"prompt", "system", "history", "template values"})  # settings that hold somebody's words


def report(runs: Sequence[Run], texts: bool = True) -> bytes:
    """One HTML file of a run, or of several, the first being what the others are compared with.

    texts: with prompts and answers. Raises ExplorerError for no run, too many, and one that cannot be read.
    """
    if not runs:
        raise ExplorerError("A report needs a run.", "Name one; History lists them.")
    if len(runs) > MOST_RUNS:
        raise ExplorerError(f"{len(runs)} runs are too many for one report.", f"Choose at most {MOST_RUNS}.")
    found = [(run, run.request, run.result()) for run in runs]
    names = [run.about.name if texts else "" for run in runs]
    if len(found) == 1:
        title = " · ".join(filter(None, (names[0], _title(found[0][2]))))
        return html(title, _lead(found[0][2]), _one(*found[0], texts))
    labels = _labels([result for _, _, result in found], names)
    title = f"{len(found)} runs side by side"
    return html(title, f"The first, {labels[0]}, is what the others are compared with.", _many(found, labels, texts))


# ---------------------------------------------------------------- one run


def _one(run: Run, request: Request, result: Result, texts: bool) -> list[Section]:
    sections = [Section(title="In short", words=_marks(result), table=_headline_table([result], ["Measured"]))]
    if result.itl_s:
        chart = token_timeline(result.itl_s, result.ttft_s)
        sections.append(Section(title="Time per token", words="Of the last timing pass.", chart=chart))
    sections += _layers(result)
    if (chart_of := _roofline(run, result)) is not None:
        sections.append(
            Section(title="Roofline", words="Under the measured ceilings of the machine that ran it.", chart=chart_of)
        )
    if result.memory:
        peak = f"At most {shown(result.peak_memory_bytes, 'B')}, library included."
        sections.append(Section(title="Memory", words=peak, chart=memory_timeline(result.memory)))
    if result.scores:
        rows = tuple((s.label, plain(s.value), _range(s.low, s.high), str(s.n)) for s in result.scores)
        head = ("Metric", "Value", "95 % interval", "Items")
        sections.append(Section(title="Quality", table=Table(header=head, rows=rows)))
    for place, name in enumerate(dict.fromkeys(n for c in result.curves for n in c.values)):
        sections.append(Section(title=curve_label(name), chart=curve(result.curves, name, place)))
    if result.made:
        size = shown(result.made.size_bytes, "B")
        words = f"{result.made.model}: {result.made.bits_per_weight:.2f} bits per weight, {size}."
        sections.append(Section(title="The model it made", words=words))
    if texts and (note := run.about.note):
        sections.insert(0, Section(title="Note", text=note))
    if texts and isinstance(request.task, Generate):
        sections += _texts(request, result)
    sections.append(Section(title="What was asked, and with what", table=_settings(request, result, texts)))
    if result.warnings:
        sections.append(
            Section(title="Warnings", table=Table(header=(), rows=tuple((words,) for words in result.warnings)))
        )
    return sections


def _layers(result: Result) -> list[Section]:
    found = []
    for phase in ("decode", "prefill"):
        timed = [x for x in result.layers if x.phase == phase and x.seconds]
        if not timed:
            continue
        per = "in one decode step" if phase == "decode" else "in the whole prompt"
        kinds = ", ".join(f"{g.name} {g.share:.0%}" for g in by_kind(result.layers, phase) if g.share)
        largest = sorted(timed, key=lambda x: -(x.seconds or 0.0))[:TOP]
        rows = tuple(
            (x.name, x.kind, shown(x.seconds, "s"), si(x.flops, "FLOP"), si(x.bytes, "B"), si(x.weight_bytes, "B"))
            for x in largest
        )
        found.append(
            Section(
                title=f"Layers, {per}",
                words=f"{kinds}. Times are measured in a pass of their own; FLOPs and bytes are computed.",
                chart=layer_bars(result.layers, phase, top=TOP),
                table=Table(header=("Layer", "Kind", "Time", "FLOPs", "Bytes", "Weights"), rows=rows),
            )
        )
    return found


def _roofline(run: Run, result: Result) -> Chart | None:
    ceilings = ceilings_of(run.path.parents[1], result)
    spec = run.recording().spec
    if ceilings is None or spec is None:
        return None
    dtype = arithmetic_dtype(spec.dtype, ceilings)
    needed = max(working_set_bytes(result.layers, phase) for phase in ("prefill", "decode"))
    ceiling = ceiling_here(ceilings, dtype, needed)
    if ceiling is None:
        return None
    points = measured(result.phases, result.layers, "Layers", ceiling)
    roofs = tuple(roof for roof in roofs_here(ceilings, dtype, needed, "The machine") if roof.main)
    return roofline(roofs, points, height=420, pick=False) if points else None


def _texts(request: Request, result: Result) -> list[Section]:
    assert isinstance(request.task, Generate)
    found = [Section(title="Prompt", text=request.task.prompt)] if request.task.prompt else []
    return [*found, *([Section(title="Answer", text=result.text)] if result.text else [])]


def _settings(request: Request, result: Result, texts: bool) -> Table:
    rows = ((name, told) for name, told in settings(request, result).items() if texts or name not in TEXTS)
    return Table(header=(), rows=tuple(t for name, t in rows if t[1] not in (NONE, "{}") and name != "prompt"))


# ---------------------------------------------------------------- several


def _many(found: Sequence[tuple[Run, Request, Result]], labels: Sequence[str], texts: bool) -> list[Section]:
    results = [result for _, _, result in found]
    marked = " ".join(f"{label}: {words}" for label, r in zip(labels, results, strict=True) if (words := _marks(r)))
    sections = [
        Section(title="Measured", words=marked, table=_headline_table(results, labels)),
        Section(
            title=f"Over {labels[0]}",
            words="Each figure over the first run's. Two single runs give no interval; ~ marks a disturbed one.",
            table=_ratio_table(results, labels),
        ),
    ]
    (_, asked, first), *others = found
    for label, (_, request, result) in zip(labels[1:], others, strict=True):
        rows = tuple(
            (d.label, d.a, d.b) for d in differences(asked, request, first, result) if texts or d.name not in TEXTS
        )
        if rows:
            sections.append(
                Section(title=f"What differs: {label}", table=Table(header=("", labels[0], label), rows=rows))
            )
        if any(c.change is not None for c in layers_compared(first.layers, result.layers, "decode")):
            words = f"To the right {label} needs more than {labels[0]}."
            chart = change_bars(first.layers, result.layers, "decode")
            sections.append(Section(title=f"Layers that differ most: {label}", words=words, chart=chart))
    for label, result in zip(labels, results, strict=True):
        if result.itl_s:
            chart = token_timeline(result.itl_s, result.ttft_s)
            sections.append(Section(title=f"Time per token: {label}", chart=chart))
    if texts:
        sections += [
            Section(title=f"Answer: {label}", text=result.text)
            for label, result in zip(labels, results, strict=True)
            if result.text
        ]
    return sections


def _ratio_table(results: Sequence[Result], labels: Sequence[str]) -> Table:
    by_run = [{r.name: r for r in ratios(results[0], other)} for other in results[1:]]
    rows = []
    for name, label, better in headlines():
        cells = [
            NONE if r is None or r.ratio is None else f"{'~ ' if r.doubt else ''}{r.ratio:.3g} ×"
            for r in (found.get(name) for found in by_run)
        ]
        if any(cell != NONE for cell in cells):
            rows.append((f"{label} ({better} is better)", *cells))
    return Table(header=("", *labels[1:]), rows=tuple(rows))


def _headline_table(results: Sequence[Result], labels: Sequence[str]) -> Table:
    units = {"tok_per_s": "tok/s", "prefill_tok_per_s": "tok/s", "peak_memory_bytes": "B"}
    rows = [
        (label, *(shown(getattr(result, name), units.get(name, "s")) for result in results))
        for name, label, _ in headlines()
        if any(getattr(result, name) is not None for result in results)
    ]
    for phase in ("prefill", "decode"):
        energy = [next((e for e in r.energy if e.phase == phase), None) for r in results]
        if any(energy):
            rows.append(
                (
                    f"Energy, {phase}",
                    *(
                        NONE
                        if e is None
                        else f"{e.joules:.3g} J"
                        if e.comparable
                        else f"estimated {e.low_j:.2g} to {e.high_j:.2g} J"
                        for e in energy
                    ),
                )
            )
    return Table(header=("", *labels), rows=tuple(rows))


# ---------------------------------------------------------------- words


def _title(result: Result) -> str:
    what = plugins.label("strategy", result.strategy) if result.task == "generate" else result.task
    return f"{result.model} · {plugins.label('backend', result.backend)} · {what}"


def _labels(results: Sequence[Result], given: Sequence[str]) -> list[str]:
    """What tells the runs apart; a name that somebody gave one comes first."""
    named = [(plugins.label("backend", r.backend), plugins.label("strategy", r.strategy)) for r in results]
    told, _ = distinct([(r.model, b, r.dtype or "", s) for r, (b, s) in zip(results, named, strict=True)])
    names = [own or label for own, label in zip(given, told, strict=True)]
    return numbered(names)


def _lead(result: Result) -> str:
    host = result.host
    versions = ", ".join(f"{n} {v}" for n, v in sorted((result.setup.versions if result.setup else {}).items()))
    parts = [
        f"Run {result.run_id}, {result.status}",
        f"on {host.machine.cpu}, {host.machine.usable_cores} cores, {host.machine.os}" if host else "",
        f"with {result.threads} thread{'' if result.threads == 1 else 's'}" if result.threads else "",
        f"({versions})" if versions else "",
    ]
    return f"{' '.join(filter(None, parts))}."


def _marks(result: Result) -> str:
    """What a reader must know of the speeds; empty when they are the machine's own."""
    if result.error:
        return result.error
    if result.provisional:
        return "It was only watched, never timed in silence: the speeds are provisional."
    return result.disturbance.sentence if result.disturbed and result.disturbance else ""


def _range(low: float | None, high: float | None) -> str:
    return NONE if low is None or high is None else f"{plain(low)} to {plain(high)}"
