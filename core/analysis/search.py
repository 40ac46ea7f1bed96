"""Finding good configurations among very many with few measurements: predict all, measure where it may pay.

Every candidate has a range for each figure. A candidate is dropped only where the ranges leave no doubt: even its
optimistic end violates a constraint, or another one that certainly meets the constraints is better in every goal even
at its own pessimistic end. The search begins with the safest of each kind (a model in a backend, then each of its
number formats there), because what was foretold closely tells most of how far the others of its kind are off, and none
of a kind is dropped before; what is left is measured in batches, those first that promise most beyond what was
seen. After each batch the ranges are fitted to what was measured: predictions of
candidates that share traits err alike. A random sample of the dropped is measured too and tells how often dropping
was wrong. The best are measured again in further rungs, and the front of them is the answer; one that adds next to
nothing to it (a hundredth less memory at a tenth of the speed) is not worth a further measurement.

Nothing here measures: `Hunt.go` asks for measurements by candidate and rung, and gives the same order for the same
answers, so that a search that was stopped goes on from what was written down. Ids are names and decide nothing: a
search that others get without its prompt, its cells under other ids, is the same search.
"""

from __future__ import annotations

import contextlib
import math
import random
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal, NamedTuple

import msgspec
import numpy as np
from numpy.typing import NDArray

from core.stats.pareto import Direction, front, hypervolume
from core.types import Record

BATCH = 2  # measurements between two fits
HOPE = 0.25  # of the way from what is likely to the optimistic end, in the logarithm
CALIBRATION = 1 / 3  # of all measurements at most, for one of each kind
NOISE = 0.1  # of one measurement, as a share
ALIKE = (
    0.1,
    0.3,
    0.5,
    0.7,
    0.8,
    0.9,
)  # how alike two predictions' errors may be for each trait that differs, see refit
WIDER = (1.0, 2.0, 4.0)  # times as wide as they are told the ranges may have to be
KIND = 2  # traits that make a kind, the wider first
SIGMAS = 1.645  # from the middle of a range that holds nine in ten to its end
LEVELS = (1, 2)  # further measurements in the rungs after the first
WORTH = 0.01  # of the front's volume: what adds less to it is not measured again
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
    """ranges: by figure; one that is missing is not predicted. traits: what its predictions' errors depend on, in a
    fixed order; the first KIND of them are its kind.

    alike: figure -> a key; all candidates with the same key have the same value of it, so one measurement tells all.
    """

    id: str
    traits: tuple[str, ...]
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
    seen_kinds: frozenset[tuple[str, ...]] = frozenset(),
) -> dict[str, str]:
    """Candidate -> why it is dropped: only where ranges exclude it, and only of kinds that were measured."""
    dropped: dict[str, str] = {}
    sure = [c for c in candidates if all(_surely(c, x) for x in constraints) and _ends(c, goals, "bad") is not None]
    floors = np.array([_ends(c, goals, "bad") for c in sure], dtype=np.float64).reshape(len(sure), len(goals))
    for c in candidates:
        if c.traits[:KIND] not in seen_kinds:
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
    """Ranges moved and narrowed by what was measured; one's own figures with noise where it was measured itself.

    ln(true / likely) of a figure is normal, as wide as its range says or WIDER, and for two candidates correlated by a
    factor of ALIKE for each trait in which they differ: those that make the measurements likeliest. Given them, mean
    and width follow (Rasmussen and Williams, Gaussian Processes, eq. 2.23, 2.24 and 5.8).
    """
    shared = {
        (figure, key): seen[c.id][figure]
        for c in candidates
        for figure, key in c.alike.items()
        if figure in seen.get(c.id, {})
    }
    ranges: list[dict[str, Range]] = [{} for _ in candidates]
    for figure in {name: None for c in candidates for name in c.ranges}:
        for place, found in _fitted(candidates, figure, seen, counts):
            ranges[place][figure] = found
    fitted = []
    for c, own in zip(candidates, ranges, strict=True):
        told_of_all = {f: shared[f, key] for f, key in c.alike.items() if (f, key) in shared}
        known = {**told_of_all, **seen.get(c.id, {})}
        sure = {n: Range(low=v, likely=v, high=v) for n, v in known.items() if n not in own}
        fitted.append(msgspec.structs.replace(c, ranges={**own, **sure}))
    return fitted


