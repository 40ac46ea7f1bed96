"""Extractive question answering: short answers out of a passage, 57 questions on 19 passages of the shipped set.

Two models that differ on one question in five are told apart (exact match, 80 % power) when one of them is better
by about 16 points; the F1 of the same items shows less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._answer import ask, item
from core.evals._overlap import exact, f1
from core.evals._sets import Example, Set, read
from core.types import Eval, Item, Metric, Record, Subject

SHOWN = 3  # one passage


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: questions to ask; 0 for all.
    shots: answered questions on another passage to show first.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN)] = SHOWN


class Answering:
    name = "qa"
    label = "Question answering"
    needs = frozenset({"text"})
    selects = frozenset({"n"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (
            Metric(name="em", label="Exact match", value="em", kind="rate"),
            Metric(name="f1", label="F1 of the words", value="f1", most=1.0),
        )

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = [(_prompt(e, text=i == 0), e.answers[0]) for i, e in enumerate(_set().shown[: params.shots])]
        for e in _set().first(params.n):
            answer = ask(subject, _prompt(e), 24, shown, ("\n",))
            values = {"em": exact(answer.text, e.answers), "f1": f1(answer.text, e.answers)}
            yield item(e.id, e.cluster, values, _prompt(e), answer, e.answers[0], shown, e.answers)


def _set() -> Set:
    return read("qa", SHOWN)


def _prompt(e: Example, text: bool = True) -> str:
    question = f"Answer with a few words from the text: {e.question}"
    return f"{e.text}\n\n{question}" if text else question


plugin: Eval = Answering()
