"""Questions with checkable answers: generated, shipped, or the user's own. Standard library and msgspec only."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import islice
from random import Random
from typing import Any, Literal

from core.domains import arithmetic, jsonl, sql
from core.domains.questions import Question
from hardware.errors import ExplorerError

NAMES = ("sql", "sql_easy", "arithmetic")
SQL = ("sql", "sql_easy")
RENAMED = {"sql_names": "sql"}  # older models and scripts name it so
TEST_SHARE = 5  # one in five questions of a user's file is kept for the test split

__all__ = ["NAMES", "Question", "Stream", "current", "judge", "load"]


class Stream:
    """The questions of a domain by name, or of the .jsonl file that it is the path of, one after the other.

    Generated ones are drawn when they are asked for and have no end; size is then None. A file is shuffled by the seed
    within its splits, those with an answer first; every fifth cluster is for the test (a file of one cluster serves
    both). before, state: what an
    earlier stream gave and its `state` after that, to go on from. Raises ExplorerError for a domain that is none, and
    ValueError for a state that is none.
    """

    def __init__(
        self,
        domain: str,
        split: Literal["train", "test"],
        seed: int,
        before: Sequence[Question] = (),
        state: list[Any] | None = None,
    ) -> None:
        self.size: int | None = None
        self._rng: Random | None = None
        self._coming: Iterator[Question]
        seen = {q.prompt for q in before}
        domain = current(domain)
        if domain in SQL:
            easy = domain == "sql_easy"
            self._rng = _at(sql.begin(split, seed, easy), state)
            self._coming = sql.written(split, self._rng, seen, easy)
        elif domain == "arithmetic":
            self._rng = _at(arithmetic.begin(split, seed), state)
            self._coming = arithmetic.written(split, self._rng, seen)
        else:
            found = _of_file(domain, split, seed)
            self.size = len(found)
            self._coming = iter(found[len(before) :])

    def take(self, n: int) -> list[Question]:
        """The next n, or as many as there are."""
        return list(islice(self._coming, n))

    @property
    def state(self) -> list[Any] | None:
        """Where it stands, as JSON can hold it; None for a file, of which the number of questions says it."""
        return None if self._rng is None else list(self._rng.getstate())


def _at(rng: Random, state: list[Any] | None) -> Random:
    if state is not None:
        try:
            version, numbers, gauss = state
            rng.setstate((version, tuple(numbers), gauss))
        except TypeError as error:
            raise ValueError(str(error)) from error
    return rng


def _of_file(path: str, split: str, seed: int) -> list[Question]:
    if not path.endswith(".jsonl"):
        raise ExplorerError(
            f"There is no domain called '{path}'.", f"Use {', '.join(NAMES)}, or the path of a .jsonl file."
        )
    questions = jsonl.read(path)
    clusters = {name: i for i, name in enumerate(dict.fromkeys(q.cluster for q in questions))}
    if len(clusters) > 1:
        kept = {name for name, i in clusters.items() if (i % TEST_SHARE == 1) == (split == "test")}
        questions = [q for q in questions if q.cluster in kept]
    Random(seed).shuffle(questions)
    return sorted(questions, key=lambda q: q.answer is None)


def load(domain: str, split: Literal["train", "test"], n: int, seed: int) -> list[Question]:
    """The first n questions of a stream, all of a file that has fewer. Raises ExplorerError."""
    return Stream(domain, split, seed).take(n)


def current(domain: str) -> str:
    """The domain of this name, by the name that it has now."""
    return RENAMED.get(domain, domain)


def judge(domain: str, question: Question, output: str) -> bool | None:
    """Whether an output answers the question; None where there is no gold answer.

    A user's own question is answered by the exact text, apart from white space around it and upper case.
    """
    if question.answer is None:
        return None
    domain = current(domain)
    if domain in SQL:
        return sql.judge(question, output)
    if domain == "arithmetic":
        return arithmetic.judge(question, output)
    return output.strip().casefold() == question.answer.strip().casefold()
