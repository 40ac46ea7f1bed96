"""What a search for architectures found: the shapes with what was predicted and measured, the front in each engine,
the answer, and whether the proxies earned their place against counting parameters.

Follows from the ledger and its runs alone. A proxy is compared with the finished models only: those that were cut,
trained and judged. One that ranks them no better than their number of parameters is shown as such.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, Literal

import msgspec

from core import plugins
from core.analysis.cuts import Cut
from core.analysis.search import Range
from core.errors import ExplorerError
from core.runs.store import Run, Store
from core.stats.intervals import Interval, Ratio, paired_ratio
from core.stats.pareto import front
from core.stats.rank import Regret, chance, difference, kendall, p_value, partial_kendall, random_regret, regret
from core.studies.architectures import chosen, finishers, parsed, whole_of
from core.studies.conduct import Answer, answer
from core.studies.ledger import State
from core.studies.plan import Architectures
from core.types import Record, Result, Score, from_json
from hardware.detect import Machine

FILE = "architectures.json"
_label = partial(plugins.label, "backend")  # of an engine; a device's name stays
WHOLE: Final = "whole"
Role = Literal["whole", "chosen", "random", "masked"]
PROXIES = {  # name -> what it is, whether it only counts
    "masked": ("KL when masked", False),
    "estimate": ("Sum of single KLs", False),
    "n_params": ("Parameters", True),
    "body_params": ("Body parameters", True),
    "weight_bytes": ("Bytes of weights", True),
}


class Speed(Record, omit_defaults=False):
    """A shape in one engine. ratio: its decode speed over the whole model's in the same rounds.

    predicted: tokens per second before any trained shape ran. disturbed: how many of its rounds something disturbed.
    """

    engine: str
    tok_per_s: float | None
    ratio: Ratio | None
    peak_memory_bytes: float | None
    predicted: Range | None
    disturbed: int
    on_front: bool = False
    reason: str = ""


class Shaped(Record, omit_defaults=False):
    """One shape. estimate, masked: KL to the whole model in nats per token, untrained, on the texts of the search.

    kl, perplexity: after training, on other texts: KL and the ratio of perplexities, with intervals over texts.
    agreement: share of tokens at which both prefer the same one.
    """

    id: str
    label: str
    role: Role
    n_params: float
    body_params: float
    weight_bytes: float
    estimate: float | None
    masked: float | None
    kl: Interval | None
    perplexity: Interval | None
    agreement: float | None
    speeds: tuple[Speed, ...]
    predicted: dict[str, dict[str, Range]]
    model: str = ""
    reason: str = ""


class Proxy(Record, omit_defaults=False):
    """How well a figure that is cheap ranks the finished models. of: what is ranked.

    tau: Kendall's tau-b with its interval. partial: the same given the logarithm of the number of parameters. over:
    tau minus that of the parameters. regret: what its favourite loses. counts: a baseline, which only counts. verdict:
    in words.
    """

    of: str
    name: str
    label: str
    counts: bool
    tau: Interval | None
    partial: Interval | None
    over: Interval | None
    regret: Regret | None
    p: float | None
    verdict: str


class Quantized(Record, omit_defaults=False):
    """The answer's shape in another number format, in llama.cpp; its speed over the whole model's there, which is not
    quantized."""

    type: str
    model: str
    kl: Interval | None
    perplexity: Interval | None
    ratio: Ratio | None
    tok_per_s: float | None
    reason: str = ""


class Found(Record, omit_defaults=False):
    """A search as it stands. best: the id of its answer, "" without; words: the answer and what it rests on."""

    plan: Architectures
    date: str
    machine: Machine | None
    versions: dict[str, str]
    spent_s: float
    shapes: int
    possible: int
    masked: int
    rows: tuple[Shaped, ...]
    proxies: tuple[Proxy, ...]
    best: str
    words: tuple[str, ...]
    quantized: Quantized | None
    complete: bool

    @property
    def finished(self) -> tuple[Shaped, ...]:
        """The shapes that were trained and judged."""
        return tuple(row for row in self.rows if row.kl is not None and row.role != "whole")


def findings(state: State[Architectures], store: Store) -> Found:
    """Everything that came of a search so far; reads every run of it."""
    plan, runs = state.plan, _Runs(state, store)
    finals = finishers(state)
    rows = _rows(state, plan, runs, finals)
    best = _best(plan, rows)
    quantized = _quantized(plan, runs)
    hosts = [result.host for result in runs.results.values() if result.host is not None]
    versions: dict[str, str] = {}
    for result in runs.results.values():
        versions |= result.setup.versions if result.setup else {}
    done = [row for row in rows if row.kl is not None and row.role != "whole"]
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
        words=_words(plan, rows, best, quantized, state),
        quantized=quantized,
        complete=timed and len(done) + len(_failed(state, finals)) == len(finals),
    )


def read(data: bytes) -> Found:
    """Findings as they were written; raises ExplorerError when they cannot be read."""
    try:
        return from_json(data, Found)
    except msgspec.DecodeError as error:
        raise ExplorerError("These findings cannot be read.", "Carry the search out again: it goes on.") from error


def best_of(state: State[Architectures], store: Store) -> str | None:
    """The id of the answer's shape; None while there is none."""
    return findings(state, store).best or None


