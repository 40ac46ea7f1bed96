"""Carries out a search: the grid is predicted, a part of it measured, the finalists measured anew in fresh processes.

What was found at any time follows from the ledger alone: the search is gone through again with the runs that are
there (core.analysis.search asks for the same measurements for the same answers). Figures of the search choose; only
those of the final rounds are results, because the best of many noisy figures is too good.

Where a quality is asked for, each way to compute (model, backend, number formats, options, and a strategy that changes
what is said) is evaluated once, when the first of its cells is measured.
"""

from __future__ import annotations

import hashlib
import math
import random
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from core import plugins
from core.analysis.search import (
    Candidate,
    Constraint,
    Goal,
    Hunt,
    Outcome,
    OutOfTimeError,
    Range,
    Values,
    miss,
    miss_rate,
)
from core.charts.labels import plain, si
from core.models import catalogue
from core.paths import data_dir
from core.runs.asked import unlike
from core.runs.other_machine import OtherMachine
from core.runs.runner import Runner
from core.runs.store import Store
from core.stats.intervals import Ratio, in_words, paired_ratio
from core.studies.grid import Cell, cells
from core.studies.ledger import Ledger, Say, State, finished, folder_of
from core.studies.measures import MEASURES, Measure, limits_of, typical, values_of
from core.studies.plan import Axis, Floor, Search, catalogue_name
from core.studies.sweep import foretold, ready_of
from core.types import Evaluate, Record, Request, Result, Scalar, to_json
from hardware.errors import ExplorerError

FINALISTS = 4
QUALITY = "quality"  # the name of the floor's metric among a cell's figures
Stage = Literal["predicted only", "dropped", "audited", "measured", "finalist", "failed", "cannot run"]


class Found(Record, omit_defaults=False):
    """One cell of a search. predicted: before anything ran. measured: the mean of the search's own runs, `n` of them.

    final: of the final rounds. shrinkage: final over measured, of each measure that both have.
    """

    id: str
    label: str
    stage: Stage
    reason: str
    predicted: dict[str, Range]
    measured: dict[str, float]
    n: int
    final: dict[str, Ratio]
    shrinkage: dict[str, float]


class Answer(Record, omit_defaults=False):
    """What a search says. cell: its choice; "" where nothing meets the constraints, then `words` name the nearest."""

    cell: str
    words: tuple[str, ...]


class SearchReport(Record, omit_defaults=False):
    """A search as it stands. missed: of `audited` dropped cells those that would have been on the front; bound: the
    upper 95 % bound of that rate. expected_s: of a sweep of every cell that can run. complete: the finals are over.
    """

    plan: Search
    rows: tuple[Found, ...]
    answer: Answer
    measured: int
    dropped: int
    audited: int
    missed: int
    bound: float | None
    spent_s: float
    minutes: float
    expected_s: float
    complete: bool


def searching(
    base: Request,
    axes: Sequence[Axis],
    goals: Sequence[str],
    at_most: Mapping[str, float] | None = None,
    at_least: Mapping[str, float] | None = None,
    total: int = 40,
    final_rounds: int = 5,
    seed: int = 0,
    floor: Floor | None = None,
) -> Search:
    """A search whose name follows from what it asks. Raises ExplorerError for a measure that is none, or no goal."""
    constraints = limits_of(at_most or {}, at_least or {})
    for name in (*goals, *(c.measure for c in constraints)):
        if name not in MEASURES:
            raise ExplorerError(f"There is no measure called '{name}'.", f"Known: {', '.join(MEASURES)}.")
    if not goals:
        raise ExplorerError("A search needs something to make better.", f"Name one of: {', '.join(MEASURES)}.")
    asked = (base, axes, goals, constraints, total, final_rounds, seed, *((floor,) if floor else ()))
    digest = hashlib.sha256(to_json(asked)).hexdigest()[:8]
    model = next((str(axis.values[0]) for axis in axes if axis.name == "model" and axis.values), base.model)
    limits = "".join(f", {MEASURES[c.measure].label.lower()} {_side(MEASURES[c.measure], c)}" for c in constraints)
    if floor is not None:
        limits += f", {floor.label.lower()} at {'most' if floor.better == 'lower' else 'least'} {floor.limit:g}"
        constraints += (Constraint(measure=QUALITY, better=floor.better, limit=floor.limit),)
    return Search(
        name=f"search-{catalogue_name(model)}-{digest}",
        title=f"Best {' and '.join(MEASURES[g].label.lower() for g in goals)} of {model}{limits}",
        base=base,
        axes=tuple(axes),
        goals=tuple(dict.fromkeys(goals)),
        constraints=constraints,
        total=total,
        final_rounds=final_rounds,
        seed=seed,
        floor=floor,
    )


