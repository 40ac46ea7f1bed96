"""Ctrl-C, which ends a command with status 130 at any moment: while it is imported, while it runs, once it is over."""

import os
import signal
from types import FrameType
from typing import NoReturn

STOPPED = 130  # the exit status that shells expect: 128 and the number of SIGINT


def at_once() -> None:
    """While modules are imported: an exception would go wherever one of them handles it.

    Where nobody listens, as in a shell's background job, it stays so.
    """
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _leave)


def as_exception() -> None:
    """From here on, a KeyboardInterrupt."""
    if signal.getsignal(signal.SIGINT) is _leave:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def unheard() -> None:
    """Once all is over: it changes neither the status nor the words."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    os.write(2, b"Stopped.\n")
    os._exit(STOPPED)
