"""How this process shares the machine: processor time that it had, waited for, or that others and the hypervisor had.

Cumulative counters, to be read before and after what is measured. Knows nothing of models.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import NamedTuple

import psutil

_TASKS, _STAT = Path("/proc/self/task"), Path("/proc/stat")
WAKING_S = 1e-4  # what waking a sleeping core may take, in a virtual machine too
SLEEP_S = 0.1  # shorter than any sleep of a machine, and longer than two clocks are read apart
_WORK = bytes(1 << 18)
_IDLE = (3, 4)  # idle and waiting for a disk, in /proc/stat's order
_STEAL, _FIRST_GUEST = 7, 8  # guests' time is contained in user time


class Reading(NamedTuple):
    """At one moment. None: the system does not tell.

    waited_s: by thread, how long it was ready to run and had no core, beyond what waking takes.
    busy_s: processor time of all processes together, this one's included; stolen_s: what the hypervisor took.
    stops: how often this process was stopped by a signal and went on, where `count_stops` counts it. asleep_s: how long
    the machine slept.
    """

    at_s: float
    cpu_s: float
    waited_s: dict[str, float] | None
    busy_s: float | None
    stolen_s: float | None
    stops: int = 0
    asleep_s: float = 0.0


class Load(NamedTuple):
    """Between two readings, in seconds of processor time. stops: of this process, and the machine's sleep."""

    seconds: float
    cpu_s: float
    waited_s: float | None
    others_s: float | None
    stolen_s: float | None
    stops: int = 0


_stops = 0


def count_stops() -> None:
    """Count from now on how often this process is stopped (SIGSTOP, Ctrl-Z) and goes on; in the main thread."""
    if hasattr(signal, "SIGCONT"):
        signal.signal(signal.SIGCONT, _went_on)


def _went_on(number: int, frame: object) -> None:
    global _stops
    _stops += 1


def read(*companions: int) -> Reading:
    """Some 100 microseconds on Linux. companions: processes whose time is this one's, as they work for it."""
    busy_s, stolen_s = _machine()
    cpu_s = time.process_time() + sum(map(_cpu_s, companions))
    return Reading(time.perf_counter(), cpu_s, _waited(*companions), busy_s, stolen_s, _stops, _asleep_s())


def between(before: Reading, after: Reading) -> Load:
    """What happened from `before` to `after`; a thread that began meanwhile counts whole."""
    cpu_s = after.cpu_s - before.cpu_s
    waited_s = None
    if before.waited_s is not None and after.waited_s is not None:
        waited_s = sum(max(0.0, s - before.waited_s.get(thread, 0.0)) for thread, s in after.waited_s.items())
    others_s = None
    if before.busy_s is not None and after.busy_s is not None:
        others_s = max(0.0, after.busy_s - before.busy_s - cpu_s)
    stolen_s = None
    if before.stolen_s is not None and after.stolen_s is not None:
        stolen_s = max(0.0, after.stolen_s - before.stolen_s)
    stops = after.stops - before.stops + (after.asleep_s - before.asleep_s > SLEEP_S)
    return Load(after.at_s - before.at_s, cpu_s, waited_s, others_s, stolen_s, stops)


def probe(n_threads: int, seconds: float) -> Load:
    """How the machine is shared while n_threads of this process want a processor all the time.

    The hypervisor takes time, and the run queue is long, only where somebody wants to compute.
    """
    before, end = read(), time.perf_counter() + seconds
    counted = threading.Event()

    def busy() -> None:
        _busy_until(end)
        counted.wait()  # a thread that ended no longer tells how long it waited

    others = [threading.Thread(target=busy) for _ in range(n_threads - 1)]
    for thread in others:
        thread.start()
    _busy_until(end)
    after = read()
    counted.set()
    for thread in others:
        thread.join()
    return between(before, after)


def _busy_until(end: float) -> None:
    while time.perf_counter() < end:
        hashlib.sha256(_WORK)  # without Python's lock, so that all threads compute at once


def _asleep_s() -> float:
    """How long the machine has slept since it started; 0 where the system does not tell."""
    boot = getattr(time, "CLOCK_BOOTTIME", None)
    return 0.0 if boot is None else time.clock_gettime(boot) - time.clock_gettime(time.CLOCK_MONOTONIC)


def _cpu_s(pid: int) -> float:
    with contextlib.suppress(psutil.Error):
        times = psutil.Process(pid).cpu_times()
        return float(times.user + times.system)
    return 0.0


def _waited(*companions: int) -> dict[str, float] | None:
    """Thread -> seconds in the run queue, less what waking took: schedstat's second number, in nanoseconds.

    Its third counts how often the thread got a core. A library whose threads sleep between its operators (PyTorch,
    hundreds of times in a step) waits a little each time on a machine that does nothing else.
    """
    if not sys.platform.startswith("linux"):
        return None
    found = {}
    try:
        for tasks in (_TASKS, *(Path(f"/proc/{pid}/task") for pid in companions)):
            for thread in os.listdir(tasks):
                try:
                    _, waited_ns, times = map(int, (tasks / thread / "schedstat").read_text().split())
                    found[thread] = waited_ns / 1e9 - times * WAKING_S
                except (FileNotFoundError, ProcessLookupError):
                    continue  # it ended just now
    except (OSError, IndexError, ValueError):
        return None
    return found


def _machine() -> tuple[float | None, float | None]:
    """(busy seconds of all processors, seconds stolen) since the machine started."""
    if sys.platform.startswith("linux"):
        try:
            ticks = [int(x) for x in _STAT.read_text().split(maxsplit=11)[1:11]]
        except (OSError, ValueError):
            return None, None
        per_s = os.sysconf("SC_CLK_TCK")
        busy = sum(t for i, t in enumerate(ticks[:_FIRST_GUEST]) if i not in (*_IDLE, _STEAL))
        return busy / per_s, ticks[_STEAL] / per_s
    times = psutil.cpu_times()
    return sum(times) - times.idle, None
