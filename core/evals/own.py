"""A user's own questions as a task: a .jsonl file with a prompt in every line.

Lines with choices are scored by log-likelihood; otherwise the answer in words is compared with the gold one. The
file is read by core.domains.jsonl.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.domains import Question, jsonl
from core.evals._answer import ask, item
from core.evals._loglikelihood import ACCURACY, BY_LENGTH, PROBABILITY, choose
from core.evals._overlap import contains, exact, f1
from core.types import Eval, Item, Metric, Record, Subject, Words
from hardware.errors import ExplorerError

WORDS = (
    Metric(name="em", label="Exact match", value="em", kind="rate"),
    Metric(name="contains", label="Answer contained", value="contains", kind="rate"),
    Metric(name="f1", label="F1 of the words", value="f1", most=1.0),
)


class Settings(Record, omit_defaults=False):
    """What is asked.

    path: the .jsonl file; each line an object with prompt, answer and, for multiple choice, choices.
    n: questions to ask; 0 for all.
    limit: longest answer, in tokens.
    """

    path: Words = ""
    n: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    limit: Annotated[int, Meta(ge=1, le=4096)] = 64


class Own:
    name = "own"
    label = "Your own questions"
    needs = frozenset({"text"})
    selects = frozenset({"path", "n"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (ACCURACY, BY_LENGTH, PROBABILITY) if _read(params)[0].choices else WORDS

    def size(self, params: Settings) -> int | None:
        return len(_read(params))

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        for q in _read(params):
            assert q.answer is not None
            if q.choices:
                yield choose(subject, q.id, q.cluster, q.prompt.rstrip(), q.choices, q.choices.index(q.answer))
                continue
            answer, gold = ask(subject, q.prompt, params.limit), (q.answer,)
            values = {
                "em": exact(answer.text, gold),
                "contains": contains(answer.text, gold),
                "f1": f1(answer.text, gold),
            }
            yield item(q.id, q.cluster, values, q.prompt, answer, q.answer)


def _read(params: Settings) -> list[Question]:
    """Raises ExplorerError for a bad file, one with unanswered questions, or one with both sorts of question."""
    if not params.path:
        raise ExplorerError("No file of questions is given.", "Set path to a .jsonl file.")
    questions = jsonl.read(params.path, params.n or None)
    if unanswered := [q for q in questions if not (q.answer or "").strip()]:
        raise ExplorerError(
            f"Question '{unanswered[0].id}' of '{params.path}' has no answer.", "Give every line an answer."
        )
    if len({bool(q.choices) for q in questions}) > 1:
        raise ExplorerError(
            f"Only some questions of '{params.path}' have choices.", "Put the others into a file of their own."
        )
    return questions


plugin: Eval = Own()
