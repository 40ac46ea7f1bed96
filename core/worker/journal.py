"""The writing side of a run: its events, its progress, and the user's wish to stop."""

from __future__ import annotations

import os
import time
from typing import Any, Protocol

import msgspec

from core.runs.store import Run
from core.types import Curve, Event, Item, Memory, Phase, PhaseName, Step, Warned
from hardware.process import resident

PROGRESS_EVERY_S = 0.1
MEMORY_EVERY_S = 0.2
RESERVE_BYTES = 256 * 1024  # freed when the disk is full, so that the run can still say so


class Cancelled(BaseException):
    """The user asked for a stop. What explains the errors of a library must not take it for one."""


class Teller(Protocol):
    """Where progress is told; raises Cancelled when a stop is asked for."""

    def phase(
        self, name: PhaseName, note: str = "", done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None: ...

    def stop_if_asked(self) -> None:
        """Raises Cancelled; for where nothing is told for long."""


class Witness(Teller, Protocol):
    """Where opening a model is told. processes: ids of others whose memory is the run's, too."""

    processes: tuple[int, ...]

    def warn(self, message: str) -> None: ...


class Journal:
    """Writes the events of one run; t_s counts from the request. `measuring`: there is a first result.

    root: the data folder. processes: ids of others whose memory is the run's, too.
    """

    def __init__(self, run: Run) -> None:
        self.run = run
        self.root = run.path.parents[1]
        self.measuring = False
        self.processes: tuple[int, ...] = ()
        self._origin = time.perf_counter() - run.elapsed_s()
        self._file = (run.path / "events.jsonl").open("ab")
        self._reserve = run.path / "reserve"
        self._reserve.write_bytes(bytes(RESERVE_BYTES))
        self._last_progress_s = 0.0
        self._last_note = ""
        self._last_memory_s = 0.0

    def now(self) -> float:
        return time.perf_counter() - self._origin

    def write(self, event: Event) -> None:
        """Raises OSError (a full disk)."""
        line = msgspec.json.encode(event, enc_hook=str)  # a library may tell its version in a type of its own
        self._file.write(line + b"\n")
        self._file.flush()
        self.measuring |= isinstance(event, Step | Item | Curve)

    def warn(self, message: str) -> None:
        self.write(Warned(t_s=self.now(), message=message))

    def adopt(self, event: Any) -> None:
        """Write an event stamped with time.perf_counter() by a profiler."""
        self.write(msgspec.structs.replace(event, t_s=event.t_s - self._origin))

    def stop_if_asked(self) -> None:
        """Raises Cancelled."""
        if self.run.cancel_requested:
            raise Cancelled

    def phase(
        self, name: PhaseName, note: str = "", done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        """Progress, at most ten lines a second unless the note changes; looks for a stop as well."""
        self.stop_if_asked()
        now = self.now()
        if note == self._last_note and now - self._last_progress_s < PROGRESS_EVERY_S and done != total:
            return
        self._last_note, self._last_progress_s = note, now
        self.write(Phase(t_s=now, name=name, note=note, done=done, total=total, unit=unit))

    def memory(self, phase: str, pass_no: int | None = None) -> None:
        """The memory of the run's processes now, at most five times a second."""
        now = self.now()
        if now - self._last_memory_s < MEMORY_EVERY_S:
            return
        self._last_memory_s, seen = now, resident(*self.processes)
        self.write(
            Memory(
                t_s=now,
                pass_no=pass_no,
                phase=phase,
                rss_bytes=seen.rss_bytes,
                anon_bytes=seen.anon_bytes,
                file_bytes=seen.file_bytes,
            )
        )

    def end(self, event: Event) -> None:
        """The last event, written even on a full disk, and the run with it so that a power cut finds it."""
        self._reserve.unlink(missing_ok=True)
        try:
            self.write(event)
            os.fsync(self._file.fileno())
        finally:
            self._file.close()