def floor_of(name: str, limit: float, metric: str = "", settings: Mapping[str, Scalar] | None = None) -> Floor:
    """A floor under a metric of the eval `name`, its first where none is named. Raises ExplorerError."""
    if name not in plugins.names("eval"):
        raise ExplorerError(f"There is no evaluation called '{name}'.", f"Known: {', '.join(plugins.names('eval'))}.")
    plugin = plugins.get("eval", name)
    known = plugin.metrics(plugins.settings(plugin.Params, settings or {}, plugin.label))
    found = next((m for m in known if m.name == (metric or known[0].name)), None)
    if found is None:
        raise ExplorerError(f"{plugin.label} has no metric '{metric}'.", f"It has: {', '.join(m.name for m in known)}.")
    return Floor(
        eval=name, metric=found.name, label=found.label, better=found.better, limit=limit, settings=dict(settings or {})
    )


def progress(state: State[Search]) -> tuple[int, int]:
    """Runs that are over, and how many there may be: all measurements, and finals of as many cells as can come in."""
    plan = state.plan
    over = {key for key in (*state.took_s, *state.failures) if not key.startswith(QUALITY)}
    return len(over), plan.total + plan.final_rounds * (FINALISTS + 1)


def measure_of(plan: Search, name: str) -> Measure:
    """A figure by its name: of a run, or the quality that this search asks for."""
    if name == QUALITY and plan.floor is not None:
        return Measure(plan.floor.label, "", plan.floor.better, lambda result: None)
    return MEASURES[name]


def seek(
    plan: Search, minutes: float, say: Say, again: bool = False, machine: OtherMachine | None = None
) -> Ledger[Search]:
    """Do whatever of the search is not done yet. Interrupting it loses nothing but the run going.

    machine: where its runs are made and foretold; here without one.

    Raises ExplorerError when no cell can run.
    """
    every = cells(plan.grid)
    catalogue.entries(refresh=True)
    runner = machine or Runner(Store(data_dir()))
    ledger = Ledger(folder_of(plan), plan, minutes, runner, say, again)
    state = ledger.state
    try:
        if not state.ranges:
            told = runner.foresee([c.request for c in every])
            state.refused, state.expected_s = foretold(every, told)
            ready_of(state, every)
            state.ranges = {c.id: one.ranges for c, one in zip(every, told, strict=True) if not one.reason}
            ledger.save()
        by_id = {c.id: c for c in every if c.id in state.ranges}

        def measure(name: str, rung: int) -> Values | None:
            values = _measure(ledger, f"{name}/{rung}", by_id[name].request, by_id[name].label)
            return None if values is None else {**values, **_quality(ledger, by_id[name].request)}

        outcome = _hunt(state, every).go(measure)
        _finals(ledger, outcome, by_id)
    finally:
        runner.close()
        ledger.save()
    return ledger


def _measure(ledger: Ledger[Search], key: str, request: Request, label: str) -> Values | None:
    """The figures of a key's run; None when it failed or ran something else. Raises OutOfTimeError."""
    if key in ledger.state.failures:
        return None
    if ledger.left_s <= 0 and ledger.done(key) is None:
        raise OutOfTimeError
    run = ledger.perform(key, request, label)
    if run is None:
        if key not in ledger.state.failures:  # stopped by hand
            raise OutOfTimeError
        return None
    if other := unlike(request, run.recording()):
        ledger.fail(key, " ".join(other), label)
        return None
    ledger.state.took_s.setdefault(key, 0.0)
    return values_of(run.result())


