"""A question with what it takes to judge an answer to it."""

from __future__ import annotations

from core.types import Record


class Question(Record):
    """prompt: the whole user text. answer: the gold, bare; None: there is none, nothing can be judged.

    cluster: questions that share a table or a text. databases: SQL scripts, each building a small database on
    which `answer` is executed. choices: of a multiple choice question, `answer` being one of them.
    """

    id: str
    cluster: str
    prompt: str
    answer: str | None = None
    databases: tuple[str, ...] = ()
    choices: tuple[str, ...] = ()
