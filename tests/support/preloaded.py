"""Workers forked from a process that has loaded what they need: importing PyTorch takes each new one six seconds.

For tests of what runs do, in the folders of tests.conftest.FORKING. From the fork on, a worker is the product's; that a
new process loads its modules and begins, other tests tell, whose workers start as the product's do. The fake backend's
are forks of the same process: a new one takes half a second.
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pytest

from core.runs.runner import Runner, environment
from core.types import Request
from tests.support.elsewhere import no_main, torch_loaded

POLL_S = 0.02


class Forked:
    """What core.runs.runner uses of subprocess.Popen, for the worker of the store in `root`."""

    def __init__(self, root: Path, environ: dict[str, str]) -> None:
        reads, writes = torch_loaded.Pipe(duplex=False)
        self._process = torch_loaded.Process(target=_work, args=(reads, str(root), environ), daemon=True)
        self._lock = threading.Lock()
        with no_main():
            self._process.start()
        reads.close()
        self.stdin = os.fdopen(os.dup(writes.fileno()), "wb")
        writes.close()
        assert self._process.pid is not None
        self.pid = self._process.pid

    def poll(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        end = None if timeout is None else time.monotonic() + timeout
        while (code := self.poll()) is None:
            if end is not None and time.monotonic() > end:
                raise subprocess.TimeoutExpired("worker", timeout or 0.0)
            time.sleep(POLL_S)
        return code


def _work(commands: Connection, root: str, environ: dict[str, str]) -> None:
    """In the fork: as Runner starts it, in a group of its own, its commands on stdin and its errors in a file."""
    from core.worker.worker import main

    os.setsid()
    os.environ.clear()
    os.environ.update(environ)
    os.dup2(commands.fileno(), 0)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    os.dup2(os.open(Path(root) / "worker.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
    commands.close()
    sys.stdin = os.fdopen(0)
    main(root)


def workers(monkeypatch: pytest.MonkeyPatch, *backends: str) -> None:
    """From here on a Runner's workers of these backends are forks."""
    spawn = Runner._spawn

    def fork(self: Runner, request: Request) -> Any:
        if request.backend not in backends:
            return spawn(self, request)
        process = Forked(self.store.root, environment(request.threads))
        threading.Thread(target=self._watch, args=(process,), daemon=True).start()
        return process

    monkeypatch.setattr(Runner, "_spawn", fork)
