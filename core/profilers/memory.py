"""Resident memory over a pass: a timeline every few milliseconds and the true peak of each phase.

The peak is the kernel's high-water mark, reset when a phase begins, so that no spike between two
samples is missed. The timeline is sampled from a thread, which is why this has a pass of its own.
"""

from __future__ import annotations

import threading
import time
from typing import Any

from core.profilers._ticker import Ticker
from core.types import Memory, Profiler, Session, Step
from hardware.process import reset_peak, resident

EVERY_S = 0.02


class MemoryAttachment:
    def __init__(self, session: Session, pass_no: int) -> None:
        self._session, self._pass_no, self._phase = session, pass_no, "start"
        self._true_peak = False
        self._events: list[Memory] = []
        self._lock = threading.Lock()
        self._ticker = Ticker(self._take, EVERY_S)

    def _take(self, with_peak: bool = False) -> None:
        now = resident()
        device = getattr(self._session, "device_bytes", None)
        event = Memory(
            t_s=time.perf_counter(),
            pass_no=self._pass_no,
            phase=self._phase,
            rss_bytes=now.rss_bytes,
            anon_bytes=now.anon_bytes,
            file_bytes=now.file_bytes,
            peak_bytes=now.peak_bytes if with_peak and self._true_peak else None,
            device_bytes=device() if device else None,
        )
        with self._lock:
            self._events.append(event)

    def phase(self, name: str) -> None:
        if self._phase != "start":
            self._take(with_peak=True)
        self._phase = name
        self._true_peak = reset_peak()

    def step(self, step: Step) -> None:
        pass

    def events(self) -> list[Any]:
        with self._lock:
            taken, self._events = self._events, []
        return taken

    def close(self) -> None:
        if self._ticker.stop():
            self._take(with_peak=True)


class MemoryProfiler:
    name = "memory"
    label = "Memory"
    needs: frozenset[str] = frozenset()
    inside = True
    single = False
    limit: int | None = None

    def unavailable(self) -> str | None:
        return None

    def attach(self, session: Session, pass_no: int) -> MemoryAttachment:
        return MemoryAttachment(session, pass_no)


plugin: Profiler = MemoryProfiler()
