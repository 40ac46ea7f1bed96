"""Finds the SQL statement in a text nobody trusts, and runs it read-only on a database made for it."""

from __future__ import annotations

import re
import sqlite3

Row = tuple[object, ...]

MAX_ROWS = 10_000
STEPS = 2_000_000  # of SQLite's virtual machine: a count, not a time, so that a busy machine judges alike
_PERMITTED = {
    sqlite3.SQLITE_SELECT,
    sqlite3.SQLITE_READ,
    sqlite3.SQLITE_FUNCTION,
    sqlite3.SQLITE_RECURSIVE,
}
_FENCE = re.compile(r"```[a-z]*\s*\n?(.*?)(?:```|\Z)", re.DOTALL | re.IGNORECASE)
_VERB = (
    r"SELECT|INSERT|UPDATE|DELETE|DROP|CREATE|ALTER|REPLACE|PRAGMA|ATTACH|VACUUM"
    r"|WITH(?=\s+(?:RECURSIVE\s+)?\w+[^;]*\bAS\s*\()"
)
_START = re.compile(rf"(?im:^\s*(?:{_VERB}))\b|\b(?:{_VERB})\b")


class RefusedError(Exception):
    """The statement failed, would write, or did too much."""


def statement(text: str) -> str:
    """The first SQL statement in `text`, without code fences and the words around it; empty if there is none.

    It begins at a verb that opens a line or is in capitals, and ends with its semicolon or before an empty line.
    """
    if fenced := _FENCE.search(text):
        text = fenced[1]
    start = _START.search(text)
    if start is None:
        return ""
    text = text[start.start() :].strip()
    for end in re.finditer(";", text):
        if sqlite3.complete_statement(text[: end.end()]):
            return text[: end.end()]
    return re.split(r"\n\s*\n", text)[0].strip()


def database(script: str) -> sqlite3.Connection:
    """A fresh database in memory on which only reading is possible from now on."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(script)
    connection.set_authorizer(_authorize)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 100_000)
    connection.setlimit(sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH, 100)
    calls = 0

    def tick() -> bool:
        nonlocal calls
        calls += 1
        return calls * 1000 > STEPS

    connection.set_progress_handler(tick, 1000)
    return connection


def rows(connection: sqlite3.Connection, sql: str) -> list[Row]:
    """All rows of one reading statement; numbers rounded to 6 decimals. Raises RefusedError."""
    try:
        found = connection.execute(sql).fetchmany(MAX_ROWS + 1)
    except (sqlite3.Error, sqlite3.Warning, ValueError, OverflowError) as error:
        raise RefusedError(str(error)) from None
    if len(found) > MAX_ROWS:
        raise RefusedError("too many rows")
    return [tuple(round(v, 6) if isinstance(v, float) else v for v in row) for row in found]


def _authorize(action: int, first: str | None, second: str | None, *_: str | None) -> int:
    safe = action in _PERMITTED and not (action == sqlite3.SQLITE_FUNCTION and second == "load_extension")
    return sqlite3.SQLITE_OK if safe else sqlite3.SQLITE_DENY
