"""What a study found: its runs as rows of figures with intervals, the front, the composites and their evidence.

Reads runs and hands numbers to core.analysis; draws nothing. A variant that could not be made or evaluated has a row
that says why.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from core.stats.intervals import Interval, Ratio, paired_ratio
from core.stats.paired import ALPHA, Comparison, Noninferiority, compare, holm, same_speed
from core.stats.pairing import shared
from core.stats.pareto import front, hypervolume, membership
from core.stats.quantiles import median
from core.stats.sample_size import detectable_paired
from core.stats.scores import scores
from core.studies.composites import CANDIDATES, Value, values
from core.studies.evidence import Evidence, gather
from core.studies.ledger import Ledger
from core.studies.plan import Evaluation, Plan
from core.studies.tradeoff import Study, Variant
from core.studies.validate import Verdict, validate
from core.types import Energy, Item, Metric, Record, Result, Score
from hardware.detect import Machine

Mark = Literal["", "worse", "better"]
DISCORDANCE = 0.1  # share of answers expected to change, for the detectable effect
OBJECTIVES: tuple[Literal["higher", "lower"], ...] = ("higher", "higher", "lower")  # speed-up, quality, memory
WORST = (1 / 16, 0.0)  # of the hypervolume: speed-up and quality above chance of its reference point


class Cell(Record, omit_defaults=False):
    """One evaluation of one variant.

    comparison: with the baseline, over the same items. p: after Holm, over the variants. mark: "worse" or "better"
    where that is significant.
    """

    evaluation: str
    score: Score | None
    comparison: Comparison | None = None
    p: float | None = None
    mark: Mark = ""
    reason: str = ""


class Row(Record, omit_defaults=False):
    """One variant. speedup: over the study's baseline; own: over the unoptimized model in the same backend.

    same_as_own: whether it is shown to be as fast as that, within 3 %. difference, p, mark, equal: of the quality, the
    mean over all tasks' items, against the baseline's; p after Holm over the variants. member: how often it is on the
    front. disturbed: how many of the timed answers that count were disturbed.
    """

    id: str
    label: str
    backend: str
    model: str = ""
    note: str = ""
    reason: str = ""
    bits_per_weight: float | None = None
    size_bytes: int | None = None
    memory_bytes: int | None = None
    tok_per_s: float | None = None
    speedup: Ratio | None = None
    own: Ratio | None = None
    same_as_own: bool | None = None
    quality: float | None = None
    quality_low: float | None = None
    quality_high: float | None = None
    difference: Interval | None = None
    p: float | None = None
    mark: Mark = ""
    equal: Noninferiority | None = None
    cells: tuple[Cell, ...] = ()
    energy: tuple[Energy, ...] = ()
    on_front: bool = False
    member: float | None = None
    composites: tuple[Value, ...] = ()
    warnings: tuple[str, ...] = ()
    runs: tuple[str, ...] = ()
    disturbed: int = 0


class Findings(Record, tag="ladder", omit_defaults=False):
    """All that a report shows. hypervolumes: backend -> of its variants' front, "all" for everything."""

    plan: Plan
    date: str
    minutes: float
    machine: Machine | None
    versions: dict[str, str]
    rounds: int
    n_items: int
    n_clusters: int
    detectable: float | None
    rows: tuple[Row, ...]
    verdicts: tuple[Verdict, ...]
    hypervolumes: dict[str, float]
    remarks: tuple[str, ...] = ()


def findings(ledger: Ledger[Plan]) -> Findings:
    """Everything that can be said of the study so far."""
    state = ledger.state
    plan = ledger.plan
    found = {r.id: gather(ledger, r) for r in plan.recipes}
    base = found[plan.baseline]
    cells = _cells(plan, found)
    study, remarks = _study(plan, found)
    rows = {name: _with_speed(plan, found, e) for name, e in found.items()}
    rows = {name: msgspec.structs.replace(row, cells=cells[name]) for name, row in rows.items()}
    verdicts: tuple[Verdict, ...] = ()
    volumes: dict[str, float] = {}
    if study is not None:
        rows, volumes = _with_quality(study, rows)
        verdicts = tuple(validate(c, study, plan.groups) for c in CANDIDATES)
        by_variant: dict[str, list[Value]] = {name: [] for name in rows}
        for composite in CANDIDATES:
            for value in values(composite, study):
                by_variant[value.variant].append(value)
        rows = {n: msgspec.structs.replace(row, composites=tuple(by_variant[n])) for n, row in rows.items()}
    hosts = [r.host for e in (base, *found.values()) for r in e.results.values() if r.host is not None]
    versions: dict[str, str] = {}
    for evidence in found.values():
        for result in evidence.results.values():
            versions |= result.setup.versions if result.setup else {}
            versions |= {"python": result.host.python} if result.host else {}
    n_items = len(study.ids) if study else 0
    return Findings(
        plan=plan,
        date=time.strftime("%Y-%m-%d"),
        minutes=state.spent_s / 60,
        machine=hosts[0].machine if hosts else None,
        versions=versions,
        rounds=max((len(e.answers) for e in found.values()), default=0),
        n_items=n_items,
        n_clusters=study.n_clusters if study else 0,
        detectable=detectable_paired(n_items, DISCORDANCE) if n_items else None,
        rows=tuple(rows[r.id] for r in plan.recipes),
        verdicts=verdicts,
        hypervolumes=volumes,
        remarks=(*remarks, *_disturbed(plan, found)),
    )