def _judging(floor: Floor, base: Request, request: Request) -> Request:
    """The evaluation of a cell: of everything that may change what it says, and of nothing that only takes time."""
    exact = plugins.get("strategy", request.strategy).exact
    return msgspec.structs.replace(
        request,
        task=Evaluate(eval=floor.eval, settings=floor.settings),
        strategy="autoregressive" if exact else request.strategy,
        params={} if exact else request.params,
        threads=base.threads,
        batch=1,
        warmup=0,
        repeats=1,
        profilers=(),
        fresh_process=False,
    )


def _quality(ledger: Ledger[Search], request: Request) -> Values:
    """What is shown of a cell's quality, evaluated now unless it is known; nothing where it cannot be had.

    Raises OutOfTimeError.
    """
    floor = ledger.plan.floor
    if floor is None:
        return {}
    asked = _judging(floor, ledger.plan.base, request)
    key = _key(asked)
    if key in ledger.state.failures:
        return {}
    if asked.strategy != "autoregressive" and "text" not in plugins.get("eval", floor.eval).needs:
        strategy = plugins.label("strategy", asked.strategy)
        ledger.fail(key, f"{floor.label} reads texts and writes none, so it does not see what {strategy} does.")
        return {}
    if ledger.left_s <= 0 and ledger.done(key) is None:
        raise OutOfTimeError
    run = ledger.perform(
        key, asked, f"{floor.label.lower()} of {asked.model} in {plugins.label('backend', asked.backend)}"
    )
    if run is None:
        if key not in ledger.state.failures:  # stopped by hand
            raise OutOfTimeError
        return {}
    return shown(floor, run.result())


def _key(asked: Request) -> str:
    """Of the run that tells a quality."""
    return f"{QUALITY}-{asked.key()}"


def shown(floor: Floor, result: Result) -> Values:
    """The worse end of the metric's interval; nothing where it has none."""
    score = next((s for s in result.scores if s.name == floor.metric), None)
    end = None if score is None else score.high if floor.better == "lower" else score.low
    return {} if end is None else {QUALITY: end}


def _hunt(state: State[Search], every: Sequence[Cell]) -> Hunt:
    plan = state.plan
    candidates = [
        Candidate(id=c.id, traits=_traits(c.request), ranges=state.ranges[c.id], alike=_alike(plan, c.request))
        for c in every
        if c.id in state.ranges
    ]
    return Hunt(candidates, _goals(plan, candidates), plan.constraints, plan.total, plan.seed)


def _traits(r: Request) -> tuple[str, ...]:
    """What the errors of a prediction depend on; its kind is the model in a backend, with its number formats."""
    options = sorted(f"{name}={value}" for name, value in r.options.items() if name != "kv_dtype")
    params = sorted(f"{name}={value}" for name, value in r.params.items())
    cache = str(r.options.get("kv_dtype", ""))
    return (
        f"{r.model} {r.backend}", f"{r.dtype or ''} {cache}", r.strategy, " ".join(params), " ".join(options),
        str(r.threads), str(r.batch),
    )  # fmt: skip


def judged_key(plan: Search, request: Request) -> str | None:
    """The ledger's key of the run that tells a cell's quality; None where none is asked for."""
    return None if plan.floor is None else _key(_judging(plan.floor, plan.base, request))


def _alike(plan: Search, request: Request) -> dict[str, str]:
    key = judged_key(plan, request)
    return {} if key is None else {QUALITY: key}


def _goals(plan: Search, candidates: Sequence[Candidate]) -> tuple[Goal, ...]:
    """Each with a reference that is fixed before anything is measured: its limit, or the worst end predicted."""
    found = []
    for name in plan.goals:
        better = MEASURES[name].better
        limit = next((c.limit for c in plan.constraints if c.measure == name and c.better == better), None)
        if limit is None:
            ends = [c.ranges[name] for c in candidates if name in c.ranges]
            if candidates and not ends:
                raise ExplorerError(
                    f"{MEASURES[name].label} cannot be predicted for any cell.", "Choose another goal for this search."
                )
            high, low = max((r.high for r in ends), default=0.0), min((r.low for r in ends), default=0.0)
            limit = high if better == "lower" else low
        found.append(Goal(measure=name, better=better, reference=limit))
    return tuple(found)


