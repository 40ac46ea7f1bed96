"""What the events of an answer say, whatever the server: text and its channel, tokens, usage, timings.

Knows the answers of OpenAI's chat and text completions with the fields that llama.cpp, vLLM, SGLang and TGI add, of
llama.cpp's /completion, of Ollama's own API, of LM Studio's, and of Vertex AI's predict. A field that a server leaves
out is None, never 0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from core.types import Record

Channel = Literal["answer", "reasoning", "tool"]


class Usage(Record):
    """Tokens as the server counts them. completion: reasoning included. cached: of the prompt, not read again."""

    prompt: int | None = None
    completion: int | None = None
    cached: int | None = None
    reasoning: int | None = None


class Timings(Record):
    """The server's own account of a request. prompt_s covers the tokens that were read, predicted_s those behind the
    first one (llama.cpp); steps = predicted − accepted."""

    prompt_n: int | None = None
    prompt_s: float | None = None
    predicted_n: int | None = None
    predicted_s: float | None = None
    cached_n: int | None = None
    drafted_n: int | None = None
    accepted_n: int | None = None
    load_s: float | None = None
    queue_s: float | None = None
    ttft_s: float | None = None
    total_s: float | None = None


class Chunk(Record):
    """A piece of an answer. at_s: when the read that carried it returned; pieces of one read share it.

    tokens: how many it holds, where the server says so exactly. ids: theirs. A chunk without text may have tokens
    (half a character, an end of text), usage or timings.
    """

    at_s: float
    text: str = ""
    channel: Channel | None = None
    tokens: int | None = None
    ids: tuple[int, ...] | None = None
    finish_reason: str | None = None
    usage: Usage | None = None
    timings: Timings | None = None
    model: str | None = None


class Reader:
    """The payloads of one answer, in order. done: whether the server has said that it is complete."""

    def __init__(self) -> None:
        self.done = False
        self._counted = 0
        self._uncounted = False  # a piece of text came without its count

    def read(self, found: Mapping[str, Any], name: str, at_s: float) -> Iterator[Chunk]:
        """The chunks of one event, of which most have one."""
        if "predictions" in found:
            yield from self.read(_predicted(found["predictions"]), "", at_s)
            return
        if name and _lm_studio_event(name):
            pieces, usage, timings, finish = self._lm_studio(found, name)
            ids = None
        elif "choices" in found:
            pieces, finish, ids = self._openai(found)
            usage, timings = _usage(found.get("usage")), _llama_timings(found.get("timings")) or _metrics(found)
        elif "done" in found:
            pieces, finish, ids = self._ollama(found)
            usage, timings = _ollama_usage(found), _ollama_timings(found)
        elif "content" in found or "stop" in found:
            pieces, finish, ids = self._completion(found)
            usage, timings = None, _llama_timings(found.get("timings"))
        else:  # vLLM and others may send usage alone
            pieces, finish, ids = [], None, None
            usage, timings = _usage(found.get("usage")), _llama_timings(found.get("timings"))
        if finish is not None:
            self.done = True
        tokens = self._new_tokens(usage, timings, ids, bool(found.get("choices")))
        self._uncounted |= tokens is None and bool(pieces)
        model = found.get("model") if isinstance(found.get("model"), str) else None
        rest: list[tuple[str, Channel | None]] = [*pieces] or [("", None)]
        for text, channel in rest[:-1]:  # one delta with two channels: its tokens go with the later one
            yield Chunk(at_s=at_s, text=text, channel=channel, tokens=0 if tokens is not None else None)
        text, channel = rest[-1]
        yield Chunk(
            at_s=at_s,
            text=text,
            channel=channel,
            tokens=tokens,
            ids=ids,
            finish_reason=finish,
            usage=usage,
            timings=timings,
            model=model,
        )

    def _new_tokens(
        self, usage: Usage | None, timings: Timings | None, ids: tuple[int, ...] | None, has_choice: bool
    ) -> int | None:
        """Tokens since the last count. A running count stands beside a choice; one without is the final account."""
        running = None
        if has_choice and timings is not None and timings.predicted_n is not None:
            running = timings.predicted_n
        elif has_choice and usage is not None and usage.completion is not None:
            running = usage.completion
        if running is None:
            return None if ids is None else len(ids)
        new, self._counted = running - self._counted, max(running, self._counted)
        return None if self._uncounted else max(new, 0)

    def _openai(self, found: Mapping[str, Any]) -> tuple[list[tuple[str, Channel]], str | None, tuple[int, ...] | None]:
        choices = found["choices"]
        choice = choices[0] if isinstance(choices, list) and choices and isinstance(choices[0], dict) else {}
        body = choice.get("delta") or choice.get("message")
        pieces = list(_pieces(body)) if isinstance(body, dict) else []
        if isinstance(choice.get("text"), str) and choice["text"]:
            pieces.append((choice["text"], "answer"))
        ids = _ids(choice.get("token_ids"))
        finish = choice.get("finish_reason")
        return pieces, finish if isinstance(finish, str) and finish else None, ids

    def _completion(
        self, found: Mapping[str, Any]
    ) -> tuple[list[tuple[str, Channel]], str | None, tuple[int, ...] | None]:
        """llama.cpp's /completion: `content`, `tokens` with return_tokens, `stop` at the end."""
        text = found.get("content")
        pieces: list[tuple[str, Channel]] = [(text, "answer")] if isinstance(text, str) and text else []
        ended = found.get("stop") is True
        finish = {"limit": "length"}.get(str(found.get("stop_type")), "stop") if ended else None
        return pieces, finish, _ids(found.get("tokens")) or None

    def _ollama(self, found: Mapping[str, Any]) -> tuple[list[tuple[str, Channel]], str | None, tuple[int, ...] | None]:
        body = found.get("message") if isinstance(found.get("message"), dict) else {}
        assert isinstance(body, dict)
        pieces = list(_pieces({**body, "content": body.get("content") or found.get("response")}))
        if not body and isinstance(found.get("thinking"), str) and found["thinking"]:
            pieces.insert(0, (found["thinking"], "reasoning"))
        finish = str(found.get("done_reason") or "stop") if found["done"] is True else None
        return pieces, finish, None

    def _lm_studio(
        self, found: Mapping[str, Any], name: str
    ) -> tuple[list[tuple[str, Channel]], Usage | None, Timings | None, str | None]:
        channels: dict[str, Channel] = {"message.delta": "answer", "reasoning.delta": "reasoning"}
        text = found.get("content")
        if name in channels and isinstance(text, str) and text:
            return [(text, channels[name])], None, None, None
        if name != "chat.end":
            return [], None, None, None
        result = found.get("result")
        stats = (result if isinstance(result, dict) else found).get("stats")
        stats = stats if isinstance(stats, dict) else {}
        out, speed = _int(stats.get("total_output_tokens")), _number(stats.get("tokens_per_second"))
        usage = Usage(
            prompt=_int(stats.get("input_tokens")),
            completion=out,
            reasoning=_int(stats.get("reasoning_output_tokens")),
        )
        timings = Timings(
            predicted_n=out,
            predicted_s=out / speed if out and speed else None,
            ttft_s=_number(stats.get("time_to_first_token_seconds")),
            load_s=_number(stats.get("model_load_time_seconds")),
        )
        return [], usage, timings, "stop"


