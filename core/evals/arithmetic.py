"""Arithmetic word problems of one to three steps, generated, judged by the final number.

With 100 problems, two models that differ on one in ten are told apart (80 % power) when one is better by about
9 points; with 400, by about 5.
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

    n: problems to solve.
    seed: of the problems; the same seed gives the same ones.
    shots: solved problems to show first, of the training split.
    """

    n: Annotated[int, Meta(ge=1, le=100_000)] = 100
    seed: Annotated[int, Meta(ge=0, le=2**31 - 1)] = 0
    shots: Annotated[int, Meta(ge=0, le=8)] = 3


class Arithmetic:
    name = "arithmetic"
    label = "Arithmetic"
    needs = frozenset({"text"})
    selects = frozenset({"n", "seed"})
    Params = Settings

    def metrics(self, params: Settings) -> tuple[Metric, ...]:
        return (Metric(name="acc", label="Right number", value="acc", kind="rate"),)

    def size(self, params: Settings) -> int | None:
        return params.n

    def measure(self, subject: Subject, params: Settings) -> Iterator[Item]:
        shown = [(q.prompt, q.answer or "") for q in domains.load("arithmetic", "train", params.shots, params.seed)]
        for q in domains.load("arithmetic", "test", params.n, params.seed):
            answer = ask(subject, q.prompt, 64, shown, ("\n\n",))
            values = {"acc": float(bool(domains.judge("arithmetic", q, answer.text)))}
            yield item(q.id, q.cluster, values, q.prompt, answer, q.answer or "", shown)


plugin: Eval = Arithmetic()
