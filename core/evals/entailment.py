"""Entailment by log-likelihood: does a text imply a sentence, contradict it, or neither? 57 pairs on 19 texts.

Two models that differ on one pair in five are told apart (accuracy, 80 % power) when one is better by about 16
points. Guessing gives 0.33, and models of the embedded one's size are little better.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._choose import ACCURACY, PROBABILITY, choose
from core.evals._sets import Example, Set, read
from core.types import Item, Metric, Record, Subject

SHOWN = 3
LABELS = ("True", "False", "Neither")


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: pairs to judge; 0 for all.
    shots: judged pairs to show first, one of each kind.
    """

    n: Annotated[int, Meta(ge=0)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN, multiple_of=3)] = SHOWN


class Entailment:
    name = "entailment"
    label = "Entailment"
    needs = frozenset({"forward", "cache"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return ACCURACY, PROBABILITY

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = "".join(f"{_prompt(e)} {e.answer}\n\n" for e in _set().shown[: params.shots])
        for e in _set().first(params.n):
            text, right = shown + _prompt(e), LABELS.index(e.answer)
            yield choose(subject, e.id, e.cluster, text, LABELS, right, f"{e.text} / {e.question}")


def _set() -> Set:
    return read("entailment", SHOWN)


def _prompt(e: Example) -> str:
    return f"{e.text}\nQuestion: {e.question} True, False, or Neither?\nAnswer:"


plugin = Entailment()
