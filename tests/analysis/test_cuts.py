"""The shapes of a space, the additive estimate, and which of them are worth a look, by hand."""

from __future__ import annotations

import pytest

from core.analysis.cuts import (
    Cut,
    Space,
    dropped,
    estimate,
    extremes,
    peeled,
    shapes,
    singles,
    spread,
    stratified,
    union,
)
from core.models.cut_spec import check_cuttable, cut_spec
from core.models.spec import from_config
from hardware.errors import ExplorerError

WHOLE = Cut(blocks=4, d_ff=96, kv_heads=2, queries=2)
CONFIG = {
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
}


def test_the_space_is_every_combination_with_the_whole_first() -> None:
    found = shapes(WHOLE, Space(deepest=1, narrowest=0.5, step=32, kv_heads=1, queries=1))
    assert len(found) == 2 * 2 * 2 * 2 == len({c.id for c in found}) and found[0] == WHOLE
    assert {c.d_ff for c in found} == {96, 64} and WHOLE.id == "b4-f96-kv2-q2"
    assert WHOLE.label == "4 blocks · MLP 96 · 4/2 heads"
    with pytest.raises(ExplorerError, match="nothing but the whole"):
        shapes(WHOLE, Space(deepest=0, narrowest=1.0, kv_heads=0, queries=0))
    with pytest.raises(ExplorerError, match="at most 5,000"):
        shapes(Cut(blocks=40, d_ff=20_000, kv_heads=2, queries=2), Space(step=1))


def test_the_shallowest_and_the_narrowest() -> None:
    whole = Cut(blocks=30, d_ff=1536, kv_heads=3, queries=3)
    shallow, narrow = extremes(whole, Space(deepest=8, narrowest=1 / 3, step=128))
    assert (shallow.id, narrow.id) == ("b22-f1536-kv3-q3", "b30-f512-kv3-q3")
    assert extremes(whole, Space(deepest=0, narrowest=1 / 3, step=128)) == (narrow,), "none that is the whole model"


def test_one_at_a_time_and_their_sum() -> None:
    found = shapes(WHOLE, Space(deepest=2, narrowest=0.5, step=32, kv_heads=1, queries=0))
    alone = singles(WHOLE, found)
    assert alone == {
        "d_ff/64": Cut(blocks=4, d_ff=64, kv_heads=2, queries=2),
        "kv_heads/1": Cut(blocks=4, d_ff=96, kv_heads=1, queries=2),
    }
    influence = [0.9, 0.1, 0.3, 0.2]
    assert dropped(influence, 2) == (1, 3)
    scores = {"block/1": 0.5, "block/3": 0.25, "d_ff/64": 1.0, "kv_heads/1": 2.0}
    assert estimate(WHOLE, Cut(blocks=2, d_ff=64, kv_heads=2, queries=2), influence, scores) == 1.75
    assert estimate(WHOLE, Cut(blocks=3, d_ff=96, kv_heads=1, queries=2), influence, scores) == 2.5
    assert estimate(WHOLE, WHOLE, influence, {}) == 0.0


def test_a_spread_covers_the_costs_and_takes_nothing_that_is_beaten() -> None:
    costs = {"a": 1.0, "b": 1.2, "c": 2.1, "d": 3.0, "e": 2.9}
    losses = {"a": 5.0, "b": 4.0, "c": 4.5, "d": 1.0, "e": 2.0, "unknown": 0.0}
    assert spread(costs, losses, 3) == ("b", "d"), "c is dearer than b and loses more"
    assert peeled(costs, losses, 3) == ("b", "d", "a") and peeled(costs, losses, 9) == ("b", "d", "a", "c", "e")
    assert spread(costs, losses, 1) == ("d",) and spread({}, losses, 3) == () and spread(costs, losses, 0) == ()


def test_turns_and_strata() -> None:
    assert union((("a", "b", "c"), ("b", "d")), 3) == ("a", "b", "d")
    sizes = {name: float(i) for i, name in enumerate("abcdefgh")}
    found = stratified(sizes, 4, seed=1)
    assert len(found) == 4 and all("abcdefgh".index(n) // 2 == i for i, n in enumerate(found))
    assert stratified(sizes, 4, seed=1) == found and stratified(sizes, 20, seed=1) == tuple("abcdefgh")
    assert stratified({}, 3, seed=1) == ()


def test_the_architecture_of_a_shape_by_hand() -> None:
    parent = from_config(CONFIG, "parent")
    same = cut_spec(parent, 4, 96, 2, 2)
    assert same.n_params == parent.n_params and same.dtype == "bf16" and same.weight_bytes == 2 * parent.n_params
    cut = cut_spec(parent, 3, 64, 1, 2)
    # three blocks: q and o of 64 x 32, k and v of 64 x 16, three MLP matrices of 64 x 64, two norms of 64
    block = 2 * 64 * 32 + 2 * 64 * 16 + 3 * 64 * 64 + 2 * 64
    assert cut.n_params == 320 * 64 + 3 * block + 64 and cut.n_blocks == 3 and cut.name == "parent"
    biased = from_config({**CONFIG, "attention_bias": True}, "biased")
    assert cut_spec(biased, 4, 96, 2, 2).n_params == biased.n_params
    check_cuttable(parent)
    gpt2 = {"model_type": "gpt2", "n_layer": 2, "n_embd": 64, "n_head": 4, "vocab_size": 320, "n_positions": 96}
    with pytest.raises(ExplorerError, match="no blocks of Llama's kind"):
        check_cuttable(from_config(gpt2))
