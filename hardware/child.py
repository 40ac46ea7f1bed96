"""A module of ours at work in a process of its own, which tells by lines of JSON how far it is and what came of it.

What else it prints is passed over: libraries print, too. Knows nothing of what the module does.
"""

from __future__ import annotations

import contextlib
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import msgspec
import psutil

from hardware.priority import spawn

ROOT = Path(__file__).resolve().parents[1]
TERM_S = 0.5


class Child:
    """`python -m module arguments`, started now. Used as a context, at whose end the process is gone.

    environ: over this process's environment. hush: keep what it says on stderr for `last_error`, instead of letting
    it through. group: a process group of its own, which Ctrl-C in a terminal does not reach.
    """

    def __init__(
        self,
        module: str,
        arguments: Sequence[str],
        environ: Mapping[str, str] | None = None,
        hush: bool = False,
        group: bool = False,
    ) -> None:
        self.last_error = ""
        self._process = spawn(
            lambda: subprocess.Popen(
                [sys.executable, "-m", module, *arguments],
                cwd=ROOT,
                env={**os.environ, "PYTHONUNBUFFERED": "1", **(environ or {})},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE if hush else None,
                start_new_session=group,
            )
        )
        self._said: queue.Queue[dict[str, Any] | None] = queue.Queue()
        readers = [(self._read, self._process.stdout), (self._read_errors, self._process.stderr)]
        self._readers = [threading.Thread(target=read, args=(pipe,), daemon=True) for read, pipe in readers if pipe]
        for reader in self._readers:
            reader.start()

    def __enter__(self) -> Child:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.end()

    def messages(self, every_s: float = 0.2) -> Iterator[dict[str, Any] | None]:
        """Every object that it prints, and None whenever it has said nothing for `every_s`, until it has ended."""
        while True:
            try:
                message = self._said.get(timeout=every_s)
            except queue.Empty:
                yield None
                continue
            if message is None:
                self._process.wait()
                return
            yield message

    @property
    def status(self) -> int | None:
        """Its exit status, negative for a signal; None while it is alive."""
        return self._process.poll()

    def end(self) -> None:
        """End it and what it has started; one that has ended already is left alone."""
        started: list[psutil.Process] = []
        if self._process.poll() is None:
            with contextlib.suppress(psutil.NoSuchProcess):
                started = psutil.Process(self._process.pid).children(recursive=True)
            self._process.terminate()
            try:
                self._process.wait(TERM_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
        for grandchild in started:
            with contextlib.suppress(psutil.NoSuchProcess):
                grandchild.kill()
        self._process.wait()
        for reader in self._readers:
            reader.join(TERM_S)

    def _read(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                with contextlib.suppress(msgspec.DecodeError):
                    message = msgspec.json.decode(line)
                    if isinstance(message, dict):
                        self._said.put(message)
        self._said.put(None)

    def _read_errors(self, pipe: IO[bytes]) -> None:
        with pipe:
            for line in pipe:
                self.last_error = line.decode(errors="replace").strip() or self.last_error
