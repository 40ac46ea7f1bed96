"""A session in a process of its own: how a reference runs in another native engine than the model that is measured.

To its caller it is a Session as far as an evaluation needs one: text and ids, forward and its logits, commit, rewind
and reset. Rows of logits cross the pipe as they are asked for, a chunk at a time. The process is
core.worker.session_server; caller and process never compute at the same time, so both may use all threads.
"""

from __future__ import annotations

import contextlib
import os
import select
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, cast

import msgspec
import numpy as np
from numpy.typing import NDArray

from core import plugins
from core.runs.exit_reason import LOG_LINES, explained
from core.types import Ids, Ledger, Logits, ModelSpec, Record, Request, Session, Setup
from core.worker import frames
from core.worker.journal import Teller, Witness
from hardware.errors import ExplorerError
from hardware.process import patient

ROOT = Path(__file__).parents[2]
POLL_S = 0.2  # between two looks whether a stop is asked for
LEAVE_S = 5.0
TRIED_TOKENS = 8


class About(Record, omit_defaults=False):
    """What is known of an opened session. seconds: that the library took to open it."""

    seconds: float
    spec: ModelSpec
    capabilities: frozenset[str]
    max_context: int
    chat_template: str | None
    bos_token: str
    eos_token: str
    eos_ids: frozenset[int]
    opening: tuple[int, ...]
    closing: tuple[int, ...]
    setup: Setup
    warnings: tuple[str, ...]
    chat_templates: dict[str, str]
    special_tokens: dict[str, str]


class LostError(ExplorerError):
    """The process is gone, or has failed in a way that nobody foresaw.

    log: what it printed last. signal: of which it died, 0 for none.
    """

    def __init__(self, message: str, hint: str, log: str, signal: int = 0) -> None:
        super().__init__(message, hint)
        self.log, self.signal = log, signal


