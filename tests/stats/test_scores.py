"""Scores of items, against sums and intervals worked out by hand or published."""

import math

import numpy as np
import pytest

from core.stats.scores import observed, scores
from core.types import Item, Metric, Score

RIGHT = Metric(name="accuracy", label="Accuracy", value="right", kind="rate")
PPL = Metric(name="ppl", label="Perplexity", value="nll", over="tokens", kind="exp", better="lower")
BITS = Metric(name="bits", label="Bits per byte", value="bits", over="bytes", unit="bit/B", better="lower")


def item(i: int, cluster: str | None = None, **values: float) -> Item:
    return Item(t_s=0, id=str(i), cluster=cluster or str(i), values=values)


def test_a_ratio_of_sums_is_not_a_mean_of_ratios() -> None:
    items = [item(0, nll=2.0, tokens=1), item(1, nll=2.0, tokens=3)]
    (found,) = scores(items, [PPL])
    assert found.value == pytest.approx(math.e)  # exp(4 / 4); the mean of ratios would give exp(4/3)
    assert (found.n, found.better) == (2, "lower")
    # leaving one out gives 2/3 and 2, so the jackknife's standard error is 2/3; t of one degree of freedom is 12.706
    assert found.high == pytest.approx(math.exp(1 + 12.7062 * 2 / 3), rel=1e-4)
    assert found.low == 1.0  # nats are never negative


def test_an_interval_ends_at_what_a_metric_can_be() -> None:
    """Seen: an F1 up to 1.3; and one of exactly 0 [0, 0] beside an exact match of 0 [0, 0.56]."""
    f1 = Metric(name="f1", label="F1", value="f1", most=1.0)

    def found(*values: float) -> Score:
        return scores([item(i, f1=v) for i, v in enumerate(values)], [f1])[0]

    some, none, all_ = found(1.0, 1.0, 0.4), found(0.0, 0.0, 0.0), found(1.0, 1.0, 1.0)
    assert some.value == pytest.approx(0.8) and some.low == 0 and some.high == 1  # 0.8 +- 4.303 * 0.2 by the jackknife
    assert (none.low, none.high) == pytest.approx((0, 1.959964**2 / (3 + 1.959964**2)))
    assert (all_.low, all_.high) == pytest.approx((3 / (3 + 1.959964**2), 1))


def test_a_root_mean_square() -> None:
    rms = Metric(name="rms", label="RMS", value="squares", over="tokens", kind="root")
    (found,) = scores([item(0, squares=18.0, tokens=2), item(1, squares=0.0, tokens=2)], [rms])
    assert found.value == pytest.approx(math.sqrt(18 / 4))
    assert found.low == 0 and (found.high or 0) > 3  # two texts say little


def test_a_rate_gets_wilsons_interval() -> None:
    """81 of 263: Newcombe, Statistics in Medicine 17 (1998), table I, gives 0.2553 to 0.3662."""
    found = scores([item(i, right=float(i < 81)) for i in range(263)], [RIGHT])[0]
    assert found.value == pytest.approx(81 / 263)
    assert found.low == pytest.approx(0.2553, abs=5e-5) and found.high == pytest.approx(0.3662, abs=5e-5)


def test_items_of_one_cluster_are_one_observation() -> None:
    """Ten copies of every item say no more than one."""
    rng = np.random.default_rng(3)
    truth = rng.integers(0, 2, 40)
    once = scores([item(i, right=float(x)) for i, x in enumerate(truth)], [RIGHT])[0]
    copied = [item(10 * i + k, cluster=str(i), right=float(x)) for i, x in enumerate(truth) for k in range(10)]
    tenfold = scores(copied, [RIGHT])[0]
    assert tenfold.value == once.value and tenfold.n == 400
    width = (once.high or 0) - (once.low or 0)
    assert (tenfold.high or 0) - (tenfold.low or 0) == pytest.approx(width, rel=0.15)


def test_all_right_still_leaves_doubt() -> None:
    items = [item(i, cluster=str(i // 2), right=1.0) for i in range(20)]
    found = scores(items, [RIGHT])[0]
    assert found.high == 1 and found.low == pytest.approx(10 / (10 + 1.959964**2))  # Wilson with ten trials, p = 1


def test_the_bootstrap_covers_a_ratio_about_as_often_as_it_says() -> None:
    rng = np.random.default_rng(5)
    covered = 0
    for trial in range(150):
        n_bytes = rng.integers(50, 200, 30)
        bits = n_bytes * (1.2 + rng.normal(0, 0.3, 30))
        items = [item(i, bits=float(b), bytes=float(n)) for i, (b, n) in enumerate(zip(bits, n_bytes, strict=True))]
        found = scores(items, [BITS], seed=trial)[0]
        covered += (found.low or 0) <= 1.2 <= (found.high or 0)
    assert 132 <= covered <= 149


def test_a_rate_of_few_clusters_stays_between_0_and_1() -> None:
    items = [item(i, cluster=str(i // 4), right=float(i > 2)) for i in range(12)]
    (found,) = scores(items, [RIGHT])
    assert (found.low, found.value, found.high) == (0.0, 0.75, 1.0)


def test_one_cluster_has_no_interval_and_no_items_no_score() -> None:
    found = scores([item(0, "a", right=1.0), item(1, "a", right=0.0)], [RIGHT, PPL])
    assert len(found) == 1 and found[0].value == 0.5
    assert found[0].low is None and found[0].high is None
    assert scores([], [RIGHT]) == ()
    assert scores([item(0, nll=1.0, tokens=0)], [PPL]) == ()


def test_a_metric_counts_only_the_items_that_have_it() -> None:
    items = [item(0, right=1.0), item(1, nll=3.0, tokens=1), item(2, right=1.0)]
    assert [s.n for s in scores(items, [RIGHT, PPL])] == [2, 1]
    assert observed(items, PPL).clusters == ("1",)


def test_the_same_items_give_the_same_interval() -> None:
    items = [item(i, nll=float(i % 7), tokens=3) for i in range(30)]
    assert scores(items, [PPL]) == scores(items, [PPL])
    assert scores([item(i, nll=5000.0, tokens=1) for i in range(3)], [PPL])[0].value < math.inf
