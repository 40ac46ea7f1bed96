"""Where whole processes are killed, stopped and misled: a home of its own, what is started in it, and what is left.

Whatever a scenario starts carries a mark in its environment, so that grandchildren are found too, whoever their parent
is by then.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import psutil

from core.loadtest.load_store import LoadStore
from core.runs.store import Run, Store
from core.types import GOING, Event

ROOT = Path(__file__).parents[2]
LIMIT_S = 60.0
MARK = "ROOFSCOPE_FAULT"
FAKE = ("--model", "tiny-moe", "--backend", "fake", "--threads", "1", "--warmup", "0")


class WrongError(Exception):
    """Something was not as it must be; its words say what."""


class Stage:
    """with Stage(home) as stage: ... Ends whatever it started."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.data = home / "data"
        self.data.mkdir(parents=True, exist_ok=True)
        (self.data / "recorded-run-offered").touch()
        self.temporary = home / "tmp"
        self.temporary.mkdir()
        self._mark = secrets.token_hex(8)
        self._logs: list[Path] = []

    def __enter__(self) -> Stage:
        return self

    def __exit__(self, *given: object) -> None:
        for process in self.processes():
            with contextlib.suppress(psutil.Error):
                process.send_signal(signal.SIGCONT)
                process.kill()

    # ------------------------------------------------------------ what is started

    @property
    def environment(self) -> dict[str, str]:
        home = str(self.home)
        own = {"ROOFSCOPE_HOME": home, "HOME": home, "TMPDIR": str(self.temporary)}
        return {**os.environ, **own, MARK: self._mark, "PYTHONUNBUFFERED": "1"}

    def start(
        self, *command: str, more: Mapping[str, str] | None = None, before: Callable[[], None] | None = None
    ) -> subprocess.Popen[bytes]:
        """A command in a group of its own; what it says goes into a log. before: done in it first."""
        log = self.home / f"log-{len(self._logs)}.txt"
        self._logs.append(log)
        with log.open("wb") as file:
            return subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment | dict(more or {}),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=file,
                start_new_session=True,
                preexec_fn=before,
            )

    def core(self, *arguments: str, **how: object) -> subprocess.Popen[bytes]:
        """`python -m core ...`."""
        return self.start(sys.executable, "-m", "core", *arguments, **how)  # type: ignore[arg-type]

    def run(self, *arguments: str) -> subprocess.Popen[bytes]:
        """A run of the fake backend."""
        return self.core("run", *FAKE, "--ignore-eos", *arguments)

    def said(self) -> str:
        """By all of them."""
        return "\n".join(log.read_text(errors="replace") for log in self._logs)

    # ------------------------------------------------------------ what is seen

    @property
    def store(self) -> Store:
        return Store(self.data)

    @property
    def loads(self) -> LoadStore:
        return LoadStore(self.data)

    def newest(self) -> Run:
        """Waits for it."""
        return self.until(lambda: next(self.store.runs(), None), "a run")

    def events(self, kind: type[Event], n: int = 1) -> list[Event]:
        """Of the newest run, once there are n of them."""

        def found() -> list[Event] | None:
            known = [e for e in self.newest().events() if isinstance(e, kind)]
            return known if len(known) >= n else None

        return self.until(found, f"{n} of {kind.__name__}")

    def until(self, look: Callable[[], object], what: str, limit_s: float = LIMIT_S) -> object:  # type: ignore[misc]
        """The first answer that is not empty. Raises WrongError where there is none in time."""
        end = time.monotonic() + limit_s
        while True:
            if found := look():
                return found
            if time.monotonic() > end:
                raise WrongError(f"waited {limit_s:.0f} s in vain for {what}: {self.said()[-300:]}")
            time.sleep(0.02)

    def processes(self) -> list[psutil.Process]:
        """All that carry the mark and live."""
        found = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error, OSError):
                if process.environ().get(MARK) == self._mark and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(process)
        return found

    def worker(self) -> psutil.Process:
        """The process that runs models."""
        return self.named("core.worker.worker")

    def named(self, module: str) -> psutil.Process:
        return self.until(  # type: ignore[return-value]
            lambda: next((p for p in self.processes() if module in _words(p)), None), f"a process {module}"
        )

    # ------------------------------------------------------------ what is done to it, and what must be left

    def kill(self, process: psutil.Process | subprocess.Popen[bytes]) -> None:
        """kill -9, and wait until it is gone."""
        process.send_signal(signal.SIGKILL)
        process.wait(LIMIT_S)

    def stop(self, *processes: psutil.Process | subprocess.Popen[bytes], seconds: float = 2.0) -> None:
        """SIGSTOP, and SIGCONT after a while: what a suspended laptop does to them."""
        for process in processes:
            process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        for process in processes:
            process.send_signal(signal.SIGCONT)

    def ends(self, process: subprocess.Popen[bytes], *statuses: int) -> None:
        """It ends by itself, with one of these exit statuses (0 without any). Raises WrongError."""
        try:
            code = process.wait(LIMIT_S)
        except subprocess.TimeoutExpired:
            raise WrongError(f"it goes on for ever: {self.said()[-300:]}") from None
        if code not in (statuses or (0,)):
            raise WrongError(f"exit status {code}: {self.said()[-300:]}")

    def left(self, *done: str) -> None:
        """No process, no traceback, every list shown, and these runs finished. Raises WrongError."""
        self.until(lambda: not self.processes(), "the end of its processes", 20.0)
        if "Traceback (most recent call last)" in self.said():
            raise WrongError(f"a traceback: {self.said()[-500:]}")
        storage_seen = subprocess.run(
            [sys.executable, "-m", "core", "storage", "--json"],
            cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if storage_seen.returncode:
            raise WrongError(f"storage: {storage_seen.stderr[-300:]}")
        status = {row["run_id"]: row["status"] for row in self.store.history()}
        lost = [run_id for run_id in done if status.get(run_id) != "done"]
        if lost:
            raise WrongError(f"a finished run is lost: {status}")
        if going := [run_id for run_id, said in status.items() if said in GOING]:
            raise WrongError(f"for ever going: {going}")


def check(holds: object, words: str) -> None:
    """Raises WrongError with these words where it does not hold."""
    if not holds:
        raise WrongError(words)


def _words(process: psutil.Process) -> str:
    try:
        found: Sequence[str] = process.cmdline()
    except psutil.Error:
        return ""
    return " ".join(found)
