"""One measurement at a time: who holds the machine, across processes, whatever it is that is measured.

A run, an evaluation, a training, the ceilings and a bench take the same lock in the same folder. The lock is the
system's, so a process that dies gives it back; a note beside it says who holds it.
"""

from __future__ import annotations

import contextlib
import os
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import msgspec
from filelock import FileLock, Timeout

from core.runs.owner import Owner
from core.types import from_json
from hardware.errors import ExplorerError
from hardware.files import contents

LOCK, NOTE = "measuring.lock", "measuring.json"
SPOILED = "Two measurements at once would spoil both."
ASKED_S = 0.2  # longer than others hold the lock who only ask whether it is free
_mine = threading.local()  # folders that this thread holds


class Holder(msgspec.Struct, frozen=True):
    """what: completes "... is being measured", without an article where it has a name: "the run 20261126-...".

    run: its id, where it is one. asks_service: it measures this machine's own service, which answers it meanwhile.
    """

    what: str
    owner: Owner
    run: str = ""
    asks_service: bool = False


class BusyError(ExplorerError):
    """Somebody else is measuring."""

    def __init__(self, holder: Holder | None) -> None:
        pid = holder.owner.pid if holder else os.getpid()
        who = f"{holder.what} (process {pid})" if holder else "Another measurement"
        kill = f", or end process {pid}" if pid != os.getpid() else ""
        super().__init__(
            f"{who[0].upper()}{who[1:]} is going on this machine. {SPOILED}", f"Stop it or wait for its end{kill}."
        )


@contextmanager
def measuring(folder: Path, what: str, run: str = "", asks_service: bool = False) -> Iterator[None]:
    """Hold the machine. Raises BusyError, which names who holds it. Within itself, in one thread, it is free.

    folder: the data folder, which all that must not meet have in common. asks_service: as in Holder.
    """
    held: set[Path] = _mine.__dict__.setdefault("folders", set())
    if folder in held:
        yield
        return
    folder.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder / LOCK)
    try:
        lock.acquire(timeout=ASKED_S, poll_interval=ASKED_S / 5)
    except Timeout:
        raise BusyError(holder(folder)) from None
    note = folder / NOTE
    try:
        held.add(folder)
        with contextlib.suppress(OSError):  # a full disk
            note.write_bytes(msgspec.json.encode(Holder(what, Owner.of(os.getpid()), run, asks_service)))
        yield
    finally:
        held.discard(folder)
        with contextlib.suppress(OSError):
            note.unlink(missing_ok=True)
        lock.release()


@contextmanager
def answering(folder: Path, what: str) -> Iterator[None]:
    """Hold the machine for an answer of the service; free beside a measurement that asks the service.

    Raises BusyError, which names who holds it.
    """
    held = holder(folder)
    if held is not None and held.asks_service:
        yield
        return
    with measuring(folder, what):
        yield


def holder(folder: Path) -> Holder | None:
    """Who is measuring, as its note says; None for nobody. Takes no lock, so that asking disturbs nobody."""
    try:
        found = from_json(contents(folder / NOTE), Holder)
        silent_s = abs(time.time() - (folder / NOTE).stat().st_mtime)
    except (OSError, msgspec.DecodeError):
        return None
    return found if found.owner.alive(silent_s) else None
