"""Running text to measure a model on: the set that ships with the app, or a user's own file.

Knows files; knows nothing of tokens beyond the windows that a context cuts a text into.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec

import core.domains
from core.types import Record, Session, from_json
from hardware.errors import ExplorerError

SHIPPED = Path(core.domains.__file__).parent / "data" / "text.jsonl"
FORMAT = 'Give a .txt file, or a .jsonl file whose lines look like {"id": "a", "text": "..."}.'


class Document(Record):
    """A text that is read on its own. id: the same for every model."""

    id: str
    text: str


def documents(path: str, n: int = 0) -> list[Document]:
    """The first n documents of a file, all of them for n = 0; an empty path means the shipped set.

    A .txt file is one document. Raises ExplorerError for a file that cannot be read so.
    """
    file = Path(path).expanduser() if path else SHIPPED
    if file.suffix not in (".txt", ".jsonl"):
        raise ExplorerError(f"{file.name} is neither a .txt nor a .jsonl file.", FORMAT)
    try:
        content = file.read_text(encoding="utf-8")
    except OSError as error:
        raise ExplorerError(f"The text {file} cannot be read: {error.strerror}.", FORMAT) from None
    except UnicodeDecodeError:
        raise ExplorerError(f"The text {file.name} is not UTF-8.", "Save it as UTF-8.") from None
    found = [Document(id=file.stem, text=content)] if file.suffix == ".txt" else _lines(file.name, content)
    if not found or not all(document.text.strip() for document in found):
        raise ExplorerError(f"{file.name} has an empty document, or none.", FORMAT)
    return found[: n or None]


def count(path: str, n: int = 0) -> int | None:
    """How many there are; None for one alone, which is cut into windows that only a tokenizer can count."""
    found = documents(path, n)
    return len(found) if len(found) > 1 else None


def _lines(name: str, content: str) -> list[Document]:
    found = []
    for number, line in enumerate(content.split("\n"), 1):  # a text may hold other ends of lines
        if not line.strip():
            continue
        try:
            row = from_json(line, dict[str, Any])
        except msgspec.DecodeError:
            raise ExplorerError(f"Line {number} of {name} is not JSON.", FORMAT) from None
        if not isinstance(row.get("text"), str):
            raise ExplorerError(f"Line {number} of {name} has no text.", FORMAT)
        found.append(Document(id=str(row.get("id", number)), text=row["text"]))
    if len({document.id for document in found}) < len(found):
        raise ExplorerError(f"Two lines of {name} have the same id.", "Give every line an id of its own.")
    return found


class Window(Record):
    """ids[begin:end] go into the model; ids[first:end] are scored."""

    begin: int
    end: int
    first: int


def windows(n: int, context: int, stride: int) -> Iterator[Window]:
    """Overlapping windows over n tokens, each token scored once, the very first one never.

    The scheme of Hugging Face's "Perplexity of fixed-length models": windows begin at multiples of the stride, and a
    token is scored in the first window that holds it, so with at least context - stride tokens before it.
    """
    done = 1
    for begin in range(0, n, stride):
        end = min(begin + context, n)
        first = max(done, begin + 1)
        if first < end:
            yield Window(begin=begin, end=end, first=first)
        done = end
        if end == n:
            return


def within(context: int, session: Session) -> None:
    """Raises ExplorerError when a window is longer than the model's context."""
    if context > session.max_context:
        raise ExplorerError(
            f"A window of {context} tokens is more than the {session.max_context} that {session.spec.name} has here.",
            f"Set context to {session.max_context} or less.",
        )
