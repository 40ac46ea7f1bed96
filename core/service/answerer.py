"""The process that answers (core.worker.answering), as its parent sees it: what is told to it, and what it says."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, cast

import msgspec

from core.runs.runner import environment
from core.worker import frames
from core.worker.answering import Question, Said
from hardware.priority import spawn

LEAVE_S = 2.0
LOG = "service.log"


class Answerer:
    """One process. said: (number, Said) as they come, then None when it is gone. Made in a running event loop."""

    def __init__(self, root: Path, threads: int | None) -> None:
        self.said: asyncio.Queue[tuple[int, Said] | None] = asyncio.Queue()
        self._loop = asyncio.get_running_loop()
        with (root / LOG).open("wb") as log:
            self._process = spawn(
                lambda: subprocess.Popen(
                    [sys.executable, "-m", "core.worker.answering", str(root)],
                    stdin=subprocess.PIPE,
                    stdout=subprocess.PIPE,
                    stderr=log,
                    cwd=Path(__file__).parents[2],
                    env=environment(threads),
                    bufsize=0,
                    start_new_session=True,
                )
            )
        assert self._process.stdin is not None
        self._to = os.fdopen(os.dup(self._process.stdin.fileno()), "wb")
        self._process.stdin.close()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, number: int, question: Question) -> None:
        self._send(("ask", number, msgspec.to_builtins(question)))

    def leave(self, number: int) -> None:
        """Nobody waits for that answer any more."""
        self._send(("leave", number))

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> int:
        """End it, whatever it is doing; its exit status (negative: a signal)."""
        with contextlib.suppress(OSError):
            self._to.close()  # it leaves when its stdin ends
        try:
            code = self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self._process.wait()
        self._listener.join(LEAVE_S)
        return code

    def _send(self, message: Any) -> None:
        with contextlib.suppress(OSError, ValueError):  # it is gone, and `said` tells
            frames.send(self._to, message)

    def _listen(self) -> None:
        pipe = self._process.stdout
        assert pipe is not None
        with pipe, contextlib.suppress(RuntimeError):  # the loop is closed: nobody listens any more
            try:
                while (frame := frames.receive(cast(Any, pipe))) is not None:
                    number, said = frame[0]
                    told = msgspec.convert(said, type=Said)
                    self._loop.call_soon_threadsafe(self.said.put_nowait, (int(number), told))
            finally:  # also behind words that nobody understands: who waits must hear that no more will come
                self._loop.call_soon_threadsafe(self.said.put_nowait, None)
