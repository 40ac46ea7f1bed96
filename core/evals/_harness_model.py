"""A Subject in the shape of lm-evaluation-harness's language model.

Truncation and stops are those of the harness's own `hf` model, so that both give the same numbers.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.evals._loglikelihood import split
from core.types import Generation, Subject, opened
from hardware.errors import ExplorerError

MAX_NEW_TOKENS = 256  # the harness's default where a task says nothing
LONG = 128  # continuations beyond this are scored in chunks of logits
LIMITS = ("max_gen_toks", "max_new_tokens", "max_tokens", "max_completion_tokens")


def language_model(subject: Subject, bos: bool) -> Any:
    """An `lm_eval.api.model.TemplateLM` over the subject, with the last answer in its field `last`.

    bos: put the beginning-of-sequence token before every text, also where the tokenizer does not add it by itself.
    """
    from lm_eval.api.model import TemplateLM

    class Model(SessionModel, TemplateLM):  # type: ignore[misc]
        def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = True) -> list[tuple[float, bool]]:
            found: list[tuple[float, bool]] = TemplateLM.loglikelihood(self, requests, disable_tqdm=True)
            return found

    return Model(subject, bos)


class SessionModel:
    """What the harness asks of a language model, answered by the subject. bos: see `language_model`."""

    def __init__(self, subject: Subject, bos: bool) -> None:
        super().__init__()
        self.subject, self.session, self.bos = subject, subject.session, bos
        self.last: Generation | None = None

    @property
    def eot_token_id(self) -> int:
        return self._id(self.session.eos_token) if self.session.eos_token else min(self.session.eos_ids, default=0)

    @property
    def prefix_token_id(self) -> int:
        return self._id(self.session.bos_token) if self.session.bos_token else self.eot_token_id

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        if add_special_tokens is False:
            return self.session.encode(string)
        ids = opened(self.session, string)
        if self.bos and self.session.bos_token and ids[:1] != [self.prefix_token_id]:
            return [self.prefix_token_id, *ids]
        return ids

    def _encode_pair(self, context: str, continuation: str) -> tuple[list[int], list[int]]:
        before, rest = split(self.tok_encode, context, [continuation])[0]
        return before or [self.prefix_token_id], rest

    def _loglikelihood_tokens(self, requests: Sequence[Any], **_: Any) -> list[tuple[float, bool]]:
        return [_loglikelihood(self.subject, context, continuation) for _, context, continuation in requests]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        return [self._rolling(request.args[0]) for request in requests]

    def _rolling(self, text: str) -> float:
        from lm_eval.utils import get_rolling_token_windows, make_disjoint_window

        cut = get_rolling_token_windows(self.tok_encode(text), self.prefix_token_id, self.session.max_context, 1)
        return sum(_loglikelihood(self.subject, *make_disjoint_window(window))[0] for window in cut)

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        return [self._answer(*request.args) for request in requests]

    def _answer(self, context: str, asked: dict[str, Any]) -> str:
        if asked.get("do_sample") and float(asked.get("temperature") or 0) > 0:
            raise ExplorerError(
                "The task wants sampled answers, and here they are decoded as the request says.",
                "Set do_sample to false in a copy of the task.",
            )
        limit = int(next((asked[name] for name in LIMITS if asked.get(name) is not None), MAX_NEW_TOKENS))
        room = self.session.max_context - limit
        if room <= 0:
            raise ExplorerError(
                f"The task wants {limit} new tokens, and the context has {self.session.max_context}.",
                "Set max_gen_toks in a copy of the task, or raise the context.",
            )
        until = asked.get("until") or []
        stop = [until] if isinstance(until, str) else list(until)
        answer = self.subject.generate(self.tok_encode(context)[-room:], limit, [text for text in stop if text])
        self.last = answer
        return answer.text

    def apply_chat_template(self, chat_history: Sequence[Any], add_generation_prompt: bool = True) -> str:
        messages: list[tuple[str, str]] = [(message["role"], message["content"]) for message in chat_history]
        try:
            return self.subject.prompt(messages)
        except ExplorerError:  # the harness's own model leaves the system message out, too
            plain = [message for message in messages if message[0] != "system"]
            if len(plain) == len(messages):
                raise
            return self.subject.prompt(plain)

    def _id(self, token: str) -> int:
        ids = self.session.encode(token)
        assert len(ids) == 1, f"{token} is {len(ids)} tokens"
        return ids[0]


def _loglikelihood(subject: Subject, context: Sequence[int], continuation: Sequence[int]) -> tuple[float, bool]:
    """What does not fit is cut off on the left, as much as leaves every logit of the continuation."""
    whole = [*context, *continuation][-(subject.session.max_context + 1) :]
    first = len(whole) - len(continuation)
    if first < 1:
        raise ExplorerError(
            f"An answer of {len(continuation)} tokens exceeds the context of {subject.session.max_context}.",
            "Raise the context, or leave this task out.",
        )
    if len(continuation) <= LONG:
        return subject.loglikelihood(whole[:first], whole[first:])
    total, greedy, done = 0.0, True, first
    for chunk in subject.logprobs(subject.session, whole, first):
        wanted = np.array(whole[done : done + len(chunk)])
        total += float(chunk[np.arange(len(chunk)), wanted].sum(dtype=np.float64))
        greedy = greedy and bool((chunk.argmax(-1) == wanted).all())
        done += len(chunk)
    return total, greedy
