"""OpenAI's bodies as questions: what is understood, what is passed over, and what is refused by name."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest

from core.service import openai_forms as forms
from core.service import strict
from core.service.openai_forms import Chat, Completion, Message, Part, Tokenize
from core.service.problems import ProblemError
from core.service.tally import Histogram, Tally
from core.types import Counts, Generate, Request, Sampling
from core.worker.answering import Ended, Likely

REQUEST = Request(model="m", backend="fake")
USER = [{"role": "user", "content": "Hi"}]


def chat(**fields: Any) -> Chat:
    return strict.read(json.dumps({"messages": USER} | fields).encode(), Chat, strict=False)


def completion(**fields: Any) -> Completion:
    return strict.read(json.dumps({"prompt": "Hi"} | fields).encode(), Completion, strict=False)


def test_a_chat_becomes_the_task_of_a_run() -> None:
    turns = [
        {"role": "developer", "content": "Be brief."},
        {"role": "user", "content": [{"type": "text", "text": "One "}, {"type": "text", "text": "two"}]},
        {"role": "assistant", "content": "three"},
        {"role": "user", "content": "four"},
    ]
    asked = chat(
        messages=turns, max_completion_tokens=7, max_tokens=9, temperature=0.5, top_p=0.9, seed=3, stop="x",
        unknown={"a": 1}, user="somebody", tools=None,
    )  # fmt: skip
    question = forms.of_chat(asked, REQUEST)
    assert question.request.task == Generate(
        prompt="four",
        history=(("user", "One two"), ("assistant", "three")),
        system="Be brief.",
        sampling=Sampling(temperature=0.5, top_p=0.9),
        max_new_tokens=7,
    )
    assert (question.limit, question.seed, question.stop, question.top) == (7, 3, ("x",), None)
    assert question.request.seed == REQUEST.seed, "the model's own seed stays, so that no client's opens it anew"


def test_what_clients_tell_a_template_reaches_it() -> None:
    """As vLLM, SGLang and llama.cpp's server have it."""
    asked = chat(reasoning_effort="low", chat_template_kwargs={"enable_thinking": False})
    task = forms.of_chat(asked, REQUEST).request.task
    assert isinstance(task, Generate)
    assert task.template_values == {"reasoning_effort": "low", "enable_thinking": False}


def test_what_a_client_leaves_out() -> None:
    plain = forms.of_chat(chat(), REQUEST)
    assert plain.limit is None, "as many as there is room for"
    assert isinstance(plain.request.task, Generate)
    assert plain.request.task.system == "" and plain.request.task.sampling.temperature == 0
    assert forms.of_chat(chat(seed=-1), REQUEST).seed >= 0
    (text,) = forms.of_completion(completion(), REQUEST)
    assert text.limit == 16 and isinstance(text.request.task, Generate) and not text.request.task.chat


@pytest.mark.parametrize(
    ("prompt", "found"),
    [("a", ["a"]), ([1, 2], [[1, 2]]), (["a", "b"], ["a", "b"]), ([[1], [2, 3]], [[1], [2, 3]])],
)
def test_prompts_are_texts_or_ids_or_lists_of_them(prompt: Any, found: list[Any]) -> None:
    assert forms.prompts(prompt) == found
    asked = forms.of_completion(completion(prompt=prompt, stop=["a", ""], ignore_eos=True), REQUEST)
    assert [q.ids and list(q.ids) for q in asked] == [p if isinstance(p, list) else None for p in found]
    assert all(q.stop == ("a",) and q.request.task.ignore_eos for q in asked)  # type: ignore[union-attr]


