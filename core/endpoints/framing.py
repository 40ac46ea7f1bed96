"""Bytes of a stream to its events: server-sent events and JSON lines, and the JSON of one. Not what is inside.

Lines are split on bytes, and a line is decoded when it is whole: a character may come in two reads, and the line
separators of Unicode, which JSON allows, end nothing.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Protocol

from core.types import Record

LIMIT = 32 * 2**20  # bytes of one event


class EndlessEventError(ValueError):
    """An event without an end."""


class Event(Record):
    """name: of a named event, "" of others. data: its text."""

    data: str
    name: str = ""


def value_of(data: str | bytes) -> Any:
    """The JSON that a server sent. Halves of characters, which JSON can write and nothing can show, are replaced.

    Raises ValueError for what is none, and for nesting without an end.
    """
    try:
        found = json.loads(data)
        if (b"\\u" if isinstance(data, bytes) else "\\u") in data:  # type: ignore[operator]
            whole = json.dumps(found, ensure_ascii=False).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
            found = json.loads(whole)
    except RecursionError:
        raise ValueError("it is nested too deeply") from None
    return found


class Framing(Protocol):
    def feed(self, data: bytes) -> Iterator[Event]:
        """The events that these bytes complete."""

    def finish(self) -> Iterator[Event]:
        """What the end of the stream completes."""


class _Lines:
    """Complete lines of a stream of bytes, without their ends. A CR ends a line at once; its LF may come later."""

    def __init__(self) -> None:
        self._rest = b""
        self._after_cr = False

    def feed(self, data: bytes) -> Iterator[bytes]:
        if self._after_cr and data[:1] == b"\n":
            data = data[1:]
            self._after_cr = False
        if not data:
            return
        self._after_cr = data[-1:] == b"\r"
        lines = (self._rest + data).splitlines(keepends=True)  # of bytes: CR, LF and CRLF alone
        self._rest = lines.pop() if lines[-1][-1:] not in b"\r\n" else b""
        if len(self._rest) > LIMIT:
            raise EndlessEventError
        for line in lines:
            yield line.rstrip(b"\r\n")

    def finish(self) -> bytes:
        rest, self._rest = self._rest, b""
        return rest


class ServerSentEvents:
    """The event stream of the HTML standard: comments, names, several data lines per event."""

    def __init__(self) -> None:
        self._lines = _Lines()
        self._first = True
        self._name = ""
        self._data: list[str] = []
        self._size = 0

    def feed(self, data: bytes) -> Iterator[Event]:
        for line in self._lines.feed(data):
            yield from self._line(line)

    def finish(self) -> Iterator[Event]:
        """The last event, if a server forgot the empty line behind it."""
        if rest := self._lines.finish():
            yield from self._line(rest)
        yield from self._line(b"")

    def _line(self, line: bytes) -> Iterator[Event]:
        if self._first:
            line, self._first = line.removeprefix(b"\xef\xbb\xbf"), False
        if not line:
            if self._data:
                yield Event(data="\n".join(self._data), name=self._name)
            self._data, self._name, self._size = [], "", 0
            return
        field, _, value = line.partition(b":")
        value = value.removeprefix(b" ")
        if field == b"data":
            self._size += len(value)
            if self._size > LIMIT:
                raise EndlessEventError
            self._data.append(value.decode("utf-8", "replace"))
        elif field == b"event":
            self._name = value.decode("utf-8", "replace")


class JsonLines:
    """One JSON value per line (Ollama)."""

    def __init__(self) -> None:
        self._lines = _Lines()

    def feed(self, data: bytes) -> Iterator[Event]:
        for line in self._lines.feed(data):
            if line.strip():
                yield Event(data=line.decode("utf-8", "replace"))

    def finish(self) -> Iterator[Event]:
        if rest := self._lines.finish().strip():
            yield Event(data=rest.decode("utf-8", "replace"))