# ------------------------------------------------------------ rows


class _Runs:
    """The finished runs of a search, opened once. results: key -> result."""

    def __init__(self, state: State[Architectures], store: Store) -> None:
        self.results: dict[str, Result] = {}
        self.failures = state.failures
        for key, run_id in state.runs.items():
            if key in state.failures:
                continue
            run = _opened(store, run_id)
            if run is not None:
                self.results[key] = run.result()

    def answers(self, key: str, n: int) -> dict[int, Answer]:
        """Round -> the standard answer of runs `key/round`."""
        found = {i: self.results.get(f"{key}/{i}") for i in range(n)}
        return {i: a for i, result in found.items() if result is not None and (a := answer(result)) is not None}

    def score(self, key: str, name: str) -> Score | None:
        result = self.results.get(key)
        return next((s for s in result.scores if s.name == name), None) if result else None

    def reason(self, start: str) -> str:
        return " ".join(why for key, why in self.failures.items() if key.startswith(start))


def _opened(store: Store, run_id: str) -> Run | None:
    try:
        run = store.open(run_id)
        return run if run.status() == "done" else None
    except ExplorerError:
        return None


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
    both = [i for i in mine if i in base]
    first = runs.results.get(f"{name}/speed/{engine}/0")
    return Speed(
        engine=engine,
        tok_per_s=_middle([a.tok_per_s for a in mine.values()]),
        ratio=paired_ratio([mine[i].tok_per_s for i in both], [base[i].tok_per_s for i in both]) if both else None,
        peak_memory_bytes=first.peak_memory_bytes if first is not None else None,
        predicted=predicted,
        disturbed=sum(a.disturbed for a in mine.values()),
        reason=runs.reason(f"{name}/speed/{engine}/"),
    )


