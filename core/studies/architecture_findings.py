"""What a search for architectures found: the shapes with what was predicted and measured, and the front in each engine.

Follows from the ledger and its runs alone. The answer and the proxies' verdicts have files of their own.
"""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence

import msgspec

from core.analysis.cuts import Cut
from core.analysis.search import Range
from core.runs.store import Store
from core.stats.intervals import Interval, Ratio, paired_ratio
from core.stats.pareto import front
from core.studies.architecture_answer import best_of, words_of
from core.studies.architecture_found import Found, Quantized, Role, Shaped, Speed
from core.studies.architecture_proxies import proxies
from core.studies.architecture_state import WHOLE, chosen, finishers, whole_of
from core.studies.conduct import Answer, answer
from core.studies.ledger import State, finished
from core.studies.plan import Architectures
from core.types import Score


def findings(state: State[Architectures], store: Store) -> Found:
    """Everything that came of a search so far; reads every run of it."""
    plan, runs = state.plan, _Runs(state, store)
    finals = finishers(state)
    rows = _rows(state, plan, runs, finals)
    best = best_of(plan, rows)
    quantized = _quantized(plan, runs)
    hosts = [result.host for result in runs.results.values() if result.host is not None]
    versions: dict[str, str] = {}
    for result in runs.results.values():
        versions |= result.setup.versions if result.setup else {}
    done = [row for row in rows if row.finished]
    timed = bool(done) and all(s.ratio is not None and s.ratio.n >= plan.rounds for r in done for s in r.speeds)
    return Found(
        plan=plan,
        date=time.strftime("%Y-%m-%d"),
        machine=hosts[0].machine if hosts else None,
        versions=versions,
        spent_s=state.spent_s,
        shapes=state.items.get("shapes", 0),
        possible=state.items.get("possible", 0),
        masked=sum(name in state.scores for name in chosen(state)),
        rows=rows,
        proxies=proxies(rows, plan.engines),
        best=best.id if best else "",
        words=words_of(plan, rows, best, quantized),
        quantized=quantized,
        complete=timed and len(done) + len(_failed(state, finals)) == len(finals),
    )


# ------------------------------------------------------------ rows


class _Runs:
    """The finished runs of a search, opened once. results: key -> result."""

    def __init__(self, state: State[Architectures], store: Store) -> None:
        self.results = finished(state, store)
        self.failures = state.failures

    def answers(self, key: str, n: int) -> dict[int, Answer]:
        """Round -> the standard answer of runs `key/round`."""
        found = {i: self.results.get(f"{key}/{i}") for i in range(n)}
        return {i: a for i, result in found.items() if result is not None and (a := answer(result)) is not None}

    def score(self, key: str, name: str) -> Score | None:
        result = self.results.get(key)
        return next((s for s in result.scores if s.name == name), None) if result else None

    def reason(self, start: str) -> str:
        return " ".join(why for key, why in self.failures.items() if key.startswith(start))


def _rows(state: State[Architectures], plan: Architectures, runs: _Runs, finals: Sequence[Cut]) -> tuple[Shaped, ...]:
    whole = whole_of(state)
    if whole is None:
        return ()
    drawn = {k.partition("/")[2] for k in state.scores if k.startswith("check/")}
    final = {cut.id for cut in finals}
    rows = [_row(state, plan, runs, whole, WHOLE, WHOLE)]
    for name, cut in chosen(state).items():
        role: Role = "masked" if name not in final else "random" if name in drawn else "chosen"
        rows.append(_row(state, plan, runs, cut, name, role))
    return _with_fronts(rows, plan.engines)


def _row(state: State[Architectures], plan: Architectures, runs: _Runs, cut: Cut, name: str, role: Role) -> Shaped:
    known = state.ranges.get(f"{cut.id}@", {})
    kl, ln_ratio = runs.score(f"{name}/judge", "kl"), runs.score(f"{name}/judge", "ln_ratio")
    agreement = runs.score(f"{name}/judge", "agreement")
    predicted = {place: state.ranges.get(f"{cut.id}@{place}", {}) for place in plan.places}
    made = runs.results.get(f"{name}/make/{1 if role == WHOLE else 2}")
    return Shaped(
        id=cut.id,
        label=f"{'Whole model · ' if role == WHOLE else ''}{cut.label}",
        role=role,
        n_params=_likely(known, "n_params"),
        body_params=_likely(known, "body_params"),
        weight_bytes=_likely(known, "weight_bytes"),
        estimate=0.0 if role == WHOLE else state.scores.get(f"estimate/{name}"),
        masked=0.0 if role == WHOLE else state.scores.get(name),
        kl=Interval(value=0.0, low=0.0, high=0.0, n=0) if role == WHOLE else _interval(kl),
        perplexity=_exponential(ln_ratio),
        agreement=agreement.value if agreement else None,
        speeds=tuple(_speed(plan, runs, name, e, predicted[e].get("tok_per_s")) for e in plan.engines)
        if role != "masked"
        else (),
        predicted=predicted,
        model=made.made.model if made is not None and made.made is not None else "",
        reason=runs.reason(f"{name}/"),
    )


