"""Percentiles of many items together, from their sketches, against NumPy's over the pooled values."""

from __future__ import annotations

import msgspec
import numpy as np
import pytest

from core.stats.paired import compare
from core.stats.scores import scores
from core.types import Item, Metric
from core.types.sketch import quantile, sketch, together

P99 = Metric(name="kl_p99", label="KL, 99th percentile", value="kl", kind="p99", better="lower", unit="nat")
RNG = np.random.default_rng(3)
# forty texts, one of which is another matter: the mean of their percentiles is far from the percentile of all
TEXTS = [np.exp(RNG.normal(-6, 2, 250)) for _ in range(39)] + [np.exp(RNG.normal(1, 1, 250))]


def item(number: int, values: np.ndarray) -> Item:
    return Item(t_s=0.0, id=f"{number}", cluster=f"{number}", values={}, sketches={"kl": sketch(values)})


@pytest.mark.parametrize("share", [0.05, 0.5, 0.9, 0.99, 0.999])
def test_a_quantile_of_sketches_put_together_is_numpys_of_the_pooled_values(share: float) -> None:
    pooled = np.concatenate(TEXTS)
    found = quantile(together(sketch(text) for text in TEXTS), share)
    assert found == pytest.approx(np.quantile(pooled, share, method="inverted_cdf"), rel=0.005)


def test_the_score_is_over_all_tokens_and_not_a_mean_over_texts() -> None:
    (score,) = scores([item(i, text) for i, text in enumerate(TEXTS)], (P99,))
    assert score.value == pytest.approx(np.percentile(np.concatenate(TEXTS), 99, method="inverted_cdf"), rel=0.005)
    assert abs(score.value / np.mean([np.percentile(text, 99) for text in TEXTS]) - 1) > 0.5
    assert score.low is not None and score.high is not None and score.low < score.value < score.high
    assert score.n == len(TEXTS)


def test_its_interval_covers_the_percentile_of_the_texts_distribution() -> None:
    """Thirty sets of thirty equal texts: the interval of most of them holds the true percentile."""
    rng, truth, hits = np.random.default_rng(11), float(np.exp(2.3263479)), 0
    for _ in range(30):
        texts = [np.exp(rng.normal(0, 1, 200)) for _ in range(30)]
        (score,) = scores([item(i, text) for i, text in enumerate(texts)], (P99,))
        assert score.low is not None and score.high is not None
        hits += score.low <= truth <= score.high
    assert hits >= 25


def test_few_texts_zeros_and_old_items() -> None:
    (alone,) = scores([item(0, TEXTS[0])], (P99,))
    assert alone.low is None and alone.value > 0
    assert quantile(sketch([0.0, 0.0, -1e-12]), 0.99) == 0.0, "rounding below zero is zero"
    old = Item(t_s=0.0, id="a", cluster="a", values={"kl": 3.0})
    assert scores([old], (P99,)) == ()
    with pytest.raises(ValueError, match="percentile"):
        compare(P99, [old], [old])


def test_a_sketch_survives_a_runs_file() -> None:
    there = item(0, TEXTS[0])
    again = msgspec.json.decode(msgspec.json.encode(there), type=Item)
    assert again.sketches == there.sketches
    assert len(msgspec.json.encode(there.sketches)) < 4000
