"""Which passes a run's headline numbers come from: clean timing passes, else the least disturbed, else the one watched.

Pure functions of events, like summarize.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from core.analysis.disturbance import LOST, Verdict, drift, judge, times_as_long, unrest
from core.runs.stretch import one_each
from core.types import Disturbance, Done, Event, Failed, Item, Pass, Step, Unrest


class Headline(NamedTuple):
    """numbers: of the passes that count, in order. provisional: it is the watched one. unrest: what disturbed them."""

    numbers: tuple[int, ...]
    provisional: bool = False
    unrest: Unrest | None = None


def chosen(
    passes: Sequence[Pass],
    steps: Mapping[int, Sequence[Step]],
    equal_s: Mapping[int, Sequence[float]],
    others: Sequence[Event],
) -> Headline:
    """Of the events of one attempt, which begins with its last Loaded. steps, equal_s: of each pass, see verdict;
    others: all the rest.

    While the first timing pass of a watched run is going, the live pass still speaks. In other runs a pass counts that
    is still going. An evaluation that times its answers, which differ in length, is judged by what the system counted.
    """
    readings: dict[int | None, Disturbance] = {e.pass_no: e for e in others if isinstance(e, Disturbance)}
    over = any(isinstance(e, Done | Failed) for e in others)
    live = [p.number for p in passes if p.kind == "live"]
    begun = [p.number for p in passes if p.kind == "timing"]
    if live:
        begun = [n for n in begun if over or n != passes[-1].number or n in readings]
        if not any(steps[n] for n in begun):
            return Headline(tuple(live[-1:]), provisional=True)
    watched = steps[live[-1]] if live else []
    verdicts = {n: verdict(readings.get(n), steps[n], watched, equal_s[n]) for n in begun}
    clean = [n for n in begun if not verdicts[n].disturbed]
    counted = clean or _least_disturbed(verdicts)
    drifted = max(
        (found for found in (drift([verdicts[n].per_step_s for n in counted]), _beaten(verdicts, counted)) if found),
        default=None,
    )
    known = [verdicts[n] for n in counted if n in readings]
    told = unrest(known, drifted, len(begun), len(begun) - len(clean))
    if None in readings and any(isinstance(e, Item) and e.seconds is not None for e in others):
        told = unrest([judge(readings[None], ())], None, 1, 0)
    return Headline(tuple(counted), unrest=told)


def _least_disturbed(verdicts: Mapping[int, Verdict]) -> list[int]:
    """Of passes of which none is clean: those of whose time about as little is not the machine's own as of the best's.

    All do the same work, and a disturbance never makes one faster. So what is not the machine's own is the share that
    was lost to others, or all that goes beyond the quickest pass where that is more: what takes a processor's speed, or
    stops it, is waited for nowhere.
    """
    foreign = {n: v.lost_share or 0.0 for n, v in verdicts.items()}
    steps = {n: v.per_step_s for n, v in verdicts.items() if v.burst is not None}  # few steps say nothing
    for seconds in (steps, {n: v.seconds for n, v in verdicts.items()}):
        known = {n: s for n, s in seconds.items() if s}
        for n, s in known.items():
            foreign[n] = max(foreign[n], 1 - min(known.values()) / s)
    return [n for n, share in foreign.items() if share <= min(foreign.values()) + LOST]


def _beaten(verdicts: Mapping[int, Verdict], counted: Sequence[int]) -> float | None:
    """How much longer the quickest pass that counts took than the quickest of all, which may be one that does not."""
    known = {n: s for n, v in verdicts.items() if (s := v.seconds)}
    of_counted = [known[n] for n in counted if n in known]
    return min(of_counted) / min(known.values()) - 1 if of_counted else None


def verdicts(events: Sequence[Event]) -> dict[int, Verdict]:
    """Of every pass that was measured for it, by its number."""
    readings = {e.pass_no: e for e in events if isinstance(e, Disturbance) and e.pass_no is not None}
    steps: dict[int, list[Step]] = {n: [] for n in readings}
    for event in events:
        if isinstance(event, Step) and event.pass_no in steps:
            steps[event.pass_no].append(event)
    live = {e.number for e in events if isinstance(e, Pass) and e.kind == "live"}
    watched = [e for e in events if isinstance(e, Step) and e.pass_no in live]
    return {n: verdict(reading, steps[n], watched) for n, reading in readings.items()}


def verdict(
    reading: Disturbance | None,
    steps: Sequence[Step],
    watched: Sequence[Step] = (),
    equal_s: Sequence[float] | None = None,
) -> Verdict:
    """What disturbed one pass: its equal steps are those that decode one token by one forward.

    watched: the steps of the live pass before it, which are compared one by one where both did the same. equal_s:
    seconds of the equal steps, where they are known already.
    """
    pairs = zip(steps, watched, strict=False) if reading is not None else ()
    slower = times_as_long([(a.seconds, b.seconds) for a, b in pairs if _same(a, b)])
    return judge(reading, _equal_s(steps) if equal_s is None else equal_s, slower)


def _equal_s(steps: Sequence[Step]) -> list[float]:
    return [s.seconds for s in steps if s.phase == "decode" and one_each(s.counts)]


def _same(one: Step, other: Step) -> bool:
    """Whether two decode steps computed the same."""
    return one.phase == other.phase == "decode" and (one.counts, one.n_context) == (other.counts, other.n_context)
