"""Asking for an answer in words: the dialogue before it, and the item it becomes."""

from __future__ import annotations

from collections.abc import Sequence

from core.evals._fingerprint import fingerprint
from core.types import Generation, Item, Subject

Pair = tuple[str, str]  # a user's text and the assistant's answer


def ask(subject: Subject, prompt: str, limit: int, shown: Sequence[Pair] = (), stop: Sequence[str] = ()) -> Generation:
    """The answer to one user message after the pairs in `shown`, with no system message."""
    messages = [("system", "")]
    for user, assistant in shown:
        messages += [("user", user), ("assistant", assistant)]
    return subject.generate(subject.render([*messages, ("user", prompt)]), limit, stop)


def item(
    name: str,
    cluster: str,
    values: dict[str, float],
    prompt: str,
    answer: Generation,
    expected: str,
    shown: Sequence[Pair] = (),
    judged_by: Sequence[str] = (),
) -> Item:
    """The item of an answer. shown: the pairs before the prompt. judged_by: what else says whether it is right."""
    return Item(
        t_s=0.0,
        id=name,
        cluster=cluster or name,
        values=values,
        prompt=prompt,
        output=answer.text,
        expected=expected,
        fingerprint=fingerprint(prompt, shown, expected, judged_by),
        ttft_s=answer.ttft_s,
        seconds=answer.seconds,
        counts=answer.counts,
    )
