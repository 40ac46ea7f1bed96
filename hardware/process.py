"""Processes as the operating system sees them: memory, open files, and how threads wait. Knows nothing of models."""

from __future__ import annotations

import contextlib
import os
import platform
import sys
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import NamedTuple

import psutil

STATUS, CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")
SPIN_COUNT = 4000  # of OpenMP
FIELDS = {"VmRSS": "rss_bytes", "RssAnon": "anon_bytes", "RssFile": "file_bytes", "VmHWM": "peak_bytes"}


class Resident(NamedTuple):
    """anon_bytes, file_bytes: the two parts of rss (file pages are reclaimable). peak_bytes: high-water mark.

    None where the system does not tell (only Linux splits them).
    """

    rss_bytes: int
    anon_bytes: int | None = None
    file_bytes: int | None = None
    peak_bytes: int | None = None


def started_s(pid: int) -> float:
    """When a process began: on Linux seconds from the start of the machine, which no step of the clock changes.

    Raises psutil.NoSuchProcess, for a process that has ended and was not waited for, too.
    """
    try:
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    except OSError:  # another system, or nobody of that number
        process = psutil.Process(pid)
        if process.status() == psutil.STATUS_ZOMBIE:
            raise psutil.NoSuchProcess(pid) from None
        return float(process.create_time())
    if fields[0] == b"Z":
        raise psutil.NoSuchProcess(pid)
    return int(fields[19]) / os.sysconf("SC_CLK_TCK")  # the 22nd field of proc(5), counted from the state


@cache
def here() -> str:
    """This system, as far as process numbers mean anything: the machine since its start, and on Linux the container."""
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        return f"{boot} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return platform.node()


def holders(*under: Path) -> dict[str, int]:
    """Files below these folders that living processes have mapped or open, and one process of each.

    Paths are real ones, without links. Processes that this user may not look at are not seen.
    """
    roots, found = tuple(os.path.join(os.path.realpath(folder), "") for folder in under), dict[str, int]()
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, OSError):
            for path in (*_mapped(process.pid), *(file.path for file in process.open_files())):
                if path.startswith(roots):
                    found.setdefault(path, process.pid)
    return found


def _mapped(pid: int) -> set[str]:
    """Files in a process's memory, see proc(5); on Linux only."""
    try:
        lines = Path(f"/proc/{pid}/maps").read_text(errors="surrogateescape").splitlines()
    except OSError:
        return set()
    return {fields[5] for line in lines if len(fields := line.split(maxsplit=5)) == 6}


def resident(*others: int) -> Resident:
    """Resident memory now; some 50 microseconds on Linux. others: processes whose memory is added, if they are there.

    The high-water mark is this process's alone.
    """
    if not STATUS.exists():
        return Resident(sum(_rss(pid) for pid in (os.getpid(), *others)))
    found = _status(STATUS)
    for pid in others:
        for name, value in _status(Path(f"/proc/{pid}/status")).items():
            if name != "peak_bytes" and name in found:
                found[name] += value
    return Resident(**found)


def _status(file: Path) -> dict[str, int]:
    found: dict[str, int] = {}
    with contextlib.suppress(OSError):  # the process has ended
        for line in file.read_text().splitlines():
            key, _, rest = line.partition(":")
            if key in FIELDS:
                found[FIELDS[key]] = int(rest.split()[0]) * 1024
    return found


def _rss(pid: int) -> int:
    with contextlib.suppress(psutil.Error):
        return int(psutil.Process(pid).memory_info().rss)
    return 0


def reset_peak() -> bool:
    """Start the high-water mark anew (Linux 4.0 and later). False where that cannot be done."""
    if not sys.platform.startswith("linux"):
        return False
    try:
        CLEAR_REFS.write_text("5")
    except OSError:
        return False
    return True


def patient(environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a process that computes in several threads needs in its environment on a busy machine.

    A thread of GNU's OpenMP that waits for the others spins 300,000 times before it sleeps (the OpenMP spin count,
    GOMP_SPINCOUNT): some milliseconds in which it holds the core that the thread it waits for may need. With one other
    busy process on two cores llama.cpp and PyTorch then fall to a hundredth of their speed. Spinning 4000 times is as
    fast on a quiet machine, and keeps a twelfth to a quarter of the speed on a busy one (`python -m tests.bench
    waiting`). Empty where the user has set it. To be set before the library is loaded.
    """
    decided = "GOMP_SPINCOUNT" in environ or "OMP_WAIT_POLICY" in environ
    return {} if decided else {"GOMP_SPINCOUNT": str(SPIN_COUNT)}
