"""What a screen or a terminal shows of a load test: tables, the requests of one level over time, and where it stands.

Cheap while it goes on: `standing` looks at the newest events alone. Numbers only; nothing here draws or formats.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple

from core.loadtest.events import OURS, Answered, Began, Done, Ended, Event, Opened, Told
from core.loadtest.level import SHARES, Level, Spread, verdict
from core.loadtest.objectives import Objectives
from core.loadtest.plan import Plan, named, order
from core.loadtest.report import Measured, Report
from core.stats.quantiles import median

Metric = Literal["ttft", "tpot", "itl", "icl", "e2e"]
METRICS: dict[Metric, str] = {
    "ttft": "Time to first token",
    "tpot": "Time per output token",
    "e2e": "End-to-end latency",
    "itl": "Inter-token latency",
    "icl": "Inter-chunk latency",
}
SHORT: dict[Metric, str] = {"ttft": "TTFT", "tpot": "TPOT", "e2e": "E2E", "itl": "ITL", "icl": "ICL"}
MOST_DOTS = 1500
RECENT_S = 10.0


def table(found: Report) -> list[dict[str, float | str | None]]:
    """One row per load: what most want to see, latencies in milliseconds."""
    return [_line(m, found.plan) for m in found.points]


def _line(m: Measured, plan: Plan) -> dict[str, float | str | None]:
    p = m.point
    stated = bool(plan.objectives.stated)
    return {
        "users" if p.mode == "closed" else "req/s asked": p.load,
        "n": p.counted,
        "req/s": p.requests_per_s,
        "tok/s": p.tokens_per_s,
        **({"good/s": p.goodput, "good/bad/unknown": f"{p.good}/{p.bad}/{p.undetermined}"} if stated else {}),
        "failed": sum(p.failures.values()),
        "TTFT p50 ms": _ms(p.ttft.p50.value),
        "TTFT p95 ms": _ms(p.ttft.p95.value),
        "TPOT p50 ms": _ms(p.tpot.p50.value),
        "E2E p50 ms": _ms(p.e2e.p50.value),
        "E2E p95 ms": _ms(p.e2e.p95.value),
        "E2E p99 ms": _ms(p.e2e.p99.value),
        "off": ", ".join(dict.fromkeys(f.name for f in m.flags)) or None,
    }


class Latency(NamedTuple):
    """A latency at one load. quantiles: by name, each value, low, high in seconds; None: the sample is too small."""

    label: str
    n: int
    mean_s: float | None
    quantiles: dict[str, tuple[float | None, float | None, float | None]]


def latencies(m: Measured) -> list[Latency]:
    """All latencies of a load, those that have no value left out."""
    p = m.point
    named: dict[str, Spread] = {label: getattr(p, name) for name, label in METRICS.items()}
    if p.mode == "open":
        named |= {f"{METRICS['ttft']}, from sending": p.ttft_sent}
    named |= {"Connecting": p.connect}
    return [_latency(label, spread) for label, spread in named.items() if spread.n]


def _latency(label: str, spread: Spread) -> Latency:
    found = {name: getattr(spread, name) for name in SHARES}
    return Latency(label, spread.n, spread.mean, {k: (q.value, q.low, q.high) for k, q in found.items()})


def dots(level: Level, limits: Objectives) -> list[dict[str, Any]]:
    """The requests of a level for a timeline: when asked, how long it took, how it ended; at most MOST_DOTS."""
    step = max(1, -(-len(level.outcomes) // MOST_DOTS))
    found = []
    for o in level.outcomes[::step]:
        at = o.scheduled_s if o.scheduled_s is not None else o.begun_s
        how = "ended by us" if o.failure == OURS else "failed" if o.failure else verdict(o, limits)
        first = o.ttft_s
        found.append({"at_s": at, "took_s": o.ended_s - at, "ttft_s": first, "how": how, "reason": o.reason})
    return found


class Standing(NamedTuple):
    """Where a test stands. share: of all that it may take; None: unknown. note: the newest words it said of itself."""

    words: str
    share: float | None
    n: int
    failed: int
    per_s: float | None
    e2e_s: float | None
    note: str


def standing(plan: Plan, events: Sequence[Event], spent_s: float) -> Standing:
    """Of the level that is going: what it is, and what came in its last seconds. spent_s: since the test was asked for.

    Looks back no further than the level's beginning.
    """
    recent: list[Answered] = []
    began: Began | None = None
    opened = False
    note = ""
    last_s = events[-1].t_s if events else 0.0
    for event in reversed(events):
        match event:
            case Answered():
                if event.t_s >= last_s - RECENT_S:
                    recent.append(event)
            case Opened():
                opened = True
            case Told() if not note:
                note = event.words
            case Began():
                began = event
                break
            case _:
                pass
    if began is None:
        return Standing("Asking once", None, 0, 0, None, None, note)
    over = any(isinstance(e, Ended | Done) for e in events[-2:])
    doing = "ending" if over else "measuring" if opened else "warming up"
    again = f", repeat {began.repeat + 1}" if began.repeat else ""
    whole = [e.outcome for e in recent if not e.outcome.failure]
    took = [o.e2e_s for o in whole if o.e2e_s is not None]
    over_s = min(RECENT_S, max(1.0, last_s - began.t_s))
    planned = len(order(plan))
    share = None if plan.find else min(1.0, (began.level + _within(plan, began, spent_s)) / planned)
    return Standing(
        words=f"{named(began.load, plan.unit)}{again}: {doing}",
        share=share,
        n=sum(isinstance(e, Answered) for e in events),
        failed=sum(bool(e.outcome.failure) and e.outcome.failure != OURS for e in recent),
        per_s=len(whole) / over_s if whole else None,
        e2e_s=median(took),
        note=note,
    )


def _within(plan: Plan, began: Began, spent_s: float) -> float:
    return min(0.95, max(0.0, (spent_s - began.t_s) / max(1.0, plan.warmup_s + plan.window_s)))


def _ms(value: float | None) -> float | None:
    """Milliseconds, whole ones from a second on."""
    return None if value is None else value * 1e3 if value < 1 else round(value * 1e3)