def _with_speed(plan: Plan, found: Mapping[str, Evidence], evidence: Evidence) -> Row:
    """The row with its speed-ups: over the baseline, and over what the same backend runs unoptimized."""
    pairs = _pairs(plan, found[plan.baseline], evidence)
    own = plan.base_of(evidence.recipe)
    beside = _pairs(plan, found[own.id], evidence) if own is not None and own.id != evidence.recipe.id else ()
    counted = [evidence.answers[n] for n in _rounds(plan, evidence)]
    return msgspec.structs.replace(
        _row(evidence),
        tok_per_s=median(a.tok_per_s for a in counted),
        disturbed=sum(a.disturbed for a in counted),
        speedup=paired_ratio([a for a, _ in pairs], [b for _, b in pairs]) if pairs else None,
        own=paired_ratio([a for a, _ in beside], [b for _, b in beside]) if beside else None,
        same_as_own=same_speed([a for a, _ in beside], [b for _, b in beside])[0] if beside else None,
    )


def _row(evidence: Evidence) -> Row:
    """What needs no other variant."""
    detail = evidence.results.get("detail")
    return Row(
        id=evidence.recipe.id,
        label=evidence.recipe.label,
        backend=evidence.recipe.backend,
        model=evidence.model,
        note=evidence.note,
        reason=evidence.reason,
        bits_per_weight=evidence.bits_per_weight,
        size_bytes=evidence.size_bytes,
        memory_bytes=detail.peak_memory_bytes if detail else None,
        energy=detail.energy if detail else (),
        warnings=tuple(dict.fromkeys(w for r in evidence.results.values() for w in r.warnings)),
        runs=evidence.runs,
    )


def _pairs(plan: Plan, base: Evidence, other: Evidence) -> tuple[tuple[float, float], ...]:
    """Seconds of the standard answer, of both, in the rounds that count."""
    rounds = _rounds(plan, base, other)
    return tuple((base.answers[n].seconds, other.answers[n].seconds) for n in rounds)


def _rounds(plan: Plan, first: Evidence, *others: Evidence) -> tuple[int, ...]:
    """The rounds that all of these did; those in which none was disturbed, where they are as many as a study needs."""
    did = [n for n in first.answers if all(n in e.answers for e in others)]
    clean = [n for n in did if not any(e.answers[n].disturbed for e in (first, *others))]
    return tuple(clean if len(clean) >= plan.least_rounds else did)


def _disturbed(plan: Plan, found: Mapping[str, Evidence]) -> tuple[str, ...]:
    """In one sentence how many answers were disturbed while they were timed; nothing when none was."""
    answers = [a for e in found.values() for a in e.answers.values()]
    disturbed = sum(a.disturbed for a in answers)
    if not disturbed:
        return ()
    return (
        f"{disturbed} of {len(answers)} timed answers were disturbed by other work on the machine. They do not count "
        f"where {plan.least_rounds} rounds without are left; speeds and ratios in which one does are marked ~.",
    )


# ------------------------------------------------------------ evaluations


def _cells(plan: Plan, found: Mapping[str, Evidence]) -> dict[str, tuple[Cell, ...]]:
    """Every evaluation of every variant beside the baseline's; each evaluation's comparisons are one family for Holm.

    Scores are over the items that every variant was asked: the baseline is asked all of them.
    """
    cells: dict[tuple[str, str], Cell] = {}
    asked = {
        evaluation.eval: shared([r.items for e in found.values() if (r := e.results.get(evaluation.key)) is not None])
        for evaluation in plan.evaluations
    }
    for name, evidence in found.items():
        for evaluation in plan.evaluations:
            result = evidence.results.get(evaluation.key)
            if result is None:
                cells[name, evaluation.eval] = Cell(evaluation=evaluation.eval, score=None, reason="not measured")
                continue
            metric = _metric(evaluation, result)
            items = [i for i in result.items if i.id in asked[evaluation.eval]]
            score = next(iter(scores(items, [metric])), None) if metric is not None else None
            comparison = None if name == plan.baseline else _compared(evaluation, found[plan.baseline], result)
            cells[name, evaluation.eval] = Cell(evaluation=evaluation.eval, score=score, comparison=comparison)
    for evaluation in plan.evaluations:
        family = [(name, c) for name in found if (c := cells[name, evaluation.eval].comparison) is not None]
        for (name, comparison), p in zip(family, holm([c.p for _, c in family]), strict=True):
            cell = cells[name, evaluation.eval]
            cells[name, evaluation.eval] = msgspec.structs.replace(cell, p=p, mark=_mark(comparison, p))
    return {name: tuple(cells[name, evaluation.eval] for evaluation in plan.evaluations) for name in found}


