"""Where each sequence of a batch ends: what comes behind its stop token is padding, and counts as nothing."""

from __future__ import annotations

from collections.abc import Collection, Sequence


class Ends:
    """stop: tokens that end a sequence; they belong to it."""

    def __init__(self, n_sequences: int, stop: Collection[int]) -> None:
        self._stop = stop
        self._ended = [False] * n_sequences

    @property
    def going(self) -> int:
        """Sequences that have not ended yet."""
        return self._ended.count(False)

    def up_to_end(self, tokens: Sequence[Sequence[int]]) -> tuple[tuple[int, ...], ...]:
        """The next tokens of every sequence as far as they are its own."""
        found = []
        for row, new in enumerate(tokens):
            last = next((i for i, token in enumerate(new) if token in self._stop), None)
            found.append(() if self._ended[row] else tuple(new if last is None else new[: last + 1]))
            self._ended[row] |= last is not None
        return tuple(found)
