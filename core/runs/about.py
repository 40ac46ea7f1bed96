"""What somebody calls a run, and what they remark about it: kept in the run's folder, beside its events.

The words may come from elsewhere, with a bundle: they are bounded, and hold no characters that a screen acts on.
"""

from __future__ import annotations

import contextlib
import os
import unicodedata
from pathlib import Path
from typing import Annotated

import msgspec

from core.types import Record, from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import contents

FILE = "about.json"
MOST_NAME, MOST_NOTE = 80, 2000  # characters
_MOST_BYTES = 32 * (MOST_NAME + MOST_NOTE)  # of a file that can be one: a character takes at most twelve in JSON


class About(Record):
    """name: on one line. note: may have several. Either may be empty."""

    name: Annotated[str, msgspec.Meta(max_length=MOST_NAME)] = ""
    note: Annotated[str, msgspec.Meta(max_length=MOST_NOTE)] = ""


def about(name: str, note: str) -> About:
    """The words as they are kept; raises ExplorerError for those that are too long."""
    found = About(name=" ".join(_plain(name).split()), note=_plain(note).strip())
    for what, words, most in (("name", found.name, MOST_NAME), ("note", found.note, MOST_NOTE)):
        if len(words) > most:
            raise ExplorerError(
                f"The {what} has {len(words):,} characters, and a run's has at most {most:,}.", "Shorten it."
            )
    return found


def read(folder: Path) -> About:
    """Of a run's folder; empty where nothing, or nothing that can be one, was written."""
    file = folder / FILE
    try:
        if file.stat().st_size > _MOST_BYTES:
            return About()
        found = from_json(contents(file), About)
    except (OSError, msgspec.DecodeError):
        return About()
    return About(name=" ".join(_plain(found.name).split()), note=_plain(found.note).strip())


def write(folder: Path, words: About) -> None:
    """Keep them, at once or not at all; empty ones take the file away. Raises ExplorerError."""
    file = folder / FILE
    part = file.with_suffix(".part")
    try:
        if words == About():
            file.unlink(missing_ok=True)
            return
        part.write_bytes(to_json(words))
        os.replace(part, file)
    except OSError as error:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)
        raise ExplorerError(
            f"The name and the note could not be kept: {error.strerror or error}.", f"Free some space in {folder}."
        ) from error


def _plain(words: str) -> str:
    """Without control characters, marks of direction, and halves of characters; lines stay lines."""
    lines = words.replace("\r\n", "\n").replace("\r", "\n")
    return "".join(c for c in lines if c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs"))
