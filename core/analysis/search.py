"""Finding good configurations among very many with few measurements: predict all, measure where it may pay.

Every candidate has a range for each figure. A candidate is dropped only where the ranges leave no doubt: even its
optimistic end violates a constraint, or another one that certainly meets the constraints is better in every goal even
at its own pessimistic end. No group (a backend with a number format and a strategy) is dropped before one of it was
measured. What is left is measured in batches, those first that promise most beyond what was seen; after each batch the
ranges are fitted to what was measured. A random sample of the dropped is measured too and tells how often dropping
was wrong. The best are measured again in further rungs.

Nothing here measures: `Hunt.go` asks for measurements by candidate and rung, and gives the same order for the same
answers, so that a search that was stopped goes on from what was written down.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from core.stats.pareto import Direction, front, hypervolume
from core.types import Record

BATCH = 4  # measurements between two fits
CALIBRATION = 2  # of each group, as far as a third of the measurements goes
NOISE = 0.1  # of one measurement, as a share
LEVELS = (1, 2)  # further measurements in the rungs after the first
Values = Mapping[str, float]
Measuring = Callable[[str, int], Values | None]  # candidate, rung -> figures; None: it failed
Miss = tuple[int, float, float]
MET: Miss = (0, 0.0, 0.0)


class OutOfTimeError(Exception):
    """Raised by a measurement that may not be made any more: the search ends with what it has."""


class Range(Record, omit_defaults=False):
    """Where a figure lies, nine times in ten."""

    low: float
    likely: float
    high: float


class Candidate(Record, omit_defaults=False):
    """ranges: by figure; one that is missing is not predicted. group: what is fitted together.

    alike: figure -> a key; all candidates with the same key have the same value of it, so one measurement tells all.
    """

    id: str
    group: str
    ranges: dict[str, Range]
    alike: dict[str, str] = msgspec.field(default_factory=dict)


class Goal(Record, omit_defaults=False):
    """A figure to make better. reference: the worst that is worth anything, fixed before anything is measured."""

    measure: str
    better: Direction
    reference: float


class Constraint(Record, omit_defaults=False):
    """A figure that must be at most (better: lower) or at least (higher) `limit`."""

    measure: str
    better: Direction
    limit: float

    def met(self, value: float) -> bool:
        return value <= self.limit if self.better == "lower" else value >= self.limit

    def excess(self, value: float) -> float:
        """ln of the factor by which the limit would have to be loosened; 0 where it is met, inf where none would do."""
        if self.met(value):
            return 0.0
        return abs(math.log(value / self.limit)) if value > 0 and self.limit > 0 else math.inf


class Outcome(Record, omit_defaults=False):
    """What a search did. seen: candidate -> figures, the mean over its rungs. counts: measurements of each.

    dropped: candidate -> why. audited: of the dropped, those that were measured. missed: of these, those that would
    have been on the front of what was found. order: every measurement as it was asked for. finalists: best first.
    nearest: where no constraint was met by anybody, the one that misses least.
    """

    seen: dict[str, dict[str, float]]
    counts: dict[str, int]
    first: dict[str, dict[str, float]]
    dropped: dict[str, str]
    audited: tuple[str, ...]
    missed: tuple[str, ...]
    failed: tuple[str, ...]
    order: tuple[tuple[str, int], ...]
    finalists: tuple[str, ...]
    nearest: str
    ranges: dict[str, dict[str, Range]]


def miss(figures: Iterable[tuple[Constraint, float | None]]) -> Miss:
    """How far each limit's figure, None where it is unknown, is from meeting them all; nearer ones sort first.

    First counts what is unknown. Then the ln of the one factor by which all limits would have to be loosened: it
    compares figures of different units limit by limit, where a sum of misses would set prices on them. Then, for
    limits that no factor loosens (of zero), the distances themselves. MET where everything is met.
    """
    unknown, factor, rest = 0, 0.0, 0.0
    for limit, value in figures:
        if value is None:
            unknown += 1
            continue
        excess = limit.excess(value)
        factor = max(factor, excess)
        rest += abs(value - limit.limit) if math.isinf(excess) else 0.0
    return unknown, factor, rest


def screen(
    candidates: Sequence[Candidate],
    goals: Sequence[Goal],
    constraints: Sequence[Constraint],
    seen_groups: frozenset[str] = frozenset(),
) -> dict[str, str]:
    """Candidate -> why it is dropped: only where ranges exclude it, and only in groups that were measured."""
    dropped: dict[str, str] = {}
    sure = [c for c in candidates if all(_surely(c, x) for x in constraints) and _ends(c, goals, "bad") is not None]
    floors = np.array([_ends(c, goals, "bad") for c in sure], dtype=np.float64).reshape(len(sure), len(goals))
    for c in candidates:
        if c.group not in seen_groups:
            continue
        broken = next((x for x in constraints if _never(c, x)), None)
        if broken is not None:
            word = "above" if broken.better == "lower" else "below"
            dropped[c.id] = f"{broken.measure} lies {word} the limit even at the better end of its range"
            continue
        top = _ends(c, goals, "good")
        if top is None or not len(floors):
            continue
        beaten = (floors <= np.array(top)).all(axis=1) & (floors < np.array(top)).any(axis=1)
        for place in np.flatnonzero(beaten):
            if sure[int(place)].id != c.id:
                dropped[c.id] = f"{sure[int(place)].id} is better in every goal even at its worst"
                break
    return dropped


def refit(candidates: Sequence[Candidate], seen: Mapping[str, Values], counts: Mapping[str, int]) -> list[Candidate]:
    """Ranges moved to what was measured in the same group; a measured candidate's are its own figures with noise.

    From three measurements of a group on, the spread of measured over predicted gives the width, before that the
    prediction's own.
    """
    logs: dict[tuple[str, str], list[float]] = {}
    shared = {
        (figure, key): seen[c.id][figure]
        for c in candidates
        for figure, key in c.alike.items()
        if figure in seen.get(c.id, {})
    }
    for c in candidates:
        for name, told in c.ranges.items():
            value = seen.get(c.id, {}).get(name)
            if value is not None and value > 0 and told.likely > 0:
                logs.setdefault((c.group, name), []).append(math.log(value / told.likely))
    fitted = []
    for c in candidates:
        ranges = {}
        for name, told in c.ranges.items():
            own = seen.get(c.id, {}).get(name)
            if own is not None:
                wide = math.exp(2 * NOISE / math.sqrt(max(1, counts.get(c.id, 1))))
                ranges[name] = Range(low=own / wide, likely=own, high=own * wide)
            else:
                ranges[name] = _moved(told, logs.get((c.group, name), []))
        told_of_all = {f: shared[f, key] for f, key in c.alike.items() if (f, key) in shared}
        known = {**told_of_all, **seen.get(c.id, {})}
        sure = {n: Range(low=v, likely=v, high=v) for n, v in known.items() if n not in ranges}
        fitted.append(msgspec.structs.replace(c, ranges={**ranges, **sure}))
    return fitted


def _moved(told: Range, logs: Sequence[float]) -> Range:
    if not logs:
        return told
    shift, n = math.exp(float(np.mean(logs))), len(logs)
    likely = told.likely * shift
    if n < 3:
        return Range(low=told.low * shift, likely=likely, high=told.high * shift)
    spread = max(float(np.std(logs, ddof=1)), NOISE / 2)
    wide = math.exp(2 * spread * math.sqrt(1 + 1 / n))
    return Range(low=likely / wide, likely=likely, high=likely * wide)


class Hunt:
    """One search. total: measurements it may make, the audit's and later rungs' among them."""

    def __init__(
        self,
        candidates: Sequence[Candidate],
        goals: Sequence[Goal],
        constraints: Sequence[Constraint],
        total: int,
        seed: int = 0,
    ) -> None:
        self.candidates, self.goals, self.constraints = list(candidates), tuple(goals), tuple(constraints)
        self.total, self.seed = total, seed
        self.audit = max(1, total // 8) if total >= 8 else 0
        self.later = total // 5
        self._sums: dict[str, dict[str, list[float]]] = {}
        self._order: list[tuple[str, int]] = []
        self._failed: list[str] = []

    def go(self, measure: Measuring) -> Outcome:
        """Carry it out; stops early where nothing is left that may pay, or where `measure` is out of time."""
        first: dict[str, dict[str, float]] | None = None
        dropped: dict[str, str] = {}
        audited: list[str] = []
        with contextlib.suppress(OutOfTimeError):
            self._calibrate(measure)
            self._explore(measure)
            first = self.seen
            dropped = self._dropped()
            audited = self._audited(dropped)
            for name in audited:
                self._ask(measure, name, 0)
            self._rungs(measure)
        first = self.seen if first is None else first
        dropped = dropped or self._dropped()
        missed = self._missed(audited, first)
        best = self._best([n for n in self.seen if n not in self._failed])
        feasible = [n for n in best if self._feasible(self.seen[n])]
        return Outcome(
            seen={n: dict(v) for n, v in self.seen.items()},
            counts=self.counts,
            first=first,
            dropped=dropped,
            audited=tuple(audited),
            missed=missed,
            failed=tuple(self._failed),
            order=tuple(self._order),
            finalists=tuple(self._on_front(feasible)),
            nearest="" if feasible else next(iter(best), ""),
            ranges={c.id: c.ranges for c in self._fitted()},
        )

    def _explore(self, measure: Measuring) -> None:
        """Batches of those that promise most, until the rest of the measurements is the audit's and the rungs'."""
        while (left := self.total - self.audit - self.later - len(self._order)) > 0:
            batch = self._next(min(BATCH, left))
            for name in batch:
                self._ask(measure, name, 0)
            if not batch:
                return

    @property
    def seen(self) -> dict[str, dict[str, float]]:
        """Geometric means over all measurements so far."""
        return {
            name: {m: float(np.exp(np.mean(np.log(v)))) if min(v) > 0 else v[-1] for m, v in figures.items()}
            for name, figures in self._sums.items()
        }

    @property
    def counts(self) -> dict[str, int]:
        return {name: max(map(len, figures.values()), default=0) for name, figures in self._sums.items()}

    def _ask(self, measure: Measuring, name: str, rung: int) -> None:
        values = measure(name, rung)
        self._order.append((name, rung))
        if values is None:
            if name not in self._failed:
                self._failed.append(name)
            return
        for key, value in values.items():
            self._sums.setdefault(name, {}).setdefault(key, []).append(value)

    def _calibrate(self, measure: Measuring) -> None:
        """The middle and an end of each group, by the first goal; at most a third of all measurements."""
        groups: dict[str, list[Candidate]] = {}
        for c in self.candidates:
            groups.setdefault(c.group, []).append(c)
        goal = self.goals[0].measure
        for turn in range(CALIBRATION):
            for same in groups.values():
                if (turn and len(self._order) >= self.total // 3) or len(self._order) >= self.total:
                    return
                by_goal = sorted(same, key=lambda c: (c.ranges[goal].likely if goal in c.ranges else 0.0, c.id))
                chosen = by_goal[len(by_goal) // 2] if turn == 0 else by_goal[0 if self._lower(goal) else -1]
                if (chosen.id, 0) not in self._order:
                    self._ask(measure, chosen.id, 0)

    def _lower(self, measure: str) -> bool:
        return next((g.better == "lower" for g in self.goals if g.measure == measure), True)

    def _fitted(self) -> list[Candidate]:
        return refit(self.candidates, self.seen, self.counts)

    def _dropped(self) -> dict[str, str]:
        """By the ranges as they are now; never one that was measured."""
        groups = frozenset(c.group for c in self.candidates if c.id in self._sums)
        found = screen(self._fitted(), self.goals, self.constraints, groups)
        return {name: why for name, why in found.items() if name not in self._sums and name not in self._failed}

    def _next(self, n: int) -> list[str]:
        """Up to n candidates that promise most hypervolume beyond what was seen, halfway to their optimistic ends."""
        fitted, dropped = self._fitted(), self._dropped()
        asked = {name for name, _ in self._order}
        known = [_point(self.seen[i], self.goals) for i in self.seen if self._feasible(self.seen[i])]
        points = [p for p in known if p is not None]
        corner, better = [g.reference for g in self.goals], [g.better for g in self.goals]
        left = [c for c in fitted if c.id not in asked]
        if points or any(c.id not in dropped for c in left):  # else who comes nearest is all there is to find
            left = [c for c in left if c.id not in dropped]
        open_ = []
        for c in left:
            hoped = {m: _hoped(r, self._better(m)) for m, r in c.ranges.items()}
            point = _point(hoped, self.goals)
            if point is not None:
                open_.append((c.id, point, self._miss(hoped)))
        chosen: list[str] = []
        while open_ and len(chosen) < n:
            base = hypervolume(points, corner, better) if points else 0.0
            scored = [
                (missed, hypervolume([*points, point], corner, better) - base, name, point)
                for name, point, missed in open_
            ]
            missed, gain, name, point = max(scored, key=lambda s: (*(-part for part in s[0]), s[1], s[2]))
            if points and (gain <= 0 or missed > MET):
                break
            chosen.append(name)
            points.append(point)
            open_ = [o for o in open_ if o[0] != name]
        return chosen

    def _better(self, measure: str) -> Direction:
        for goal in self.goals:
            if goal.measure == measure:
                return goal.better
        return next((x.better for x in self.constraints if x.measure == measure), "lower")

    def _feasible(self, values: Values) -> bool:
        return all(x.measure in values and x.met(values[x.measure]) for x in self.constraints)

    def _audited(self, dropped: Mapping[str, str]) -> list[str]:
        return random.Random(self.seed).sample(sorted(dropped), min(self.audit, len(dropped)))

    def _rungs(self, measure: Measuring) -> None:
        """The best third again, and the best third of these, interleaved, as far as the measurements go."""
        alive = self._best([n for n in self.seen if n not in self._failed])
        for rung, times in enumerate(LEVELS, 1):
            alive = self._best(alive)[: max(1, math.ceil(len(alive) / 3))]
            for again in range(times):
                for name in random.Random(f"{self.seed}-{rung}-{again}").sample(alive, len(alive)):
                    if len(self._order) >= self.total:
                        return
                    self._ask(measure, name, 10 * rung + again)

    def _best(self, names: Sequence[str]) -> list[str]:
        """By feasibility, then front after front, then by the volume that each adds alone."""
        seen = self.seen
        placed: list[str] = []
        ready = [n for n in names if self._feasible(seen[n])]
        better, corner = [g.better for g in self.goals], [g.reference for g in self.goals]
        points = {n: p for n in ready if (p := _point(seen[n], self.goals)) is not None}
        while points:
            member = front(list(points.values()), better)
            layer = [n for n, on in zip(points, member, strict=True) if on]
            placed += sorted(layer, key=lambda n: (-hypervolume([points[n]], corner, better), n))
            points = {n: p for n, p in points.items() if n not in layer}
        rest = [n for n in names if n not in placed]
        return placed + sorted(rest, key=lambda n: (self._miss(seen[n]), n))

    def _miss(self, values: Values) -> Miss:
        return miss((x, values.get(x.measure)) for x in self.constraints)

    def _on_front(self, names: Sequence[str]) -> list[str]:
        points = [(n, p) for n in names if (p := _point(self.seen[n], self.goals)) is not None]
        if not points:
            return []
        member = front([p for _, p in points], [g.better for g in self.goals])
        return [n for (n, _), on in zip(points, member, strict=True) if on]

    def _missed(self, audited: Sequence[str], first: Mapping[str, Values]) -> tuple[str, ...]:
        """Of the audited those that no one measured before them beats, by more than the noise of a measurement."""
        better = [g.better for g in self.goals]
        known = [p for v in first.values() if self._feasible(v) and (p := _point(v, self.goals)) is not None]
        found = []
        for name in audited:
            if name not in self.seen or not self._feasible(self.seen[name]):
                continue
            point = _point(self.seen[name], self.goals)
            if point is None:
                continue
            worse = tuple(
                x * (1 + NOISE) if b == "lower" else x / (1 + NOISE) for x, b in zip(point, better, strict=True)
            )
            if front([worse, *known], better)[0]:
                found.append(name)
        return tuple(found)


def miss_rate(missed: int, audited: int, level: float = 0.95) -> tuple[float, float] | None:
    """The share of the dropped that was wrongly dropped, and its upper bound (Clopper and Pearson, one-sided).

    0 of k: the bound is 1 − 0.05^(1/k). None where nothing was audited.
    """
    if audited < 1:
        return None
    if missed >= audited:
        return 1.0, 1.0
    from scipy.special import betaincinv

    return missed / audited, float(betaincinv(missed + 1, audited - missed, level))


def _point(values: Values, goals: Sequence[Goal]) -> tuple[float, ...] | None:
    found = [values[g.measure] for g in goals if g.measure in values]
    return tuple(found) if len(found) == len(goals) else None


def _ends(c: Candidate, goals: Sequence[Goal], which: Literal["good", "bad"]) -> tuple[float, ...] | None:
    """The optimistic or pessimistic ends of the goals as costs, less being better; None where one is not predicted."""
    found = []
    for goal in goals:
        told = c.ranges.get(goal.measure)
        if told is None:
            return None
        low_end = (goal.better == "lower") == (which == "good")
        value = told.low if low_end else told.high
        found.append(value if goal.better == "lower" else -value)
    return tuple(found)


def _surely(c: Candidate, x: Constraint) -> bool:
    told = c.ranges.get(x.measure)
    return told is not None and x.met(told.high if x.better == "lower" else told.low)


def _never(c: Candidate, x: Constraint) -> bool:
    told = c.ranges.get(x.measure)
    return told is not None and not x.met(told.low if x.better == "lower" else told.high)


def _hoped(told: Range, better: Direction) -> float:
    """Halfway from what is likely to the optimistic end, in the logarithm where that has one."""
    end = told.low if better == "lower" else told.high
    return math.sqrt(told.likely * end) if told.likely > 0 and end > 0 else (told.likely + end) / 2
