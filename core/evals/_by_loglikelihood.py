"""The evals that judge by log-likelihood over a set that ships with the app: one shape, told apart by their texts."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from core.evals._loglikelihood import ACCURACY, BY_LENGTH, PROBABILITY, choose
from core.evals._sets import Example, Set, read
from core.types import Item, Metric, Subject


@dataclass(frozen=True)
class ByLogLikelihood:
    """An eval plugin. name: of the set, too. n_shown: its examples that are only shown, never scored.

    prompt: what stands before an example's answer. labels: the answers to choose among; None: each example's own
    choices, of different lengths. kept: what the item shows of the example. Params has the fields n and shots.
    """

    name: str
    label: str
    Params: type[Any]
    n_shown: int
    prompt: Callable[[Example], str]
    labels: tuple[str, ...] | None = None
    kept: Callable[[Example], str] = lambda e: e.text

    needs = frozenset({"likelihood"})
    selects = frozenset({"n"})

    def metrics(self, params: Any) -> tuple[Metric, ...]:
        return (ACCURACY, PROBABILITY) if self.labels else (ACCURACY, BY_LENGTH, PROBABILITY)

    def size(self, params: Any) -> int | None:
        return len(self._set.first(params.n))

    def measure(self, subject: Subject, params: Any) -> Iterator[Item]:
        shown = "".join(f"{self.prompt(e)} {e.answer}\n\n" for e in self._set.shown[: params.shots])
        for e in self._set.first(params.n):
            choices = self.labels or e.choices
            text, right = shown + self.prompt(e), choices.index(e.answer)
            yield choose(subject, e.id, e.cluster, text, choices, right, self.kept(e))

    @property
    def _set(self) -> Set:
        return read(self.name, self.n_shown)
