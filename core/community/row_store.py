"""Rows on this machine, a file each: one's own, and those of others that were taken in from files."""

from __future__ import annotations

import contextlib
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from core.community.row import MOST_BYTES, Row, encoded, identified
from core.types import from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, contents, write_whole

FOLDER, OWN, OTHERS, NAME = "community", "own", "others", "contributor.json"
MOST_FILE_BYTES = 64_000_000
MOST_ROWS = 10_000  # of a file


class Taken(NamedTuple):
    """What came of a file: rows that are new here, rows that were here already, and why others were refused."""

    n_new: int
    n_known: int
    refused: tuple[str, ...]


class RowStore:
    """The rows of one data folder."""

    def __init__(self, root: Path) -> None:
        self.folder = root / FOLDER

    @property
    def contributor(self) -> str:
        """This installation's random name; made when it is first asked for, and no part of anything else."""
        path = self.folder / NAME
        with contextlib.suppress(OSError, msgspec.DecodeError):
            return from_json(contents(path), str)
        made = secrets.token_hex(6)
        self._write(path, to_json(made))
        return made

    def keep(self, row: Row) -> Path:
        """Keep a row of one's own; the same row is kept once."""
        path = self.folder / OWN / f"{row.id}.json"
        self._write(path, encoded(row))
        return path

    def rows(self) -> tuple[tuple[Row, ...], tuple[Row, ...]]:
        """(one's own, those of others); files that cannot be read are left out."""
        own, others = ({row.id: row for row in self._read(name)} for name in (OWN, OTHERS))
        return tuple(own.values()), tuple(row for row in others.values() if row.id not in own)

    def own(self, row_id: str) -> Row:
        """One of one's own; raises ExplorerError where there is none of that id."""
        found = next((row for row in self.rows()[0] if row.id == row_id), None)
        if found is None:
            raise ExplorerError(f"There is no row '{row_id[:40]}' of yours.", "Make one of a run first.")
        return found

    def forget(self, row_id: str) -> None:
        """Remove a row, whoever's it is; raises ExplorerError where there is none."""
        there = [p for name in (OWN, OTHERS) for p in (self.folder / name).glob("*.json") if p.stem == row_id]
        if not there:
            raise ExplorerError(f"There is no row '{row_id[:40]}'.", "The board lists those that are here.")
        for path in there:
            path.unlink(missing_ok=True)

    def take_in(self, name: str, data: bytes) -> Taken:
        """The rows of a file of others: one row, a list of them, or one a line.

        Raises ExplorerError for a file that holds no rows at all; a single bad row is refused with its reason.
        """
        if len(data) > MOST_FILE_BYTES:
            raise ExplorerError(f"{name} is larger than {MOST_FILE_BYTES / 1e6:.0f} MB.", "Take it in in parts.")
        known, new, refused = {row.id for rows in self.rows() for row in rows}, 0, []
        n_known = 0
        for number, found in enumerate(_listed(name, data), 1):
            row = _row(found)
            if isinstance(row, str):
                refused.append(f"Row {number}: {row}")
            elif row.id in known:
                n_known += 1
            else:
                self._write(self.folder / OTHERS / f"{row.id}.json", encoded(row))
                known.add(row.id)
                new += 1
        return Taken(new, n_known, tuple(refused))

    def _read(self, name: str) -> Iterator[Row]:
        for path in sorted((self.folder / name).glob("[!.]*.json")):
            with contextlib.suppress(OSError, msgspec.DecodeError, UnicodeDecodeError):
                yield from_json(contents(path), Row)

    def _write(self, path: Path, data: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write_whole(path, data)
        except OSError as error:
            raise ExplorerError(
                f"The row could not be kept: {error.strerror}.", f"Free space in {path.parent}."
            ) from error


def _listed(name: str, data: bytes) -> list[Any]:
    """The values of a JSON file or of one with a value a line."""
    try:
        found = msgspec.json.decode(data)
    except UNREADABLE:
        try:
            found = [msgspec.json.decode(line) for line in data.splitlines() if line.strip()]
        except UNREADABLE as error:
            why = "it is nested too deeply" if isinstance(error, RecursionError) else error
            raise ExplorerError(f"{name} is not a file of rows: {why}.", "Take JSON, or JSON line by line.") from error
    listed = found if isinstance(found, list) else [found]
    if not listed or not all(isinstance(one, dict) for one in listed):
        raise ExplorerError(f"{name} holds no rows.", "Take a file of rows that Roofscope has written.")
    if len(listed) > MOST_ROWS:
        raise ExplorerError(f"{name} holds {len(listed):,} rows.", f"Take it in in parts of at most {MOST_ROWS:,}.")
    return listed


def _row(found: Any) -> Row | str:
    """The row, or why it is none."""
    try:
        if len(to_json(found)) > MOST_BYTES:
            return f"it is larger than {MOST_BYTES / 1024:.0f} KiB."
        row = msgspec.convert(found, Row)
    except (msgspec.ValidationError, RecursionError, OverflowError) as error:
        return f"{error}."
    return row if identified(row).id == row.id else "its id does not fit its content: it was changed, or cut."