def _mark(comparison: Comparison, p: float) -> Mark:
    if p > ALPHA:
        return ""
    return "better" if comparison.gain > 0 else "worse"


def _compared(evaluation: Evaluation, base: Evidence, result: Result) -> Comparison | None:
    there = base.results.get(evaluation.key)
    metric = _metric(evaluation, result)
    if there is None or metric is None:
        return None
    try:
        return compare(metric, there.items, result.items)
    except ValueError:
        return None


def _metric(evaluation: Evaluation, result: Result) -> Metric | None:
    return next((m for m in (result.asked.metrics if result.asked else ()) if m.name == evaluation.metric), None)


# ------------------------------------------------------------ quality and the front


def _study(plan: Plan, found: Mapping[str, Evidence]) -> tuple[Study | None, tuple[str, ...]]:
    """The variants over the items that all of them answered; a variant that missed a task has no quality."""
    base = found[plan.baseline]
    held = [e for e in plan.evaluations if e.task and e.key in base.results]
    remarks = []
    variants = []
    for name, evidence in found.items():
        row = _row(evidence)
        missed = [e.label for e in held if e.key not in evidence.results]
        if missed and evidence.answers:
            remarks.append(f"{row.label} has no quality: {', '.join(missed)} not measured.")
        items = [] if missed else [(e, i) for e in held for i in _judged(e, base, evidence)]
        variants.append(
            Variant(
                id=name,
                label=row.label,
                backend=row.backend,
                quality={f"{e.eval}/{i.id}": value for e, (i, value) in items},
                clusters={f"{e.eval}/{i.id}": f"{e.eval}/{i.cluster}" for e, (i, _) in items},
                chance={f"{e.eval}/{i.id}": e.chance for e, (i, _) in items},
                answers=_pairs(plan, base, evidence),
                memory_bytes=row.memory_bytes,
                bits_per_weight=row.bits_per_weight,
                energy=row.energy,
                runs=row.runs,
            )
        )
    try:
        return Study(variants, plan.baseline, plan.margin), tuple(remarks)
    except ValueError as error:
        return None, (*remarks, f"No trade-off can be computed: {error}.")


def _judged(evaluation: Evaluation, base: Evidence, evidence: Evidence) -> list[tuple[Item, float]]:
    """The items that were asked as the baseline's were, with their quality."""
    result = evidence.results[evaluation.key]
    metric = _metric(evaluation, result)
    if metric is None:
        return []
    same = shared([base.results[evaluation.key].items, result.items])
    return [
        (i, i.values[metric.value] / (i.values[metric.over] if metric.over else 1.0))
        for i in result.items
        if metric.value in i.values and i.id in same
    ]


def _with_quality(study: Study, rows: Mapping[str, Row]) -> tuple[dict[str, Row], dict[str, float]]:
    """Quality with its interval, the front of speed, quality and memory, and the volume it covers."""
    whole, drawn = study.whole(), study.bootstrap()
    points = np.stack([whole.speedup[0], whole.quality[0], whole.memory[0]], axis=1)
    samples = np.stack([drawn.speedup, drawn.quality, drawn.memory], axis=2)
    known = np.isfinite(samples).all(axis=(0, 2))
    shares = membership(samples[:, known], OBJECTIVES)
    members = {int(column): share for column, share in zip(np.flatnonzero(known), shares, strict=True)}
    on_front = front(points, OBJECTIVES)
    found = dict(rows)
    family = [(v.id, c) for v, c in zip(study.variants, study.comparisons, strict=True) if c is not None]
    adjusted = {name: p for (name, _), p in zip(family, holm([c.p for _, c in family]), strict=True)}
    for column, variant in enumerate(study.variants):
        quality = float(whole.quality[0, column])
        judged = np.isfinite(quality)
        comparison = study.comparisons[column]
        ends = [float(x) for x in np.quantile(drawn.quality[:, column], (0.025, 0.975))] if judged else [None, None]
        found[variant.id] = msgspec.structs.replace(
            rows[variant.id],
            quality=quality if judged else None,
            quality_low=ends[0],
            quality_high=ends[1],
            difference=comparison.difference if comparison else None,
            p=adjusted.get(variant.id),
            mark=_mark(comparison, adjusted[variant.id]) if comparison else "",
            equal=study.equal[column],
            on_front=on_front[column],
            member=members.get(column),
        )
    groups: dict[str, Sequence[int]] = {"all": range(len(study.variants))}
    for name in dict.fromkeys(v.backend for v in study.variants):
        groups[name] = [i for i, v in enumerate(study.variants) if v.backend == name]
    both = np.stack([np.log2(whole.speedup[0]), whole.above_chance[0]], axis=1)
    corner = (float(np.log2(WORST[0])), WORST[1])
    volumes = {name: hypervolume(both[list(columns)], corner, OBJECTIVES[:2]) for name, columns in groups.items()}
    return found, volumes