def _predicted(found: object) -> dict[str, Any]:
    """What a container answered inside Vertex AI's predict: one object or a list of them, or a bare text."""
    while isinstance(found, list) and found:
        found = found[0]
    if isinstance(found, str):
        _, mark, answer = found.partition("\nOutput:\n")  # as vLLM's container writes it, behind the prompt
        found = {"content": answer if mark and found.startswith("Prompt:") else found}
    if not isinstance(found, dict):
        return {"content": "", "stop": True}
    return found if "choices" in found else {**found, "stop": True}


def _lm_studio_event(name: str) -> bool:
    return name.startswith(("chat.", "message.", "reasoning.", "model_load.", "prompt_processing.", "tool_call."))


def _pieces(body: Mapping[str, Any]) -> Iterator[tuple[str, Channel]]:
    """Texts of a delta or a message. An empty content beside a role is no token."""
    for field in ("reasoning_content", "reasoning", "thinking"):
        if isinstance(body.get(field), str) and body[field]:
            yield body[field], "reasoning"
            break  # some servers send it under two names
    content = body.get("content")
    if isinstance(content, list):
        content = "".join(p["text"] for p in content if isinstance(p, dict) and isinstance(p.get("text"), str))
    if isinstance(content, str) and content:
        yield content, "answer"
    elif isinstance(body.get("refusal"), str) and body["refusal"]:
        yield body["refusal"], "answer"
    calls = body.get("tool_calls")
    if isinstance(calls, list):
        functions = [c["function"] for c in calls if isinstance(c, dict) and isinstance(c.get("function"), dict)]
        text = "".join(str(f.get(key) or "") for f in functions for key in ("name", "arguments"))
        if text:
            yield text, "tool"


