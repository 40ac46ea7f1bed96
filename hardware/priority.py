"""Who gives way when the processor is short: a process that serves screens lies below the workers that it starts.

Linux has a niceness for each thread, which a child inherits from the thread that starts it and which nobody without
privileges can lower again. So one thread stays as it was, and it alone starts the children. Elsewhere nothing is done.
"""

from __future__ import annotations

import contextlib
import os
import queue
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")
LOWER_BY = 5
_LOWEST = 19
_TASKS, _AUTOGROUP = Path("/proc/self/task"), Path("/proc/self/autogroup")
_lock = threading.Lock()
_orders: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] | None = None  # for the thread that stayed


def give_way() -> bool:
    """Let this process's threads, and those they start, come after others. False where that cannot be done.

    A second call does nothing. What `spawn` starts keeps the priority that this process has now.
    """
    global _orders
    if not sys.platform.startswith("linux"):
        return False
    with _lock:
        if _orders is not None:
            return True
        orders: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]] = queue.SimpleQueue()
        stayed = threading.Thread(target=_start_children, args=(orders,), name="spawner", daemon=True)
        stayed.start()
        lowered = min(_LOWEST, os.getpriority(os.PRIO_PROCESS, 0) + LOWER_BY)
        for thread in map(int, os.listdir(_TASKS)):
            if thread != stayed.native_id:
                with contextlib.suppress(OSError):  # it ended just now
                    os.setpriority(os.PRIO_PROCESS, thread, lowered)
        if os.getsid(0) == os.getpid():  # the kernel may share by sessions first, and this one is all ours
            with contextlib.suppress(OSError):
                _AUTOGROUP.write_text(str(LOWER_BY))
        _orders = orders
        return True


def spawn(start: Callable[[], T]) -> T:
    """What `start` gives, which starts a process: from the thread that did not give way, if this process did."""
    if _orders is None:
        return start()
    done: Future[T] = Future()
    _orders.put((start, done))
    return done.result()


def _start_children(orders: queue.SimpleQueue[tuple[Callable[[], Any], Future[Any]]]) -> None:
    while True:
        start, done = orders.get()
        try:
            done.set_result(start())
        except BaseException as error:
            done.set_exception(error)
