"""Text from token ids as they come: only whole characters, and no work that grows with the text."""

from __future__ import annotations

from core.types import Session

DECODE_WINDOW, DECODE_OVERLAP = 32, 8


class TextStream:
    """Turns accepted ids into new text, holding back what is not yet a whole character."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids: list[int] = []
        self._start, self._shown = 0, ""  # the text of ids[start:] that was given out already

    def add(self, ids: tuple[int, ...]) -> str:
        """Decodes only the last stretch again, so that the cost does not grow with the text."""
        self._ids.extend(ids)
        decoded = self._session.decode(self._ids[self._start :])
        whole = decoded.rstrip("\ufffd")  # what may be the beginning of a character
        new = whole[len(self._shown) :]
        self._shown += new
        if len(self._ids) - self._start > DECODE_WINDOW and whole == decoded:
            self._start = len(self._ids) - DECODE_OVERLAP
            self._shown = self._session.decode(self._ids[self._start :])
        return new
