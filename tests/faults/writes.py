"""python -m tests.faults.writes SHIM FOLDER MOST [OPERATION ...]: operations, disturbed at every write.

Runs with the shim preloaded (tests.faults.campaign starts it). A child is forked for each write; the check is done in
this process, undisturbed. Prints a JSON line for each operation and way: {"operation", "way", "points", "wrong"}.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import sys
import traceback
from collections.abc import Iterator
from pathlib import Path

from core import storage
from core.models import artifact_cache
from core.runs import owner
from core.runs.store import Store
from hardware.errors import ExplorerError
from tests.faults.disk import Disk, read
from tests.faults.operations import AFTER, BEFORE, CARELESS, OPERATIONS, Operation, clear, fresh_home

WAYS = ("kill", "full", "power")
COUNT, KILL, FULL = range(3)
REFUSED, ESCAPED = 3, 4  # exit status of a child: with a sentence, with a traceback


class Bench:
    """One home at one place, made anew for every disturbance."""

    def __init__(self, shim: str, folder: Path, most: int) -> None:
        """most: writes of an operation that are disturbed; of more, every second, third ... and the last."""
        self._most = most
        self._shim = ctypes.CDLL(shim)
        self.place, self._base = folder / "home", folder / "base"
        os.environ["ROOFSCOPE_HOME"] = str(self.place)
        os.environ["HOME"] = str(folder)

    def prepare(self, operation: Operation) -> None:
        clear(self.place)
        clear(self._base)
        fresh_home()
        operation.prepare()
        shutil.copytree(self.place, self._base, symlinks=True)

    def again(self) -> None:
        """The home as it was before."""
        clear(self.place)
        shutil.copytree(self._base, self.place, symlinks=True)

    def points(self, n: int) -> list[int]:
        """Numbers of writes from 1 to n, the last one among them."""
        step = max(1, -(-(n - 1) // max(1, self._most - 1)))
        return [*range(1, n, step), n] if n else []

    def child(self, operation: Operation, mode: int, at: int, log: int = -1) -> tuple[int, int]:
        """Perform it in a child: how it ended, and how many writes there were."""
        result, told = os.pipe()
        pid = os.fork()
        if pid == 0:
            self._perform(operation, mode, at, log, told)
        os.close(told)
        with os.fdopen(result, "rb") as pipe:
            count = pipe.read()
        _, status = os.waitpid(pid, 0)
        return os.waitstatus_to_exitcode(status), int(count or 0)

    def _perform(self, operation: Operation, mode: int, at: int, log: int, told: int) -> None:
        code = 0
        try:
            with open(os.devnull, "wb") as nowhere:
                os.dup2(nowhere.fileno(), 2)
            self._shim.faults_arm(str(self.place).encode(), mode, ctypes.c_long(at), log)
            operation.perform()
        except ExplorerError:
            code = REFUSED
        except BaseException:
            self._shim.faults_disarm()
            traceback.print_exc()
            code = ESCAPED
        self._shim.faults_disarm()
        self._shim.faults_count.restype = ctypes.c_long
        os.write(told, str(self._shim.faults_count()).encode())
        os._exit(code)

    def power_cuts(self, operation: Operation) -> Iterator[tuple[int, bool]]:
        """The home after a power cut behind each write, and whether it was the last one."""
        log = self.place.parent / "log"
        with log.open("wb") as file:
            self.child(operation, COUNT, 0, file.fileno())
        ops = read(log.read_bytes())
        for n in self.points(len(ops)):
            disk = Disk(self._base, self.place)
            for op in ops[:n]:
                disk.apply(op)
            clear(self.place)
            self.place.mkdir()
            disk.write()
            yield n, n == len(ops)


def whats_wrong(operation: Operation, last: bool = False) -> str:
    """What is amiss in the home; empty where nothing is. last: all of it was done, and must be there."""
    rows = {row["run_id"]: row["status"] for row in Store(storage.data_dir()).history()}
    finished = [run_id for run_id, status in rows.items() if status == "done"]
    if not finished and operation.name != "import a bundle":
        return "the finished run is lost"
    state = operation.state()
    if state not in (BEFORE, AFTER):
        return state
    if last and operation.keeps and state != AFTER:
        return "what was done is undone"
    storage.items()
    operation.perform()
    if operation.state() != AFTER:
        return "done again, it is not done"
    return ""


def disturb(bench: Bench, operation: Operation, way: str) -> tuple[int, list[str]]:
    """How many points were tried, and what was wrong at which."""
    bench.prepare(operation)
    wrong = []
    if way == "power":
        tried = 0
        for n, last in bench.power_cuts(operation):
            tried += 1
            if said := guarded(operation, last):
                wrong.append(f"write {n}: {said}")
        return tried, wrong
    _, count = bench.child(operation, COUNT, 0)
    tried = bench.points(count)
    for n in tried:
        bench.again()
        code, _ = bench.child(operation, KILL if way == "kill" else FULL, n)
        said = "a traceback" if code == ESCAPED else guarded(operation)
        if said:
            wrong.append(f"write {n} of {count}: {said}")
    return len(tried), wrong


def guarded(operation: Operation, last: bool = False) -> str:
    try:
        return whats_wrong(operation, last)
    except Exception as error:
        return f"{type(error).__name__}: {error}"[:300]


def main(shim: str, folder: str, most: str, *names: str) -> None:
    owner.SILENT_S = artifact_cache.JUST_S = storage.JUST_S = 0.0  # nothing here is of a living process
    bench = Bench(shim, Path(folder), int(most))
    for operation in (*OPERATIONS, CARELESS):
        if operation.name in names:
            for way in WAYS:
                tried, wrong = disturb(bench, operation, way)
                row = {"operation": operation.name, "way": way, "points": tried, "wrong": wrong}
                print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