def _fitted(
    candidates: Sequence[Candidate], figure: str, seen: Mapping[str, Values], counts: Mapping[str, int]
) -> Iterator[tuple[int, Range]]:
    """(place, range) of each candidate that this figure is predicted for."""
    places = [i for i, c in enumerate(candidates) if figure in c.ranges]
    told = [candidates[i].ranges[figure] for i in places]
    values = [seen.get(candidates[i].id, {}).get(figure) for i in places]
    known = [k for k, v in enumerate(values) if v is not None and v > 0 and told[k].likely > 0]
    moved, narrowed = np.zeros(len(told)), np.ones(len(told))
    if known:
        traits = np.array([candidates[i].traits for i in places])
        wide = np.array([_sigma(r) for r in told])
        differ = (traits[:, None, :] != traits[known][None, :, :]).astype(np.float64)
        scale = wide[:, None] * wide[known]
        noise = np.diag([NOISE**2 / max(1, counts.get(candidates[places[k]].id, 1)) for k in known])
        errors = np.log([(values[k] or 1.0) / told[k].likely for k in known])
        wider, alike = _likeliest(scale[known], differ[known], noise, errors)
        between = wider**2 * scale * np.exp(differ @ np.log(alike))
        solved = np.linalg.solve(between[known] + noise, np.column_stack([errors, between.T]))
        moved = between @ solved[:, 0]
        narrowed = np.sqrt(np.maximum(0.0, wider**2 - (between * solved[:, 1:].T).sum(axis=1) / wide**2))
    for k, (place, r, value) in enumerate(zip(places, told, values, strict=True)):
        if value is not None:
            end = math.exp(SIGMAS * NOISE / math.sqrt(max(1, counts.get(candidates[place].id, 1))))
            yield place, Range(low=value / end, likely=value, high=value * end)
        elif r.likely > 0 and r.low > 0:
            likely = r.likely * math.exp(moved[k])
            low, high = ((end / r.likely) ** float(narrowed[k]) for end in (r.low, r.high))
            yield place, Range(low=likely * low, likely=likely, high=likely * high)
        else:
            yield place, r


def _likeliest(
    scale: NDArray[np.float64], differ: NDArray[np.float64], noise: NDArray[np.float64], errors: NDArray[np.float64]
) -> tuple[float, NDArray[np.float64]]:
    """What makes these errors likeliest, one after the other: how many times as wide the ranges should be, and for each
    trait how alike errors stay where it differs."""
    choices = [WIDER, *(ALIKE,) * differ.shape[2]]
    found = np.array([those[0] for those in choices])

    def likelihood(of: NDArray[np.float64]) -> float:
        return _likelihood(of[0] ** 2 * scale * np.exp(differ @ np.log(of[1:])) + noise, errors)

    for place, those in [*enumerate(choices)] * 2:
        trials = [np.where(np.arange(len(found)) == place, value, found) for value in those]
        found = max(trials, key=likelihood)
    return float(found[0]), found[1:]


def _likelihood(covariance: NDArray[np.float64], errors: NDArray[np.float64]) -> float:
    """ln of the density of these errors, up to a constant."""
    return float(-errors @ np.linalg.solve(covariance, errors) - np.linalg.slogdet(covariance)[1]) / 2


def _sigma(told: Range) -> float:
    """Of ln(true / likely); at least the noise's, so that a range without width can be moved too."""
    if told.low <= 0 or told.high <= 0:
        return NOISE
    return max(NOISE, math.log(told.high / told.low) / (2 * SIGMAS))