def _usage(found: object) -> Usage | None:
    if not isinstance(found, dict):
        return None
    prompt, completion = found.get("prompt_tokens_details"), found.get("completion_tokens_details")
    return Usage(
        prompt=_int(found.get("prompt_tokens")),
        completion=_int(found.get("completion_tokens")),
        cached=_int(prompt.get("cached_tokens")) if isinstance(prompt, dict) else None,
        reasoning=_int(completion.get("reasoning_tokens")) if isinstance(completion, dict) else None,
    )


def _llama_timings(found: object) -> Timings | None:
    if not isinstance(found, dict):
        return None
    return Timings(
        prompt_n=_int(found.get("prompt_n")),
        prompt_s=_scaled(found.get("prompt_ms"), 1e3),
        predicted_n=_int(found.get("predicted_n")),
        predicted_s=_scaled(found.get("predicted_ms"), 1e3),
        cached_n=_int(found.get("cache_n")),
        drafted_n=_int(found.get("draft_n")),
        accepted_n=_int(found.get("draft_n_accepted")),
    )


def _metrics(found: Mapping[str, Any]) -> Timings | None:
    """vLLM's per-request metrics, whose TTFT counts from scheduling; LM Studio's stats."""
    metrics, stats = found.get("metrics"), found.get("stats")
    if isinstance(metrics, dict):
        return Timings(
            queue_s=_scaled(metrics.get("queue_time_ms"), 1e3),
            ttft_s=_scaled(metrics.get("time_to_first_token_ms"), 1e3),
            predicted_s=_scaled(metrics.get("generation_time_ms"), 1e3),
        )
    if isinstance(stats, dict):
        return Timings(
            ttft_s=_number(stats.get("time_to_first_token")), predicted_s=_number(stats.get("generation_time"))
        )
    return None


def _ollama_usage(found: Mapping[str, Any]) -> Usage | None:
    if found["done"] is not True:
        return None
    return Usage(prompt=_int(found.get("prompt_eval_count")), completion=_int(found.get("eval_count")))


def _ollama_timings(found: Mapping[str, Any]) -> Timings | None:
    """prompt_n stays None: the count has the cached tokens in it and the duration has not."""
    if found["done"] is not True:
        return None
    return Timings(
        prompt_s=_scaled(found.get("prompt_eval_duration"), 1e9),
        predicted_n=_int(found.get("eval_count")),
        predicted_s=_scaled(found.get("eval_duration"), 1e9),
        load_s=_scaled(found.get("load_duration"), 1e9),
        total_s=_scaled(found.get("total_duration"), 1e9),
    )


def _int(found: object) -> int | None:
    return found if isinstance(found, int) and not isinstance(found, bool) and 0 <= found < 2**63 else None


def _number(found: object) -> float | None:
    is_number = isinstance(found, int | float) and not isinstance(found, bool)
    return float(found) if is_number and 0 <= found < 2.0**63 else None  # type: ignore[operator, arg-type]


def _scaled(found: object, per_second: float) -> float | None:
    number = _number(found)
    return None if number is None else number / per_second


def _ids(found: object) -> tuple[int, ...] | None:
    if not isinstance(found, Sequence) or isinstance(found, str) or any(_int(i) is None for i in found):
        return None
    return tuple(found)
