"""Starts runs and keeps the workers that perform them. The only place that spawns or kills.

Workers are processes in groups of their own, kept warm between requests with the same session key:
one, or as many as the caller wants to alternate between. Only one of them runs at a time.
A worker that dies ends its run as failed, with the signal and the last log lines.
Cancel is cooperative, then SIGTERM, then SIGKILL; what was measured is kept.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import msgspec
from filelock import FileLock, Timeout

from core import plugins
from core.runs.check import check
from core.runs.exit_reason import LOG_LINES, explained
from core.runs.foresight import Foreseen, foreseen
from core.runs.measuring import LOCK, BusyError, holder
from core.runs.resolve import Resolved, resolve
from core.runs.store import Run, Store
from core.types import GOING, Derive, Done, Event, Failed, Request, Scalar, Warned
from hardware.errors import ExplorerError
from hardware.priority import spawn
from hardware.process import patient

TERM_AFTER_S, KILL_AFTER_S = 2.0, 5.0
LOOK_S = 0.1  # between two looks whether the machine is free
ENDED = ("done", "failed", "cancelled")  # "interrupted" is not an end: the watcher is about to tell why


class Runner:
    """Thread-safe. One per store and process."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self._lock = threading.RLock()
        self._workers: dict[str, subprocess.Popen[bytes]] = {}  # by session key, the last used one last
        self._run: Run | None = None
        self._owner: subprocess.Popen[bytes] | None = None  # the worker of that run
        self._keep, self._retried = 1, False
        atexit.register(self.close)

    def foresee(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]:
        """Which of the requests can run here, and what they will do; nothing runs."""
        return foreseen(requests, self.store)

    def start(self, request: Request, keep: int = 1) -> str:
        """Begin a run; returns its id. Raises ExplorerError when it cannot run or another one is going.

        keep: how many workers may stay warm, this run's among them; the longest unused ones are closed.
        """
        return self.begin(check(request), keep)

    def begin(self, wanted: Resolved, keep: int = 1) -> str:
        """The same of a request that is checked already."""
        with self._lock:
            if self.active():
                raise ExplorerError(
                    "A run is going already, and two at once would spoil both.", "Stop it or wait for its end."
                )
            if other := holder(self.store.root):
                raise BusyError(other)
            run = self.store.create(wanted.request, os.getpid())  # until its worker is there
            try:
                self._submit(run, wanted, {}, keep)
            except BaseException:
                run.disown()
                raise
            return run.id

    def free(self, waiting: Callable[[], None]) -> None:
        """Block until nothing else is measured on this machine; waiting is called once where that takes time.

        Another process's run, such as the last one of a study that was killed, may still be going; one in another
        container is known by its note alone.
        """
        lock = FileLock(self.store.root / LOCK)
        told = False
        while True:
            with contextlib.suppress(Timeout), lock.acquire(timeout=0):
                if holder(self.store.root) is None:
                    return
            if not told:
                waiting()
            told = True
            time.sleep(LOOK_S)

    def active(self) -> str | None:
        """The id of the run that is queued or running in this process, if any."""
        with self._lock:
            if self._run is not None and (self._run.status() in ENDED or not self._run.is_there):
                self._run = None
            return self._run.id if self._run else None

    def wait(self, run_id: str, poll_s: float = 0.05) -> Run:
        """Block until the run has ended."""
        run = self.store.open(run_id)
        while self.active() == run_id or run.status() in GOING:
            time.sleep(poll_s)
        return run

    def cancel(self, run_id: str) -> None:
        """Stop a run. Returns at once; force follows when it does not stop by itself."""
        run = self.store.open(run_id)
        run.cancel()
        with self._lock:
            going = self._run is not None and self._run.id == run_id
            process = self._owner if going else None
        if process is not None:
            threading.Thread(target=self._insist, args=(run, process), daemon=True).start()

    def close(self) -> None:
        """End the workers and what is being done; no process is left behind."""
        with self._lock:
            run = self._run
        if self._workers and run is not None and run.status() in GOING:
            run.cancel()
        self._leave(0)

    # -------------------------------------------------------- the workers

    def _leave(self, n: int) -> None:
        """Keep the n workers that were used last, and end the others."""
        with self._lock:
            gone = [self._workers.pop(key) for key in list(self._workers)[: max(0, len(self._workers) - n)]]
        for process in gone:
            with contextlib.suppress(OSError):
                assert process.stdin is not None
                process.stdin.close()
        for process in gone:
            try:
                process.wait(TERM_AFTER_S)
            except subprocess.TimeoutExpired:
                _kill(process, signal.SIGKILL)
                process.wait()

    def _submit(self, run: Run, wanted: Resolved, options: dict[str, Scalar], keep: int) -> None:
        key, request = wanted.session_key, wanted.request
        process = self._workers.pop(key, None)
        fresh = request.fresh_process or isinstance(request.task, Derive)  # a training leaves gigabytes behind
        if process is not None and (process.poll() is not None or fresh):
            self._workers = {key: process, **self._workers}  # first in the line of those that go
            self._leave(len(self._workers) - 1)
            process = None
        self._leave(keep - 1)
        self._workers[key] = process = process or self._spawn(request)
        self._run, self._owner, self._keep, self._retried = run, process, keep, False
        assert process.stdin is not None
        run.own(process.pid, watched=True)
        command = {"run": run.id, "options": options}
        process.stdin.write(msgspec.json.encode(command) + b"\n")
        process.stdin.flush()

    def _spawn(self, request: Request) -> subprocess.Popen[bytes]:
        root = Path(__file__).parents[2]
        process = spawn(
            lambda: subprocess.Popen(
                [sys.executable, "-m", "core.worker.worker", str(self.store.root)],
                stdin=subprocess.PIPE,
                stdout=subprocess.DEVNULL,
                stderr=(self.store.root / "worker.log").open("wb"),
                cwd=root,
                env=environment(request.threads),
                start_new_session=True,
            )
        )
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return process

    def _watch(self, process: subprocess.Popen[bytes]) -> None:
        """Wait for the worker's death and end what it was doing."""
        code = process.wait()
        with self._lock:
            key = next((k for k, p in self._workers.items() if p is process), None)
            if key is not None:
                del self._workers[key]
            run = self._run if self._run is not None and self._owner is process else None
            if run is None or run.status() in ENDED:
                return
            self._run = None
            if not run.is_there:
                return
            if run.cancel_requested:
                _end(run, Done(t_s=run.elapsed_s(), cancelled=True))
                return
            request = run.request
            advice = plugins.get("backend", request.backend).signal_advice.get(-code)
            if advice and not self._retried:
                message, hint, options = advice
                _end(run, Warned(t_s=run.elapsed_s(), message=f"{message} {hint}"))
                try:
                    again = resolve(msgspec.structs.replace(request, options={**request.options, **options}))
                    self._submit(run, again, options, self._keep)
                    self._retried = True
                    return
                except ExplorerError:
                    pass  # its files are gone: the crash is what there is to tell
            _end(run, _death(run, code, request))

    def _insist(self, run: Run, process: subprocess.Popen[bytes]) -> None:
        started = time.monotonic()
        for after_s, sig in ((TERM_AFTER_S, signal.SIGTERM), (KILL_AFTER_S, signal.SIGKILL)):
            while time.monotonic() - started < after_s:
                if run.status() not in GOING or process.poll() is not None:
                    return
                time.sleep(0.05)
            _kill(process, sig)