class SessionClient:
    """core.types.Session over a process; `alive` is False once the process is gone.

    check: called while the process computes; what it raises ends the process, as nobody waits for its answer.
    """

    head_accuracy: tuple[tuple[float, ...], ...] = ()
    exit_heads: tuple[int, ...] = ()

    def __init__(self, request: Request, teller: Teller, check: Callable[[], None]) -> None:
        self._backend = request.backend
        self.ran = Ledger()  # of this side's steps, of which there are none
        self.check = check
        self.alive = True
        self._said: deque[bytes] = deque(maxlen=LOG_LINES)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "core.worker.session_server"],
            cwd=ROOT,
            env={**os.environ, **patient()},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
        )
        assert self._process.stdin and self._process.stdout
        self._from = self._process.stdout
        self._to = os.fdopen(os.dup(self._process.stdin.fileno()), "wb")
        self._process.stdin.close()
        self._log = threading.Thread(target=self._pass_on, daemon=True)
        self._log.start()
        self._say(msgspec.to_builtins(request))
        try:
            about = msgspec.convert(self._hear(teller)[0], type=About)
        except BaseException:
            self.close()
            raise
        self.seconds, self.spec, self.setup = about.seconds, about.spec, about.setup
        self.capabilities, self.max_context, self.warnings = about.capabilities, about.max_context, about.warnings
        self.chat_template, self.eos_ids = about.chat_template, about.eos_ids
        self.chat_templates, self.special_tokens = about.chat_templates, about.special_tokens
        self.bos_token, self.eos_token = about.bos_token, about.eos_token
        self.opening, self.closing = about.opening, about.closing

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def n_committed(self) -> int:
        return int(self._call("n_committed")[0])

    def encode(self, text: str) -> list[int]:
        return list(self._call("encode", text)[0])

    def decode(self, ids: Sequence[int]) -> str:
        return str(self._call("decode", [int(i) for i in ids])[0])

    def forward(self, ids: Ids, keep: int | None = None) -> Logits:
        self._call("forward", ids.tolist(), keep)
        return Rows(self)

    def commit(self, n: int) -> None:
        self._call("commit", n)

    def rewind(self, n: int) -> None:
        self._call("rewind", n)

    def reset(self) -> None:
        self._call("reset")

    def sync(self) -> None:
        self._call("sync")

    def close(self) -> None:
        """End the process, whatever it is doing. Safe to call twice."""
        self.alive = False
        with contextlib.suppress(OSError):
            self._to.close()  # it leaves when its stdin ends
        try:
            self._process.wait(LEAVE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.join(LEAVE_S)
        self._from.close()

    def _call(self, name: str, *arguments: Any) -> tuple[Any, NDArray[np.float32] | None]:
        if not self.alive:
            raise ExplorerError("The reference's process has ended.", "Run again.")
        self._say([name, list(arguments)])
        return self._hear(None)

    def _say(self, message: Any) -> None:
        with contextlib.suppress(OSError):  # it is gone, and _hear tells why
            frames.send(self._to, message)

    def _hear(self, teller: Teller | None) -> tuple[Any, NDArray[np.float32] | None]:
        """The answer to what was said; what it tells on the way goes to `teller`."""
        try:
            while True:
                while not select.select([self._from], [], [], POLL_S)[0]:
                    self.check()
                frame = frames.receive(cast(Any, self._from))
                if frame is None:
                    raise self._gone()
                (kind, said), rows = frame
                if kind == "value":
                    return said, rows
                if kind == "failed":
                    raise LostError(
                        f"{plugins.label('backend', self._backend)} stopped with {said}.",
                        "The run's log has the details; try another dtype, option or backend.",
                        self._tail(),
                    )
                if kind == "refused":
                    break
                assert teller is not None and kind == "phase", f"{kind} was not asked for"
                teller.phase(*said)
        except BaseException:
            self.close()
            raise
        raise ExplorerError(*said)

    def _gone(self) -> LostError:
        code = self._process.wait()
        self._log.join(LEAVE_S)
        return LostError(*explained(code, self._backend, "The reference's process"), self._tail(), max(0, -code))

    def _pass_on(self) -> None:
        """What the process prints goes where this one's own errors go: into the log of the run that is going."""
        assert self._process.stderr
        with self._process.stderr as lines:
            for line in cast(Any, lines):
                self._said.append(line)
                with contextlib.suppress(OSError):
                    os.write(2, line)

    def _tail(self) -> str:
        return b"".join(self._said).decode(errors="replace").rstrip()


class Rows:
    """core.types.Logits that lie in the process until they are asked for."""

    def __init__(self, session: SessionClient) -> None:
        self._session = session

    def argmax(self) -> Ids:
        return np.array(self._session._call("argmax")[0], dtype=np.int64)

    def numpy(self) -> NDArray[np.float32]:
        rows = self._session._call("numpy")[1]
        assert rows is not None, "logits without rows"
        return rows


def open_in_own_process(request: Request, journal: Witness) -> tuple[Session, float]:
    """The session of a request in a process of its own, and the seconds that its library took.

    It has run once. Where its backend has advice for the signal that it died of, it is opened again as advised.
    Raises what core.worker.sessions.load raises, Cancelled for a stop, and LostError when the process ends on the way.
    """
    try:
        session = _tried(request, journal)
    except LostError as error:
        advice = plugins.get("backend", request.backend).signal_advice.get(error.signal)
        if advice is None:
            raise
        message, hint, options = advice
        journal.warn(f"{message} {hint}")
        session = _tried(msgspec.structs.replace(request, options={**request.options, **options}), journal)
    return cast(Session, session), session.seconds


def _tried(request: Request, journal: Witness) -> SessionClient:
    session = SessionClient(request, journal, journal.stop_if_asked)
    session.forward(np.zeros((1, TRIED_TOKENS), dtype=np.int64), keep=1)
    session.reset()
    return session
