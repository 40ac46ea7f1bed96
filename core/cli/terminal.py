"""A terminal that is shown text and obeys none of it: names in bundles, files and models come from outside."""

from __future__ import annotations

import sys
from typing import Any, TextIO

_ORDER = (*range(0x202A, 0x202F), *range(0x2066, 0x206A))  # marks that turn the direction of what follows
_SEEN = {n: 0x2400 + n for n in range(0x20) if chr(n) not in "\t\n"}  # pictures of control characters
_SEEN |= dict.fromkeys((0x7F, *range(0x80, 0xA0), *_ORDER), 0xFFFD)


def plain(words: str) -> str:
    """The same with a visible sign for each character that a terminal would act on."""
    return words.translate(_SEEN)


class Shown:
    """A stream whose text is plain; bytes, which are JSON or a file that somebody asked for, go as they are."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, words: str) -> int:
        if not isinstance(words, str):
            raise TypeError("a terminal is written text")
        return self._stream.write(plain(words))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def protect() -> None:
    """From here on, what this process prints on a terminal is plain. Pipes and files get what was written."""
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if stream is not None and stream.isatty():
            setattr(sys, name, Shown(stream))
