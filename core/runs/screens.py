"""What the worker and the screens tell each other: that numbers are being taken, and that something was drawn.

Two small files in the data folder, so that it holds for every process on it; nothing here draws or measures.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

import msgspec

from core.runs.owner import Owner
from core.types import Record, from_json, to_json
from hardware.files import contents

REST, DREW = "rest.json", "drawn"
PAUSE_S = 1.2  # longer than a screen that draws ever pauses


class Rest(Record):
    """The screens rest while `owner` times the run `run`.

    since_s: wall-clock seconds; expected_s: how long it will take, about. every_s: how often screens may draw
    meanwhile; None: not at all.
    """

    run: str
    owner: Owner
    since_s: float
    expected_s: float
    every_s: float | None = None


def rest(root: Path) -> Rest | None:
    """The rest that is asked for now. Removes the note of a process that is gone."""
    try:
        found = from_json(contents(root / REST), Rest)
        fresh_s = time.time() - (root / REST).stat().st_mtime
    except (OSError, msgspec.DecodeError):
        return None
    if found.owner.alive(fresh_s - found.expected_s):
        return found
    end(root)
    return None


def begin(root: Path, run: str, expected_s: float, every_s: float | None = None) -> Rest:
    """Ask for a rest in this process's name; replaces an earlier one. Raises OSError (a full disk)."""
    me = Owner.of(os.getpid())
    note = Rest(run=run, owner=me, since_s=time.time(), expected_s=expected_s, every_s=every_s)
    partial = root / f"{REST}.{me.pid}"
    partial.write_bytes(to_json(note))
    os.replace(partial, root / REST)
    return note


def end(root: Path) -> None:
    """The screens may draw again."""
    with contextlib.suppress(OSError):
        (root / REST).unlink()


def drew(root: Path) -> None:
    """Say that a screen has just drawn, or is about to."""
    with contextlib.suppress(OSError):
        (root / DREW).touch()


def quiet_s(root: Path) -> float:
    """Seconds since a screen drew last; infinite when none ever did."""
    try:
        return max(0.0, time.time() - (root / DREW).stat().st_mtime)
    except OSError:
        return float("inf")
