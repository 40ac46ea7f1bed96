"""Dialogue of two or three turns: a fact told in the first is asked for in the last; 50 dialogues of the
shipped set.

The model's own replies stay in the dialogue. Judged by whether the last one holds the fact as a word. Two models
that differ on one dialogue in five are told apart (80 % power) when one is better by about 17 points.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import msgspec
from msgspec import Meta

from core.evals._answer import ask, item
from core.evals._fingerprint import fingerprint
from core.evals._overlap import contains
from core.evals._sets import Set, read
from core.types import Eval, Item, Metric, Record, Subject


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: dialogues to hold; 0 for all.
    reply: longest reply, in tokens.
    """

    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    reply: Annotated[int, Meta(ge=1, le=1024)] = 32


class Dialogue:
    name = "dialogue"
    label = "Dialogue"
    needs = frozenset({"text"})
    selects = frozenset({"n"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (Metric(name="recalled", label="Fact recalled", value="recalled", kind="rate"),)

    def size(self, params: Settings) -> int | None:
        return len(_set().first(params.n))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        """Times are those of the last reply."""
        for e in _set().first(params.n):
            past: list[tuple[str, str]] = []
            *before, last = e.turns
            for turn in before:
                past.append((turn, ask(subject, turn, params.reply, past).text.strip()))
            answer = ask(subject, last, params.reply, past)
            script = "\n".join([*(line for pair in past for line in pair), last])
            values = {"recalled": contains(answer.text, e.answers)}
            made = item(e.id, e.cluster, values, script, answer, e.answers[0])
            yield msgspec.structs.replace(made, fingerprint=fingerprint(e.turns, e.answers))  # not of its own replies


def _set() -> Set:
    return read("dialogue", 0)


plugin: Eval = Dialogue()
