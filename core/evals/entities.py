"""Named entities: the persons, places, organizations and other names in 60 short texts of the shipped set.

Scored as in the shared task of CoNLL-2003 (Tjong Kim Sang and De Meulder, arXiv cs/0306050): an entity is right when
its limits and its kind are, and F1 is of all entities together. Two models that differ on one text in five are told
apart (all names right, 80 % power) when one is better by about 16 points; the F1 of the same texts shows less.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.evals._answer import ask, item
from core.evals._sets import Example, Set, read
from core.evals._spans import values
from core.types import Eval, Item, Metric, Record, Subject

SHOWN = 4
LIMIT = 64  # tokens; the longest right answer has about 30


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: texts to ask about; 0 for all.
    shots: answered texts to show first.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    shots: Annotated[int, Meta(ge=0, le=SHOWN)] = SHOWN


class Entities:
    name = "entities"
    label = "Named entities"
    needs = frozenset({"text"})
    selects = frozenset({"n"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (
            Metric(name="f1", label="F1 of the entities", value="twice_right", over="named_and_gold", most=1.0),
            Metric(name="recall", label="Entities found", value="right", over="gold", most=1.0),
            Metric(
                name="span_f1", label="F1 without their kinds", value="twice_placed", over="spans_and_gold", most=1.0
            ),
            Metric(name="complete", label="All names right", value="complete", kind="rate"),
        )

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = [(_prompt(e), _gold(e)) for e in _set().shown[: params.shots]]
        for e in _set().first(params.n):
            answer = ask(subject, _prompt(e), LIMIT, shown, ("\n\n",))
            scored = values(e.text, answer.text, _gold(e))
            yield item(e.id, e.cluster, scored, _prompt(e), answer, _gold(e), shown)


def _set() -> Set:
    return read("entities", SHOWN)


def _prompt(e: Example) -> str:
    return (
        f"{e.text}\n\nList the names in this text, each on a line of its own behind its kind "
        "(person, place, organization or other)."
    )


def _gold(e: Example) -> str:
    return "\n".join(e.answers)


plugin: Eval = Entities()