def baseline(plan: Search, ready: Sequence[Cell]) -> Cell:
    """Of the cells that can run the one nearest to what is asked where nothing varies: the model counts most, then the
    backend, and so on as a request names them; of several such the one with the values named first."""

    def apart(cell: Cell) -> tuple[list[bool], list[int]]:
        differing = [getattr(cell.request, n) != getattr(plan.base, n) for n in Request.__struct_fields__]
        return differing, [axis.values.index(cell.at[axis.name]) for axis in plan.axes if axis.name in cell.at]

    return min(ready, key=apart)


def _final_cells(outcome: Outcome, base: str) -> list[str]:
    """The finalists and the baseline."""
    return list(dict.fromkeys((*outcome.finalists[:FINALISTS], base)))


def _finals(ledger: Ledger[Search], outcome: Outcome, by_id: Mapping[str, Cell]) -> None:
    """In each round every finalist and the baseline once, in a fresh process and a new order."""
    plan = ledger.plan
    names = _final_cells(outcome, baseline(plan, list(by_id.values())).id) if outcome.finalists else []
    for number in range(plan.final_rounds):
        for name in random.Random(f"{plan.seed}-final-{number}").sample(names, len(names)):
            request = msgspec.structs.replace(by_id[name].request, fresh_process=True)
            try:
                _measure(ledger, f"final-{name}/{number}", request, f"final round {number + 1}: {by_id[name].label}")
            except OutOfTimeError:
                return


# ------------------------------------------------------------ what came of it


def report(state: State[Search], store: Store) -> SearchReport:
    """Everything that came of a search so far; reads every run of it."""
    plan = state.plan
    every = cells(plan.grid)
    labels = {c.id: c.label for c in every}
    results = _results(state, store)
    requests = {c.id: c.request for c in every}

    def told(name: str, rung: int) -> Values | None:
        key = f"{name}/{rung}"
        if key in state.failures:
            return None
        if key not in results:
            raise OutOfTimeError
        if plan.floor is None:
            return results[key]
        judged = _key(_judging(plan.floor, plan.base, requests[name]))
        if judged not in results and judged not in state.failures:
            raise OutOfTimeError
        return {**results[key], **results.get(judged, {})}

    outcome = _hunt(state, every).go(told)
    ready = [c for c in every if c.id in state.ranges]
    base = baseline(plan, ready).id if ready else ""
    finals = {
        name: {n: results[key] for n in range(plan.final_rounds) if (key := f"final-{name}/{n}") in results}
        for name in _final_cells(outcome, base)
    }
    rows = tuple(_row(state, c, outcome, tuple(finals.get(c.id, {}).values()), labels) for c in every)
    rate = miss_rate(len(outcome.missed), len([n for n in outcome.audited if n in outcome.seen]))
    enough = all(len(found) == plan.final_rounds for found in finals.values())
    return SearchReport(
        plan=plan,
        rows=rows,
        answer=_answer(plan, rows, outcome, _over(base, plan.goals[0], finals), labels, base),
        measured=len(outcome.order),
        dropped=len(outcome.dropped),
        audited=len([n for n in outcome.audited if n in outcome.seen]),
        missed=len(outcome.missed),
        bound=rate[1] if rate else None,
        spent_s=state.spent_s,
        minutes=state.minutes,
        expected_s=sum(state.expected_s.values()),
        complete=bool(outcome.finalists) and enough,
    )


