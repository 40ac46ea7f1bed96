"""Choosing by log-likelihood: which continuation of a text the model finds most likely.

The text is given as it is, without the chat template, after what the tokenizer puts before every text. Tokens are
those of text and continuation together, less those of the text, with spaces between them counted to the continuation,
as in lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

from core.evals._fingerprint import fingerprint
from core.types import Item, Metric, Session, Subject, opened
from hardware.errors import ExplorerError

ACCURACY = Metric(name="acc", label="Accuracy", value="acc", kind="rate")
BY_LENGTH = Metric(name="acc_norm", label="Accuracy, by length", value="acc_norm", kind="rate")
PROBABILITY = Metric(name="p_right", label="Probability of the right choice", value="p_right", most=1.0)


def choose(
    subject: Subject, name: str, cluster: str, text: str, choices: Sequence[str], right: int, show: str = ""
) -> Item:
    """Item of one question. acc: the right choice has the largest log-likelihood; acc_norm: per character.

    p_right: its probability among the choices, a finer scale on which small changes show earlier than in accuracy.
    show: what of the text to keep as the item's prompt; empty: all.
    """
    session = subject.session
    parts = split(lambda t: opened(session, t), text, [f" {choice}" for choice in choices])
    likelihood = [subject.loglikelihood(context or [first_id(session)], rest)[0] for context, rest in parts]
    by_length = [value / max(1, len(choice)) for value, choice in zip(likelihood, choices, strict=True)]
    best = max(likelihood)
    total = math.fsum(math.exp(value - best) for value in likelihood)
    chosen = likelihood.index(best)
    values = {
        "acc": float(chosen == right),
        "acc_norm": float(by_length.index(max(by_length)) == right),
        "p_right": math.exp(likelihood[right] - best) / total,
    }
    return Item(
        t_s=0.0,
        id=name,
        cluster=cluster or name,
        values=values,
        prompt=show or text,
        output=choices[chosen],
        expected=choices[right],
        fingerprint=fingerprint(text, choices, right),
    )


def split(
    encode: Callable[[str], list[int]], text: str, continuations: Sequence[str]
) -> list[tuple[list[int], list[int]]]:
    """The ids of the text and of each continuation behind it: those of both together, less as many as the text has.

    Where that leaves nothing of a continuation, as its join with the text is one token, all of them begin where the
    first differs from the text: their values then are of the same words, and can be compared.
    """
    bare = text.rstrip()
    texts = [text[len(bare) :] + continuation for continuation in continuations]
    context = encode(bare)
    wholes = [encode(bare + continuation) for continuation in texts]
    start = len(context)
    if any(len(whole) <= start for whole in wholes):
        start = min(_n_equal(context, whole) for whole in wholes)
    return [(whole[:start] if start < len(context) else context, whole[start:]) for whole in wholes]


def first_id(session: Session) -> int:
    """The token that stands before a text which has nothing before it: BOS, else EOS."""
    for token in (session.bos_token, session.eos_token):
        if token and len(ids := session.encode(token)) == 1:
            return ids[0]
    if session.eos_ids:
        return min(session.eos_ids)
    raise ExplorerError("This model has no token that begins a text.", "Put a word before the choices.")


def _n_equal(a: Sequence[int], b: Sequence[int]) -> int:
    """How many ids both begin with."""
    return next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
