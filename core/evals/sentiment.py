"""Sentiment by log-likelihood: 74 sentences of reviews, half of them pleased, in pairs on the same subject.

Two models that differ on one sentence in five are told apart (accuracy, 80 % power) when one is better by about 14
points; the probability of the right label shows less. Guessing gives 0.5, and models of the embedded one's size are
right nearly always, so that what it shows is damage.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._choose import ACCURACY, PROBABILITY, choose
from core.evals._sets import Example, Set, read
from core.types import Item, Metric, Record, Subject

SHOWN = 4
LABELS = ("positive", "negative")


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: sentences to judge; 0 for all.
    shots: judged sentences to show first, as many pleased as displeased.
    """

    n: Annotated[int, Meta(ge=0)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN, multiple_of=2)] = SHOWN


class Sentiment:
    name = "sentiment"
    label = "Sentiment"
    needs = frozenset({"forward", "cache"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return ACCURACY, PROBABILITY

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = "".join(f"{_prompt(e)} {e.answer}\n\n" for e in _set().shown[: params.shots])
        for e in _set().first(params.n):
            yield choose(subject, e.id, e.cluster, shown + _prompt(e), LABELS, LABELS.index(e.answer), e.text)


def _set() -> Set:
    return read("sentiment", SHOWN)


def _prompt(e: Example) -> str:
    return f"Review: {e.text}\nSentiment:"


plugin = Sentiment()
