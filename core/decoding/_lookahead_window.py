"""The two-dimensional window of lookahead decoding (Fu et al., 2402.02057, section 3.2, figure 5).

ngram - 1 rows of guesses: row t, column i stands t + i tokens after the known token, which is row 0, column 0.
A guess sees its column above it and, from row 0, what lies left of it. So a column, its key in row 0 and the
model's choice behind its last row are an n-gram, each token predicted from the one before it. Knows no session.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from core.decoding._tree import Tree


class LookaheadWindow:
    """fill: gives a token for where nothing is known. The first ngram - 2 steps fill the rows one by one."""

    def __init__(self, width: int, ngram: int, known: int, fill: Callable[[], int]) -> None:
        self._n_rows = ngram - 1
        self._rows = [[known, *(fill() for _ in range(width + ngram - 3))]]
        self._fill = fill

    def put(self, tree: Tree, deepest: int) -> list[int]:
        """Add the guesses up to `deepest` tokens after the known one; the nodes of the newest row."""
        self._rows = [row[: max(0, deepest + 1 - t)] for t, row in enumerate(self._rows)]
        nodes = [0, *tree.extend(self._rows[0][1:])]
        for row in self._rows[1:]:
            nodes = [tree.add(above, token) for above, token in zip(nodes, row, strict=False)]
        return nodes

    def step(self, choices: Sequence[int], accepted: Sequence[int], stop: frozenset[int]) -> list[tuple[int, ...]]:
        """Take the model's choices behind the newest row, and move on by what was accepted; the n-grams found.

        A window that has moved by several tokens gets new guesses on its right. A token that would end the text
        teaches nothing about what comes after it, and is replaced.
        """
        full = len(self._rows) == self._n_rows
        found = list(zip(*self._rows, choices, strict=False)) if full else []
        self._rows.append([self._fill() if token in stop else token for token in choices])
        if full:
            self._rows.pop(0)
        moved = len(accepted) - full  # a row that left has moved the others by one already
        for row in self._rows:
            kept = row[moved:]
            row[:] = kept + [self._fill() for _ in range(min(len(row) - len(kept), len(accepted) - 1))]
        if self._rows[0]:
            self._rows[0][0] = accepted[-1]
        return found
