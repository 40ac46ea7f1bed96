"""Multiple choice by log-likelihood: 98 questions of common knowledge and common sense, four choices each.

Two models that differ on one question in five are told apart (accuracy, 80 % power) when one is better by about
13 points; the probability of the right choice shows less. Guessing gives 0.25.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._choose import ACCURACY, BY_LENGTH, PROBABILITY, choose
from core.evals._sets import Example, Set, read
from core.types import Item, Metric, Record, Subject

SHOWN = 4


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: questions to ask; 0 for all.
    shots: answered questions to show first.
    """

    n: Annotated[int, Meta(ge=0)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN)] = 0


class Choice:
    name = "choice"
    label = "Multiple choice"
    needs = frozenset({"forward", "cache"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return ACCURACY, BY_LENGTH, PROBABILITY

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = "".join(f"{_prompt(e)} {e.answer}\n\n" for e in _set().shown[: params.shots])
        for e in _set().first(params.n):
            right = e.choices.index(e.answer)
            yield choose(subject, e.id, e.cluster, shown + _prompt(e), e.choices, right, e.text)


def _set() -> Set:
    return read("choice", SHOWN)


def _prompt(e: Example) -> str:
    return f"Question: {e.text}\nAnswer:"


plugin = Choice()
