"""The other side of core.worker.session_client: a process that opens one session and does what it is told.

    python -m core.worker.session_server  frames on stdin: the request, then calls; on stdout: what comes of them

Leaves when its stdin ends, so it never outlives the process that started it, whatever becomes of that one.
"""

from __future__ import annotations

import os
import queue
import sys
import threading
import traceback
from typing import Any, BinaryIO

import msgspec
import numpy as np

from core import engine
from core.runs.resolve import resolve
from core.types import Logits, PhaseName, Request, Session, chat_templates, special_tokens
from core.worker import frames
from core.worker.session_client import About
from core.worker.sessions import load
from hardware.errors import ExplorerError

CARRIED = frozenset({"forward", "cache", "rollback", "rewind", "batch"})  # what crosses the pipe
PASSED_ON = frozenset({"encode", "decode", "commit", "rewind", "reset", "sync"})


class Relay:
    """core.worker.journal.Teller: what is said goes to the process that asked."""

    def __init__(self, out: BinaryIO) -> None:
        self._out = out

    def phase(
        self, name: PhaseName, note: str = "", done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        frames.send(self._out, ("phase", [name, note, done, total, unit]))

    def stop_if_asked(self) -> None:
        """The process that asked is stopped, and ends this one."""


class Served:
    """An open session, and the logits of its last forward."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._logits: Logits | None = None

    def call(self, name: str, arguments: list[Any]) -> tuple[Any, Any]:
        """What a call gives: a plain value, and rows of numbers if it gives any."""
        if name in PASSED_ON:
            return getattr(self._session, name)(*arguments), None
        if name == "n_committed":
            return self._session.n_committed, None
        if name == "forward":
            ids, keep = arguments
            self._logits = None  # the last one's memory goes first
            self._logits = self._session.forward(np.array(ids, dtype=np.int64), keep)
            return None, None
        assert self._logits is not None, "logits of no forward"
        if name == "argmax":
            return self._logits.argmax().tolist(), None
        assert name == "numpy", f"no call is named {name}"
        return None, self._logits.numpy()


def about(session: Session, seconds: float) -> About:
    return About(
        seconds=seconds,
        spec=session.spec,
        capabilities=session.capabilities & CARRIED,
        max_context=session.max_context,
        chat_template=session.chat_template,
        bos_token=session.bos_token,
        eos_token=session.eos_token,
        eos_ids=session.eos_ids,
        opening=session.opening,
        closing=session.closing,
        setup=session.setup,
        warnings=session.warnings,
        chat_templates=dict(chat_templates(session)),
        special_tokens=special_tokens(session),
    )


def main() -> int:
    engine.hide_besides()
    out = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what libraries print goes with what they complain
    calls: queue.Queue[Any] = queue.Queue()
    threading.Thread(target=_listen, args=(calls,), daemon=True).start()
    try:
        request = msgspec.convert(calls.get(), type=Request)
        try:
            session, seconds = load(resolve(request), Relay(out))
        except ExplorerError as error:
            frames.send(out, ("refused", [error.message, error.hint]))
            return 2
        frames.send(out, ("value", msgspec.to_builtins(about(session, seconds), enc_hook=str)))
        served = Served(session)
        while True:
            try:
                value, rows = served.call(*calls.get())
            except ExplorerError as error:  # a call too many tokens long, say: the session is as before
                frames.send(out, ("refused", [error.message, error.hint]))
            else:
                frames.send(out, ("value", value), rows)
    except BrokenPipeError:
        return 0
    except Exception as error:
        traceback.print_exc()
        said = (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")
        frames.send(out, ("failed", f"{type(error).__name__}: {said}"))
        return 1


def _listen(calls: queue.Queue[Any]) -> None:
    while (frame := frames.receive(sys.stdin.buffer)) is not None:
        calls.put(frame[0])
    os._exit(0)


if __name__ == "__main__":
    sys.exit(main())
