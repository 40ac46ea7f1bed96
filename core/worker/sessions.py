"""Opened models: found, prepared, loaded, and kept warm between runs with equal session keys.

Knows the catalogue, the conversions and the backends; nothing of passes or profilers.
"""

from __future__ import annotations

import gc
import importlib.metadata
import time
from dataclasses import dataclass
from typing import Any

import msgspec

from core import engine
from core.models.identity import identity
from core.runs.resolve import Resolved, resolve
from core.types import ModelEntry, Request, Session
from core.worker.journal import Teller, Witness
from core.worker.session_client import SessionClient, open_in_own_process
from hardware.child import Child
from hardware.errors import ExplorerError
from hardware.process import resident


@dataclass(frozen=True)
class Opened:
    """The request, resolved; its session and its companions' ("draft", "reference"); and what opening took.

    seconds: 0 when warm. rss_before_bytes: resident memory before anything was loaded.
    """

    wanted: Resolved
    session: Session
    companions: dict[str, Session]
    seconds: float
    warm: bool
    rss_before_bytes: int


class Sessions:
    """The session of the last request and those of its companions."""

    def __init__(self) -> None:
        self._open: dict[str, tuple[str, Session]] = {}  # "model" or a companion's role: session key, session

    def open(self, request: Request, journal: Witness) -> Opened:
        """Open what is not open yet; what is no longer wanted gives its memory back first.

        A companion in another backend is opened in a process of its own: one native engine per process.
        """
        before = resident().rss_bytes
        model = resolve(request)
        wanted = {"model": model, **model.companions}
        for role, (key, there_is) in list(self._open.items()):
            gone = isinstance(there_is, SessionClient) and not there_is.alive
            if gone or role not in wanted or wanted[role].session_key != key:
                self.close(role)
        seconds, warm = 0.0, "model" in self._open
        for role, there in wanted.items():
            if role not in self._open:
                session, took = (load if there.backend is model.backend else _load_apart)(there, journal)
                self._open[role] = (there.session_key, session)
                seconds += took
        sessions = {role: session for role, (_, session) in self._open.items()}
        apart = [session for session in sessions.values() if isinstance(session, SessionClient)]
        for session in apart:
            session.check = journal.stop_if_asked
        journal.processes = tuple(session.pid for session in apart)
        return Opened(model, sessions.pop("model"), sessions, seconds, warm, before)

    def close(self, *roles: str) -> None:
        """Close these sessions, all of them by default."""
        for role in roles or tuple(self._open):
            self._open.pop(role)[1].close()
        gc.collect()


def load(wanted: Resolved, journal: Teller) -> tuple[Session, float]:
    """The opened session of a resolved request, and the seconds that the library took.

    Raises ExplorerError when this process is another engine's.
    """
    journal.phase("preparing", f"Looking for {wanted.entry.id}")
    engine.claim(wanted.request.backend)
    imported = engine.import_ahead(wanted.request.backend)  # in the time that a conversion takes
    _, path = provide(wanted.entry, (wanted.format,), journal)
    model, file = wanted.spec_of(path), identity(path)
    started = time.perf_counter()
    journal.phase("loading", f"Loading {wanted.entry.label}")
    imported()
    session = wanted.backend.open(path, model, wanted.request, lambda *a, **k: journal.phase("loading", *a, **k))
    session.sync()
    versions = {
        name: importlib.metadata.version(name) for name in wanted.backend.distributions
    } | session.setup.versions
    session.setup = msgspec.structs.replace(session.setup, file=file, versions=versions)
    return session, time.perf_counter() - started


def _load_apart(wanted: Resolved, journal: Witness) -> tuple[Session, float]:
    """Like load, in a process of its own; files are made before it starts, so that a stop ends that work, too."""
    provide(wanted.entry, (wanted.format,), journal)
    return open_in_own_process(wanted.request, journal)


def provide(entry: ModelEntry, formats: tuple[str, ...], journal: Teller) -> tuple[str, str]:
    """(format, path) of a file the backend opens; what must be converted is, in a process of its own."""
    direct = next((fmt for fmt in formats if fmt in entry.files and fmt != "config"), None)
    if direct:
        from core.models.formats import check

        check(entry.files)
        return direct, entry.files[direct]
    last: dict[str, Any] = {}
    journal.phase("preparing", f"Starting a process that makes {entry.label} as {' or '.join(formats)}")
    with Child("core.models.artifacts", [entry.id, ",".join(formats)]) as child:
        for message in child.messages():
            last = message or last
            journal.stop_if_asked()
            if message and "note" in message:
                journal.phase("preparing", **message)
    if "path" in last:
        return last["format"], last["path"]
    if "message" in last:
        raise ExplorerError(last["message"], last["hint"])
    raise ExplorerError(
        f"Preparing {entry.label} ended early with status {child.status}.",
        "The memory may have run out: choose a smaller model; the run's log has the last lines.",
    )
