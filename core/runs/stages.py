"""How long each stage of a run took, and from that what is left of one that is going.

The stages of finished runs of the same model, backend and machine are kept with their rows in the history; the median
of each, scaled to the tokens that are asked for, is what the next run will take. Where a stage that is still to come
was never seen there is no figure. Pure functions: nothing here reads a clock or a file.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec
import numpy as np

from core import plugins
from core.runs.progress import Stage, stage
from core.runs.recording import OUTSIDE, Recording, length
from core.types import (
    Asked,
    Derive,
    Done,
    Evaluate,
    Event,
    Failed,
    Generate,
    Item,
    Loaded,
    Pass,
    Phase,
    Record,
    Request,
    Step,
    Warned,
)
from hardware.errors import ExplorerError

NEWEST = 10  # earlier runs that are looked at
SEEN_S, SEEN_SHARE = 3.0, 0.05  # before what is left can be told from a run's own pace
WAITING_S = 1.2  # for screens to rest, at least (core.runs.screens.PAUSE_S)
BEFORE = ("starting", "queued", "preparing")  # stages before the first that every run has


class Spent(Record, array_like=True):
    """What a run spent in one stage. planned: passes or items that it was to have; repeated ones are in seconds.

    prefill_s, decode_s: of its steps; n_prompt, n_new: tokens of one of its passes. notes: what it said it was doing,
    with the seconds of each, where it did several things.
    """

    name: str
    seconds: float
    planned: int = 1
    prefill_s: float = 0.0
    n_prompt: int = 0
    decode_s: float = 0.0
    n_new: int = 0
    notes: dict[str, float] = msgspec.field(default_factory=dict)


class Left(Record):
    """Seconds that a run still takes: the median of n_runs earlier ones, and what eight in ten of them lie between.

    n_runs 0: by its own pace alone.
    """

    likely_s: float
    low_s: float
    high_s: float
    n_runs: int


class Outlook(Record):
    """How far a whole run is. fraction: 0 to 1. left: None where an earlier run does not tell.

    wait_s, expected_s: how long the thing it does now has taken, and how long it takes as far as earlier runs or its
    own pace tell.
    """

    fraction: float
    left: Left | None = None
    wait_s: float = 0.0
    expected_s: float | None = None


class _Part(msgspec.Struct):
    """A stretch of a run in one stage. end_s: None while it goes on."""

    name: str
    note: str
    start_s: float
    end_s: float | None = None
    steps: list[Step] = []
    n_items: int = 0


def spent(request: Request, events: Sequence[Event]) -> tuple[Spent, ...]:
    """The stages of a run in the order in which they began; the last one counts up to the last event."""
    found: dict[str, list[_Part]] = {}
    for part in _parts(request, events):
        found.setdefault(part.name, []).append(part)
    end_s = events[-1].t_s if events else 0.0
    return tuple(_spent(name, parts, request, end_s) for name, parts in found.items())


def _spent(name: str, parts: Sequence[_Part], request: Request, end_s: float) -> Spent:
    steps = [s for part in parts for s in part.steps]
    passes = max(1, len({s.pass_no for s in steps}))
    notes: dict[str, float] = {}
    for part in parts:
        if part.note:
            notes[part.note] = notes.get(part.note, 0.0) + _seconds(part, end_s)
    prefill = [s for s in steps if s.phase == "prefill"]
    return Spent(
        name=name,
        seconds=sum(_seconds(part, end_s) for part in parts),
        planned=_planned(request, name) or max(1, sum(part.n_items for part in parts)),
        prefill_s=sum(s.seconds for s in prefill),
        n_prompt=round(sum(s.counts.inputs for s in prefill) / passes),
        decode_s=sum(s.seconds for s in steps if s.phase == "decode"),
        n_new=round(length(steps) / passes),
        notes=notes,
    )


def _seconds(part: _Part, end_s: float) -> float:
    return max(0.0, (end_s if part.end_s is None else part.end_s) - part.start_s)


def _planned(request: Request, name: str) -> int:
    """Passes of a stage; 0 for one that has items."""
    return {"timing": max(1, request.repeats), "warm-up": max(1, request.warmup), "evaluating": 0}.get(name, 1)


def _parts(request: Request, events: Sequence[Event]) -> list[_Part]:
    """The run cut where it began to do something else."""
    parts = [_Part("starting", "", 0.0)]

    def begin(name: str, note: str, t_s: float) -> None:
        last = parts[-1]
        if (last.name, last.note) != (name, note):
            last.end_s = t_s
            parts.append(_Part(name, note, t_s, steps=[]))

    for event in events:
        if type(event) is Step:  # nearly all of a long run
            parts[-1].steps.append(event)
            continue
        match event:
            case Phase(name=name) if name in OUTSIDE:
                begin("making" if name == "training" else name, event.note, event.t_s)
            case Phase(name="resting"):
                begin("resting", "", event.t_s)
            case Loaded():
                begin("opened", "", event.t_s)
            case Pass():
                begin(_of_pass(request, event), "", event.t_s)
            case Item():
                parts[-1].n_items += 1
            case Done() | Failed():
                parts[-1].end_s = event.t_s
    return parts


def _of_pass(request: Request, event: Pass) -> str:
    """As core.runs.progress: a watched run warms up just before it is timed."""
    if event.kind == "warmup":
        return "timing" if request.live else "warm-up"
    return event.profiler or event.kind


# ---------------------------------------------------------------- what earlier runs tell


class Learned(Record):
    """The stages of earlier runs, by name, the newest first. n_runs: how many there were."""

    stages: dict[str, tuple[Spent, ...]] = msgspec.field(default_factory=dict)
    n_runs: int = 0


def learned(rows: Sequence[Mapping[str, Any]], request: Request, machine_id: str) -> Learned:
    """From history rows. Opening a model is learned from every run of it here; passes from those that were alike.

    A run that found its model open says nothing of opening it.
    """
    wanted = {"model": request.model, "backend": request.backend, "machine_id": machine_id, "status": "done"}
    same = [row for row in rows if all(row.get(k) == v for k, v in wanted.items()) and row.get("stages")][:NEWEST]
    stages: dict[str, list[Spent]] = {}
    for row in same:
        alike = row.get("did") == request.plugin and row.get("strategy") == request.strategy and _repeats(request)
        alike = alike and row.get("batch") == request.batch and request.threads in (None, row.get("threads"))
        for one in msgspec.json.decode(row["stages"], type=tuple[Spent, ...]):
            opens = one.name in (*BEFORE, "loading")
            if opens or alike:
                stages.setdefault(one.name, []).append(one)
    return Learned(stages={name: tuple(found) for name, found in stages.items()}, n_runs=len(same))


def _repeats(request: Request) -> bool:
    """Whether the same thing takes about as long again: a training lasts as long as somebody gives it."""
    if not isinstance(request.task, Derive):
        return True
    try:
        return not plugins.get("transform", request.task.transform).trains
    except ExplorerError:
        return False


# ---------------------------------------------------------------- what is left


def outlook(run: Recording, spent_s: float, known: Learned) -> Outlook:
    """How far the run is, spent_s seconds after it was asked for."""
    request, events, now = run.request, run.others, stage(run)
    if now.name == "finished":
        return Outlook(fraction=1.0)
    parts, plan = _parts(request, run.events), _plan(request, events)
    current, names = parts[-1], [name for name, _ in plan]
    wait_s = max(0.0, spent_s - current.start_s)
    reached = max((names.index(part.name) for part in parts if part.name in names), default=-1)
    inside = reached >= 0 and current.name == names[reached]
    at = reached if inside else reached + 1
    if "loading" in names and any(isinstance(e, Loaded) for e in events):
        at = max(at, 1)
    left = _by_pace(events, now, spent_s) if at == len(plan) - 1 else None
    if left is None:
        in_stage = sum(_seconds(part, spent_s) for part in parts if part.name == current.name)
        ahead = [] if inside else _preparing(current, in_stage, known)
        pace, n_new = _own_pace(request, parts, events, known)
        for name, planned in plan[at:]:
            values = _values(name, planned, events, known, parts, n_new)
            factor = pace if name in ("timing", *request.profilers) else 1.0
            gone = in_stage if inside and name == current.name else 0.0
            ahead.append([max(0.0, factor * value - gone) for value in values])
        left = _sum(ahead)
    if left is not None:
        whole_s = spent_s + left.likely_s
        fraction = spent_s / whole_s if whole_s > 0 else 0.0
    else:
        fraction = (at + (now.fraction or 0.0 if inside else 0.0)) / max(1, len(plan))
    expected = _quantile(_noted(known, current), 0.5) or None
    return Outlook(fraction=min(0.99, max(0.0, fraction)), left=left, wait_s=wait_s, expected_s=expected)


def _sum(ahead: Sequence[Sequence[float]]) -> Left | None:
    """Of stages one after the other; None where one of them is not known."""
    if not all(ahead):
        return None
    low, likely, high = (sum(_quantile(values, q) for values in ahead) for q in (0.1, 0.5, 0.9))
    return Left(likely_s=likely, low_s=low, high_s=high, n_runs=min(map(len, ahead), default=0))


def _preparing(current: _Part, in_stage: float, known: Learned) -> list[list[float]]:
    """What is left of finding or making the model's file, by those runs that did the same thing on the way."""
    if current.name != "preparing":
        return []
    found = [s for s in known.stages.get("preparing", ()) if current.note in s.notes]
    return [[max(0.0, s.seconds - in_stage) for s in found]]


