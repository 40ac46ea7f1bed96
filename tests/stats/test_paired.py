"""Two systems on the same items, and what a sample could show: published values and values computed by hand."""

import itertools
import math
from functools import cache

import msgspec
import numpy as np
import pytest

from core.stats.paired import compare, holm, noninferiority, same_speed
from core.stats.pairing import shared
from core.stats.proportions import mcnemar, tango
from core.stats.sample_size import detectable_paired
from core.types import Item, Metric

RIGHT = Metric(name="accuracy", label="Accuracy", value="correct", kind="rate")
NATS = Metric(name="perplexity", label="Perplexity", value="nats", over="tokens", kind="exp", better="lower")


def items(values: list[float], clusters: str | None = None, prefix: str = "i") -> list[Item]:
    return [
        Item(t_s=0, id=f"{prefix}{n}", cluster=clusters[n] if clusters else f"c{n}", values={"correct": v})
        for n, v in enumerate(values)
    ]


# Fagerland, Lydersen and Laake, BMC Med. Res. Methodol. 13:91 (2013): airway hyper-responsiveness (1 and 7 discordant,
# exact conditional p = 0.070) and complete response before and after consolidation (6 and 16, p = 0.053)
@pytest.mark.parametrize(("lost", "gained", "p"), [(1, 7, 0.0703), (6, 16, 0.0525), (0, 0, 1.0), (5, 5, 1.0)])
def test_mcnemars_exact_p_is_the_published_one(lost: int, gained: int, p: float) -> None:
    assert mcnemar(lost, gained) == mcnemar(gained, lost) == pytest.approx(p, abs=5e-5)


def test_mcnemar_takes_thousands_of_flips() -> None:
    assert mcnemar(5000, 5000) == 1.0
    assert 0 < mcnemar(4000, 6000) < 1e-80


def test_tangos_interval_is_where_its_score_is_z() -> None:
    # by hand from Tango's equations with lost 2, gained 12, n 50: score = (10 - 50 delta) / sqrt(variance)
    low, high = tango(2, 12, 50)
    for delta, sign in ((low, 1), (high, -1)):
        b, c = -14 + (100 - 10) * delta, -2 * delta * (1 - delta)
        q = (math.sqrt(b * b - 400 * c) - b) / 200
        assert (10 - 50 * delta) / math.sqrt(50 * (2 * q + delta * (1 - delta))) == pytest.approx(sign * 1.959964, 1e-4)
    assert low < 0.2 < high and low > 0.03 and high < 0.36
    assert tango(12, 2, 50) == (pytest.approx(-high), pytest.approx(-low))
    assert tango(0, 0, 30) == (pytest.approx(-3.8415 / 33.8415, abs=1e-5), pytest.approx(3.8415 / 33.8415, abs=1e-5))
    assert tango(0, 5, 5)[1] == pytest.approx(1.0)
    with pytest.raises(ValueError, match="flips"):
        tango(3, 3, 5)


def test_tangos_interval_covers_the_truth() -> None:
    rng = np.random.default_rng(4)
    covered = 0
    for lost, gained, _ in rng.multinomial(60, [0.05, 0.12, 0.83], size=400):
        low, high = tango(int(lost), int(gained), 60)
        covered += low <= 0.07 <= high
    assert covered >= 368


def test_where_no_item_differs_a_mean_has_no_interval() -> None:
    as_mean = Metric(name="f1", label="F1", value="correct")
    same = items([0.3, 0.5, 0.9])
    found = compare(as_mean, same, same)
    assert (found.difference.value, found.difference.low, found.p) == (0.0, None, 1.0)


def test_flips_are_named_and_missing_items_too() -> None:
    before = items([1, 1, 1, 0, 0, 1])
    after = items([1, 0, 0, 1, 0])
    found = compare(RIGHT, before, after)
    assert found.lost == ("i1", "i2") and found.gained == ("i3",) and found.missing == ("i5",)
    assert found.n == 5 and found.test == "exact McNemar"
    assert found.baseline == pytest.approx(3 / 5) and found.variant == pytest.approx(2 / 5)
    assert found.difference.value == pytest.approx(-1 / 5) and found.gain == pytest.approx(-1 / 5)
    assert found.p == mcnemar(2, 1) == 1.0


