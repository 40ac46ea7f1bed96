"""OpenAI's bodies as questions, and answers in OpenAI's form. Pure functions; no route, no process.

Fields that we do not know are passed over, as every server of this kind does. Those that would change the answer and
cannot be honoured are refused by name: an answer that only looks as asked for is worse than none.
"""

from __future__ import annotations

import secrets
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from core.service.problems import ProblemError
from core.types import Generate, Record, Request, Sampling
from core.worker.answering import Ended, Likely, Question

MOST_TOP = 20
ROLES = ("system", "developer", "user", "assistant", "tool")
COMPLETION_TOKENS = 16  # OpenAI's default of /v1/completions


class Part(Record):
    type: str
    text: str = ""


class Message(Record):
    role: str
    content: str | list[Part] | None = None


class StreamOptions(Record):
    include_usage: bool | None = None
    continuous_usage_stats: bool | None = None


# OpenAI's, vLLM's, SGLang's and llama.cpp's fields that change an answer, with the value that asks for nothing
UNKNOWN = {
    **dict.fromkeys(("presence_penalty", "frequency_penalty", "min_p", "dry_multiplier", "mirostat"), 0),
    **dict.fromkeys(("repetition_penalty", "repeat_penalty", "typical_p"), 1),
    **dict.fromkeys(("logit_bias", "use_beam_search", "stop_token_ids", "bad_words", "grammar", "json_schema")),
    **dict.fromkeys(("guided_json", "guided_regex", "guided_choice", "guided_grammar", "structured_outputs")),
}


class Asked(Record):
    """What both bodies have."""

    model: str | None = None
    max_tokens: int | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    seed: int | None = None
    stop: str | list[str] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    n: int | None = None
    ignore_eos: bool | None = None
    min_tokens: int | None = None
    presence_penalty: float | None = None
    frequency_penalty: float | None = None
    logit_bias: dict[str, Any] | None = None
    min_p: float | None = None
    typical_p: float | None = None
    repetition_penalty: float | None = None
    repeat_penalty: float | None = None
    dry_multiplier: float | None = None
    mirostat: int | None = None
    use_beam_search: bool | None = None
    stop_token_ids: list[int] | None = None
    bad_words: list[str] | None = None
    grammar: str | None = None
    json_schema: Any = None
    guided_json: Any = None
    guided_regex: str | None = None
    guided_choice: list[str] | None = None
    guided_grammar: str | None = None
    structured_outputs: dict[str, Any] | None = None
    timings_per_token: bool | None = None
    return_token_ids: bool | None = None


class Chat(Asked, kw_only=True):
    """POST /v1/chat/completions"""

    messages: list[Message]
    max_completion_tokens: int | None = None
    logprobs: bool | None = None
    top_logprobs: int | None = None
    response_format: dict[str, Any] | None = None
    tools: list[Any] | None = None
    tool_choice: Any = None
    chat_template: str | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    reasoning_effort: str | None = None
    add_generation_prompt: bool | None = None
    continue_final_message: bool | None = None


class Completion(Asked, kw_only=True):
    """POST /v1/completions. prompt: a text, ids, or a list of one of them."""

    prompt: str | list[Any]
    logprobs: int | bool | None = None
    echo: bool | None = None
    best_of: int | None = None
    suffix: str | None = None


class Tokenize(Record):
    """POST /tokenize: a text (prompt, or llama.cpp's content) or a dialogue."""

    model: str | None = None
    prompt: str | None = None
    content: str | None = None
    messages: list[Message] | None = None
    add_special_tokens: bool | None = None


class Detokenize(Record):
    """POST /detokenize"""

    tokens: list[int]
    model: str | None = None


class Show(Record):
    """How an answer is shown. streamed: step by step. usage: at the end of a stream; every: in each of its chunks."""

    name: str
    streamed: bool
    usage: bool
    every: bool
    timings: bool
    ids: bool


# ---------------------------------------------------------------- bodies to questions


def of_chat(form: Chat, request: Request) -> Question:
    """Raises ProblemError for what cannot be answered."""
    limit = form.max_tokens if form.max_completion_tokens is None else form.max_completion_tokens
    if limit == 0:
        raise _no("max_tokens", "No tokens are asked for", "Ask for at least one.")
    if form.response_format is not None and form.response_format.get("type", "text") != "text":
        raise _no("response_format", "Answers are plain text here", "Leave it out.")
    if form.tools and form.tool_choice != "none":
        raise _no("tools", "No tools are called here", "Leave them out, or set tool_choice to none.")
    if form.chat_template:
        raise _no("chat_template", "The model's own chat template is used here", "Leave it out.")
    if form.add_generation_prompt is False or form.continue_final_message:
        name = "add_generation_prompt" if form.add_generation_prompt is False else "continue_final_message"
        raise _no(name, "An answer begins with a turn of its own here", "Leave it out.")
    if form.top_logprobs and not form.logprobs:
        raise _no("top_logprobs", "top_logprobs needs logprobs", "Set logprobs to true.")
    top = _top(form.top_logprobs or 0, "top_logprobs") if form.logprobs else None
    effort = {} if form.reasoning_effort is None else {"reasoning_effort": form.reasoning_effort}
    values = effort | (form.chat_template_kwargs or {})
    task = msgspec.structs.replace(dialogue(form.messages), template_values=values)
    return _question(form, request, task, limit, top)