def _likely(known: Mapping[str, Range], name: str) -> float:
    return known[name].likely if name in known else 0.0


def _interval(score: Score | None) -> Interval | None:
    return None if score is None else Interval(value=score.value, low=score.low, high=score.high, n=score.n)


def _exponential(score: Score | None) -> Interval | None:
    """Of the mean logarithm: the ratio of perplexities, shape over whole."""
    if score is None:
        return None
    low, high = (None if x is None else math.exp(x) for x in (score.low, score.high))
    return Interval(value=math.exp(score.value), low=low, high=high, n=score.n)


def _speed(plan: Architectures, runs: _Runs, name: str, engine: str, predicted: Range | None) -> Speed:
    mine, base = (runs.answers(f"{n}/speed/{engine}", plan.rounds) for n in (name, WHOLE))
    tok_per_s, ratio = _beside(mine, base)
    first = runs.results.get(f"{name}/speed/{engine}/0")
    return Speed(
        engine=engine,
        tok_per_s=tok_per_s,
        ratio=ratio,
        peak_memory_bytes=first.peak_memory_bytes if first is not None else None,
        predicted=predicted,
        disturbed=sum(a.disturbed for a in mine.values()),
        reason=runs.reason(f"{name}/speed/{engine}/"),
    )


def _beside(mine: Mapping[int, Answer], base: Mapping[int, Answer]) -> tuple[float | None, Ratio | None]:
    """Tokens per second over all rounds, and over the other's in the rounds that both have."""
    both = [i for i in mine if i in base]
    return (
        statistics.median_high(a.tok_per_s for a in mine.values()) if mine else None,
        paired_ratio([mine[i].tok_per_s for i in both], [base[i].tok_per_s for i in both]) if both else None,
    )


def _with_fronts(rows: Sequence[Shaped], engines: Sequence[str]) -> tuple[Shaped, ...]:
    """With those marked that nothing beats in speed and KL at once, in each engine."""
    marked = list(rows)
    for i in range(len(engines)):
        ready = [n for n, r in enumerate(rows) if r.kl is not None and r.speeds and r.speeds[i].ratio is not None]
        points = [(rows[n].speeds[i].gain, rows[n].lost) for n in ready]
        on = front(points, ("higher", "lower")) if points else ()
        for n, is_on in zip(ready, on, strict=True):
            speeds = list(marked[n].speeds)
            speeds[i] = msgspec.structs.replace(speeds[i], on_front=bool(is_on))
            marked[n] = msgspec.structs.replace(marked[n], speeds=tuple(speeds))
    return tuple(marked)


def _failed(state: State[Architectures], finals: Sequence[Cut]) -> set[str]:
    """The finalists that could not be made or judged."""
    starts = tuple(f"{cut.id}/{step}" for cut in finals for step in ("make", "judge"))
    return {key.split("/")[0] for key in state.failures if key.startswith(starts)}


def _quantized(plan: Architectures, runs: _Runs) -> Quantized | None:
    if not plan.quantize:
        return None
    tok_per_s, ratio = _beside(*(runs.answers(f"{name}/speed", plan.rounds) for name in ("quantized", "beside")))
    judged = runs.results.get("quantized/judge")
    made = [r.made.model for k, r in runs.results.items() if k.endswith("/make/3") and r.made is not None]
    return Quantized(
        type=plan.quantize,
        model=made[0] if made else "",
        kl=_interval(runs.score("quantized/judge", "kl")),
        perplexity=_exponential(runs.score("quantized/judge", "ln_ratio")),
        ratio=ratio,
        tok_per_s=tok_per_s,
        reason="" if judged is not None else "Not measured yet.",
    )
