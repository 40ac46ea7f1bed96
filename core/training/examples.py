"""What a model is trained on: prompts as the model will be asked them, with the answers it shall give."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from core.domains.questions import Question
from core.errors import ExplorerError

GROUP = 8  # batches


@dataclass(frozen=True)
class Example:
    """Token ids. answer ends with the token that ends a turn, unless the answer was cut off."""

    prompt: tuple[int, ...]
    answer: tuple[int, ...]

    @property
    def ids(self) -> tuple[int, ...]:
        return self.prompt + self.answer

    def __len__(self) -> int:
        return len(self.prompt) + len(self.answer)


def of_questions(
    questions: Sequence[Question],
    render: Callable[[str], list[int]],
    encode: Callable[[str], list[int]],
    end: int,
    limit: int,
) -> list[Example]:
    """One example per question that has a gold answer; those longer than `limit` tokens are left out.

    render: a prompt's ids up to where its answer begins. end: the id that ends an answer. Raises ExplorerError
    when no example is left.
    """
    found = [
        Example(tuple(render(q.prompt)), (*encode(q.answer), end)) for q in questions if q.answer and q.answer.strip()
    ]
    if not found:
        raise ExplorerError(
            "None of the questions has an answer to learn from.", 'Give every line of the file an "answer".'
        )
    short = [e for e in found if len(e) <= limit]
    if not short:
        raise ExplorerError(
            f"Every example is longer than {limit} tokens.", "Shorten the prompts, or raise the setting max_tokens."
        )
    return short


class Batches:
    """The examples of a step, a function of (seed, step) alone; steps count from 0.

    Each pass over the examples has an order of its own. Those of a batch are of similar length, as they are padded to
    the longest: they are drawn at random, sorted in groups of GROUP batches, and the batches are shuffled again.
    """

    def __init__(self, examples: Sequence[Example], size: int, seed: int) -> None:
        assert examples and size > 0
        self._examples, self._size, self._seed = examples, size, seed
        self._turn, self._batches = -1, list[list[int]]()

    def __getitem__(self, step: int) -> list[Example]:
        per_pass = max(1, len(self._examples) // self._size)
        turn, place = divmod(step, per_pass)
        if turn != self._turn:
            self._turn, self._batches = turn, self._order(turn)
        return [self._examples[i] for i in self._batches[place]]

    def _order(self, turn: int) -> list[list[int]]:
        rng = np.random.default_rng([self._seed, 2, turn])
        n, size = len(self._examples), self._size
        order = rng.permutation(n).tolist() if n >= size else rng.integers(n, size=size).tolist()
        batches: list[list[int]] = []
        for start in range(0, len(order), GROUP * size):
            group = sorted(order[start : start + GROUP * size], key=lambda i: len(self._examples[i]))
            cut = [group[i : i + size] for i in range(0, len(group) - size + 1, size)]
            batches += [cut[i] for i in rng.permutation(len(cut))]
        return batches
