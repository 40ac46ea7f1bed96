"""What one event says, for the answers of every server."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from typing import Any

import pytest

from core.endpoints.chunks import Chunk, Reader, Timings, Usage
from core.types import to_json


def read(*events: dict[str, Any] | tuple[str, dict[str, Any]]) -> list[Chunk]:
    reader = Reader()
    named = [e if isinstance(e, tuple) else ("", e) for e in events]
    return [chunk for name, found in named for chunk in reader.read(found, name, 1.0)]


def chat(delta: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"choices": [{"index": 0, "delta": delta, "finish_reason": None}], **more}


def test_an_empty_content_beside_a_role_is_no_text() -> None:
    for content in ("", None):
        (chunk,) = read(chat({"role": "assistant", "content": content}))
        assert (chunk.text, chunk.channel, chunk.tokens) == ("", None, None)


@pytest.mark.parametrize("field", ["reasoning_content", "reasoning", "thinking"])
def test_the_channels(field: str) -> None:
    got = read(
        chat({field: "hm", "content": "yes"}), chat({"tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]})
    )
    assert [(c.text, c.channel) for c in got] == [("hm", "reasoning"), ("yes", "answer"), ("f{}", "tool")]


def test_continuous_usage_is_the_count_of_each_chunk() -> None:
    running = [chat({"content": "x"}, usage={"completion_tokens": n, "prompt_tokens": 5}) for n in (4, 8, 9)]
    got = read(*running, {"choices": [], "usage": {"completion_tokens": 9, "prompt_tokens": 5}})
    assert [c.tokens for c in got] == [4, 4, 1, None]
    assert got[-1].usage == Usage(prompt=5, completion=9)


def test_a_total_beside_the_last_piece_is_not_the_count_of_that_piece() -> None:
    got = read(chat({"content": "x"}), chat({"content": "y"}, usage={"completion_tokens": 9}))
    assert [c.tokens for c in got] == [None, None]


def test_timings_per_token_of_llama_cpp() -> None:
    timings = {"cache_n": 3, "prompt_n": 7, "prompt_ms": 250.0, "predicted_n": 2, "predicted_ms": 40.0, "draft_n": 8}
    got = read(
        chat({"role": "assistant", "content": None}, prompt_progress={"total": 7, "cache": 0}),
        chat({"content": "a"}, timings={"predicted_n": 1}),
        chat({"content": "b"}, timings=timings),
    )
    assert [c.tokens for c in got] == [None, 1, 1]
    assert got[-1].timings == Timings(
        prompt_n=7, prompt_s=0.25, predicted_n=2, predicted_s=0.04, cached_n=3, drafted_n=8
    )


def test_completion_of_llama_cpp_gives_ids() -> None:
    got = read(
        {"content": " Paris", "tokens": [7042], "stop": False},
        {"content": "", "tokens": [], "stop": True, "stop_type": "limit", "timings": {"predicted_n": 1}},
    )
    assert [(c.text, c.tokens, c.ids, c.finish_reason) for c in got] == [
        (" Paris", 1, (7042,), None),
        ("", None, None, "length"),
    ]


def test_ollama_counts_in_nanoseconds_and_its_prompt_duration_lacks_the_cached_tokens() -> None:
    last = {
        "model": "m",
        "done": True,
        "done_reason": "length",
        "total_duration": 3_000_000_000,
        "load_duration": 1_000_000_000,
        "prompt_eval_count": 30,
        "prompt_eval_duration": 500_000_000,
        "eval_count": 12,
        "eval_duration": 1_200_000_000,
    }
    got = read(
        {"message": {"role": "assistant", "content": "", "thinking": "hm"}, "done": False},
        {"message": {"role": "assistant", "content": "yes"}, "done": False},
        {"response": "no", "done": False},
        last,
    )
    assert [(c.text, c.channel) for c in got] == [("hm", "reasoning"), ("yes", "answer"), ("no", "answer"), ("", None)]
    assert got[-1].usage == Usage(prompt=30, completion=12)
    assert got[-1].timings == Timings(prompt_s=0.5, predicted_n=12, predicted_s=1.2, load_s=1.0, total_s=3.0)


def test_named_events_of_lm_studio() -> None:
    stats = {
        "input_tokens": 4,
        "total_output_tokens": 10,
        "tokens_per_second": 5.0,
        "time_to_first_token_seconds": 0.25,
    }
    got = read(
        ("chat.start", {"type": "chat.start"}),
        ("prompt_processing.progress", {"progress": 0.5}),
        ("reasoning.delta", {"content": "hm"}),
        ("message.delta", {"content": "yes"}),
        ("chat.end", {"result": {"stats": stats}}),
    )
    assert [(c.text, c.channel) for c in got if c.text] == [("hm", "reasoning"), ("yes", "answer")]
    assert got[-1].timings == Timings(predicted_n=10, predicted_s=2.0, ttft_s=0.25)
    assert got[-1].usage == Usage(prompt=4, completion=10)


ODD = (
    *(None, True, -1, 0, 2**63, 10**400, 1e300, float("inf"), float("nan"), -0.5, "", "x", "5", "\0"),
    *([], {}, [[[]]], [0], {"a": 1}),
)
EVENTS: tuple[dict[str, Any], ...] = (
    chat({"content": "x", "reasoning_content": "r", "tool_calls": [{"function": {"name": "f", "arguments": "{}"}}]},
         usage={"prompt_tokens": 3, "completion_tokens": 4, "prompt_tokens_details": {"cached_tokens": 1}},
         timings={"prompt_n": 3, "prompt_ms": 1.5, "predicted_n": 4, "predicted_ms": 2.5, "draft_n": 2}),
    {"choices": [{"text": "x", "token_ids": [1, 2], "finish_reason": "stop"}], "metrics": {"queue_time_ms": 1}},
    {"content": "x", "tokens": [1], "stop": True, "timings": {"predicted_ms": 1}},
    {"message": {"content": "x", "thinking": "t"}, "done": True, "eval_count": 4, "eval_duration": 6},
    {"response": "x", "done": False, "prompt_eval_duration": 5},
    {"predictions": [{"content": "x"}]},
    {"result": {"stats": {"total_output_tokens": 4, "tokens_per_second": 2.0}}, "model": "m"},
)  # fmt: skip


def test_whatever_an_event_holds_it_is_read_and_can_be_written() -> None:
    rng = random.Random(1)
    for event in EVENTS:
        for way in places(event):
            for odd in ODD:
                made = json.loads(json.dumps(event))
                at = made
                for key in way[:-1]:
                    at = at[key]
                at[way[-1]] = odd
                assert to_json(read(made, (rng.choice(("chat.end", "error", "message.delta")), made)))


def places(part: Any) -> Iterator[tuple[Any, ...]]:
    """The way to every value of JSON."""
    for key, value in part.items() if isinstance(part, dict) else enumerate(part):
        yield (key,)
        if isinstance(value, dict | list):
            yield from ((key, *way) for way in places(value))


def test_what_makes_no_sense_is_not_measured() -> None:
    got = read(chat({"content": ["x", {"text": "y"}]}, usage={"completion_tokens": -1, "prompt_tokens": True}))
    assert (got[0].text, got[0].tokens, got[0].usage) == ("y", None, Usage())
    assert read({"choices": "?"})[0].text == ""
