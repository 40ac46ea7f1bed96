"""The process that runs models: reads run ids on stdin, writes events into the run folders.

    python -m core.worker.worker STORE_ROOT     then lines {"run": "<run id>", "options": {...}}

It turns whatever ends a run into the run's last event. It dies with its parent: at the end of stdin
it cancels what is running and leaves.
"""

from __future__ import annotations

import contextlib
import errno
import os
import queue
import signal
import sys
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from core import engine, plugins
from core.endpoints import store as endpoints
from core.models import catalogue
from core.runs.measuring import measuring
from core.runs.store import Run, Store
from core.types import Derive, Done, Evaluate, Event, Failed, Generate, Request
from core.worker.evaluate import evaluate
from core.worker.generate import measure
from core.worker.journal import Cancelled, Journal
from core.worker.session_client import LostError
from core.worker.sessions import Sessions
from core.worker.transform import derive
from hardware import load
from hardware.errors import ExplorerError

LEAVE_AFTER_S = 5.0
PERFORM = {Generate: measure, Evaluate: evaluate, Derive: derive}


class Command(msgspec.Struct):
    """options: backend options of a retry, over those of the request."""

    run: str
    options: dict[str, Any] = {}


def perform(store: Store, sessions: Sessions, command: Command) -> None:
    """One run from its folder to its last event."""
    run = store.open(command.run)
    try:
        journal = Journal(run)
    except OSError as error:  # no room for a beginning: there may be for an end
        (run.path / "reserve").unlink(missing_ok=True)
        run.append(_disk_failure(error, run.elapsed_s()))
        return
    _log_to(run)
    end: Event
    try:
        request = run.request
        what = f"the run {run.id} ({request.model} in {_engine(request)})"
        with measuring(store.root, what, run.id, asks_service=_asks_service(request)):
            request = msgspec.structs.replace(request, options={**request.options, **command.options})
            PERFORM[type(request.task)](request, sessions, journal)
        for label in engine.strangers():
            journal.warn(
                f"Another library loaded {label} into this process: on a processor with AMX the two spoil each other's "
                "numbers."
            )
        end = Done(t_s=journal.now())
    except (Cancelled, KeyboardInterrupt):
        end = Done(t_s=journal.now(), cancelled=True)
    except LostError as error:
        end = Failed(t_s=journal.now(), message=error.message, hint=error.hint, log=error.log)
    except ExplorerError as error:
        end = Failed(t_s=journal.now(), message=error.message, hint=error.hint, user_error=not journal.measuring)
    except MemoryError:
        sessions.close()
        end = Failed(t_s=journal.now(), message="The memory ran out.", hint="Choose a smaller model, dtype or context.")
    except OSError as error:
        end = _disk_failure(error, journal.now())
    except Exception as error:
        traceback.print_exc()
        sessions.close()  # their state is unknown now
        end = Failed(
            t_s=journal.now(),
            message=f"{_engine(run.request)} stopped with {type(error).__name__}: {_first_line(error)}.",
            hint="The run's log has the details; try another dtype, option or backend.",
        )
    journal.end(end)


def _engine(request: Request) -> str:
    return plugins.label("backend", request.backend)


def _asks_service(request: Request) -> bool:
    """Whether a server on this machine has its model: it may be our own service, which has to answer meanwhile."""
    if "endpoint" not in plugins.get("backend", request.backend).formats:
        return False
    return endpoints.on_this_machine(catalogue.find(request.model).files)


def _log_to(run: Run) -> None:
    """What libraries print, in native code too, goes into the run's log from here on."""
    log = os.open(run.path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.close(log)


def _disk_failure(error: OSError, t_s: float) -> Failed:
    if error.errno == errno.ENOSPC:
        return Failed(t_s=t_s, message="The disk is full.", hint="Free some space; what was measured so far is kept.")
    return Failed(t_s=t_s, message=f"A file could not be used: {error}.", hint="Check the path and its permissions.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")


def main(root: str) -> None:
    engine.hide_besides()
    commands: queue.Queue[Command | None] = queue.Queue()
    running: list[str] = []
    store = Store(Path(root))

    def listen() -> None:
        for line in sys.stdin:
            commands.put(msgspec.json.decode(line, type=Command))
        commands.put(None)
        for run_id in running:  # the parent is gone
            with contextlib.suppress(ExplorerError, OSError):  # so may be its folder
                store.open(run_id).cancel()
        time.sleep(LEAVE_AFTER_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)  # a conversion may be a child of ours

    load.count_stops()
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal belongs to the parent
    threading.Thread(target=listen, daemon=True).start()
    sessions = Sessions()
    while (command := commands.get()) is not None:
        running[:] = [command.run]
        perform(store, sessions, command)
        running.clear()


if __name__ == "__main__":
    main(sys.argv[1])
