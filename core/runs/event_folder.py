"""A folder that one process fills and others read as it grows: events.jsonl, owner.json, cancel.

Runs and load tests are such folders. What is known here: how to read a growing file once, which process writes it, and
how that process is asked to stop. What the events say is for those who know their kind.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Protocol, TypeVar

import msgspec

from core.runs import clock
from core.runs.owner import Owner
from core.types import RunStatus, from_json, to_json
from hardware.files import contents, put, written_s

EVENTS, OWNER, CANCEL = "events.jsonl", "owner.json", "cancel"
MOST_S = 1e9  # thirty years: a time beyond it is damage


class Timed(Protocol):
    """What all events have. t_s: seconds since the folder's work was asked for."""

    @property
    def t_s(self) -> float:
        """Seconds."""


E = TypeVar("E", bound=Timed)


@dataclass
class EventFolder(Generic[E]):
    """One folder, read incrementally: `events()` costs only what is new since the last call.

    Several threads may have the same one: whoever comes second finds what the first has read.
    """

    path: Path
    _events: list[E] = field(default_factory=list, repr=False)
    _offset: int = field(default=0, repr=False)
    _unread: int = field(default=0, repr=False)
    _reading: threading.RLock = field(default_factory=threading.RLock, repr=False, compare=False)

    @property
    def id(self) -> str:
        """The folder's name."""
        return self.path.name

    @property
    def created_s(self) -> float:
        """Wall-clock seconds when its work was asked for. Raises ExplorerError when it cannot be read."""
        raise NotImplementedError

    def _decoded(self, lines: bytes) -> Iterable[E | None]:
        """The events of whole lines; None, or nothing, in the place of one that cannot be read."""
        raise NotImplementedError

    def _ended(self) -> RunStatus | None:
        """The end that its events tell of."""
        raise NotImplementedError

    def events(self) -> list[E]:
        """All events so far. A half-written or damaged line is passed over, never an error."""
        with self._reading:
            try:
                data = contents(self.path / EVENTS, self._offset)
            except FileNotFoundError:
                return self._events
            end = data.rfind(b"\n") + 1
            self._offset += end
            told = list(self._decoded(data[:end]))
            read = [e for e in told if e is not None and 0 <= e.t_s < MOST_S]
            self._events += read
            self._unread += len(told) - len(read)
            return self._events

    @property
    def n_events(self) -> int:
        """That were read; reads nothing."""
        return len(self._events)

    @property
    def n_unread(self) -> int:
        """Damaged lines that were passed over; reads nothing."""
        return self._unread

    def elapsed_s(self) -> float:
        """Seconds since it was asked for, as its next event may say it, whatever the clock did."""
        return clock.since_s(self.created_s, max((event.t_s for event in self.events()), default=0.0))

    def append(self, event: E) -> None:
        """Write one event; raises OSError (a full disk)."""
        with (self.path / EVENTS).open("ab") as file:
            file.write(to_json(event) + b"\n")

    def own(self, pid: int | None = None, watched: bool = False) -> None:
        """Say which process writes it; None: this one. watched: this process will write its end if that one cannot.

        Raises OSError (a full disk).
        """
        owner = Owner.of(os.getpid() if pid is None else pid)
        if watched:
            owner = msgspec.structs.replace(owner, watcher=Owner.of(os.getpid()))
        put(self.path / OWNER, to_json(owner))

    def disown(self) -> None:
        """Nobody writes it any more: without an end it reads as interrupted."""
        (self.path / OWNER).unlink(missing_ok=True)

    def status(self) -> RunStatus:
        """Its end as its last event tells it; before that, whether its writer is at work or gone ("interrupted")."""
        if (ended := self._ended()) is not None:
            return ended
        if not self._at_work():
            return self._ended() or "interrupted"  # its end may have been written between the two looks
        return "running" if self._events else "queued"

    def _at_work(self) -> bool:
        """Whether an end is still to be written."""
        try:
            owner = from_json(contents(self.path / OWNER), Owner)
        except (OSError, msgspec.DecodeError):
            return False
        return owner.at_work(self._silent_s())

    def _silent_s(self) -> float:
        """Since something was written of it."""
        return abs(time.time() - max(written_s(self.path / name) for name in (EVENTS, OWNER)))

    def cancel(self) -> None:
        """Ask for a stop, and return at once: whoever writes it looks for this file. Raises OSError (a full disk)."""
        (self.path / CANCEL).touch()

    @property
    def cancel_requested(self) -> bool:
        """Whether somebody has asked for a stop, or has taken the whole folder away."""
        return (self.path / CANCEL).exists() or not self.is_there

    @property
    def is_there(self) -> bool:
        """Whether there still is such a folder."""
        return self.path.is_dir()
