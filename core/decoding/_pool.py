"""N-grams that a window of Jacobi guesses passed through, by their first token.

Fu et al., "Lookahead decoding" (2402.02057, section 3.1): read off the trajectory, a few per first token, the
oldest leaving first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence


class Pool:
    """N-grams by their first token, at most `most` each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tails: dict[int, list[tuple[int, ...]]] = {}  # newest last

    def add(self, ngram: Sequence[int]) -> None:
        first, *tail = ngram
        known = self._tails.setdefault(first, [])
        if tuple(tail) in known:
            known.remove(tuple(tail))
        known.append(tuple(tail))
        del known[: -self._most]

    def add_all(self, text: Sequence[int], n: int) -> None:
        """Every n-gram of the text."""
        for start in range(len(text) - n + 1):
            self.add(text[start : start + n])

    def tails(self, first: int) -> list[tuple[int, ...]]:
        """What followed this token, the newest first."""
        return self._tails.get(first, [])[::-1]

    def closest(self, first: int, guess: Sequence[int]) -> tuple[int, ...]:
        """The tail that agrees longest with the guess, the newest of equals; empty without any."""

        def agreement(tail: tuple[int, ...]) -> int:
            same = [a == b for a, b in zip(tail, guess, strict=False)]
            return same.index(False) if False in same else len(same)

        return max(self.tails(first), key=agreement, default=())


def diagonals(
    context: Sequence[int], rows: Sequence[tuple[int, list[int]]], better: Sequence[int], n: int
) -> Iterator[list[int]]:
    """N-grams that end in the newest predictions, each token one iteration older than its successor.

    rows: what the last forwards were fed, newest first, and where each began. better[j] was predicted
    after the newest row's token j. What lies before a row is the context.
    """
    for j, last in enumerate(better):
        ngram = [last]
        for place, (start, row) in zip(range(rows[0][0] + j, -1, -1), rows, strict=False):
            if place >= start + len(row):
                break
            ngram.append(context[place] if place < start else row[place - start])
        if len(ngram) == n:
            yield ngram[::-1]
