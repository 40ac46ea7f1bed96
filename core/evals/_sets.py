"""The task sets that ship with the app, written for it: core/domains/data/*.jsonl.

The first examples of a set may be shown to the model before a question; they are never scored, so that the items
are the same however many are shown.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path

import msgspec

import core.domains
from core.types import Record

FOLDER = Path(core.domains.__file__).parent / "data"


class Example(Record):
    """One line of a set; each set uses some of the fields.

    text: the passage, premise, sentence or question that it is about. question: what is asked of the text, or the
    hypothesis. answers: all that count as right; answer: the only or reference one.
    """

    id: str
    cluster: str = ""
    text: str = ""
    question: str = ""
    answer: str = ""
    answers: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
    turns: tuple[str, ...] = ()


class Set(Record):
    """shown: examples to put before a question. scored: the questions."""

    shown: tuple[Example, ...]
    scored: tuple[Example, ...]

    def first(self, n: int) -> tuple[Example, ...]:
        """The first n to score; all of them for n = 0."""
        return self.scored[: n or None]


@cache
def read(name: str, n_shown: int) -> Set:
    """A set whose first n_shown examples are kept for showing."""
    lines = (FOLDER / f"{name}.jsonl").read_bytes().splitlines()
    examples = tuple(msgspec.json.decode(line, type=Example) for line in lines)
    return Set(shown=examples[:n_shown], scored=examples[n_shown:])
