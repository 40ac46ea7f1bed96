"""Where a run stands, from its recording: which stage, how far, for how long.

Pure functions, like summarize; nothing here reads a clock or a file.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal, TypeVar

from core import plugins
from core.runs.recording import Recording
from core.types import Derive, Done, Evaluate, Event, Failed, Generate, Loaded, Memory, Pass, Record, Request
from hardware.errors import ExplorerError

T = TypeVar("T")
STAGES = ("queued", "loading", "warm-up", "live", "timing", "profiling", "evaluating", "making", "finished")


class Stage(Record):
    """The stage a run is in. done of total in `unit`; None where it cannot be known.

    detail: what exactly, in a few words ("Loading SmolLM2", "decode", "layers").
    pass_no of n_passes counts live, timing and profiling passes from 1; None before the first.
    """

    name: str  # one of STAGES
    detail: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""
    pass_no: int | None = None
    n_passes: int | None = None

    @property
    def fraction(self) -> float | None:
        """Of this stage, 0 to 1; None where its size is not known."""
        if self.done is None or not self.total:
            return None
        return max(0.0, min(1.0, self.done / self.total))


def stage(run: Recording) -> Stage:
    """The stage after its events; a crash and a new attempt start over from the last Loaded or Phase."""
    if run.ended is not None:
        return Stage(name="finished")
    if run.resting:
        return Stage(name="timing", detail=run.resting)
    phase = run.outside
    if run.loaded is not None and phase is None:
        if run.passes:
            return _in_pass(run, run.loaded)
        return Stage(name="live" if run.request.live else "warm-up")
    if phase is None or phase.name == "queued":
        return Stage(name="queued", detail="Waiting for the worker")
    name = {"training": "making", "evaluating": "evaluating"}.get(phase.name, "loading")
    return Stage(name=name, detail=phase.note, done=phase.done, total=phase.total, unit=phase.unit)


def _in_pass(run: Recording, loaded: Loaded) -> Stage:
    request, current = run.request, list(run.passes.values())[-1]
    counted = [p for p in run.passes.values() if p.kind != "warmup"]
    n_timing = max(request.repeats, sum(p.kind == "timing" for p in counted))  # a disturbed one is repeated
    n_passes = sum(p.kind == "live" for p in counted) + n_timing + len(request.profilers)
    name = _stop(request, current)
    if current.kind == "warmup" and name == "timing":
        return Stage(name=name, detail="warming up again", pass_no=len(counted), n_passes=n_passes)
    if run.beside is not None and current.profiler:
        own = run.beside
        return Stage(
            name=name,
            detail=f"{current.profiler}, {own.note}",
            done=own.done,
            total=own.total,
            unit=own.unit,
            pass_no=len(counted),
            n_passes=n_passes,
        )
    n_read = run.stretch(current.number, "prefill").inputs
    n_new = run.length(current.number)
    if n_new == 0:
        detail, done, total = "prefill", n_read, loaded.n_prompt_tokens
    else:
        limit = request.task.max_new_tokens if isinstance(request.task, Generate) else 0
        limit = min(limit, _most(current.profiler) or limit)
        detail, done, total = "decode", n_new, limit
    return Stage(
        name=name,
        detail=f"{current.profiler}, {detail}" if current.profiler else detail,
        done=None if current.kind == "warmup" else done,
        total=None if current.kind == "warmup" else total,
        unit="tokens",
        pass_no=len(counted) or None,
        n_passes=n_passes,
    )


def _most(profiler: str | None) -> int | None:
    """Tokens at which a profiler ends its pass; None for one that goes on to the end, or is not known here."""
    try:
        most: int | None = plugins.get("profiler", profiler).limit if profiler else None
    except ExplorerError:
        return None
    return most


StopState = Literal["done", "skipped", "now", "ahead"]


def journey(run: Recording) -> tuple[tuple[str, StopState], ...]:
    """Every stop of the run in order, and whether it is behind, left out, at hand or ahead.

    A warm-up is a stop only when there was one: a request may leave it out, and a live pass is its own. A profiler
    is left out that cannot measure this run.
    """
    request, now, passes = run.request, stage(run), list(run.passes.values())
    warmed = any(e.kind == "warmup" for e in passes) and not request.live
    stops = ["loading", *(["warm-up"] if warmed else []), *_after_loading(request)]
    over = run.ended is not None
    if isinstance(run.ended, Done) and not run.ended.cancelled:
        at = len(stops)
    elif over:
        at = _reached(run, stops)
    else:
        current = now.detail.split(",")[0] if now.name == "profiling" else now.name
        at = stops.index(current) if current in stops else 0
    left_out = set(request.profilers) - {e.profiler for e in passes}

    def state(i: int, stop: str) -> StopState:
        if i < at:
            return "skipped" if stop in left_out else "done"
        return "now" if i == at and not over else "ahead"

    return tuple((stop, state(i, stop)) for i, stop in enumerate(stops))


def _stop(request: Request, current: Pass) -> str:
    """The stage of a pass. A watched run warms up after the worker waited for silence, just before it is timed."""
    if request.live and current.kind == "warmup":
        return "timing"
    return {"warmup": "warm-up", "live": "live", "timing": "timing", "profile": "profiling"}[current.kind]


def _after_loading(request: Request) -> tuple[str, ...]:
    """The stops between loading and the end."""
    match request.task:
        case Derive():
            return ("making",)
        case Evaluate():
            return ("evaluating",)
    return (*(["live"] if request.live else []), "timing", *request.profilers)


def _reached(run: Recording, stops: Sequence[str]) -> int:
    """How many stops were completed before the run ended early."""
    if not run.passes:
        return 0 if run.loaded is None else 1
    last = list(run.passes.values())[-1]
    name = last.profiler or _stop(run.request, last)
    return stops.index(name) if name in stops else 1


def elapsed_s(events: Sequence[Event], since_created_s: float) -> float:
    """Seconds since the request, or until the end of a run that has ended."""
    last = events[-1] if events else None
    return last.t_s if isinstance(last, Done | Failed) else max(0.0, since_created_s)


def decode_rates(run: Recording, n_points: int = 60) -> tuple[float, ...]:
    """Tokens per second over the last pass that counts, averaged into at most n_points stretches of equal steps."""
    decode = run.stretch(run.counted[-1], "decode").steps if run.counted else []
    steps = decode if all(s.seconds > 0 for s in decode) else [s for s in decode if s.seconds > 0]
    return tuple(sum(s.counts.tokens for s in part) / sum(s.seconds for s in part) for part in _split(steps, n_points))


def memory_line(run: Recording, n_points: int = 60) -> tuple[float, ...]:
    """Resident bytes over the run: the highest of each of at most n_points stretches."""
    memory = run.all_of_all(Memory)
    return tuple(float(max(m.peak_bytes or m.rss_bytes for m in part)) for part in _split(memory, n_points))


def _split(items: Sequence[T], n_points: int) -> list[Sequence[T]]:
    width = max(1, -(-len(items) // n_points))
    return [items[i : i + width] for i in range(0, len(items), width)]