def _over(base: str, goal: str, finals: Mapping[str, Mapping[int, Values]]) -> dict[str, Ratio]:
    """Cell -> its goal over the baseline's, in the final rounds that have both."""
    found: dict[str, Ratio] = {}
    for name, mine in finals.items():
        pairs = [
            (values[goal], first[goal])
            for n, values in mine.items()
            if goal in values
            and goal in (first := finals.get(base, {}).get(n, {}))
            and min(values[goal], first[goal]) > 0
        ]
        if pairs and name != base:
            found[name] = paired_ratio([a for a, _ in pairs], [b for _, b in pairs])
    return found


def _results(state: State[Search], store: Store) -> dict[str, Values]:
    floor = state.plan.floor
    found = finished(state, store).items()
    return {k: shown(floor, r) if floor is not None and k.startswith(QUALITY) else values_of(r) for k, r in found}


def _row(
    state: State[Search], cell: Cell, outcome: Outcome, finals: Sequence[Values], labels: Mapping[str, str]
) -> Found:
    plan = state.plan
    stage, reason = _stage(state, cell.id, outcome)
    if judged := _alike(plan, cell.request).get(QUALITY):
        reason = reason or state.failures.get(judged, "")
    known = {**MEASURES, **({QUALITY: measure_of(plan, QUALITY)} if plan.floor else {})}
    for name, words in (*labels.items(), *((m, what.label.lower()) for m, what in known.items())):
        reason = reason.replace(name, words)
    measured = outcome.seen.get(cell.id, {})
    final = {m: mean for m in MEASURES if (mean := typical([f[m] for f in finals if m in f])) is not None}
    return Found(
        id=cell.id,
        label=cell.label,
        stage=stage,
        reason=reason,
        predicted=state.ranges.get(cell.id, {}),
        measured=dict(measured),
        n=outcome.counts.get(cell.id, 0),
        final=final,
        shrinkage={m: v.value / measured[m] for m, v in final.items() if measured.get(m)},
    )


def _stage(state: State[Search], name: str, outcome: Outcome) -> tuple[Stage, str]:
    if name in state.refused:
        return "cannot run", state.refused[name]
    if name in outcome.failed:
        return "failed", " ".join(why for key, why in state.failures.items() if key.startswith(f"{name}/"))
    if name in outcome.finalists:
        return "finalist", ""
    if name in outcome.audited and name in outcome.seen:
        why = "would have been on the front" if name in outcome.missed else "rightly dropped"
        return "audited", f"{outcome.dropped.get(name, '')}; measured all the same: {why}"
    if name in outcome.dropped:
        return "dropped", outcome.dropped[name]
    return ("measured", "") if name in outcome.seen else ("predicted only", "others promise more")


def _answer(
    plan: Search,
    rows: Sequence[Found],
    outcome: Outcome,
    over: Mapping[str, Ratio],
    labels: Mapping[str, str],
    base: str,
) -> Answer:
    """The choice and why; what each constraint costs; or who comes nearest where nobody meets them."""
    if not outcome.seen:
        return Answer(cell="", words=("Nothing is measured yet.",))
    if not outcome.finalists:
        return Answer(cell="", words=_nearest(plan, outcome, labels))
    by_id = {row.id: row for row in rows}
    goal = plan.goals[0]
    what = MEASURES[goal]
    pick = max if what.better == "higher" else min

    def value(name: str) -> float:
        row = by_id[name]
        return row.final[goal].value if goal in row.final else row.measured[goal]

    ready = [n for n in outcome.finalists[:FINALISTS] if goal in by_id[n].measured]
    kept = [n for n in ready if all(_met(by_id[n], c) for c in plan.constraints)]
    if not kept:
        return Answer(
            cell="", words=("No finalist meets the constraints when it is measured anew. Search again with more.",)
        )
    best = pick(kept, key=value)
    row = by_id[best]
    words = [f"{row.label}: of all that meet the constraints it has the best {what.label.lower()} among the finalists."]
    shown = row.final.get(goal)
    if shown is None:
        words.append("The finalists are not measured anew yet, so its figures are the search's own and too good.")
    elif goal in row.shrinkage:
        words.append(f"Measured anew, {what.label.lower()} is {row.shrinkage[goal]:.2f} times what the search saw.")
    if best in over:
        ratio = over[best]
        rounds = "final round" if ratio.n == 1 else "final rounds"
        words.append(f"That is {in_words(ratio)} times the baseline's ({labels[base]}), over {ratio.n} {rounds}.")
    words += [w for c in plan.constraints if (w := _cost(plan, c, outcome))]
    return Answer(cell=best, words=tuple(words))