def test_items_that_asked_something_else_are_not_paired() -> None:
    before, after = items([1, 1, 0, 1]), items([1, 0, 0, 1])
    asked = [[msgspec.structs.replace(i, fingerprint=f"q{n}") for n, i in enumerate(side)] for side in (before, after)]
    asked[1][1] = msgspec.structs.replace(asked[1][1], fingerprint="another question")
    found = compare(RIGHT, *asked)
    assert (found.n, found.changed, found.lost, found.verified) == (3, ("i1",), (), True)
    old = compare(RIGHT, before, asked[1])  # made before there were fingerprints
    assert (old.n, old.changed, old.verified) == (4, (), False)
    assert shared([asked[0], asked[1]]) == shared([before, asked[0], asked[1]]) == {"i0", "i2", "i3"}
    assert shared([]) == frozenset()


def test_nothing_in_common_is_refused() -> None:
    with pytest.raises(ValueError, match="both sides"):
        compare(RIGHT, items([1.0]), items([1.0], prefix="other"))
    with pytest.raises(ValueError, match="both sides"):
        compare(NATS, items([1.0]), items([1.0]))  # the items do not have this metric's values


def test_randomisation_is_mcnemar_where_both_apply() -> None:
    before, after = [1.0] * 9 + [0.0] * 20 + [1.0] * 20, [0.0] * 7 + [1.0] * 2 + [0.0] * 18 + [1.0] * 22
    exact = compare(RIGHT, items(before), items(after))
    as_mean = Metric(name="accuracy", label="Accuracy", value="correct", kind="mean")
    drawn = compare(as_mean, items(before), items(after))
    assert (len(exact.lost), len(exact.gained)) == (7, 2)
    assert drawn.test != exact.test and not drawn.lost
    assert drawn.p == pytest.approx(exact.p, abs=0.015)


def test_randomisation_of_a_ratio_of_sums_agrees_with_all_the_swaps() -> None:
    nats = [(2.0, 2.6), (30.0, 33.0), (4.0, 4.2), (9.0, 8.0), (7.0, 7.9)]
    tokens = [1, 10, 2, 4, 3]
    left, right = (
        [
            Item(t_s=0, id=str(n), cluster=str(n), values={"nats": pair[side], "tokens": tokens[n]})
            for n, pair in enumerate(nats)
        ]
        for side in (0, 1)
    )
    found = compare(NATS, left, right)
    total = sum(tokens)

    def apart(swaps: tuple[int, ...]) -> float:
        sides = [sum(pair[side ^ swap] for pair, swap in zip(nats, swaps, strict=True)) for side in (0, 1)]
        return math.exp(sides[1] / total) - math.exp(sides[0] / total)

    every = [apart(swaps) for swaps in itertools.product((0, 1), repeat=5)]
    by_hand = sum(abs(x) >= abs(every[0]) - 1e-12 for x in every) / 32
    assert found.difference.value == pytest.approx(every[0])
    assert found.gain < 0  # a higher perplexity is worse
    assert found.p == pytest.approx(by_hand, abs=0.02)


def test_a_root_mean_square_is_compared_as_one() -> None:
    rms = Metric(name="rms", label="RMS", value="correct", kind="root", better="lower")
    found = compare(rms, items([4.0, 4.0, 1.0]), items([9.0, 9.0, 9.0]))
    assert (found.baseline, found.variant) == (pytest.approx(math.sqrt(3)), 3.0)


def test_items_that_share_a_text_are_not_independent_evidence() -> None:
    before, after = [1.0] * 12, [0.0] * 12
    apart = compare(RIGHT, items(before), items(after))
    together = compare(RIGHT, items(before, "aaaabbbbcccc"), items(after, "aaaabbbbcccc"))
    assert apart.p == pytest.approx(2 / 2**12)
    assert together.n_clusters == 3
    assert together.p == pytest.approx(2 / 2**3, abs=0.02)  # three coins, all on one side


def test_the_test_is_wrong_as_often_as_it_says() -> None:
    rng = np.random.default_rng(0)
    rejected = 0
    for trial in range(150):
        shared = np.repeat(rng.random(12), 4)  # texts of different difficulty, four questions each
        sides = [(rng.random(48) < shared).astype(float) for _ in range(2)]
        names = "".join(c * 4 for c in "abcdefghijkl")
        rejected += compare(RIGHT, *(items(list(side), names) for side in sides), seed=trial).p <= 0.05
    assert rejected <= 16


