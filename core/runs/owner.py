"""Who writes a run: a process that is known again whatever the clock does, from another container too."""

from __future__ import annotations

import msgspec
import psutil

from hardware.process import here, started_s

SILENT_S = 120.0  # a process of another system that has written nothing for so long is taken for gone
_SAME_S = 0.05  # system clocks tick more often


class Owner(msgspec.Struct, frozen=True):
    """The process that writes something. Gone, or its number used again, means that it was interrupted.

    started: see hardware.process.started_s; here: the system in which `pid` means something. watcher: the process that
    waits for the end of that one, and writes down why it came.
    """

    pid: int
    started: float
    watcher: Owner | None = None
    here: str = ""

    @classmethod
    def of(cls, pid: int) -> Owner:
        """Raises psutil.NoSuchProcess."""
        return cls(pid, started_s(pid), here=here())

    def alive(self, silent_s: float) -> bool:
        """Whether it still runs. silent_s: since it wrote last, which is all that another system can see of it."""
        if self.here != here():
            return silent_s < SILENT_S
        try:
            return abs(started_s(self.pid) - self.started) < _SAME_S
        except psutil.NoSuchProcess:
            return False

    def at_work(self, silent_s: float) -> bool:
        """Whether an end of the run is still to be written."""
        return self.alive(silent_s) or (self.watcher is not None and self.watcher.alive(silent_s))
