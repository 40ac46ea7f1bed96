"""Fronts, composites and their validation on synthetic studies whose truth is known."""

import math
import zlib
from collections.abc import Mapping

import numpy as np
import pytest

from core.stats.pareto import front, hypervolume, membership
from core.studies.composites import CANDIDATES, Composite, values
from core.studies.tradeoff import Study, Totals, Variant
from core.studies.validate import Check, Group, Verdict, gamma, kendall, spearman, validate
from core.types import Energy

METRICS = {c.name: c for c in CANDIDATES}
BASE = "f16"
# id -> (share of items right, speed over the baseline, bits per weight)
TRUTH: dict[str, tuple[float, float, float]] = {
    "f16": (0.80, 1.0, 16.0),
    "q8": (0.79, 1.6, 8.5),
    "q6": (0.78, 1.9, 6.6),
    "q4": (0.72, 2.4, 4.5),
    "q3": (0.62, 2.5, 3.9),
    "q2": (0.45, 2.6, 3.0),
    "sparse30": (0.77, 1.0, 16.0),
    "sparse50": (0.62, 1.0, 16.0),
    "sparse70": (0.35, 1.0, 16.0),
    "q1": (0.27, 3.0, 2.0),  # hardly better than guessing, however fast
}
GROUPS = (
    Group(name="quantization ladder", ids=("f16", "q8", "q6", "q4", "q3", "q2"), cost="equal"),
    Group(name="sparsity", ids=("f16", "sparse30", "sparse50", "sparse70"), cost="actual"),
)


def joules(provenance: str, of: float, phase: str = "decode") -> Energy:
    return Energy(
        phase=phase,  # type: ignore[arg-type]
        seconds=1.0,
        n_tokens=1,
        joules=of,
        low_j=of,
        high_j=of,
        joules_per_token=of,
        low_j_per_token=of,
        high_j_per_token=of,
        method="RAPL package-0" if provenance == "measured" else "estimate",
        provenance=provenance,  # type: ignore[arg-type]
    )


