"""Choosing by log-likelihood: which continuation of a text the model finds most likely.

The text is given as it is, without the chat template. Tokens are those of text and continuation together, with a
space between them counted to the continuation, as in lm-evaluation-harness.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.evals._fingerprint import fingerprint
from core.types import Item, Metric, Session, Subject

ACCURACY = Metric(name="acc", label="Accuracy", value="acc", kind="rate")
BY_LENGTH = Metric(name="acc_norm", label="Accuracy, by length", value="acc_norm", kind="rate")
PROBABILITY = Metric(name="p_right", label="Probability of the right choice", value="p_right")


def choose(
    subject: Subject, name: str, cluster: str, text: str, choices: Sequence[str], right: int, show: str = ""
) -> Item:
    """Item of one question. acc: the right choice has the largest log-likelihood; acc_norm: per character.

    p_right: its probability among the choices, a finer scale on which small changes show earlier than in accuracy.
    show: what of the text to keep as the item's prompt; empty: all.
    """
    likelihood = [_loglikelihood(subject, text, f" {choice}") for choice in choices]
    by_length = [value / len(choice) for value, choice in zip(likelihood, choices, strict=True)]
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


def _loglikelihood(subject: Subject, text: str, continuation: str) -> float:
    session = subject.session
    start = _start(session)
    context = session.encode(start + text)
    whole = session.encode(start + text + continuation)
    return subject.loglikelihood(context, whole[len(context) :])[0]


def _start(session: Session) -> str:
    """The token that opens every text of this model, if its chat template says that there is one."""
    return session.bos_token if "bos_token" in (session.chat_template or "") else ""