# R: p.adjust(c(0.01, 0.04, 0.03, 0.005), "holm")
def test_holm_is_what_r_computes() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx((0.03, 0.06, 0.06, 0.02))
    assert holm([]) == () and holm([0.6, 0.9]) == (1.0, 1.0)


def test_noninferiority_needs_the_whole_interval_within_the_margin() -> None:
    rng = np.random.default_rng(5)
    base = (rng.random(800) < 0.7).astype(float)
    slightly = base.copy()
    slightly[:8] = 0
    half = base.copy()
    half[:400] = 0
    assert noninferiority(compare(RIGHT, items(list(base)), items(list(slightly))), 0.03).verdict == "non-inferior"
    assert noninferiority(compare(RIGHT, items(list(base)), items(list(half))), 0.03).verdict == "inferior"
    undecided = noninferiority(compare(RIGHT, items(list(base[:30])), items(list(base[:30]))), 0.03)
    assert undecided.verdict == "undecided" and "too few" in undecided.sentence  # 30 items without a flip show little
    assert undecided.worst == pytest.approx(3.8415 / (30 + 3.8415), abs=1e-4)
    one = compare(RIGHT, items([1.0, 1.0], "aa"), items([1.0, 1.0], "aa"))
    assert noninferiority(one, 0.03).verdict == "undecided"
    with pytest.raises(ValueError, match="margin"):
        noninferiority(one, 0.0)


def test_a_lower_metric_that_is_better_turns_the_margin_round() -> None:
    rows = [Item(t_s=0, id=str(n), cluster=str(n), values={"nats": 2.0 + n % 3, "tokens": 1.0}) for n in range(30)]
    better = [
        Item(t_s=0, id=i.id, cluster=i.cluster, values={"nats": i.values["nats"] - 0.5, "tokens": 1.0}) for i in rows
    ]
    found = noninferiority(compare(NATS, rows, better), 0.1)
    assert found.verdict == "non-inferior" and found.worst is not None and found.worst < 0
    assert noninferiority(compare(NATS, better, rows), 0.1).verdict == "inferior"


def test_the_same_speed_has_to_be_shown() -> None:
    rng = np.random.default_rng(7)
    drift = np.exp(rng.normal(0, 0.3, 12))
    a, b = drift * np.exp(rng.normal(0, 0.01, 12)), drift * np.exp(rng.normal(0, 0.01, 12))
    same, ratio = same_speed(list(a), list(b))
    assert same is True and ratio.level == pytest.approx(0.9)
    assert same_speed(list(a * 1.05), list(b))[0] is False
    noisy = drift * np.exp(rng.normal(0, 0.2, 12))
    assert same_speed(list(noisy), list(b))[0] is False  # not shown, whatever the truth
    assert same_speed([1.0] * 4, [1.0] * 4)[0] is None


def test_paired_power_solves_connors_equation() -> None:
    # ((1.959964 sqrt(0.2) + 0.841621 sqrt(0.19)) / 0.1)^2 = 154.6
    assert detectable_paired(155, 0.2) == pytest.approx(0.1, abs=3e-4)
    assert detectable_paired(1000, 0.115) == pytest.approx(0.03, abs=5e-4)
    assert detectable_paired(50, 0.05) is None  # two flips cannot be significant
    assert detectable_paired(300, 0.1, alpha=0.05 / 12) > detectable_paired(300, 0.1)  # type: ignore[operator]


def test_paired_power_is_what_a_simulation_finds() -> None:
    n, discordance = 200, 0.2
    effect = detectable_paired(n, discordance)
    assert effect is not None
    rng = np.random.default_rng(11)
    draws = rng.multinomial(n, [(discordance + effect) / 2, (discordance - effect) / 2, 1 - discordance], size=2000)
    test = cache(mcnemar)
    found = sum(test(int(b), int(c)) <= 0.05 for b, c, _ in draws) / 2000
    assert 0.72 <= found <= 0.84  # the exact test is a little conservative