def of_completion(form: Completion, request: Request) -> tuple[Question, ...]:
    """One question for each prompt. Raises ProblemError."""
    if form.suffix:
        raise _no("suffix", "Nothing is filled in before a suffix here", "Leave it out.")
    if form.best_of not in (None, 1):
        raise _no("best_of", "One answer is given to a prompt", "Leave it out.")
    top = None
    if form.logprobs is not None and form.logprobs is not False:
        top = _top(int(form.logprobs), "logprobs")
    limit = COMPLETION_TOKENS if form.max_tokens is None else form.max_tokens
    if limit == 0 and not form.echo:
        raise _no("max_tokens", "No tokens are asked for", "Ask for at least one, or for an echo.")
    found = []
    for prompt in prompts(form.prompt):
        text = prompt if isinstance(prompt, str) else None
        question = _question(form, request, Generate(prompt=text, chat=False), limit, top)
        ids = None if text is not None else tuple(prompt)
        found.append(msgspec.structs.replace(question, ids=ids, echo=bool(form.echo)))
    return tuple(found)


def prompts(given: str | Sequence[Any]) -> list[Any]:
    """Each prompt as a text or a list of ids. Raises ProblemError."""
    if isinstance(given, str):
        return [given]
    if given and all(_is_id(i) for i in given):
        return [given]
    if given and all(isinstance(p, str) or (isinstance(p, list) and p and all(map(_is_id, p))) for p in given):
        return list(given)
    raise _no("prompt", "A prompt is a text, a list of token ids, or a list of these", "Send one of them.")


def dialogue(messages: Sequence[Message]) -> Generate:
    """The task that a dialogue is. Its system message is ours: an empty one where none is given (docs/README.md)."""
    turns = [(m.role, text_of(m)) for m in messages]
    if wrong := next((role for role, _ in turns if role not in ROLES), None):
        raise _no("messages", f"There is no role '{wrong[:40]}'", f"Roles are {', '.join(ROLES)}.")
    turns = [("system" if role == "developer" else role, text) for role, text in turns]
    system = turns.pop(0)[1] if turns and turns[0][0] == "system" else ""
    if not turns or turns[-1][0] not in ("user", "tool"):
        raise _no("messages", "The last message is not the user's", "End the dialogue with what is to be answered.")
    if turns[-1][0] == "tool":
        raise _no("messages", "Answers of tools are not understood here", "Send them as the user's words.")
    return Generate(prompt=turns[-1][1], history=tuple(turns[:-1]), system=system)


def text_of(message: Message) -> str:
    """The words of a message whose content is a text or a list of texts. Raises ProblemError for images and sound."""
    if message.content is None or isinstance(message.content, str):
        return message.content or ""
    if other := next((part.type for part in message.content if part.type != "text"), None):
        raise _no("messages", f"Content of type '{other[:40]}' is not understood here", "Send text.")
    return "".join(part.text for part in message.content)


def of_tokenize(form: Tokenize, request: Request) -> Question:
    """Raises ProblemError."""
    text = form.prompt if form.prompt is not None else form.content
    if (text is None) == (form.messages is None):
        raise _no("prompt", "There is no text to tokenize, or there are two", "Send prompt or messages.")
    task = Generate(prompt=text, chat=False) if form.messages is None else dialogue(form.messages)
    task = msgspec.structs.replace(task, max_new_tokens=1)
    asked = msgspec.structs.replace(request, task=task)
    return Question(request=asked, do="encode", opening=form.add_special_tokens is not False)


def show(form: Asked, name: str) -> Show:
    """How a client wants its answer. Raises ProblemError for stream_options without a stream."""
    if form.stream_options is not None and not form.stream:
        raise _no("stream_options", "stream_options are for streams", "Set stream to true, or leave them out.")
    likely = getattr(form, "logprobs", None)
    if form.stream and likely is not None and likely is not False:  # 0 asks for them, without alternatives
        raise _no(
            "logprobs",
            "Log-probabilities are known when the answer is whole, and are not streamed",
            "Leave out stream or logprobs.",
        )
    options = form.stream_options or StreamOptions()
    every = bool(options.continuous_usage_stats)
    return Show(
        name=name,
        streamed=bool(form.stream),
        usage=bool(options.include_usage) or every,
        every=every,
        timings=bool(form.timings_per_token),
        ids=bool(form.return_token_ids),
    )


