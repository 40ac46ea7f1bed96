"""Questions with checkable answers: generated, shipped, or the user's own. Standard library and msgspec only."""

from __future__ import annotations

from random import Random
from typing import Literal

from core.domains import arithmetic, jsonl, sql
from core.domains.questions import Question
from core.errors import ExplorerError

NAMES = ("sql", "sql_names", "sql_easy", "arithmetic")
INVENTED = 0.7  # share of the training questions of sql_names with invented table names; its test is sql's
SQL = ("sql", "sql_names", "sql_easy")
TEST_SHARE = 5  # one in five questions of a user's file is kept for the test split

__all__ = ["NAMES", "Question", "judge", "load", "tested_as"]


def load(domain: str, split: Literal["train", "test"], n: int, seed: int) -> list[Question]:
    """n questions of a domain by name, or up to n of the .jsonl file that it is the path of.

    Generated domains: the first k questions are the same for every n >= k. A file is shuffled by the seed within
    its splits; every fifth cluster is for the test (a file of one cluster serves both). Raises ExplorerError.
    """
    if domain in SQL:
        invented = INVENTED if domain == "sql_names" and split == "train" else 0.0
        return sql.generate(split, n, seed, easy=domain == "sql_easy", invented=invented)
    if domain == "arithmetic":
        return arithmetic.generate(split, n, seed)
    if not domain.endswith(".jsonl"):
        raise ExplorerError(
            f"There is no domain called '{domain}'.", f"Use {', '.join(NAMES)}, or the path of a .jsonl file."
        )
    questions = jsonl.read(domain)
    clusters = {name: i for i, name in enumerate(dict.fromkeys(q.cluster for q in questions))}
    if len(clusters) > 1:
        kept = {name for name, i in clusters.items() if (i % TEST_SHARE == 1) == (split == "test")}
        questions = [q for q in questions if q.cluster in kept]
    Random(seed).shuffle(questions)
    return questions[:n]


def tested_as(domain: str) -> str:
    """The domain whose test questions this one shares: its own, unless only the training differs."""
    return "sql" if domain == "sql_names" else domain


def judge(domain: str, question: Question, output: str) -> bool | None:
    """Whether an output answers the question; None where there is no gold answer.

    A user's own question is answered by the exact text, apart from white space around it and upper case.
    """
    if question.answer is None:
        return None
    if domain in SQL:
        return sql.judge(question, output)
    if domain == "arithmetic":
        return arithmetic.judge(question, output)
    return output.strip().casefold() == question.answer.strip().casefold()