def _plan(request: Request, events: Sequence[Event]) -> list[tuple[str, int]]:
    """The stages of a run with how many passes or items each has."""
    match request.task:
        case Evaluate():
            asked = next((e.n_items for e in reversed(events) if isinstance(e, Asked)), None)
            return [("loading", 1), ("evaluating", asked or 0)]
        case Derive():
            return [("making", 1)]
    given_up = [e.message for e in events if isinstance(e, Warned)]
    profilers = [p for p in request.profilers if not any(m.startswith(f"{_label(p)} not measured") for m in given_up)]
    passes = [("live", 1), ("resting", 1)] if request.live else [("warm-up", request.warmup)]
    stages = [("loading", 1), *passes, ("timing", request.repeats), *((name, 1) for name in profilers)]
    return [(name, planned) for name, planned in stages if planned]


def passes(request: Request) -> int:
    """How many times the whole answer is made: to be watched, to be timed, once for each profiler; as a run counts."""
    return request.live + request.repeats + len(request.profilers)


def _label(profiler: str) -> str:
    try:
        return str(plugins.get("profiler", profiler).label)
    except ExplorerError:
        return profiler


def _values(
    name: str, planned: int, events: Sequence[Event], known: Learned, parts: Sequence[_Part], n_new: int
) -> list[float]:
    """Seconds that a stage takes by each earlier run; empty where none tells."""
    found = known.stages.get(name, ())
    if not found and name == "resting":
        return [WAITING_S]
    if not found and name in ("live", "warm-up"):
        found, planned = known.stages.get("timing", ()), 1
    if not found and name == "timing":  # nobody was timed before, but this run has just shown itself
        return [planned * (p.end_s - p.start_s) for p in parts if p.name == "live" and p.end_s is not None]
    if name == "evaluating" and not planned:
        return []
    loaded = next((e for e in reversed(events) if isinstance(e, Loaded)), None)
    values = []
    for one in found:
        rest = max(0.0, one.seconds - one.prefill_s - one.decode_s)
        prompt = loaded.n_prompt_tokens if loaded is not None and loaded.n_prompt_tokens else one.n_prompt
        new = min(n_new or one.n_new, _limit(name) or n_new or one.n_new)
        prefill = one.prefill_s * prompt / one.n_prompt if one.n_prompt else one.prefill_s
        decode = one.decode_s * new / one.n_new if one.n_new else one.decode_s
        values.append((rest + prefill + decode) * planned / max(1, one.planned))
    return values


