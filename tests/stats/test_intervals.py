"""Intervals of single figures, against published values and values computed by hand."""

import math

import numpy as np
import pytest

from core.stats.intervals import (
    Interval,
    cluster_bootstrap,
    drawn_means,
    ends,
    in_words,
    paired_ratio,
    ratio_of_sums,
    wilson,
)
from core.stats.quantiles import quantile, student_t


# Newcombe, "Two-sided confidence intervals for the single proportion", Stat. Med. 17 (1998), table I, method 3
@pytest.mark.parametrize(
    ("k", "n", "low", "high"),
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0.0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_wilsons_interval_is_the_published_one(k: int, n: int, low: float, high: float) -> None:
    found = wilson(k, n)
    assert (found.low, found.high) == (pytest.approx(low, abs=5e-5), pytest.approx(high, abs=5e-5))
    assert found.value == k / n and found.n == n
    other = wilson(n - k, n)  # the same interval seen from the other side
    assert (1 - other.high, 1 - other.low) == (pytest.approx(found.low), pytest.approx(found.high))  # type: ignore[operator]


@pytest.mark.parametrize(("k", "n"), [(0, 0), (3, 2), (-1, 2)])
def test_a_rate_of_nothing_is_refused(k: int, n: int) -> None:
    with pytest.raises(ValueError, match="a rate needs"):
        wilson(k, n)


# Efron and Tibshirani, "An Introduction to the Bootstrap" (1993), table 14.2: the variance of 26 children's spatial
# test A; the percentile interval (90 %) is (100.8, 233.9) and BCa (115.8, 259.6)
CHILDREN = [48, 36, 20, 29, 42, 42, 20, 42, 22, 41, 45, 14, 6, 0, 33, 28, 34, 4, 32, 24, 47, 41, 24, 26, 30, 41]


def variance(sums: np.ndarray, counts: np.ndarray) -> np.ndarray:
    return np.asarray(sums[..., 1] / counts[..., 1] - (sums[..., 0] / counts[..., 0]) ** 2)


@pytest.mark.parametrize(("method", "low", "high"), [("percentile", 100.8, 233.9), ("bca", 115.8, 259.6)])
def test_the_bootstrap_gives_efrons_textbook_intervals(method: str, low: float, high: float) -> None:
    values = np.array(CHILDREN, dtype=float)
    found = cluster_bootstrap(
        np.stack([values, values**2], axis=1),
        None,
        range(26),
        variance,
        method=method,  # type: ignore[arg-type]
        level=0.9,
        resamples=40_000,
    )
    assert found.value == pytest.approx(171.5, abs=0.05)
    assert found.low == pytest.approx(low, abs=3) and found.high == pytest.approx(high, abs=3)


def test_a_cluster_counts_once_however_many_items_it_has() -> None:
    once = cluster_bootstrap([1.0, 0.0, 1.0, 1.0, 0.0, 1.0], None, "abcdef")
    tenfold = cluster_bootstrap([1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 10, None, "abcdef" * 10)
    assert (tenfold.value, tenfold.low, tenfold.high, tenfold.n) == (once.value, once.low, once.high, 6)
    as_if_independent = cluster_bootstrap([1.0, 0.0, 1.0, 1.0, 0.0, 1.0] * 10, None, range(60))
    assert as_if_independent.high - as_if_independent.low < 0.5 * (once.high - once.low)  # type: ignore[operator]


def test_ratios_are_of_sums_and_perplexity_is_their_exponential() -> None:
    nats, tokens = [2.0, 30.0, 4.0], [1, 10, 4]
    assert cluster_bootstrap(nats, tokens, "abc").value == pytest.approx(36 / 15)
    found = cluster_bootstrap(nats, tokens, "abc", lambda a, b: np.exp(ratio_of_sums(a, b)), method="percentile")
    plain = cluster_bootstrap(nats, tokens, "abc", ratio_of_sums, method="percentile")
    assert found.value == pytest.approx(math.exp(36 / 15))
    assert found.low == pytest.approx(math.exp(plain.low), rel=1e-3)  # type: ignore[arg-type]


def test_one_cluster_gives_no_interval_and_no_items_are_refused() -> None:
    found = cluster_bootstrap([1.0, 0.0], None, "aa")
    assert (found.value, found.low, found.high) == (0.5, None, None)
    with pytest.raises(ValueError, match="at least one item"):
        cluster_bootstrap([], None, [])
    with pytest.raises(ValueError, match="not a number"):
        cluster_bootstrap([1.0, 2.0], [0.0, 0.0], "ab")


def test_items_that_do_not_vary_give_an_interval_of_no_width() -> None:
    found = cluster_bootstrap([1.0] * 5, None, range(5))
    assert (found.low, found.high) == (1.0, 1.0)


def test_the_ratio_is_the_geometric_mean_of_pairs() -> None:
    found = paired_ratio([2.0, 8.0], [1.0, 2.0])
    assert found.value == pytest.approx(math.sqrt(2 * 4))
    assert found.low is None and found.n == 2  # too few pairs for an interval


def test_an_interval_in_words_is_without_the_ends_that_it_lacks() -> None:
    assert in_words(Interval(value=1.416, low=1.4, high=1.4375, n=9), ".3f") == "1.416 [1.400, 1.438]"
    assert in_words(Interval(value=1.416, low=None, high=None, n=2)) == "1.42" and in_words(None) == "–"
    assert ends(0.5, 2.0, lambda value: f"{value:g} s") == " [0.5 s, 2 s]" and ends(0.5, None, "g") == ""


def test_it_is_symmetric() -> None:
    a, b = [1.0, 1.3, 0.9, 1.1, 1.2, 1.05], [1.1, 1.0, 1.0, 0.9, 1.3, 1.0]
    there, back = paired_ratio(a, b), paired_ratio(b, a)
    assert there.value == pytest.approx(1 / back.value)
    assert there.low == pytest.approx(1 / back.high, rel=0.01)  # type: ignore[operator]


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(1)
    covered = 0
    for trial in range(200):
        drift = rng.normal(0, 0.5, 20)  # common to both sides of a pair, so it must cancel
        a = np.exp(math.log(1.5) + drift + rng.normal(0, 0.1, 20))
        b = np.exp(drift + rng.normal(0, 0.1, 20))
        found = paired_ratio(list(a), list(b), seed=trial)
        covered += found.low <= 1.5 <= found.high  # type: ignore[operator]
    assert 176 <= covered <= 199


@pytest.mark.parametrize(("a", "b"), [([], []), ([1.0], [1.0, 2.0]), ([0.0], [1.0]), ([float("nan")], [1.0])])
def test_senseless_input_is_refused(a: list[float], b: list[float]) -> None:
    with pytest.raises(ValueError, match="a ratio needs"):
        paired_ratio(a, b)


def test_five_pairs_give_students_interval() -> None:
    # ln 2, ln 2, ln 2, ln 2, ln 4: mean 1.2 ln 2, deviation ln 2 / sqrt(5), t of four degrees of freedom 2.7764
    found = paired_ratio([2.0, 2.0, 2.0, 2.0, 4.0], [1.0] * 5)
    half = 2.7764451 * math.log(2) / 5
    assert found.value == pytest.approx(2**1.2)
    assert (found.low, found.high) == (pytest.approx(2**1.2 * math.exp(-half)), pytest.approx(2**1.2 * math.exp(half)))
    same = paired_ratio([3.0] * 5, [1.0] * 5)
    assert same.low == same.high == pytest.approx(3.0)


@pytest.mark.parametrize(("n", "trials"), [(5, 4000), (9, 4000), (10, 400)])
def test_few_pairs_are_covered_as_often_as_the_interval_says(n: int, trials: int) -> None:
    """Of five pairs a bootstrap, even an expanded one, covers 0.929."""
    rng = np.random.default_rng(2)
    covered = 0
    for trial in range(trials):
        a = np.exp(math.log(1.5) + rng.normal(0, 0.1, n))
        found = paired_ratio(list(a), [1.0] * n, seed=trial)
        covered += found.low <= 1.5 <= found.high  # type: ignore[operator]
    assert covered / trials == pytest.approx(0.95, abs=0.01 if trials > 1000 else 0.03)


def test_draws_of_the_mean_spread_as_the_interval_does() -> None:
    rng = np.random.default_rng(4)
    for n in (5, 9, 30):
        logs = rng.normal(0.4, 0.1, n)
        found = paired_ratio(list(np.exp(logs)), [1.0] * n)
        drawn = drawn_means(logs, 200_000, rng)
        assert drawn is not None
        low, high = np.log([found.low, found.high])
        assert np.quantile(drawn, (0.025, 0.975)) == pytest.approx((low, high), abs=0.05 * (high - low))
    assert drawn_means(np.zeros(4), 10, rng) is None


@pytest.mark.parametrize("n", [4, 9])
def test_few_clusters_are_covered_nearly_as_often_as_the_interval_says(n: int) -> None:
    """A ratio of sums over texts of different length: BCa covers 0.79 of the time with four, 0.89 with nine."""
    rng = np.random.default_rng(6)
    covered = bca = 0
    for trial in range(1500):
        n_bytes = rng.integers(50, 200, n)
        bits = n_bytes * (1.2 + rng.normal(0, 0.1, n))
        found = cluster_bootstrap(bits, n_bytes, range(n), seed=trial)
        covered += found.low <= 1.2 <= found.high  # type: ignore[operator]
        if trial < 300:
            other = cluster_bootstrap(bits, n_bytes, range(n), method="bca", resamples=1000, seed=trial)
            bca += other.low <= 1.2 <= other.high  # type: ignore[operator]
    assert 0.93 <= covered / 1500 <= 0.97
    assert bca / 300 < 0.925


def test_the_jackknife_of_a_mean_is_students_interval() -> None:
    values = [1.0, 2.0, 3.0, 6.0]
    found = cluster_bootstrap(values, None, "abcd")
    half = 3.1824463 * np.std(values, ddof=1) / 2
    assert (found.low, found.high) == (pytest.approx(3 - half), pytest.approx(3 + half))
    positive = cluster_bootstrap(values, None, "abcd", positive=True)
    assert positive.low * positive.high == pytest.approx(9.0) and positive.low > 0  # type: ignore[operator]
    assert cluster_bootstrap([1.0, 0.0], None, "ab", positive=True).low is None  # without the first nothing is left
    many = cluster_bootstrap(np.arange(10.0), None, range(10))
    assert many != cluster_bootstrap(np.arange(10.0), None, range(10), method="jackknife")  # ten are enough for BCa


# any printed table of Student's t, two-sided 95 %
@pytest.mark.parametrize(("df", "t"), [(1, 12.7062), (2, 4.3027), (4, 2.7764), (9, 2.2622), (29, 2.0452)])
def test_students_quantiles_are_the_tabulated_ones(df: int, t: float) -> None:
    assert student_t(0.975, df) == pytest.approx(t, abs=5e-5)


# Ranks of the 95 % interval of a median: Hahn and Meeker, "Statistical Intervals" (1991), table A.15
@pytest.mark.parametrize(("n", "low", "high"), [(10, 2, 9), (20, 6, 15), (100, 40, 61)])
def test_a_medians_interval_has_the_tabulated_ranks(n: int, low: int, high: int) -> None:
    found = quantile(list(range(n, 0, -1)), 0.5)  # the value is the rank
    assert (found.low, found.high) == (low, high)
    assert found.value == n / 2


def test_p99_needs_299_values() -> None:
    refused = quantile([1.0] * 298, 0.99)
    assert refused.value is None and refused.high is None
    assert "299" in refused.reason
    found = quantile(list(range(1, 300)), 0.99)  # 0.99^299 = 0.0495: the largest is a one-sided bound
    assert (found.value, found.low, found.high) == (297, None, 299)
    assert quantile(list(range(1, 369)), 0.99).low is not None  # 0.99^368 = 0.0248: and two-sided
    assert quantile([1.0] * 58, 0.95).value is None and quantile([1.0] * 59, 0.95).value == 1
    assert quantile([1.0] * 298, 0.01).value is None and quantile(list(range(1, 300)), 0.01).low == 1


def test_the_interval_of_a_quantile_covers_it() -> None:
    rng = np.random.default_rng(3)
    truth = math.log(20)  # the 95th percentile of the standard exponential
    covered = sum(
        found.low <= truth <= found.high  # type: ignore[operator]
        for found in (quantile(list(rng.exponential(size=300)), 0.95) for _ in range(300))
    )
    assert covered >= 276
