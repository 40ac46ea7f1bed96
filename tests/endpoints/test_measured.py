"""The field's latencies over chunks with known times, worked out by hand."""

from __future__ import annotations

import pytest

from core.endpoints.chunks import Chunk, Timings, Usage
from core.endpoints.measured import measured


def test_one_token_per_chunk_counted_by_the_server() -> None:
    chunks = [
        Chunk(at_s=10.1, tokens=0),  # the role
        Chunk(at_s=11.0, text="a", channel="answer", tokens=1),
        Chunk(at_s=11.2, text="b", channel="answer", tokens=1),
        Chunk(at_s=11.6, text="c", channel="answer", tokens=1),
        Chunk(at_s=11.7, finish_reason="stop", tokens=1),  # the end of the text: a token without text
        Chunk(at_s=11.7, usage=Usage(prompt=9, completion=4, cached=2)),
    ]
    got = measured(chunks, sent_s=10.0, connect_s=0.5)
    assert (got.ttft_s, got.e2e_s) == (pytest.approx(1.0), pytest.approx(1.6))
    assert got.tpot_s == pytest.approx(0.3)  # two tokens behind the first, in 0.6 s
    assert got.icl_s == pytest.approx((0.2, 0.4)) and got.itl_s == got.icl_s
    assert (got.n_tokens, got.counted_by, got.first_tokens, got.n_chunks) == (4, "chunks", 1, 3)
    assert (got.n_prompt, got.cached, got.finish_reason, got.text, got.connect_s) == (9, 2, "stop", "abc", 0.5)


def test_several_tokens_per_chunk_have_no_inter_token_latency() -> None:
    chunks = [Chunk(at_s=t, text="x", channel="answer", tokens=4) for t in (1.0, 1.4, 1.8)]
    got = measured(chunks, sent_s=0.0)
    assert got.n_tokens == 12 and got.first_tokens == 4
    assert got.tpot_s == pytest.approx(0.8 / 8)  # without the first chunk's tokens
    assert got.icl_s == pytest.approx((0.4, 0.4)) and got.itl_s is None


def test_half_a_character_belongs_to_the_chunk_that_shows_it() -> None:
    chunks = [
        Chunk(at_s=1.0, tokens=1),
        Chunk(at_s=1.1, text="é", channel="answer", tokens=1),
        Chunk(at_s=1.3, text="a", channel="answer", tokens=1),
    ]
    got = measured(chunks, sent_s=0.0)
    assert (got.ttft_s, got.first_tokens, got.n_tokens) == (1.1, 2, 3)
    assert got.tpot_s == pytest.approx(0.2)
    assert got.itl_s is None, "two tokens came with the first text"


def test_reasoning_is_text_and_the_answer_has_a_time_of_its_own() -> None:
    chunks = [
        Chunk(at_s=1.0, text="hm", channel="reasoning"),
        Chunk(at_s=3.0, text="yes", channel="answer"),
        Chunk(at_s=3.0, usage=Usage(completion=3, reasoning=2)),
    ]
    got = measured(chunks, sent_s=0.5)
    assert (got.ttft_s, got.answer_s, got.text, got.reasoning) == (0.5, 2.5, "yes", "hm")
    assert (got.n_tokens, got.counted_by, got.first_tokens) == (3, "usage", None)
    assert got.tpot_s == pytest.approx(1.0), "two behind the first, of which one is assumed"
    assert got.itl_s is None, "chunks are no tokens"


def test_the_order_of_those_who_count() -> None:
    plain = Chunk(at_s=1.0, text="ab", channel="answer")
    with_ids = Chunk(at_s=1.0, text="ab", channel="answer", tokens=2, ids=(5, 6))
    usage = Chunk(at_s=1.0, usage=Usage(completion=3))
    server = Chunk(at_s=1.0, timings=Timings(predicted_n=3))
    assert measured([with_ids, usage], 0.0, own_count=9).counted_by == "ids"
    assert measured([plain, usage], 0.0, own_count=9).n_tokens == 3
    assert measured([plain, server], 0.0, own_count=9).counted_by == "usage"
    assert (measured([plain], 0.0, own_count=9).counted_by, measured([plain], 0.0, own_count=9).n_tokens) == (
        "tokenizer",
        9,
    )
    assert (measured([plain], 0.0).counted_by, measured([plain], 0.0).n_tokens) == (None, None)


def test_what_is_not_there_is_none_and_not_zero() -> None:
    got = measured([Chunk(at_s=1.0, finish_reason="stop")], sent_s=0.0)
    assert (got.ttft_s, got.tpot_s, got.e2e_s, got.n_tokens, got.cached, got.n_prompt) == (None,) * 6
    one = measured([Chunk(at_s=1.0, text="a", channel="answer", tokens=1)], sent_s=0.0)
    assert (one.ttft_s, one.tpot_s, one.icl_s) == (1.0, None, ())


def test_the_prompt_of_llama_cpp_is_what_was_read_and_what_was_cached() -> None:
    got = measured([Chunk(at_s=1.0, timings=Timings(prompt_n=1, cached_n=36))], sent_s=0.0)
    assert (got.n_prompt, got.cached) == (37, 36)