class _Hope(NamedTuple):
    """point: values of the goals that are hoped for. missed: how far from the constraints."""

    id: str
    point: tuple[float, ...]
    missed: Miss


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
        """Batches of those that promise most, at last by their optimistic ends alone, until the rest of the
        measurements is the audit's and the rungs'."""
        while (left := self.total - self.audit - self.later - len(self._order)) > 0:
            batch = self._next(min(BATCH, left), _hoped) or self._next(min(BATCH, left), _at_best)
            for name in self._grouped(batch):
                self._ask(measure, name, 0)
            if not batch:
                return

    def _grouped(self, names: Sequence[str]) -> list[str]:
        """Those of one kind after each other, the kind that was measured last first: it is open already."""
        kinds = {c.id: c.traits[:KIND] for c in self.candidates}
        last = kinds[self._order[-1][0]] if self._order else ()
        places = {kind: n for n, kind in enumerate(dict.fromkeys(kinds.values()))}
        return sorted(names, key=lambda n: (kinds[n] != last, kinds[n][:1] != last[:1], places[kinds[n]]))

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
        """The safest of each kind, as far as its share of the measurements goes."""
        most = max(1, int(self.total * CALIBRATION))
        for wide in range(1, KIND + 1):
            while len(self._order) < most:
                asked = {name for name, _ in self._order}
                known = {c.traits[:wide] for c in self.candidates if c.id in asked}
                left = [c for c in self._fitted() if c.traits[:wide] not in known]
                if not left:
                    break
                hopes = self._hopes(left, _likely)
                likely = self._first_of(hopes, self._points())[-1].id if hopes else left[0].id
                kind = next(c.traits[:wide] for c in left if c.id == likely)
                self._ask(measure, self._safest([c for c in left if c.traits[:wide] == kind], likely), 0)

    def _safest(self, of_kind: Sequence[Candidate], likely: str) -> str:
        """The best by the pessimistic ends; the likely best where these are worth nothing."""
        hopes = self._hopes(of_kind, _at_worst)
        gain, first = self._first_of(hopes, []) if hopes else (0.0, None)
        return first.id if first is not None and gain > 0 else likely

    def _fitted(self) -> list[Candidate]:
        return refit(self.candidates, self.seen, self.counts)

    def _dropped(self) -> dict[str, str]:
        """By the ranges as they are now; never one that was measured."""
        kinds = frozenset(c.traits[:KIND] for c in self.candidates if c.id in self._sums)
        found = screen(self._fitted(), self.goals, self.constraints, kinds)
        return {name: why for name, why in found.items() if name not in self._sums and name not in self._failed}

    def _next(self, n: int, within: Callable[[Range, Direction], float]) -> list[str]:
        """Up to n candidates that promise most hypervolume beyond what was seen. within: see _hopes."""
        fitted, dropped = self._fitted(), self._dropped()
        asked = {name for name, _ in self._order}
        points = self._points()
        left = [c for c in fitted if c.id not in asked]
        if points or any(c.id not in dropped for c in left):  # else who comes nearest is all there is to find
            left = [c for c in left if c.id not in dropped]
        hopes = self._hopes(left, within)
        chosen: list[str] = []
        while hopes and len(chosen) < n:
            gain, first = self._first_of(hopes, points)
            if points and (gain <= 0 or first.missed > MET):
                break
            chosen.append(first.id)
            points.append(first.point)
            hopes.remove(first)
        return chosen

    def _points(self) -> list[tuple[float, ...]]:
        """What was seen and meets the constraints, as values of the goals."""
        known = [_point(values, self.goals) for values in self.seen.values() if self._feasible(values)]
        return [p for p in known if p is not None]

    def _hopes(self, candidates: Iterable[Candidate], within: Callable[[Range, Direction], float]) -> list[_Hope]:
        """Of those whose goals are all predicted. within: which figure of a range is hoped for."""
        found = []
        for c in candidates:
            hoped = {m: within(r, self._better(m)) for m, r in c.ranges.items()}
            point = _point(hoped, self.goals)
            if point is not None:
                found.append(_Hope(c.id, point, self._miss(hoped)))
        return found

    def _first_of(self, hopes: Sequence[_Hope], points: Sequence[tuple[float, ...]]) -> tuple[float, _Hope]:
        """The hope that comes nearest to the constraints and then adds most volume to these points, and how much."""
        corner, better = [g.reference for g in self.goals], [g.better for g in self.goals]
        base = hypervolume(points, corner, better) if points else 0.0
        gains = {h.id: hypervolume([*points, h.point], corner, better) - base for h in hopes}
        first = max(hopes, key=lambda h: (*(-part for part in h.missed), gains[h.id]))
        return gains[first.id], first

    def _better(self, measure: str) -> Direction:
        for goal in self.goals:
            if goal.measure == measure:
                return goal.better
        return next((x.better for x in self.constraints if x.measure == measure), "lower")

    def _feasible(self, values: Values) -> bool:
        return all(x.measure in values and x.met(values[x.measure]) for x in self.constraints)

    def _audited(self, dropped: Mapping[str, str]) -> list[str]:
        return random.Random(self.seed).sample(list(dropped), min(self.audit, len(dropped)))

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
            layer = self._worth(points)
            placed += sorted(layer, key=lambda n: -hypervolume([points[n]], corner, better))
            points = {n: p for n, p in points.items() if n not in layer}
        rest = [n for n in names if n not in placed]
        return placed + sorted(rest, key=lambda n: self._miss(seen[n]))

    def _miss(self, values: Values) -> Miss:
        return miss((x, values.get(x.measure)) for x in self.constraints)

    def _on_front(self, names: Sequence[str]) -> list[str]:
        seen = self.seen
        return self._worth({n: p for n in names if (p := _point(seen[n], self.goals)) is not None})

    def _worth(self, points: Mapping[str, tuple[float, ...]]) -> list[str]:
        """Those on the front of these, without those that add less than WORTH of its volume to the others."""
        better, corner = [g.better for g in self.goals], [g.reference for g in self.goals]
        member = front(list(points.values()), better) if points else ()
        kept = {n: p for (n, p), on in zip(points.items(), member, strict=True) if on}
        while len(kept) > 1:
            whole = hypervolume(list(kept.values()), corner, better)
            without = {n: hypervolume([p for m, p in kept.items() if m != n], corner, better) for n in kept}
            least = max(without, key=lambda n: without[n])
            if whole - without[least] >= WORTH * whole:
                break
            del kept[least]
        return list(kept)

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


def miss_rate(missed: int, audited: int) -> tuple[float, float] | None:
    """The share of the dropped that was wrongly dropped, and its upper bound (Clopper and Pearson, one-sided).

    0 of k: the bound is 1 − 0.05^(1/k). None where nothing was audited.
    """
    if audited < 1:
        return None
    if missed >= audited:
        return 1.0, 1.0
    from scipy.special import betaincinv

    return missed / audited, float(betaincinv(missed + 1, audited - missed, 0.95))


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


def _likely(told: Range, better: Direction) -> float:
    return told.likely


def _at_worst(told: Range, better: Direction) -> float:
    return told.high if better == "lower" else told.low


def _at_best(told: Range, better: Direction) -> float:
    return told.low if better == "lower" else told.high


def _hoped(told: Range, better: Direction) -> float:
    """A part of the way from what is likely to the optimistic end."""
    end = _at_best(told, better)
    if told.likely > 0 and end > 0:
        return told.likely * math.pow(end / told.likely, HOPE)
    return told.likely + HOPE * (end - told.likely)
