"""Rows as files that other programs read: CSV for a spreadsheet, Markdown for a document. Knows nothing of runs."""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec

_FORMULA = ("=", "+", "-", "@", "\t", "\r")  # how a cell begins that a spreadsheet would compute


def as_csv(rows: Sequence[Mapping[str, Any]]) -> str:
    """The rows under the names of the first one's columns; None is an empty cell, a list JSON, no row an empty text.

    Texts come from models and servers: none of them is taken for a formula by a spreadsheet.
    """
    text = io.StringIO()
    if rows:
        writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: _plain(value) for name, value in row.items()} for row in rows)
    return text.getvalue()


def _plain(value: Any) -> Any:
    if isinstance(value, list | tuple | dict):
        value = msgspec.json.encode(value).decode()
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value


def as_markdown(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table without a line end behind it. A bar in a cell would end it, and becomes a slash."""
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    lines += ["| " + " | ".join(cell.replace("|", "/") for cell in row) + " |" for row in rows]
    return "\n".join(lines)