def _middle(values: Sequence[float]) -> float | None:
    return sorted(values)[len(values) // 2] if values else None


def _with_fronts(rows: Sequence[Shaped], engines: Sequence[str]) -> tuple[Shaped, ...]:
    """With those marked that nothing beats in speed and KL at once, in each engine."""
    marked = list(rows)
    for i in range(len(engines)):
        ready = [n for n, r in enumerate(rows) if r.kl is not None and r.speeds and r.speeds[i].ratio is not None]
        points = [(_ratio(rows[n], i), _kl(rows[n])) for n in ready]
        on = front(points, ("higher", "lower")) if points else ()
        for n, is_on in zip(ready, on, strict=True):
            speeds = list(marked[n].speeds)
            speeds[i] = msgspec.structs.replace(speeds[i], on_front=bool(is_on))
            marked[n] = msgspec.structs.replace(marked[n], speeds=tuple(speeds))
    return tuple(marked)


def _ratio(row: Shaped, i: int) -> float:
    ratio = row.speeds[i].ratio
    assert ratio is not None, "asked of measured shapes only"
    return ratio.value


def _kl(row: Shaped) -> float:
    assert row.kl is not None, "asked of judged shapes only"
    return row.kl.value


def _failed(state: State[Architectures], finals: Sequence[Cut]) -> set[str]:
    """The finalists that could not be made or judged."""
    starts = tuple(f"{cut.id}/{step}" for cut in finals for step in ("make", "judge"))
    return {key.split("/")[0] for key in state.failures if key.startswith(starts)}


# ------------------------------------------------------------ proxies


def proxies(rows: Sequence[Shaped], engines: Sequence[str]) -> tuple[Proxy, ...]:
    """Of the quality after training, and of the measured speed in each engine."""
    done = [r for r in rows if r.kl is not None and r.role != "whole"]
    if len(done) < 2:
        return ()
    sizes = [math.log(r.n_params) for r in done]
    loss = {
        "masked": [-(r.masked or 0.0) for r in done],
        "estimate": [-(r.estimate or 0.0) for r in done],
        "n_params": [r.n_params for r in done],
        "body_params": [r.body_params for r in done],
        "weight_bytes": [r.weight_bytes for r in done],
    }
    found = _ranked("quality", loss, [_kl(r) for r in done], sizes, PROXIES, "lower")
    for i, engine in enumerate(engines):
        ready = [r for r in done if r.speeds[i].ratio is not None and r.speeds[i].predicted is not None]
        if len(ready) < 2:
            continue
        told = {
            "predicted": [p.likely for r in ready if (p := r.speeds[i].predicted) is not None],
            "n_params": [-r.n_params for r in ready],
            "weight_bytes": [-r.weight_bytes for r in ready],
        }
        labels = {"predicted": ("Predicted decode speed", False)} | {
            n: PROXIES[n] for n in ("n_params", "weight_bytes")
        }
        truth, logs = [_ratio(r, i) for r in ready], [math.log(r.n_params) for r in ready]
        found += _ranked(f"speed in {_label(engine)}", told, truth, logs, labels, "higher")
    return tuple(found)


def _ranked(
    of: str,
    scores: Mapping[str, Sequence[float]],
    truth: Sequence[float],
    sizes: Sequence[float],
    labels: Mapping[str, tuple[str, bool]],
    better: Literal["higher", "lower"],
) -> list[Proxy]:
    good = [-t for t in truth] if better == "lower" else list(truth)
    found = []
    for name, values in scores.items():
        label, counts = labels[name]
        tau = _or_none(partial(kendall, values, good))
        over = None if counts else _or_none(partial(difference, values, scores["n_params"], good))
        found.append(
            Proxy(
                of=of,
                name=name,
                label=label,
                counts=counts,
                tau=tau,
                partial=None if counts else _or_none(partial(partial_kendall, values, good, sizes)),
                over=over,
                regret=regret(values, truth, better),
                p=None if tau is None else p_value(values, good),
                verdict=_verdict(tau, over, counts),
            )
        )
    random = Proxy(
        of=of,
        name="random",
        label="Random order",
        counts=True,
        tau=chance(len(truth)),
        partial=None,
        over=None,
        regret=random_regret(truth, better),
        p=None,
        verdict="baseline; the interval holds 95 % of random orders",
    )
    return [*found, random]


def _or_none(make: Callable[[], Interval]) -> Interval | None:
    try:
        return make()
    except ValueError:
        return None


def _verdict(tau: Interval | None, over: Interval | None, counts: bool) -> str:
    if tau is None:
        return "ranks nothing here"
    if counts:
        return "baseline"
    if over is None or over.low is None or over.high is None:
        return f"{tau.n} models are too few to tell"
    if over.low > 0:
        return "better than counting parameters"
    if over.value < 0:
        return "loses to counting parameters" + ("" if over.high < 0 else f", as far as {tau.n} models tell")
    return f"no better than counting parameters is shown by {tau.n} models"


# ------------------------------------------------------------ the answer


def _best(plan: Architectures, rows: Sequence[Shaped]) -> Shaped | None:
    """Of the trained shapes that meet the limits and are fast enough in the first engine the one that loses least; the
    fastest where none is fast enough."""
    ready = [
        r
        for r in rows
        if r.role != "whole" and r.kl is not None and r.speeds and r.speeds[0].ratio is not None and _meets(plan, r)
    ]
    fast = [r for r in ready if _ratio(r, 0) >= plan.speedup]
    if fast:
        return min(fast, key=lambda r: (_kl(r), -_ratio(r, 0)))
    return max(ready, key=lambda r: _ratio(r, 0), default=None)


def _meets(plan: Architectures, row: Shaped) -> bool:
    """By what was measured where limits are for an engine, by what is likely on a device."""
    speed, told = row.speeds[0], row.predicted.get(plan.target, {})
    seen: dict[str, float | None] = {"n_params": row.n_params}
    if not plan.device:
        seen |= {"tok_per_s": speed.tok_per_s, "peak_memory_bytes": speed.peak_memory_bytes}
        seen |= {"tpot_s": 1 / speed.tok_per_s if speed.tok_per_s else None}
    for c in plan.constraints:
        value = seen.get(c.measure)
        if value is None:
            value = told[c.measure].likely if c.measure in told else None
        if value is None or not c.met(value):
            return False
    return True


def _words(
    plan: Architectures,
    rows: Sequence[Shaped],
    best: Shaped | None,
    quantized: Quantized | None,
    state: State[Architectures],
) -> tuple[str, ...]:
    if not rows:
        return ("Nothing is priced yet.",)
    done = [r for r in rows if r.kl is not None and r.role != "whole"]
    if best is None:
        why = "no finished shape meets the limits" if done else "no shape is finished yet"
        if done and not any(r.speeds[0].ratio for r in done):
            why = "no finished shape is measured yet"
        return (f"There is no answer: {why}.",)
    engine, ratio = plan.engines[0], best.speeds[0].ratio
    assert ratio is not None, "the answer was measured"
    words = [
        f"{best.label}: {interval_words(ratio)} times the whole model's decode speed in {_label(engine)}, with "
        f"{best.n_params / 1e6:.1f} M of {rows[0].n_params / 1e6:.1f} M parameters.",
        f"What it costs after training: {interval_words(best.kl)} nat per token to the whole model"
        + (f", {interval_words(best.perplexity)} times its perplexity" if best.perplexity else "")
        + (f", the same first choice at {best.agreement:.0%} of tokens" if best.agreement is not None else "")
        + f", on {plan.texts} texts that nothing was chosen by.",
    ]
    if ratio.value < plan.speedup:
        words.append(f"No finished shape reaches {plan.speedup:g} times the speed; this is the fastest.")
    if best.speeds[0].disturbed:
        words.append(f"{best.speeds[0].disturbed} of its rounds in {_label(engine)} were disturbed by other work.")
    for i, name in enumerate(plan.engines):
        on = [r for r in done if r.speeds and r.speeds[i].on_front]
        if on:
            words.append(f"On the front in {_label(name)}: {len(on)} of {len(done)} finished shapes.")
    words += _contrast_words(plan, rows, state)
    if quantized is not None and quantized.kl is not None and quantized.ratio is not None:
        words.append(
            f"As {quantized.type} in llama.cpp it loses {interval_words(quantized.kl)} nat per token and decodes "
            f"{interval_words(quantized.ratio)} times as fast as the whole model in plain numbers."
        )
    return tuple(words)


def _contrast_words(plan: Architectures, rows: Sequence[Shaped], state: State[Architectures]) -> list[str]:
    """Depth against width at nearly the same size, in each engine."""
    whole = parsed(rows[0].id)
    cuts = {r.id: parsed(r.id) for r in rows[1:]}
    same = {n: c for n, c in cuts.items() if (c.kv_heads, c.queries) == (whole.kv_heads, whole.queries)}
    deep = [n for n, c in same.items() if c.d_ff == whole.d_ff]
    wide = [n for n, c in same.items() if c.blocks == whole.blocks]
    by_id = {r.id: r for r in rows}
    pairs = [(abs(by_id[a].n_params - by_id[b].n_params), a, b) for a in deep for b in wide]
    if not pairs:
        return []
    _, a, b = min(pairs)

    def gain(name: str, place: str) -> float | None:
        mine, base = by_id[name].predicted[place].get("tpot_s"), rows[0].predicted[place].get("tpot_s")
        return base.likely / mine.likely if mine and base and mine.likely > 0 else None

    told = []
    for place in plan.places:
        one, other = gain(a, place), gain(b, place)
        if one is not None and other is not None:
            told.append(f"{_label(place)} {one:.2f} and {other:.2f}")
    if not told:
        return []
    return [
        f"Depth against width: {by_id[a].label} ({by_id[a].n_params / 1e6:.1f} M) and {by_id[b].label} "
        f"({by_id[b].n_params / 1e6:.1f} M) are expected to decode faster than the whole model by: {'; '.join(told)}. "
        f"Masked, they lose {by_id[a].masked or 0:.3f} and {by_id[b].masked or 0:.3f} nat per token."
    ]


def interval_words(of: Interval | None, digits: int = 3) -> str:
    """`1.42 [1.40, 1.44]`."""
    if of is None:
        return "–"
    ends = f" [{of.low:.{digits}g}, {of.high:.{digits}g}]" if of.low is not None and of.high is not None else ""
    return f"{of.value:.{digits}g}{ends}"


def _quantized(plan: Architectures, runs: _Runs) -> Quantized | None:
    if not plan.quantize:
        return None
    mine, base = (runs.answers(f"{name}/speed", plan.rounds) for name in ("quantized", "beside"))
    both = [i for i in mine if i in base]
    judged = runs.results.get("quantized/judge")
    made = [r.made.model for k, r in runs.results.items() if k.endswith("/make/3") and r.made is not None]
    return Quantized(
        type=plan.quantize,
        model=made[0] if made else "",
        kl=_interval(runs.score("quantized/judge", "kl")),
        perplexity=_exponential(runs.score("quantized/judge", "ln_ratio")),
        ratio=paired_ratio([mine[i].tok_per_s for i in both], [base[i].tok_per_s for i in both]) if both else None,
        tok_per_s=_middle([a.tok_per_s for a in mine.values()]),
        reason="" if judged is not None else "Not measured yet.",
    )
