"""Summaries in one sentence of 20 short texts of the shipped set, compared with one reference each by chrF2.

A fall of about two thirds of the standard deviation of the differences between two models is seen (80 % power). A
mean over texts, not the corpus score, so that items can be paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._answer import ask, item
from core.evals._chrf import CHRF, chrf
from core.evals._sets import Example, Set, read
from core.types import Eval, Item, Metric, Record, Subject

SHOWN = 2


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: texts to summarize; 0 for all.
    shots: summarized texts to show first.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN)] = 1


class Summarization:
    name = "summarization"
    label = "Summarization"
    needs = frozenset({"text"})
    selects = frozenset({"n"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (CHRF,)

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = [(_prompt(e), e.answer) for e in _set().shown[: params.shots]]
        for e in _set().first(params.n):
            answer = ask(subject, _prompt(e), 64, shown, ("\n",))
            yield item(e.id, e.cluster, {"chrf": chrf(answer.text, e.answer)}, _prompt(e), answer, e.answer, shown)


def _set() -> Set:
    return read("summarization", SHOWN)


def _prompt(e: Example) -> str:
    return f"{e.text}\n\nSummarize the text in one sentence."


plugin: Eval = Summarization()
