"""What a benchmark's runs say: speed-ups with intervals, predicted beside measured, and the quality that was kept.

Speeds are tokens per second of decoding after the first token, over the same questions, which are drawn together for
the intervals. Nothing here runs anything.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np

from core.analysis.decoding import predicted_speedup, prediction_error
from core.stats.intervals import Interval, cluster_bootstrap
from core.stats.paired import Comparison, compare
from core.stats.pairing import pair
from core.studies.benchmark import quality_runs
from core.studies.ledger import Ledger
from core.studies.plan import Benchmark, Configuration
from core.types import Curve, Energy, ForwardCost, Item, Record, Result, together
from hardware.detect import Machine


class Standing(Record, omit_defaults=False):
    """A configuration after the benchmark. Everything is None that was not measured.

    speedup: over the baseline on their common questions; over_autoregressive: over the same model in the same
    engine, decoding autoregressively; over_fastest: over the fastest autoregressive configuration; latency: of the
    whole answer, over the baseline. predicted: of over_autoregressive, from v(n); error: predicted over measured, minus
    one. same: output match, the share of answers equal to the autoregressive ones. energy: of decoding, with its label.
    disturbed: in how many of its rounds something else had part of the machine.
    """

    id: str
    label: str
    backend: str
    strategy: str
    n: int = 0
    tok_per_s: float | None = None
    tokens_per_forward: float | None = None
    forward_s: float | None = None
    speedup: Interval | None = None
    over_autoregressive: Interval | None = None
    over_fastest: Interval | None = None
    latency: Interval | None = None
    predicted: float | None = None
    error: float | None = None
    accuracy: float | None = None
    against: Comparison | None = None
    same: float | None = None
    memory_bytes: int | None = None
    energy: Energy | None = None
    reason: str = ""
    disturbed: int = 0


class Away(Record, omit_defaults=False):
    """Out of domain: the candidate against the baseline. score: what the eval found, a share of its n items."""

    label: str
    speedup: Interval
    tokens_per_forward: float | None
    score: float
    baseline_score: float
    n: int


class Standings(Record, tag="benchmark", omit_defaults=False):
    """quality: the plan's closer look at accuracy, candidate against baseline; None where none was planned or done."""

    plan: Benchmark
    rows: tuple[Standing, ...]
    fastest: str
    curves: tuple[tuple[str, tuple[Curve, ...]], ...]
    machine: Machine | None
    begun: str
    spent_s: float
    away: Away | None = None
    quality: Comparison | None = None


def standings(ledger: Ledger[Benchmark]) -> Standings:
    """Of what is done so far."""
    plan = ledger.plan
    answers = {c.id: _answers(ledger, c) for c in plan.configurations}
    drafters = {
        d.id for c in plan.configurations if (d := plan.drafter(c)) is not None
    }  # another model, that only helps
    autoregressive = {
        c.id: _rate(answers[c.id]) for c in plan.configurations if c.is_autoregressive and c.id not in drafters
    }
    fastest = max(autoregressive, key=lambda name: autoregressive[name] or 0.0, default=plan.baseline)
    details = {c.id: _result(ledger, f"{c.id}/detail") for c in plan.configurations}
    rows = tuple(_standing(ledger, plan, c, answers, details, fastest) for c in plan.configurations)
    host = next((d.host for d in details.values() if d is not None and d.host is not None), None)
    made = [(r.id, _result(ledger, f"{r.id}/make/{len(r.steps)}")) for r in plan.recipes]
    return Standings(
        plan=plan,
        rows=rows,
        fastest=fastest,
        curves=tuple((name, result.curves) for name, result in made if result is not None and result.curves),
        machine=host.machine if host else None,
        begun=ledger.state.begun,
        spent_s=ledger.state.spent_s,
        away=_away(ledger, plan),
        quality=_quality(ledger, plan),
    )


