"""Search: what ranges exclude, what they do not; the audit's bound; and the promise on a synthetic surface."""

from __future__ import annotations

import itertools
import math
from typing import Any

import msgspec
import numpy as np
import pytest

from core.analysis.search import (
    ALIKE,
    MET,
    NOISE,
    SIGMAS,
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
from core.stats.pareto import Direction, front, hypervolume

GOALS = (
    Goal(measure="time", better="lower", reference=100.0),
    Goal(measure="rate", better="higher", reference=0.0),
)


def candidate(name: str, time: tuple[float, float, float], rate: tuple[float, float, float], *traits: str) -> Candidate:
    return Candidate(
        id=name,
        traits=traits or ("g",),
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
    found = screen([good, beaten, touching, better], GOALS, (), frozenset({("g",)}))
    assert found == {"beaten": "good is better in every goal even at its worst"}
    assert screen([good, beaten], GOALS, ()) == {}, "no group goes before one of it was measured"
    limit = Constraint(measure="time", better="lower", limit=2.5)
    found = screen([good, beaten, touching], GOALS, (limit,), frozenset({("g",)}))
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
        dropped = screen(found, GOALS, (), frozenset({("g",)}))
        members = front(truth, ["lower", "higher"])
        assert not [n for n in dropped if members[int(n)]]


def test_one_measurement_tells_all_that_are_alike() -> None:
    cells = [
        Candidate(id=name, traits=(name,), ranges={}, alike={"quality": key})
        for name, key in (("a", "fp32"), ("b", "fp32"), ("c", "int4"))
    ]
    fitted = {c.id: c.ranges for c in refit(cells, {"a": {"quality": 0.5}}, {"a": 1})}
    assert fitted["a"] == fitted["b"] == {"quality": Range(low=0.5, likely=0.5, high=0.5)} and fitted["c"] == {}
    floor = Constraint(measure="quality", better="higher", limit=0.6)
    shown = refit(cells, {"a": {"quality": 0.5}}, {"a": 1})
    assert set(screen(shown, GOALS, (floor,), frozenset((name,) for name in "abc"))) == {"a", "b"}


def test_a_fit_moves_and_narrows_as_far_as_candidates_are_alike() -> None:
    """By hand: one measurement tells nothing of likeness, so the first factor of ALIKE stands for each trait."""
    told = (5.0, 10.0, 20.0)
    cells = [
        candidate(name, told, told, *traits)
        for name, traits in (("seen", "abc"), ("near", "abd"), ("far", "aef"), ("strange", "xyz"))
    ]
    fitted = {c.id: c.ranges["time"] for c in refit(cells, {"seen": {"time": 12.0, "rate": 10.0}}, {"seen": 1})}
    sigma = math.log(4) / (2 * SIGMAS)
    alike = {"near": 1, "far": 2, "strange": 3}
    variance = sigma**2 + NOISE**2
    for name, differing in alike.items():
        corr = ALIKE[0] ** differing
        moved = corr * sigma**2 / variance * math.log(1.2)
        narrowed = math.sqrt(1 - corr**2 * sigma**2 / variance)
        assert fitted[name].likely == pytest.approx(10 * math.exp(moved))
        assert fitted[name].high / fitted[name].low == pytest.approx(4**narrowed)
    assert fitted["seen"].likely == 12.0
    four = refit(cells, {"seen": {"time": 12.0, "rate": 10.0}}, {"seen": 4})[0].ranges["time"]
    assert four.high / four.low == pytest.approx((fitted["seen"].high / fitted["seen"].low) ** 0.5)


def test_which_trait_errors_depend_on_is_learned() -> None:
    """Backends err by their own factors, threads by none: of each backend the other threads are known, too."""
    told = (2.5, 10.0, 40.0)
    cells = [candidate(f"{b}{t}", told, told, b, str(t)) for b in "pq" for t in range(8)]
    seen = {f"p{t}": {"time": 20.0} for t in range(6)} | {"q0": {"time": 5.0}, "q1": {"time": 5.0}}
    found = {c.id: c.ranges["time"] for c in refit(cells, seen, dict.fromkeys(seen, 1))}
    assert found["p7"].likely == pytest.approx(20, rel=0.05) and found["q7"].likely == pytest.approx(5, rel=0.05)
    assert all(r.high / r.low < 3.5 for r in found.values()), "16 before"


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
                        backend,
                        str(bits),
                        str(threads),
                        str(batch),
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


def test_with_more_kinds_than_measurements_each_backend_is_seen_and_the_rest_goes_where_it_may_pay() -> None:
    """One backend after the other would spend all of them on the first."""
    cells = [
        candidate(f"{backend}-{n}", (t / 2, t, t * 2), (1 / t / 2, 1 / t, 2 / t), backend, f"{backend}-{n}")
        for backend, best in (("slow", 8.0), ("middle", 4.0), ("fast", 1.0))
        for n, t in enumerate(best * (1 + k / 20) for k in range(20))
    ]
    truth = {c.id: c.ranges["time"].likely * 1.3 for c in cells}
    goals = (Goal(measure="time", better="lower", reference=20.0), Goal(measure="rate", better="higher", reference=0.0))
    found = Hunt(cells, goals, (), 16).go(lambda name, rung: {"time": truth[name], "rate": 1 / truth[name]})
    assert {name.split("-")[0] for name, _ in found.order[:3]} == {"slow", "middle", "fast"}
    assert found.finalists == ("fast-0",) and len(found.order) <= 16
    moved = found.ranges["fast-19"]["time"].likely / truth["fast-19"]
    assert moved == pytest.approx(1.0, rel=0.02), "it was not measured, its backend's error is known"


def guessing(seed: int, luck: float) -> tuple[dict[str, tuple[float, float]], list[Candidate]]:
    """Rate and memory over engines, formats and strategies. What guessing brings is foretold within a factor of 3, the
    rest within 1.5 but for an error that each engine and format has. luck: of guesses."""
    rng = np.random.default_rng(seed)
    truth: dict[str, tuple[float, float]] = {}
    cells = []
    kinds = {("a", "16"): (45, 1500), ("a", "8"): (160, 1090), ("a", "4"): (240, 1040), ("b", "16"): (45, 750)}
    for (engine, format), (speed, memory) in (kinds | {("c", "4"): (115, 300), ("c", "5"): (118, 280)}).items():
        error = math.exp(rng.normal(0, 0.35))
        for threads, n in itertools.product((1, 2), (0, 0, 2, 4, 8, 4, 8, 16)):
            alone, cost = speed * (0.6 if threads == 1 else 1.0), 1 + n * (0.48 if engine == "c" else 0.12)
            brings = (1 + luck * rng.uniform(0.1, 0.6)) if n else 1.0
            likely, wide = alone * error / cost * (1.6 if n else 1.0), 3.0 if n else 1.5
            name = f"{engine}-{format}-{threads}-{n}-{len(cells)}"
            truth[name] = (alone * brings / cost * math.exp(rng.normal(0, 0.03)), memory)
            ranges = {
                "rate": Range(low=likely / wide, likely=likely, high=likely * wide),
                "memory": Range(low=memory * 0.8, likely=memory, high=memory * 1.25),
            }
            cells.append(Candidate(id=name, traits=(engine, format, str(threads), str(n)), ranges=ranges))
    return truth, cells


@pytest.mark.parametrize("luck", [0.3, 3.0])
def test_few_measurements_find_most_whether_guessing_pays_or_not(luck: float) -> None:
    """A kind's first measurement is of what was foretold closely: a guess would leave open which of two was wrong."""
    goals = (
        Goal(measure="rate", better="higher", reference=1.0),
        Goal(measure="memory", better="lower", reference=2000.0),
    )
    shares = []
    for seed in range(12):
        truth, cells = guessing(seed, luck)
        noise = np.random.default_rng(seed)

        def measure(name: str, rung: int, truth: Any = truth, noise: Any = noise) -> Values:
            return {"rate": truth[name][0] * float(np.exp(noise.normal(0, 0.06))), "memory": truth[name][1]}

        found = Hunt(cells, goals, (), 16, seed).go(measure)
        assert all(name.split("-")[3] == "0" for name, _ in found.order[:3]), "each engine without guesses first"
        better: list[Direction] = ["higher", "lower"]
        volume = hypervolume([truth[n] for n in found.seen], (1.0, 2000.0), better)
        shares.append(volume / hypervolume(list(truth.values()), (1.0, 2000.0), better))
    assert np.mean(shares) > 0.95, f"{np.mean(shares):.3f}"


def test_the_same_answers_give_the_same_search() -> None:
    told: dict[tuple[str, int], Values] = {}
    surface = Surface(0)

    def once(name: str, rung: int) -> Values:
        return told.setdefault((name, rung), surface.measure(name, rung))

    first = Hunt(surface.candidates[:72], GOALS, (), 16).go(once)
    n = surface.n_measured
    again = Hunt(surface.candidates[:72], GOALS, (), 16).go(lambda name, rung: told[name, rung])
    assert again == first and surface.n_measured == n


def test_what_adds_next_to_nothing_to_the_front_is_not_measured_again() -> None:
    """By hand, from the corner (100, 0): a and b span 70 * 20 + 20 * 10 = 1600; c adds 0.1 * 15 of it, d 9 * 3."""
    truth = {"a": (30.0, 20.0), "b": (10.0, 10.0), "c": (9.9, 1.0), "d": (21.0, 13.0), "e": (50.0, 5.0)}
    cells = [candidate(n, (t / 2, t, t * 2), (r / 2, r, r * 2), n) for n, (t, r) in truth.items()]

    def search(corner: float) -> Hunt:
        goals = (Goal(measure="time", better="lower", reference=corner), GOALS[1])
        return Hunt(cells, goals, (), 15)

    found = search(100.0).go(lambda name, rung: {"time": truth[name][0], "rate": truth[name][1]})
    assert set(found.first) >= {"a", "b", "c", "d"} and found.counts["c"] == 1
    assert sorted(found.finalists) == ["a", "b", "d"], "e is no part of the front, c next to none"
    assert {name for name, rung in found.order if rung} == {"a", "d"}, "a third of five, the largest alone first"
    outside = search(5.0).go(lambda name, rung: {"time": truth[name][0], "rate": truth[name][1]})
    assert sorted(outside.finalists) == ["a", "b", "c", "d"], "beyond the corner nothing has a volume to go by"


def test_what_candidates_are_called_changes_nothing() -> None:
    """Of a search that others get without its prompt every cell has another id: it must be the same search there."""
    surface = Surface(3)
    cells = surface.candidates[:144]
    told: dict[tuple[str, int], Values] = {}

    def once(name: str, rung: int) -> Values:
        return told.setdefault((name, rung), surface.measure(name, rung))

    first = Hunt(cells, GOALS, (), 32).go(once)
    assert first.audited and first.dropped
    other = {c.id: f"{n * 7919 % 997:03}" for n, c in enumerate(cells)}
    back = {new: old for old, new in other.items()}
    renamed = [msgspec.structs.replace(c, id=other[c.id], traits=(f"\x00{c.traits[0]}", *c.traits[1:])) for c in cells]
    again = Hunt(renamed, GOALS, (), 32).go(lambda name, rung: told[back[name], rung])
    assert [(back[n], rung) for n, rung in again.order] == list(first.order)
    assert [back[n] for n in again.audited] == list(first.audited)
    assert [back[n] for n in again.finalists] == list(first.finalists)


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
