"""Search: what ranges exclude, what they do not; the audit's bound; and the promise on a synthetic surface."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from core.analysis.search import (
    MET,
    Candidate,
    Constraint,
    Goal,
    Hunt,
    OutOfTimeError,
    Range,
    Values,
    miss,
    miss_rate,
    refit,
    screen,
)
from core.stats.pareto import front, hypervolume

GOALS = (
    Goal(measure="time", better="lower", reference=100.0),
    Goal(measure="rate", better="higher", reference=0.0),
)


def candidate(
    name: str, time: tuple[float, float, float], rate: tuple[float, float, float], group: str = "g"
) -> Candidate:
    return Candidate(
        id=name,
        group=group,
        ranges={
            "time": Range(low=time[0], likely=time[1], high=time[2]),
            "rate": Range(low=rate[0], likely=rate[1], high=rate[2]),
        },
    )


def test_only_what_ranges_exclude_is_dropped() -> None:
    good = candidate("good", (1, 2, 3), (10, 11, 12))
    beaten = candidate("beaten", (4, 5, 6), (7, 8, 9))
    touching = candidate("touching", (2, 5, 6), (7, 8, 9))
    better = candidate("better", (4, 5, 6), (9, 11, 13))
    found = screen([good, beaten, touching, better], GOALS, (), frozenset("g"))
    assert found == {"beaten": "good is better in every goal even at its worst"}
    assert screen([good, beaten], GOALS, ()) == {}, "no group goes before one of it was measured"
    limit = Constraint(measure="time", better="lower", limit=2.5)
    found = screen([good, beaten, touching], GOALS, (limit,), frozenset("g"))
    assert set(found) == {"beaten"} and "time lies above the limit even at" in found["beaten"]
    assert "touching" not in found, "good may break the limit itself, so it excludes nobody"


def test_the_best_is_never_dropped_while_ranges_hold_the_truth() -> None:
    rng = np.random.default_rng(1)
    for _ in range(50):
        truth = rng.uniform(1, 50, (40, 2))
        found = []
        for n, (time, rate) in enumerate(truth):
            low, high = rng.uniform(1, 1.6, 2), rng.uniform(1, 1.6, 2)
            found.append(
                candidate(str(n), (time / low[0], time, time * high[0]), (rate / low[1], rate, rate * high[1]))
            )
        dropped = screen(found, GOALS, (), frozenset("g"))
        members = front(truth, ["lower", "higher"])
        assert not [n for n in dropped if members[int(n)]]


def test_one_measurement_tells_all_that_are_alike() -> None:
    cells = [
        Candidate(id=name, group=name, ranges={}, alike={"quality": key})
        for name, key in (("a", "fp32"), ("b", "fp32"), ("c", "int4"))
    ]
    fitted = {c.id: c.ranges for c in refit(cells, {"a": {"quality": 0.5}}, {"a": 1})}
    assert fitted["a"] == fitted["b"] == {"quality": Range(low=0.5, likely=0.5, high=0.5)} and fitted["c"] == {}
    floor = Constraint(measure="quality", better="higher", limit=0.6)
    shown = refit(cells, {"a": {"quality": 0.5}}, {"a": 1})
    assert set(screen(shown, GOALS, (floor,), frozenset("abc"))) == {"a", "b"}


def test_a_fit_moves_a_group_and_narrows_it() -> None:
    cells = [candidate(str(n), (5, 10, 20), (5, 10, 20), "a") for n in range(5)] + [
        candidate("other", (5, 10, 20), (5, 10, 20), "b")
    ]
    seen = {str(n): {"time": 20.0 * f, "rate": 10.0} for n, f in enumerate((0.9, 1.0, 1.0 / 0.9))}
    fitted = {c.id: c for c in refit(cells, seen, {"0": 1, "1": 4, "2": 1})}
    moved = fitted["4"].ranges["time"]
    assert moved.likely == pytest.approx(20.0) and moved.high / moved.low < 4.0
    assert fitted["other"].ranges["time"] == cells[-1].ranges["time"]
    one, four = fitted["0"].ranges["time"], fitted["1"].ranges["time"]
    assert one.likely == 18.0 and four.high / four.low < one.high / one.low


@pytest.mark.parametrize(("k", "bound"), [(10, 0.2589), (20, 0.1391), (59, 0.0495)])
def test_an_audit_without_a_miss_bounds_the_rate(k: int, bound: float) -> None:
    found = miss_rate(0, k)
    assert found is not None and found[0] == 0 and found[1] == pytest.approx(bound, abs=1e-4)
    assert found[1] == pytest.approx(1 - 0.05 ** (1 / k))
    some = miss_rate(1, k)
    assert some is not None and some[1] > found[1]
    assert miss_rate(0, 0) is None and miss_rate(k, k) == (1.0, 1.0)


class Surface:
    """Latency and throughput over backend, format, threads and batch, with a bias of each group and 10 % noise."""

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self.rng = rng
        self.truth: dict[str, tuple[float, float]] = {}
        self.candidates: list[Candidate] = []
        self.n_measured = 0
        for backend, bits in itertools.product(("a", "b", "c"), (4, 8, 16)):
            group = f"{backend}-{bits}"
            bias, saturation = rng.uniform(0.5, 2.0), rng.uniform(0.55, 0.95)
            for threads, batch in itertools.product((1, 2, 3, 4, 6, 8), (1, 2, 4, 8, 16, 32)):
                step = (bits / 4 + 0.15 * batch) / threads**saturation
                time = bias * step * float(np.exp(rng.normal(0, 0.08)))
                name = f"{group}-{threads}-{batch}"
                self.truth[name] = (time, batch / time)
                likely = (bits / 4 + 0.15 * batch) / threads**0.75
                self.candidates.append(
                    candidate(
                        name,
                        (likely / 3, likely, likely * 3),
                        (batch / likely / 3, batch / likely, batch / likely * 3),
                        group,
                    )
                )

    def measure(self, name: str, rung: int) -> Values:
        self.n_measured += 1
        time = self.truth[name][0] * float(np.exp(self.rng.normal(0, 0.1)))
        return {"time": time, "rate": self.truth[name][1] * float(np.exp(self.rng.normal(0, 0.1)))}


@pytest.mark.parametrize("seed", range(3))
def test_nine_tenths_of_the_hypervolume_with_fifteen_per_cent_of_the_measurements(seed: int) -> None:
    surface = Surface(seed)
    n = len(surface.candidates)
    goals = (
        Goal(measure="time", better="lower", reference=10.0),
        Goal(measure="rate", better="higher", reference=0.5),
    )
    found = Hunt(surface.candidates, goals, (), total=int(0.15 * n), seed=seed).go(surface.measure)
    assert surface.n_measured == len(found.order) <= 0.15 * n and n == 324
    better: list[str] = ["lower", "higher"]
    whole = hypervolume(list(surface.truth.values()), (10.0, 0.5), better)  # type: ignore[arg-type]
    chosen = hypervolume([surface.truth[i] for i in found.finalists], (10.0, 0.5), better)  # type: ignore[arg-type]
    assert chosen / whole >= 0.9, f"{chosen / whole:.3f} of the hypervolume"
    assert not set(found.dropped) & set(found.first)
    assert set(found.audited) <= set(found.dropped)


def test_the_same_answers_give_the_same_search() -> None:
    told: dict[tuple[str, int], Values] = {}
    surface = Surface(0)

    def once(name: str, rung: int) -> Values:
        return told.setdefault((name, rung), surface.measure(name, rung))

    first = Hunt(surface.candidates[:72], GOALS, (), 16).go(once)
    n = surface.n_measured
    again = Hunt(surface.candidates[:72], GOALS, (), 16).go(lambda name, rung: told[name, rung])
    assert again == first and surface.n_measured == n


def test_out_of_time_it_ends_with_what_it_has() -> None:
    surface = Surface(1)

    def short(name: str, rung: int) -> Values:
        if surface.n_measured == 12:
            raise OutOfTimeError
        return surface.measure(name, rung)

    found = Hunt(surface.candidates, GOALS, (), 40).go(short)
    assert len(found.order) == sum(found.counts.values()) == 12 and found.finalists


def test_misses_of_different_units_are_compared_by_one_factor_and_not_added() -> None:
    seconds = Constraint(measure="time", better="lower", limit=1.0)
    floor = Constraint(measure="speed", better="higher", limit=100.0)
    at_most_zero = Constraint(measure="loss", better="lower", limit=0.0)
    assert miss([(seconds, 1.0), (floor, 100.0), (at_most_zero, 0.0)]) == MET
    # half the speed is as far off as twice the time: each limit would have to give way by two
    assert miss([(seconds, 2.0)])[1] == pytest.approx(miss([(floor, 50.0)])[1]) == pytest.approx(math.log(2))
    # 1.5 and 1.5 need one factor of 1.5, 1.0 and 1.9 one of 1.9; a sum of shares would say the opposite
    both, one = miss([(seconds, 1.5), (floor, 100 / 1.5)]), miss([(seconds, 1.0), (floor, 100 / 1.9)])
    assert both < one and math.exp(both[1]) == pytest.approx(1.5) and math.exp(one[1]) == pytest.approx(1.9)
    # no factor loosens a limit of zero: then the distance decides, and what is unknown comes last
    assert miss([(at_most_zero, 0.1)]) < miss([(at_most_zero, 0.2)]) < miss([(seconds, None)])
    assert math.isinf(miss([(at_most_zero, 0.1)])[1])


def test_a_constraint_that_nobody_meets_and_candidates_that_fail() -> None:
    surface = Surface(2)
    limit = Constraint(measure="time", better="lower", limit=1e-6)
    found = Hunt(surface.candidates, GOALS, (limit,), 30).go(surface.measure)
    assert found.finalists == () and found.nearest in found.seen
    least = min(found.seen.values(), key=lambda v: v["time"])
    assert found.seen[found.nearest] == least
    found = Hunt(surface.candidates, GOALS, (), 30).go(lambda name, rung: None)
    assert found.finalists == () and found.seen == {} and len(found.failed) <= 30