def _met(row: Found, c: Constraint) -> bool:
    value = row.final[c.measure].value if c.measure in row.final else row.measured.get(c.measure)
    return value is not None and c.met(value)


def _cost(plan: Search, constraint: Constraint, outcome: Outcome) -> str:
    """What this constraint costs in the first goal, by the search's own figures."""
    goal = plan.goals[0]
    others = [c for c in plan.constraints if c != constraint]
    pick = max if MEASURES[goal].better == "higher" else min
    without = [
        v[goal]
        for v in outcome.seen.values()
        if goal in v and all(c.measure in v and c.met(v[c.measure]) for c in others)
    ]
    inside = [
        v[goal]
        for v in outcome.seen.values()
        if goal in v and all(c.measure in v and c.met(v[c.measure]) for c in plan.constraints)
    ]
    if not without or not inside or pick(inside) <= 0:
        return ""
    ratio = pick(without) / pick(inside)
    what = measure_of(plan, constraint.measure)
    name = f"{what.label} {_side(what, constraint)}"
    if abs(ratio - 1) < 0.005:
        return f"{name} costs nothing here."
    return f"Without “{name}” the best {MEASURES[goal].label.lower()} that was measured is {ratio:.2f} times that."


def _side(what: Measure, c: Constraint) -> str:
    """`at most 1 GB`."""
    return f"at {'most' if c.better == 'lower' else 'least'} {_figure(what, c.limit)}"


def _figure(what: Measure, value: float) -> str:
    return f"{plain(value)} {what.unit}".strip() if what.unit in ("", "tok/s") else si(value, what.unit, 4)


def _nearest(plan: Search, outcome: Outcome, labels: Mapping[str, str]) -> tuple[str, ...]:
    """Who comes nearest where nothing meets every limit, by which measure, and what loosening one alone would do."""
    if not outcome.nearest:
        return ("Every cell that was tried failed; the table has the reasons.",)
    values = outcome.seen[outcome.nearest]
    missing = []
    for c in plan.constraints:
        what = measure_of(plan, c.measure)
        if c.measure not in values:
            missing.append(f"{what.label.lower()}, which was not measured")
        elif not c.met(value := values[c.measure]):
            missing.append(f"{what.label.lower()} of {_figure(what, value)} where {_side(what, c)} is asked")
    words = [
        f"Nothing that was measured meets the constraints. Nearest is {labels[outcome.nearest]}: {'; '.join(missing)}."
    ]
    if len(plan.constraints) < 2:
        return tuple(words)
    unknown, factor, _ = miss((c, values.get(c.measure)) for c in plan.constraints)
    if not unknown and math.isfinite(factor):
        words.append(
            f"Nearest means: it meets every limit once each is loosened by one and the same factor, "
            f"×{math.exp(factor):.3g}, and nothing else that was measured needs a smaller one."
        )
    if alone := [w for c in plan.constraints if (w := _alone(plan, c, outcome, labels))]:
        words.append(f"One limit alone would have to be loosened: {'; or '.join(alone)}.")
    return tuple(words)


def _alone(plan: Search, constraint: Constraint, outcome: Outcome, labels: Mapping[str, str]) -> str:
    """What of this limit would do if it alone were loosened; empty where other limits are in the way as well."""
    others = [c for c in plan.constraints if c != constraint]
    known = {
        name: v[constraint.measure]
        for name, v in outcome.seen.items()
        if constraint.measure in v and all(c.measure in v and c.met(v[c.measure]) for c in others)
    }
    if not known:
        return ""
    pick = min if constraint.better == "lower" else max
    name = pick(known, key=lambda n: known[n])
    what = measure_of(plan, constraint.measure)
    return f"{what.label.lower()} to {_figure(what, known[name])} ({labels[name]})"
