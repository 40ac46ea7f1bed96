"""A load test as far as it has come: its points, what is off with them, what a search found. Events in, facts out.

What is missing because the test was stopped, or its process died, is missing here; what was measured counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any, Literal

import msgspec

from core.loadtest import checks
from core.loadtest.checks import Flag
from core.loadtest.events import Answered, Began, Broken, Done, Ended, Event, Opened, Told
from core.loadtest.level import SHARES, Level, Point, counts, point
from core.loadtest.plan import Mode, Plan
from core.loadtest.search import Largest, Probe, answer, largest
from core.report.tables import as_csv
from core.types import GOING, Record, RunStatus, to_json

ExportKind = Literal["csv", "requests", "json"]


class Measured(Record):
    """A point with what is off with it. repeat: which one is at fault, where there are several."""

    point: Point
    flags: tuple[Flag, ...]
    drift: tuple[float, float, float] | None
    little: float | None
    delay_s: float | None
    sent: float | None
    cpu: float | None


class Report(Record):
    """points: one per load, the lowest first. best: the load with the largest goodput, else the largest throughput.

    found: what a search found, None without one. told: what the test said of itself.
    """

    id: str
    plan: Plan
    status: RunStatus
    points: tuple[Measured, ...]
    best: float | None
    found: Largest | None
    told: tuple[str, ...]
    n_requests: int
    spent_s: float
    error: str = ""
    hint: str = ""


def levels(events: Iterable[Event], mode: Mode) -> list[Level]:
    """The levels in the order in which they were measured; the last one may still be going."""
    found: dict[int, dict[str, Any]] = {}
    for event in events:
        match event:
            case Began():
                found[event.level] = {"load": event.load, "repeat": event.repeat, "outcomes": [], "open_s": None}
            case Opened() if event.level in found:
                found[event.level]["open_s"] = event.at_s
            case Answered() if event.level in found:
                found[event.level]["outcomes"].append(event.outcome)
            case Ended() if event.level in found:
                found[event.level] |= {
                    "close_s": event.close_s,
                    "cpu_s": event.cpu_s,
                    "why": event.why,
                    "waiting": event.waiting,
                }
            case _:
                pass
    return [_level(mode=mode, **known) for known in found.values()]


def _level(load: float, repeat: int, mode: Mode, outcomes: list[Any], open_s: float | None, **end: Any) -> Level:
    if "close_s" not in end:
        end = {"close_s": max((o.ended_s for o in outcomes), default=None)}
    return Level(load=load, repeat=repeat, mode=mode, open_s=open_s, outcomes=tuple(outcomes), **end)


def report(
    test_id: str,
    plan: Plan,
    events: Sequence[Event],
    status: RunStatus,
    *,
    cores: int | None = None,
    local: bool = False,
) -> Report:
    """Everything that is known. cores: of the machine that sent; local: whether the server ran on it too."""
    by_load: dict[float, list[Level]] = {}
    going = status in GOING
    for level in levels(events, plan.mode):
        if level.window_s > 0 and counts(level) and not (going and level.under_way):
            by_load.setdefault(level.load, []).append(level)
    points = tuple(_measured(plan, by_load[load], cores, local) for load in sorted(by_load))
    broken = next((e for e in reversed(events) if isinstance(e, Broken)), None)
    tried = [Probe(m.point.load, answer(m.point, plan.objectives.share)) for m in points]
    return Report(
        id=test_id,
        plan=plan,
        status=status,
        points=points,
        best=best(points),
        found=largest(tried, plan.unit, plan.objectives.share) if plan.find and tried else None,
        told=tuple(e.words for e in events if isinstance(e, Told)),
        n_requests=sum(isinstance(e, Answered) for e in events),
        spent_s=events[-1].t_s if events else 0.0,
        error=broken.message if broken else "",
        hint=broken.hint if broken else "",
    )


def status_of(events: Sequence[Event]) -> RunStatus | None:
    """The end that is written down; None while there is none."""
    for event in reversed(events):
        if isinstance(event, Broken):
            return "failed"
        if isinstance(event, Done):
            return "cancelled" if event.stopped else "done"
    return None


def best(points: Sequence[Measured]) -> float | None:
    """The load with the largest goodput where objectives were stated, else with the largest throughput."""

    def worth(m: Measured) -> float:
        return (m.point.goodput if m.point.goodput is not None else m.point.requests_per_s) or 0.0

    chosen = max(points, key=worth, default=None)
    return chosen.point.load if chosen is not None and worth(chosen) > 0 else None


def _measured(plan: Plan, found: Sequence[Level], cores: int | None, local: bool) -> Measured:
    flagged: dict[Flag, None] = {}
    for level in found:
        for flag in checks.flags(level, cores, local):
            words = f"Repeat {level.repeat + 1}: {flag.words}" if len(found) > 1 else flag.words
            flagged[Flag(name=flag.name, words=words)] = None
    last = found[-1]
    drift = checks.ttft_drift(last)
    delays = sorted(d for level in found for o in counts(level) if (d := o.delay_s) is not None)
    return Measured(
        point=point(found, plan.objectives),
        flags=tuple(flagged),
        drift=None if drift is None else (drift.change, drift.low, drift.high),
        little=checks.little(last),
        delay_s=delays[len(delays) // 2] if delays else None,
        sent=checks.sent_share(last),
        cpu=checks.cpu_share(last),
    )


def rows(found: Report) -> list[dict[str, Any]]:
    """One flat row per load, numbers with their units in the names: what a CSV holds."""
    return [_row(m) for m in found.points]


def _row(m: Measured) -> dict[str, Any]:
    p = m.point
    row: dict[str, Any] = {
        "load": p.load,
        "mode": p.mode,
        "repeats": p.repeats,
        "window_s": p.window_s,
        "n": p.counted,
        "good": p.good,
        "bad": p.bad,
        "undetermined": p.undetermined,
        "failed": sum(p.failures.values()),
        "requests_per_s": p.requests_per_s,
        "tokens_per_s": p.tokens_per_s,
        "goodput_per_s": p.goodput,
        "attainment": p.attainment.value if p.attainment else None,
        "attainment_low": p.attainment.low if p.attainment else None,
        "attainment_high": p.attainment.high if p.attainment else None,
        "in_flight": p.in_flight,
        "prompt_tokens": p.prompt_tokens,
        "answer_tokens": p.answer_tokens,
    }
    for name in ("ttft", "ttft_sent", "tpot", "itl", "icl", "e2e", "connect"):
        spread = getattr(p, name)
        row[f"{name}_n"] = spread.n
        row[f"{name}_mean_s"] = spread.mean
        for share in SHARES:
            q = getattr(spread, share)
            row |= {f"{name}_{share}_s": q.value, f"{name}_{share}_low_s": q.low, f"{name}_{share}_high_s": q.high}
    row |= {
        "little": m.little,
        "schedule_delay_s": m.delay_s,
        "sent": m.sent,
        "client_cores": m.cpu,
        "flags": "; ".join(f.words for f in m.flags),
    }
    return row


def offered(found: Report, events: Iterable[Event]) -> list[ExportKind]:
    """The forms of `export` that would not be empty."""
    there: dict[ExportKind, bool] = {"csv": bool(rows(found)), "requests": bool(request_rows(events)), "json": True}
    return [kind for kind, full in there.items() if full]


def export(found: Report, events: Iterable[Event], kind: ExportKind) -> str:
    """A test as a file: all of it as JSON, its levels as CSV, or its requests as CSV."""
    if kind == "json":
        return to_json(found).decode() + "\n"
    return as_csv(rows(found) if kind == "csv" else request_rows(events))


def request_rows(events: Iterable[Event]) -> list[dict[str, Any]]:
    """One row per request of every level, without the gaps: what a CSV of requests holds."""
    kept: list[dict[str, Any]] = []
    load: dict[int, Began] = {}
    for event in events:
        if isinstance(event, Began):
            load[event.level] = event
        elif isinstance(event, Answered) and event.level in load:
            o = event.outcome
            plain = {k: v for k, v in msgspec.structs.asdict(o).items() if k != "gaps_s"}
            began = load[event.level]
            more = {"ttft_s": o.ttft_s, "tpot_s": o.tpot_s, "e2e_s": o.e2e_s}
            kept.append({"level": event.level, "load": began.load, "repeat": began.repeat, **plain, **more})
    return kept