def _limit(name: str) -> int | None:
    """Tokens at which a profiler's pass ends."""
    try:
        limit: int | None = plugins.get("profiler", name).limit
    except ExplorerError:
        return None
    return limit


def _own_pace(request: Request, parts: Sequence[_Part], events: Sequence[Event], known: Learned) -> tuple[float, int]:
    """How many times slower this run is than earlier ones, by its live pass; and how many tokens its answer has."""
    task = request.task
    n_new = task.max_new_tokens if isinstance(task, Generate) else 0
    live = next((p for p in parts if p.name == "live" and p.end_s is not None), None)
    if live is None or live.end_s is None:
        return 1.0, n_new
    n_new = length(live.steps) or n_new
    expected_s = _quantile(_values("live", 1, events, known, (), n_new), 0.5)
    return ((live.end_s - live.start_s) / expected_s if expected_s > 0 else 1.0), n_new


def _by_pace(events: Sequence[Event], now: Stage, spent_s: float) -> Left | None:
    """What is left of the last thing that a run does, going on as it did; None before that can be told."""
    told = [e for e in events if isinstance(e, Phase) and e.note == now.detail and e.total and e.done is not None]
    if not told or now.fraction is None or now.name not in ("evaluating", "making"):
        return None
    first = (told[0].done or 0.0) / (told[0].total or 1.0)
    share, seconds = now.fraction - first, spent_s - told[0].t_s
    if share < SEEN_SHARE or seconds < SEEN_S:
        return None
    left_s = seconds * (1 - now.fraction) / share
    return Left(likely_s=left_s, low_s=left_s, high_s=left_s, n_runs=0)


def _noted(known: Learned, current: _Part) -> list[float]:
    """Seconds that earlier runs said the same words for."""
    return [s.notes[current.note] for s in known.stages.get(current.name, ()) if current.note in s.notes]


def _quantile(values: Sequence[float], q: float) -> float:
    """Of few values the least or the most stands for the ends; 0 of none."""
    return float(np.quantile(values, q)) if values else 0.0