def _standing(
    ledger: Ledger[Benchmark],
    plan: Benchmark,
    c: Configuration,
    answers: dict[str, list[Item]],
    details: dict[str, Result | None],
    fastest: str,
) -> Standing:
    own, detail, mine = answers[c.own], details[c.id], answers[c.id]
    failed = next((why for key, why in ledger.state.failures.items() if key.startswith(f"{c.id}/")), "")
    failed = failed or next((why for k, why in ledger.state.failures.items() if k.startswith(f"{c.recipe}/make")), "")
    if not mine:
        return Standing(
            id=c.id, label=c.label, backend=c.backend, strategy=c.strategy, reason=failed or "It was not asked."
        )
    per_forward, forward_s, _ = _forwards(mine)
    predicted = None if c.is_autoregressive else _predicted(ledger, c, [i for _, i in _common(own, mine)])
    over_autoregressive = None if c.is_autoregressive else speed_ratio(own, mine)
    metric = _result_metric(ledger, c)
    return Standing(
        id=c.id,
        label=c.label,
        backend=c.backend,
        strategy=c.strategy,
        n=len(mine),
        tok_per_s=_rate(mine),
        tokens_per_forward=per_forward,
        forward_s=forward_s,
        speedup=None if c.id == plan.baseline else speed_ratio(answers[plan.baseline], mine),
        over_autoregressive=over_autoregressive,
        over_fastest=None if c.id == fastest else speed_ratio(answers[fastest], mine),
        latency=None if c.id == plan.baseline else latency_ratio(answers[plan.baseline], mine),
        predicted=predicted,
        error=prediction_error(predicted, over_autoregressive.value if over_autoregressive is not None else None),
        accuracy=sum(i.values["acc"] for i in mine) / len(mine),
        against=compare(metric, answers[plan.baseline], mine)
        if metric is not None and c.id != plan.baseline and _common(answers[plan.baseline], mine)
        else None,
        same=None if c.is_autoregressive else _same(own, mine),
        memory_bytes=detail.peak_memory_bytes if detail is not None else None,
        energy=_energy(detail, per_forward),
        reason=failed,
        disturbed=sum(r is not None and r.disturbed for r in _rounds(ledger, c)),
    )


def _predicted(ledger: Ledger[Benchmark], c: Configuration, answers: Sequence[Item]) -> float | None:
    """The speed-up over autoregressive, from what forwards of the own model cost: the median of the looks at that.

    answers: those that are compared with the own model's. None where the cost of a step is not known: of a draft by
    the model's own first blocks, and of forwards that leave blocks out.
    """
    per_forward, _, fed = _forwards(answers)
    ran = together(i.counts for i in answers if i.counts is not None)
    drafts = ran.drafts / max(1, ran.forwards)
    drafter = ledger.plan.drafter(c)
    if not per_forward or not fed or ran.depth is not None or (drafts and drafter is None):
        return None
    draft_s = _forward_s(_costs(ledger, drafter.id)) if drafter is not None else 0.0
    costs = _costs(ledger, c.own)
    one_s = _forward_s(costs)
    if draft_s is None or one_s is None:
        return None
    found = (predicted_speedup(per_forward, fed, cost, drafts * draft_s / one_s) for cost in costs)
    known = [value for value in found if value is not None]
    return float(np.median(known)) if known else None


def _costs(ledger: Ledger[Benchmark], name: str) -> list[ForwardCost]:
    results = (_result(ledger, f"{name}/cost/{number}") for number in range(ledger.plan.looks))
    return [r.forward_cost for r in results if r is not None and r.forward_cost is not None]


def _forward_s(costs: Sequence[ForwardCost]) -> float | None:
    """Seconds of a forward of one token, the median of several looks."""
    found = [t.seconds for cost in costs for t in cost.times if t.n == 1]
    return float(np.median(found)) if found else None


def _energy(detail: Result | None, per_forward: float | None) -> Energy | None:
    """Of decoding, per token as the questions took it: a forward's joules are the close look's, its tokens are not."""
    energy = next((e for e in detail.energy if e.phase == "decode"), None) if detail is not None else None
    if energy is None or detail is None or not detail.tokens_per_forward or not per_forward:
        return energy
    share = detail.tokens_per_forward / per_forward
    each = (energy.joules_per_token, energy.low_j_per_token, energy.high_j_per_token)
    mean, low, high = (None if j is None else share * j for j in each)
    return msgspec.structs.replace(energy, joules_per_token=mean, low_j_per_token=low, high_j_per_token=high)


# ------------------------------------------------------------ speed


