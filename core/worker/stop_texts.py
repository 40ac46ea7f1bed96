"""Texts at which an answer ends: what may be the beginning of one is held back until it is clear."""

from __future__ import annotations

from collections.abc import Sequence


class StopTexts:
    """Lets a text through as it comes, up to the first of the stop texts. found: it has come."""

    def __init__(self, stops: Sequence[str]) -> None:
        self._stops = tuple(stop for stop in stops if stop)
        self._held = ""
        self.found = False

    def add(self, text: str) -> str:
        """What can be said now. Behind a stop text nothing is said any more."""
        if self.found:
            return ""
        self._held += text
        cuts = [at for stop in self._stops if (at := self._held.find(stop)) >= 0]
        if cuts:
            self.found = True
            said, self._held = self._held[: min(cuts)], ""
            return said
        keep = max((_overlap(self._held, stop) for stop in self._stops), default=0)
        said, self._held = self._held[: len(self._held) - keep], self._held[len(self._held) - keep :]
        return said

    def rest(self) -> str:
        """What was held back and was no stop text after all; for the end of an answer."""
        said, self._held = self._held, ""
        return said


def _overlap(text: str, stop: str) -> int:
    """Characters at the end of `text` that are the beginning of `stop`, fewer than all of it."""
    return next((n for n in range(min(len(text), len(stop) - 1), 0, -1) if text.endswith(stop[:n])), 0)