def variant(
    name: str, truth: tuple[float, float, float], n: int = 400, chance: float = 0.25, energy: tuple[Energy, ...] = ()
) -> Variant:
    """Items share their difficulty over variants, and half of it over a text of four questions."""
    right, speed, bits = truth
    shared, own = np.random.default_rng(1), np.random.default_rng(zlib.crc32(name.encode()))
    text, item = np.repeat(shared.random(n // 4), 4), shared.random(n)
    hard = np.argsort(np.argsort(text + item + own.normal(0, 0.1, n))) / n
    ids = [f"i{k}" for k in range(n)]
    return Variant(
        id=name,
        label=name,
        quality={i: float(h < right) for i, h in zip(ids, hard, strict=True)},
        clusters={i: f"t{k // 4}" for k, i in enumerate(ids)},
        chance=dict.fromkeys(ids, chance),
        answers=tuple(
            (float(2 * d * np.exp(own.normal(0, 0.02))), float(2 * d / speed)) for d in np.exp(own.normal(0, 0.2, 10))
        ),
        memory_bytes=int(bits * 1e7) + 10**8,
        bits_per_weight=bits,
        energy=energy,
    )


def study(truth: Mapping[str, tuple[float, float, float]] = TRUTH) -> Study:
    return Study([variant(name, t) for name, t in truth.items()], BASE)


@pytest.fixture(scope="module")
def ladder() -> Study:
    return study()


def check(verdict: Verdict, name: str) -> Check:
    return next(c for c in verdict.checks if c.name.startswith(name))


# ------------------------------------------------------------ fronts


def test_the_front_is_what_nothing_beats() -> None:
    points = [(1, 1), (2, 2), (2, 1), (3, 0), (1, 1), (float("nan"), 9)]
    assert front(points, ("higher", "higher")) == (False, True, False, True, False, False)
    assert front(points, ("lower", "higher")) == (
        True,
        True,
        False,
        False,
        True,
        False,
    )  # a tie
    assert front([(5,), (4,)], ("lower",)) == (False, True)
    with pytest.raises(ValueError, match="one figure per objective"):
        front([(1, 2)], ("higher",))


def test_membership_is_as_unsure_as_the_samples() -> None:
    """The second is as good as the first and faster, so the first is on the front by luck alone."""
    noise = np.random.default_rng(0).normal(scale=0.01, size=(4000, 3))
    better = np.array([0.80, 0.80, 0.20]) + noise
    samples = [[(1.0, a), (2.0, b), (3.0, c), (0.5, 0.1)] for a, b, c in better]
    shares = membership(samples, ("higher", "higher"))
    assert shares[0] == pytest.approx(0.5, abs=0.03)
    assert shares[1] == 1.0 and shares[2] == 1.0 and shares[3] == 0.0


def test_hypervolumes_are_those_computed_by_hand() -> None:
    # three steps below (5, 5) as columns: x from 1 to 2 of height 1, from 2 to 4 of height 3, from 4 to 5 of height 4
    assert hypervolume([(1, 4), (2, 2), (4, 1)], (5, 5), ("lower", "lower")) == 1 * 1 + 2 * 3 + 1 * 4
    assert hypervolume([(1, 4), (2, 2), (4, 1), (3, 3), (9, 0)], (5, 5), ("lower", "lower")) == 11  # no gain from these
    assert hypervolume([(-1, 4)], (-5, 5), ("higher", "lower")) == 4 * 1
    assert type(hypervolume(np.array([[1.0, 4.0]]), (5, 5), ("lower", "lower"))) is float  # JSON knows no other
    # two boxes 1x2x3 and 2x1x1 seen from the corner, sharing 1x1x1
    assert hypervolume([(1, 2, 3), (2, 1, 1)], (0, 0, 0), ("higher",) * 3) == 6 + 2 - 1
    assert hypervolume(np.zeros((0, 2)), (0, 0), ("lower", "lower")) == 0


def test_three_dimensions_agree_with_a_monte_carlo_estimate() -> None:
    rng = np.random.default_rng(0)
    points = rng.random((12, 3))
    spots = rng.random((200_000, 3))
    inside = (spots[:, None, :] <= points[None, :, :]).all(axis=2).any(axis=1).mean()
    assert hypervolume(points, (0, 0, 0), ("higher",) * 3) == pytest.approx(inside, abs=0.005)


# ------------------------------------------------------------ composites


def test_correct_answers_per_second_are_the_quality_above_chance_over_the_seconds() -> None:
    quality, chance = {"1": 1.0, "2": 0.0, "3": 1.0, "4": 1.0}, {"1": 0.5, "2": 0.5}
    pairs = tuple((2.0, 0.5 + 0.01 * k) for k in range(6))
    base = Variant(id="a", label="a", quality=quality, chance=chance, answers=tuple((2.0, 2.0) for _ in range(6)))
    fast = Variant(id="b", label="b", quality=quality, chance=chance, answers=pairs)
    one, other = values(METRICS["correct_per_second"], Study([base, fast], "a"))
    above = (1 + (0 - 0.5) / 0.5 + 1 + 1) / 4
    seconds = math.exp(np.log([b for _, b in pairs]).mean())
    assert one.value == pytest.approx(above / 2)
    assert other.value == pytest.approx(above / seconds)
    assert other.low is not None and other.low < other.value < other.high  # type: ignore[operator]


def test_estimated_energy_never_enters_a_composite() -> None:
    both = (joules("measured", 0.5, "prefill"), joules("measured", 1.5))
    counted = variant(BASE, TRUTH[BASE], energy=both)
    guessed = variant("q8", TRUTH[BASE], energy=(joules("measured", 0.5, "prefill"), joules("estimated", 0.1)))
    one, other = values(METRICS["correct_per_joule"], Study([counted, guessed], BASE))
    assert one.value == pytest.approx((0.8 - 0.25) / 0.75 / 2, abs=0.002)
    assert other.value is None and "estimated" in other.reason
    nothing = values(METRICS["correct_per_joule"], study())[0]
    assert nothing.value is None and nothing.reason == "no energy was recorded"


def test_speed_counts_only_at_equal_quality() -> None:
    truth = {"f16": TRUTH["f16"], "same": (0.80, 2.0, 8.0), "worse": (0.60, 3.0, 4.0)}
    sides = [variant(name, t, n=1600) for name, t in truth.items()]
    sides[1] = Variant(**{f: getattr(sides[1], f) for f in sides[1].__struct_fields__} | {"quality": sides[0].quality})
    base, same, worse = values(METRICS["speedup_at_equal_quality"], Study(sides, BASE))
    assert base.value == 1.0
    assert same.value == pytest.approx(2.0, rel=0.03) and same.low < same.value < same.high  # type: ignore[operator]
    assert worse.value is None and "not shown to be equal" in worse.reason


def test_the_price_of_a_halving_needs_a_real_speed_up(ladder: Study) -> None:
    found = {v.variant: v for v in values(METRICS["price_per_halving"], ladder)}
    quality = ladder.whole().quality[0]
    names = [v.id for v in ladder.variants]
    lost = quality[names.index("f16")] - quality[names.index("q2")]
    assert found["q2"].value == pytest.approx(lost / math.log2(2.6), rel=0.03)
    assert found["f16"].reason == "it is the baseline"
    assert "not shown to be faster" in found["sparse70"].reason


def test_few_pairs_of_runs_give_a_value_without_an_interval() -> None:
    sides = [variant(n, TRUTH[n]) for n in ("f16", "q2")]
    few = [Variant(**{f: getattr(v, f) for f in v.__struct_fields__} | {"answers": v.answers[:3]}) for v in sides]
    found = values(METRICS["geometric_mean"], Study(few, BASE))[1]
    assert found.value is not None and found.low is None


def test_a_study_needs_its_baseline_and_common_items() -> None:
    with pytest.raises(ValueError, match="baseline"):
        Study([variant("q8", TRUTH["q8"])], BASE)
    lonely = Variant(id="x", label="x", quality={"other": 1.0})
    with pytest.raises(ValueError, match="in common"):
        Study([variant(BASE, TRUTH[BASE]), lonely], BASE)
    unjudged = Study([variant(BASE, TRUTH[BASE]), Variant(id="x", label="x")], BASE)
    assert len(unjudged.ids) == 400
    assert values(METRICS["correct_per_second"], unjudged)[1].reason == "its answers were not judged"


# ------------------------------------------------------------ validation


def test_correct_answers_per_second_earn_their_place(ladder: Study) -> None:
    verdict = validate(METRICS["correct_per_second"], ladder, GROUPS)
    assert verdict.kept, verdict.reason
    for group in ("known group: quantization", "known group: sparsity"):
        assert check(verdict, group).value >= 0.8  # type: ignore[operator]
    assert check(verdict, "broken").value == 1.0
    assert check(verdict, "weights").passed is None


def test_speed_up_at_equal_quality_earns_its_place(ladder: Study) -> None:
    verdict = validate(METRICS["speedup_at_equal_quality"], ladder, GROUPS)
    assert verdict.kept, verdict.reason


def test_min_max_is_dropped_because_other_variants_change_it(ladder: Study) -> None:
    verdict = validate(METRICS["min_max_sum"], ladder, GROUPS)
    assert not verdict.kept
    assert check(verdict, "independence").passed is False
    assert "Taking one variant away" in verdict.reason


def test_quality_per_bit_is_dropped_because_a_broken_model_wins(ladder: Study) -> None:
    verdict = validate(METRICS["quality_per_bit"], ladder, GROUPS)
    assert not verdict.kept
    assert check(verdict, "broken").passed is False
    assert "broken model" in verdict.reason


def made(of: object, weights: tuple[float, ...] = ()) -> Composite:
    return Composite(
        name="made",
        label="Made",
        formula="",
        unit="",
        better="higher",
        of=of,  # type: ignore[arg-type]
        refuses=lambda v, t, i: "",
        weights=weights,
    )


def test_noise_is_dropped() -> None:
    def noise(t: Totals, _: object) -> np.ndarray:
        return np.random.default_rng(int(1e6 * t.quality[0].sum()) % 2**32).normal(size=t.quality.shape)

    verdict = validate(made(noise), study(), GROUPS)
    assert not verdict.kept
    assert check(verdict, "stability").passed is False
    assert check(verdict, "known group: quantization").passed is False


def test_what_ignores_quality_is_dropped(ladder: Study) -> None:
    verdict = validate(made(lambda t, _: t.speedup), ladder, GROUPS)
    assert not verdict.kept
    assert check(verdict, "known group: quantization").sentence == "It is the same all along the quantization ladder."
    assert check(verdict, "broken").passed is False


def test_what_hangs_on_its_weights_is_dropped(ladder: Study) -> None:
    def torn(t: Totals, weights: tuple[float, ...]) -> np.ndarray:
        return weights[0] * t.quality * 5 - weights[1] * np.log2(t.bits)

    verdict = validate(made(torn, (1.0, 1.0)), ladder, GROUPS)
    assert check(verdict, "weights").passed is False and not verdict.kept
    assert check(validate(made(torn, (1e9, 1e-9)), ladder, GROUPS), "weights").passed


def test_what_cannot_be_computed_is_not_kept_and_says_why(ladder: Study) -> None:
    verdict = validate(METRICS["correct_per_joule"], ladder, GROUPS)
    assert not verdict.kept and verdict.reason == "not testable: of most variants, no energy was recorded"


def test_without_a_known_group_nothing_is_kept(ladder: Study) -> None:
    verdict = validate(METRICS["correct_per_second"], ladder, ())
    assert not verdict.kept and "known group" in verdict.reason


def test_too_few_items_keep_nothing() -> None:
    few = Study([variant(name, t, n=8) for name, t in TRUTH.items()], BASE)
    verdict = validate(METRICS["correct_per_second"], few, GROUPS)
    assert not verdict.kept


# scipy.stats.kendalltau and spearmanr of these ranks, and the textbook tau-b
def test_rank_correlations_are_the_usual_ones() -> None:
    one = np.array([1.0, 2.0, 3.0, 4.0])
    assert kendall(one, np.array([[1.0, 3.0, 2.0, 4.0]]))[0] == pytest.approx(4 / 6)
    assert kendall(one, np.array([[1.0, 1.0, 2.0, 3.0]]))[0] == pytest.approx(5 / math.sqrt(6 * 5))
    assert gamma(one, np.array([[1.0, 1.0, 2.0, 3.0]]))[0] == 1 and math.isnan(gamma(one, np.ones((1, 4)))[0])
    assert math.isnan(kendall(one, np.ones((1, 4)))[0])
    assert kendall(one, np.array([[1.0, np.nan, 2.0, 0.0]]))[0] == pytest.approx(-1 / 3)
    assert spearman(one, np.array([1.0, 3.0, 2.0, 4.0])) == pytest.approx(1 - 6 * 2 / (4 * 15))
    assert math.isnan(spearman(one[:2], one[:2]))