@pytest.mark.parametrize("prompt", [[], [[]], [True], [1, "a"], [1.5], [[1, True]], [{"a": 1}]])
def test_no_prompt(prompt: Any) -> None:
    with pytest.raises(ProblemError) as refused:
        forms.prompts(prompt)
    assert refused.value.status == 400 and refused.value.param == "prompt" and refused.value.hint


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"top_p": 0}, "temperature"),
        ({"max_tokens": -3}, "max_tokens"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"frequency_penalty": 0.5}, "frequency_penalty"),
        ({"logit_bias": {"50256": -100}}, "logit_bias"),
        ({"min_p": 0.05}, "min_p"),
        ({"repetition_penalty": 1.1}, "repetition_penalty"),
        ({"repeat_penalty": 0.9}, "repeat_penalty"),
        ({"stop_token_ids": [2]}, "stop_token_ids"),
        ({"guided_choice": ["yes", "no"]}, "guided_choice"),
        ({"json_schema": {"type": "object"}}, "json_schema"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"chat_template": "{{ messages }}"}, "chat_template"),
        ({"add_generation_prompt": False}, "add_generation_prompt"),
        ({"continue_final_message": True}, "continue_final_message"),
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"logprobs": True, "top_logprobs": 21}, "top_logprobs"),
        ({"min_tokens": 2, "max_tokens": 5}, "min_tokens"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "assistant", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "pirate", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages"),
        ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]}, "messages"),
    ],
)
def test_what_would_change_the_answer_is_refused_by_name(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProblemError) as refused:
        forms.of_chat(chat(**fields), REQUEST)
    assert (refused.value.status, refused.value.param) == (400, param)
    assert refused.value.message.endswith(".") and refused.value.hint


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"suffix": "x"}, "suffix"), ({"best_of": 3}, "best_of"), ({"max_tokens": 0}, "max_tokens")],
)
def test_what_a_completion_refuses(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(ProblemError) as refused:
        forms.of_completion(completion(**fields), REQUEST)
    assert refused.value.param == param
    assert forms.of_completion(completion(max_tokens=0, echo=True, logprobs=1), REQUEST)[0].limit == 0


def test_neutral_values_of_what_we_do_not_know_are_no_reason_to_refuse() -> None:
    forms.of_chat(chat(frequency_penalty=0, presence_penalty=0.0, logit_bias={}, n=1, min_tokens=0), REQUEST)
    forms.of_chat(chat(min_p=0.0, repetition_penalty=1.0, repeat_penalty=1, typical_p=1.0, bad_words=[]), REQUEST)
    forms.of_chat(chat(tools=[]), REQUEST)
    forms.of_chat(chat(tools=[{"type": "function"}], tool_choice="none"), REQUEST)
    whole = forms.of_chat(chat(min_tokens=4, max_tokens=4), REQUEST).request.task
    assert isinstance(whole, Generate) and whole.ignore_eos


def test_how_an_answer_is_shown() -> None:
    assert not forms.show(chat(), "m").streamed
    every = forms.show(chat(stream=True, stream_options={"continuous_usage_stats": True}), "m")
    assert every.streamed and every.usage and every.every
    with pytest.raises(ProblemError, match="for streams"):
        forms.show(chat(stream_options={"include_usage": True}), "m")
    with pytest.raises(ProblemError, match="not streamed"):
        forms.show(chat(stream=True, logprobs=True), "m")
    with pytest.raises(ProblemError, match="not streamed"):
        forms.show(completion(stream=True, logprobs=0), "m")


def test_a_text_to_tokenize_is_named_once() -> None:
    assert forms.of_tokenize(Tokenize(prompt="a", add_special_tokens=False), REQUEST).opening is False
    assert forms.of_tokenize(Tokenize(content="a"), REQUEST).opening
    words = Message(role="user", content=[Part(type="text", text="Hi")])
    task = forms.of_tokenize(Tokenize(messages=[words]), REQUEST).request.task
    assert isinstance(task, Generate) and task.chat and task.prompt == "Hi"
    for form in (Tokenize(), Tokenize(prompt="a", messages=[words])):
        with pytest.raises(ProblemError):
            forms.of_tokenize(form, REQUEST)


def test_log_probabilities_in_both_forms() -> None:
    likely = (
        Likely(id=1, text="a", logprob=None, top=()),
        Likely(id=2, text="é", logprob=-1.5, top=((" b", -0.5), ("é", -1.5)), at=1),
        Likely(id=3, text="�", logprob=-3.0, top=(("�", -0.25),), at=2),
    )
    found = forms.completion_logprobs(likely)
    assert found == {
        "tokens": ["a", "é", "�"],
        "token_logprobs": [None, -1.5, -3.0],
        "top_logprobs": [None, {" b": -0.5, "é": -1.5}, {"�": -0.25}],
        "text_offset": [0, 1, 2],
    }, "of two tokens with one text the likelier keeps it, so that nobody takes the other for greedy"
    rows = forms.chat_logprobs(likely[1:2])
    assert rows is not None and rows["content"][0]["bytes"] == [0xC3, 0xA9]
    part = forms.chat_logprobs(likely[2:])
    assert part is not None and part["content"][0]["bytes"] is None, "which bytes of a character it has is not known"
    assert [top["token"] for top in rows["content"][0]["top_logprobs"]] == [" b", "é"]
    assert forms.chat_logprobs(None) is None and forms.completion_logprobs(None) is None


def test_timings_say_how_many_forwards_there_were() -> None:
    ended = Ended(
        finish="length", text="", n_prompt=5, n_tokens=9, ttft_s=0.25, seconds=0.5,
        counts=Counts(tokens=9, forwards=4), n_guessed=24, n_right=6,
    )  # fmt: skip
    assert forms.timings(ended) == {
        "cache_n": 0, "prompt_n": 5, "prompt_ms": 250.0, "predicted_n": 9, "predicted_ms": 500.0, "n_forward": 4,
        "draft_n": 24, "draft_n_accepted": 6,
    }  # fmt: skip
    assert "draft_n" not in forms.timings(msgspec.structs.replace(ended, n_guessed=0, n_right=0))


def test_a_histogram_counts_what_lies_below_each_bound() -> None:
    histogram = Histogram((0.1, 1.0))
    for value in (0.05, 0.1, 0.5, 7.0):
        histogram.add(value)
    assert histogram.lines("x") == [
        'x_bucket{le="0.1"} 2', 'x_bucket{le="1"} 3', 'x_bucket{le="+Inf"} 4', "x_sum 7.65", "x_count 4",
    ]  # fmt: skip
    text = Tally().text(1, 2)
    assert "roofscope:num_requests_running 1\n" in text and "roofscope:num_requests_waiting 2\n" in text
    assert all(line.startswith(("#", "roofscope:")) for line in text.splitlines())
