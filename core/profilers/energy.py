"""Energy of each phase, in a pass of its own: the machine's counters, and the processor time beside them.

It reports what was counted and estimates nothing: where no counter can be read, core.analysis.energy makes a
labelled estimate of the processor time. A run on the processor is covered by the processor's counters, one on a
card only where the card counts too. A counter covers the whole chip and everything that runs on it.
"""

from __future__ import annotations

import threading
import time
from typing import Any, Literal

from core.profilers._ticker import Ticker
from core.types import EnergyReading, Profiler, Session, Step
from hardware import energy

READ_EVERY_S = 30.0  # a counter's wrap-around is made good only if no two of them pass between reads
IDLE_S = 0.5


class EnergyAttachment:
    def __init__(self, session: Session, pass_no: int) -> None:
        self._pass_no = pass_no
        self._phase: Literal["prefill", "decode"] | None = None
        self._events: list[EnergyReading] = []
        self._lock = threading.Lock()
        on_processor = session.setup.device == "cpu"
        found = energy.counters()
        cards = [c for c in found if c.method == "NVML"]
        self._missing = ""
        if on_processor:
            self._counters = [c for c in found if c not in cards]
            if not self._counters:
                self._missing = energy.unavailable() or "No counter covers this processor."
        else:
            self._counters = list(found) if cards else []
            if not cards:
                self._missing = "No counter covers the card that this run uses."
        self._idle_w = self._measure_idle()
        self._ticker = Ticker(self._read, READ_EVERY_S)

    def _measure_idle(self) -> float | None:
        if not self._counters:
            return None
        self._begin()
        time.sleep(IDLE_S)
        seconds, counted = time.perf_counter() - self._began, self._read()
        return sum(counted.values()) / seconds if counted else None

    def _begin(self) -> None:
        for counter in self._counters:
            try:
                counter.reset()
            except OSError as error:
                self._lose(error)
                break
        self._began, self._began_cpu_s = time.perf_counter(), time.process_time()

    def _read(self) -> dict[str, float]:
        """Joules by counter since the phase began; empty from the moment that one of them fails."""
        with self._lock:
            try:
                return {f"{c.method} {c.name}": c.read_j() for c in self._counters}
            except OSError as error:
                self._lose(error)
                return {}

    def _lose(self, error: OSError) -> None:
        self._counters = []
        self._missing = f"An energy counter could no longer be read: {error}."

    def _end(self) -> None:
        if self._phase is None:
            return
        counted = self._read()
        now = time.perf_counter()
        self._events.append(
            EnergyReading(
                t_s=now,
                pass_no=self._pass_no,
                phase=self._phase,
                seconds=now - self._began,
                cpu_s=time.process_time() - self._began_cpu_s,
                counted_j=counted,
                idle_w=self._idle_w if counted else None,
                missing=self._missing,
            )
        )

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        self._end()
        self._phase = name
        with self._lock:
            self._begin()

    def step(self, step: Step) -> None:
        pass

    def events(self) -> list[Any]:
        taken, self._events = self._events, []
        return taken

    def close(self) -> None:
        if self._ticker.stop():
            self._end()


class EnergyProfiler:
    name = "energy"
    label = "Energy"
    needs: frozenset[str] = frozenset()
    inside = True
    single = False
    limit: int | None = None

    def unavailable(self) -> str | None:
        return None

    def attach(self, session: Session, pass_no: int) -> EnergyAttachment:
        return EnergyAttachment(session, pass_no)


plugin: Profiler = EnergyProfiler()
