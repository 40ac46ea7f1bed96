"""What a model is trained on: prompts as the model will be asked them, with the answers it shall give."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import islice

import numpy as np

from core.domains.questions import Question
from hardware.errors import ExplorerError

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
    questions: Iterable[Question],
    render: Callable[[str], list[int]],
    encode: Callable[[str], list[int]],
    end: int,
    limit: int,
) -> Iterator[Example]:
    """One example per question that has a gold answer, each made when it is asked for.

    Those longer than `limit` tokens are left out. render: a prompt's ids up to where its answer begins. end: the id
    that ends an answer. Raises ExplorerError at the end when there was no example.
    """
    n_answered = n_short = 0
    for q in questions:
        if not q.answer or not q.answer.strip():
            continue
        n_answered += 1
        example = Example(tuple(render(q.prompt)), (*encode(q.answer), end))
        if len(example) <= limit:
            n_short += 1
            yield example
    if not n_answered:
        raise ExplorerError(
            "None of the questions has an answer to learn from.", 'Give every line of the file an "answer".'
        )
    if not n_short:
        raise ExplorerError(
            f"Every example is longer than {limit} tokens.", "Shorten the prompts, or raise the setting max_tokens."
        )


class Batches:
    """The examples of a step, a function of (seed, step) alone; steps count from 0.

    The first pass takes the examples in their own order, and no more of them than its steps need; every later one has
    an order of its own. Those of a batch are of similar length, as they are padded to the longest: groups of GROUP
    batches are sorted, and the batches of a group are shuffled again.
    """

    def __init__(self, examples: Iterable[Example], size: int, seed: int) -> None:
        assert size > 0
        self._coming, self._size, self._seed = iter(examples), size, seed
        self._examples = list[Example]()
        self._group, self._batches = (-1, -1), list[list[int]]()

    def __getitem__(self, step: int) -> list[Example]:
        turn, place = 0, step
        if not self._reach((step // GROUP + 1) * GROUP * self._size):
            turn, place = divmod(step, max(1, len(self._examples) // self._size))
        group, at = divmod(place, GROUP)
        if (turn, group) != self._group:
            self._group, self._batches = (turn, group), self._cut(turn, group)
        return [self._examples[i] for i in self._batches[at]]

    def seen(self, steps: int) -> int:
        """How many different examples so many steps have."""
        self._reach(steps * self._size)
        return min(len(self._examples), steps * self._size)

    def _reach(self, n: int) -> bool:
        """Whether there are n examples; as many are made."""
        self._examples += islice(self._coming, max(0, n - len(self._examples)))
        return len(self._examples) >= n

    def _cut(self, turn: int, group: int) -> list[list[int]]:
        """The batches of a group, as places of examples."""
        rng = np.random.default_rng([self._seed, 2, turn, group])
        n, size = len(self._examples), self._size
        if n < size:
            order = rng.integers(n, size=size).tolist()
        else:
            order = np.random.default_rng([self._seed, 2, turn]).permutation(n).tolist() if turn else list(range(n))
        part = sorted(order[group * GROUP * size :][: GROUP * size], key=lambda i: len(self._examples[i]))
        cut = [part[i : i + size] for i in range(0, len(part) - size + 1, size)]
        return [cut[i] for i in rng.permutation(len(cut))]