def _question(form: Asked, request: Request, task: Generate, limit: int | None, top: int | None) -> Question:
    if form.n not in (None, 1):
        raise _no("n", "One answer is given to a prompt", "Set n to 1.")
    for name, neutral in UNKNOWN.items():
        if (value := getattr(form, name)) and value != neutral:
            raise _no(name, f"{name} is not known here", "Leave it out.")
    if limit is not None and not 0 <= limit <= 1_000_000:
        raise _no("max_tokens", f"max_tokens is {limit}", "Ask for 1 to 1000000 tokens.")
    least = form.min_tokens or 0
    if least not in (0, limit):
        raise _no("min_tokens", "An answer may end early, or is as long as max_tokens", "Set both to the same.")
    temperature, top_p = form.temperature or 0.0, form.top_p
    if temperature < 0 or not 0 < (1.0 if top_p is None else top_p) <= 1 or (form.top_k or 0) < -1:
        raise _no("temperature", "The sampling settings are out of range", "0 <= temperature, 0 < top_p <= 1.")
    sampling = Sampling(temperature=temperature, top_p=top_p, top_k=form.top_k if (form.top_k or 0) > 0 else None)
    stop = (form.stop,) if isinstance(form.stop, str) else tuple(form.stop or ())
    whole = bool(form.ignore_eos) or (limit is not None and 0 < least == limit)
    task = msgspec.structs.replace(task, sampling=sampling, ignore_eos=whole, max_new_tokens=limit or 1)
    seed = form.seed
    if seed is None or seed < 0:  # drawn where it draws; what a greedy answer guesses with stays the same
        seed = secrets.randbits(32) if temperature > 0 else 0
    return Question(
        request=msgspec.structs.replace(request, task=task),
        limit=limit,
        stop=tuple(text for text in stop if text),
        seed=seed,
        top=top,
    )


def _top(n: int, name: str) -> int:
    if not 0 <= n <= MOST_TOP:
        raise _no(name, f"{name} is {n}", f"Ask for 0 to {MOST_TOP}.")
    return n


def _is_id(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _no(param: str, why: str, hint: str) -> ProblemError:
    return ProblemError(400, f"{why}.", hint, param=param)


# ---------------------------------------------------------------- answers in OpenAI's form


def usage(n_prompt: int, n_tokens: int) -> dict[str, Any]:
    """Tokens, as the model counts them. Nothing of a prompt is ever cached from an earlier one."""
    return {
        "prompt_tokens": n_prompt,
        "completion_tokens": n_tokens,
        "total_tokens": n_prompt + n_tokens,
        "prompt_tokens_details": {"cached_tokens": 0},
    }


def timings(ended: Ended) -> dict[str, Any]:
    """llama.cpp's names, and n_forward: forward passes of the model for prompt and answer.

    prompt_ms: of the steps to the first token; predicted_ms: of those after it.
    """
    found: dict[str, Any] = {
        "cache_n": 0,
        "prompt_n": ended.n_prompt,
        "prompt_ms": 1e3 * ended.ttft_s,
        "predicted_n": ended.n_tokens,
        "predicted_ms": 1e3 * ended.seconds,
        "n_forward": ended.counts.forwards,
    }
    if ended.n_guessed:
        found |= {"draft_n": ended.n_guessed, "draft_n_accepted": ended.n_right}
    return found


def chat_logprobs(likely: Sequence[Likely] | None) -> dict[str, Any] | None:
    """choices[].logprobs of a chat. bytes: None for a token that is a part of a character."""
    if likely is None:
        return None

    def one(text: str, logprob: float) -> dict[str, Any]:
        return {"token": text, "logprob": logprob, "bytes": None if "\ufffd" in text else list(text.encode())}

    rows = [one(x.text, x.logprob or 0.0) | {"top_logprobs": [one(*top) for top in x.top]} for x in likely]
    return {"content": rows, "refusal": None}


def completion_logprobs(likely: Sequence[Likely] | None) -> dict[str, Any] | None:
    """choices[].logprobs of a completion: lists over the tokens; the token itself is always among its alternatives.

    Different tokens may have the same text; the likelier one then keeps it.
    """
    if likely is None:
        return None
    tops: list[dict[str, float] | None] = []
    for x in likely:
        if x.logprob is None:
            tops.append(None)
            continue
        top: dict[str, float] = {}
        for text, logprob in (*x.top, (x.text, x.logprob)):
            top.setdefault(text, logprob)
        tops.append(top)
    return {
        "tokens": [x.text for x in likely],
        "token_logprobs": [x.logprob for x in likely],
        "top_logprobs": tops,
        "text_offset": [x.at for x in likely],
    }


def model_row(name: str, request: Request, created_s: int) -> Mapping[str, Any]:
    """A line of GET /v1/models."""
    return {"id": name, "object": "model", "created": created_s, "owned_by": "roofscope", "root": request.model}
