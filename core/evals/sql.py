"""Text to SQL over tables never seen in training, generated, judged by executing the answer in SQLite.

With 300 questions, two models that differ on one in twenty are told apart (80 % power) when one is better by about
4 points. Execution accuracy as core.domains.sql defines it: two fillings of the tables.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core import domains
from core.evals._answer import ask, item
from core.types import Eval, Item, Metric, Record, Subject


class Settings(Record, omit_defaults=False):
    """What is asked.

    n: questions to ask.
    seed: of the questions; the same seed gives the same ones.
    easy: seven kinds of question in one phrasing each, with fixed sentences around the gold query.
    shots: answered questions to show first, of the training split; a model tuned to this domain needs none.
    """

    n: Annotated[int, Meta(ge=1, le=100_000)] = 100
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    easy: bool = False
    shots: Annotated[int, Meta(ge=0, le=8)] = 0


class Sql:
    name = "sql"
    label = "Text to SQL"
    needs = frozenset({"text"})
    selects = frozenset({"n", "seed"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (Metric(name="acc", label="Execution accuracy", value="acc", kind="rate"),)

    def size(self, params: Settings) -> int | None:
        return params.n

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        domain = "sql_easy" if params.easy else "sql"
        shown = [(q.prompt, q.answer or "") for q in domains.load(domain, "train", params.shots, params.seed)]
        for q in domains.load(domain, "test", params.n, params.seed):
            answer = ask(subject, q.prompt, 96, shown, ("\n\n",))
            values = {"acc": float(bool(domains.judge(domain, q, answer.text)))}
            yield item(q.id, q.cluster, values, q.prompt, answer, q.answer or "", shown, q.databases)


plugin: Eval = Sql()
