"""Commands of this program in a process of their own, which goes on whatever becomes of the one that started it.

What it says goes to a log. A note beside it tells which process it is, so that every other process can ask after it.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import msgspec
import psutil

from core.runs.owner import Owner
from core.types import from_json, to_json
from hardware.files import contents, put, written_s
from hardware.priority import spawn

_ROOT = Path(__file__).parents[2]


def launch(arguments: Sequence[str], log: Path, note: Path) -> None:
    """Start `python ARGUMENTS`, its words in `log`, and write down which process it is.

    Raises OSError when it does not start (a full disk).
    """
    command = [sys.executable, *arguments]
    with log.open("wb") as said:
        process = spawn(
            lambda: subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=said, stderr=said, cwd=_ROOT, start_new_session=True
            )
        )
    with contextlib.suppress(psutil.NoSuchProcess, OSError):  # it has ended already; or it will say why it cannot go on
        put(note, to_json(Owner.of(process.pid)))


def owner_of(note: Path, *written: Path) -> Owner | None:
    """The process that a note names, while it goes on; None when it is over.

    written: what it writes as it goes, which is all that another system can see of it.
    """
    try:
        owner = from_json(contents(note), Owner)
    except (OSError, msgspec.DecodeError):
        return None
    silent_s = abs(time.time() - max(map(written_s, written)))
    return owner if owner.alive(silent_s) else None


def last_words(log: Path, n: int) -> str:
    """The last `n` lines that a process said; empty where there are none."""
    try:
        lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return ""
    return "\n".join(lines[-n:])