def environment(threads: int | None) -> dict[str, str]:
    """Of a process that runs models; threads: None for as many as the libraries take by themselves."""
    return {
        **os.environ,
        **patient(),
        **({"OMP_NUM_THREADS": str(threads)} if threads else {}),
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HUB_OFFLINE": "1",
        "TOKENIZERS_PARALLELISM": "false",
    }


def _kill(process: subprocess.Popen[bytes], sig: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, sig)


def _end(run: Run, event: Event) -> None:
    try:
        (run.path / "reserve").unlink(missing_ok=True)
        with (run.path / "events.jsonl").open("ab") as file:
            file.write(b"\n")  # the worker may have died in the middle of a line
        run.append(event)
    except OSError:  # a full disk
        run.disown()


def _death(run: Run, code: int, request: Request) -> Failed:
    """What to tell of a worker that ended with `code` (negative: a signal)."""
    log = run.path / "log.txt"
    tail = "\n".join(log.read_text(errors="replace").splitlines()[-LOG_LINES:]) if log.exists() else ""
    message, hint = explained(code, request.backend)
    return Failed(t_s=run.elapsed_s(), message=message, hint=hint, log=tail)


def options_of(pairs: dict[str, Any]) -> dict[str, Scalar]:
    """Options typed as text ("k=v") become numbers or booleans where they read as such."""
    return {k: _scalar(v) for k, v in pairs.items()}


def _scalar(value: Any) -> Scalar:
    if not isinstance(value, str):
        return value  # type: ignore[no-any-return]
    lowered = value.lower()
    if lowered in ("true", "false"):
        return lowered == "true"
    for kind in (int, float):
        with contextlib.suppress(ValueError):
            return kind(value)
    return value