def speed_ratio(a: Sequence[Item], b: Sequence[Item]) -> Interval | None:
    """Tokens per second of b over those of a, on the questions that both answered with more than one token."""
    pairs = [(x, y) for x, y in _common(a, b) if n_decoded(x) and n_decoded(y)]
    return _ratio(pairs, [[n_decoded(i) for i in p] for p in pairs], [[i.seconds or 0.0 for i in p] for p in pairs])


def latency_ratio(a: Sequence[Item], b: Sequence[Item]) -> Interval | None:
    """How many times sooner b's whole answers were there, prefill included."""
    pairs = _common(a, b)
    seconds = [[(i.ttft_s or 0.0) + (i.seconds or 0.0) for i in p] for p in pairs]
    return _ratio(pairs, [[1.0, 1.0] for _ in pairs], seconds)


def _ratio(
    pairs: Sequence[tuple[Item, Item]], tops: Sequence[Sequence[float]], bottoms: Sequence[Sequence[float]]
) -> Interval | None:
    if not pairs:
        return None

    def faster(top: Any, bottom: Any) -> Any:
        rates = top / bottom
        return rates[..., 1] / rates[..., 0]

    return cluster_bootstrap(np.array(tops), np.array(bottoms), [x.cluster for x, _ in pairs], faster, positive=True)


def _forwards(items: Sequence[Item]) -> tuple[float | None, float | None, float | None]:
    """Tokens per forward, seconds per forward, and tokens fed to one."""
    ran = together(i.counts for i in items if i.counts is not None)
    if not ran.forwards:
        return None, None, None
    n = ran.forwards
    return ran.tokens / n, sum(i.seconds or 0.0 for i in items) / n, ran.inputs / n


def n_decoded(item: Item) -> int:
    """Tokens of its answer after the first one."""
    return item.counts.tokens if item.counts is not None else 0


def _rate(items: Sequence[Item]) -> float | None:
    seconds = sum(i.seconds or 0.0 for i in items)
    return sum(map(n_decoded, items)) / seconds if seconds else None


# ------------------------------------------------------------ the runs


def _answers(ledger: Ledger[Benchmark], c: Configuration) -> list[Item]:
    return [item for result in _rounds(ledger, c) if result is not None for item in result.items]


def _rounds(ledger: Ledger[Benchmark], c: Configuration) -> list[Result | None]:
    return [_result(ledger, f"{c.id}/round/{number}") for number in range(c.rounds)]


def _result(ledger: Ledger[Benchmark], key: str) -> Result | None:
    run = ledger.done(key)
    return None if run is None else run.result()


def _result_metric(ledger: Ledger[Benchmark], c: Configuration) -> Any:
    result = _result(ledger, f"{c.id}/round/0")
    return result.asked.metrics[0] if result is not None and result.asked is not None else None


def _common(a: Sequence[Item], b: Sequence[Item]) -> list[tuple[Item, Item]]:
    return list(pair(a, b).pairs)


def _same(a: Sequence[Item], b: Sequence[Item]) -> float | None:
    pairs = _common(a, b)
    return sum(x.output == y.output for x, y in pairs) / len(pairs) if pairs else None


def _quality(ledger: Ledger[Benchmark], plan: Benchmark) -> Comparison | None:
    """Over the questions that both were asked so far."""
    if plan.quality is None:
        return None
    asked: list[list[Item]] = []
    metric: Any = None
    for name in (plan.quality.baseline, plan.quality.candidate):
        results = (_result(ledger, f"{name}/quality/{number}") for number in range(len(quality_runs(plan))))
        known = [r for r in results if r is not None and r.asked is not None]
        metric = metric or next((r.asked.metrics[0] for r in known if r.asked is not None), None)
        asked.append([item for r in known for item in r.items])
    baseline, candidate = asked
    return compare(metric, baseline, candidate) if _common(baseline, candidate) else None


def _away(ledger: Ledger[Benchmark], plan: Benchmark) -> Away | None:
    if plan.away is None:
        return None
    a, b = (_result(ledger, f"{name}/away") for name in (plan.baseline, plan.candidate))
    if a is None or b is None or (ratio := speed_ratio(a.items, b.items)) is None:
        return None
    scores = [sum(i.values[plan.away.metric] for i in r.items) / len(r.items) for r in (a, b)]
    return Away(
        label=plan.away.label,
        speedup=ratio,
        tokens_per_forward=b.tokens_per_forward,
        score=scores[1],
        baseline_score=scores[0],
        n=len(b.items),
    )
