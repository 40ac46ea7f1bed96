"""Translation of 38 simple sentences of the shipped set from English to French, compared with one reference each.

A fall of about half the standard deviation of the differences between two models is seen (80 % power). chrF2 and
BLEU are means over sentences, not the corpus scores, so that items can be paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._answer import ask, item
from core.evals._chrf import CHRF, bleu, chrf
from core.evals._sets import Example, Set, read
from core.types import Eval, Item, Metric, Record, Subject

SHOWN = 4


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: sentences to translate; 0 for all.
    shots: translated sentences to show first.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN)] = SHOWN


class Translation:
    name = "translation"
    label = "Translation"
    needs = frozenset({"text"})
    selects = frozenset({"n"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return CHRF, Metric(name="bleu", label="BLEU, mean over sentences", value="bleu", most=100.0)

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = [(_prompt(e), e.answer) for e in _set().shown[: params.shots]]
        for e in _set().first(params.n):
            answer = ask(subject, _prompt(e), 40, shown, ("\n",))
            values = {"chrf": chrf(answer.text, e.answer), "bleu": bleu(answer.text, e.answer)}
            yield item(e.id, e.cluster, values, _prompt(e), answer, e.answer, shown)


def _set() -> Set:
    return read("translation", SHOWN)


def _prompt(e: Example) -> str:
    return f"Translate to French: {e.text}"


plugin: Eval = Translation()
