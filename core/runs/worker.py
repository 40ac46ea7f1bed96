"""The process that runs models: reads run folders on stdin, writes events into them.

    python -m core.runs.worker STORE_ROOT     then lines {"run": "<run id>", "options": {...}}

It keeps the session warm between requests with equal session keys. It times each step inside
next(steps) plus sync, and writes between steps, so writing is never timed. It dies with its
parent: at the end of stdin it cancels what is running and leaves.
"""

from __future__ import annotations

import contextlib
import errno
import gc
import importlib.metadata
import os
import platform
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from filelock import FileLock, Timeout

from core import registry
from core.analysis import fallback
from core.errors import ExplorerError
from core.paths import data_dir
from core.runs.draft import draft_request, same_tokenizer
from core.runs.store import Run, Store
from core.runs.summarize import summarize
from core.settings import settings
from core.types import (
    Attachment,
    Done,
    Event,
    Failed,
    Generate,
    GenerationConfig,
    Ids,
    Loaded,
    Memory,
    ModelEntry,
    ModelSpec,
    Pass,
    PassKind,
    Phase,
    PhaseName,
    Request,
    Session,
    Step,
    Warned,
)
from hardware import ceilings
from hardware.detect import machine
from hardware.process import resident

MEMORY_EVERY_S = 0.2  # live memory between steps of passes that have no profiler of their own
PROGRESS_EVERY_S = 0.1
RESERVE_BYTES = 256 * 1024  # freed when the disk is full, so that the run can still say so
LEAVE_AFTER_S = 5.0
WARMUP_TOKENS = 4
WARMUP_GUESSED = 64  # where a step is many tokens, and is cut short at the limit
DRAFT_NOTE = "Steps include the draft model's time; computed work, layers and FLOPs are the model's alone."
DECODE_WINDOW, DECODE_OVERLAP = 32, 8


class Command(msgspec.Struct):
    run: str
    options: dict[str, Any] = {}


class Cancelled(Exception):  # noqa: N818 - not an error
    """The user asked for a stop."""


class Journal:
    """Writes events of one run; t_s counts from the request."""

    def __init__(self, run: Run) -> None:
        self.run = run
        self._origin = time.perf_counter() - (time.time() - run.created_s)
        self._file = (run.path / "events.jsonl").open("ab")
        self._reserve = run.path / "reserve"
        self._reserve.write_bytes(bytes(RESERVE_BYTES))
        self._last_progress_s = 0.0
        self._last_note = ""

    def now(self) -> float:
        return time.perf_counter() - self._origin

    def write(self, event: Event) -> None:
        self._file.write(
            msgspec.json.encode(event, enc_hook=str) + b"\n"
        )  # a library may tell its version in a type of its own
        self._file.flush()

    def adopt(self, event: Any) -> None:
        """Write an event stamped with time.perf_counter() by a profiler."""
        self.write(msgspec.structs.replace(event, t_s=event.t_s - self._origin))

    def phase(
        self, name: PhaseName, note: str = "", done: float | None = None, total: float | None = None, unit: str = ""
    ) -> None:
        """Progress, at most ten lines a second unless the note changes; looks for a stop as well."""
        if self.run.cancel_requested:
            raise Cancelled
        now = self.now()
        if note == self._last_note and now - self._last_progress_s < PROGRESS_EVERY_S and done != total:
            return
        self._last_note, self._last_progress_s = note, now
        self.write(Phase(t_s=now, name=name, note=note, done=done, total=total, unit=unit))

    def end(self, event: Event) -> None:
        """The last event, written even on a full disk."""
        self._reserve.unlink(missing_ok=True)
        try:
            self.write(event)
        finally:
            self._file.close()


class Worker:
    def __init__(self, store: Store) -> None:
        self._store = store
        self._session: Session | None = None
        self._session_key = ""
        self._draft: Session | None = None
        self._draft_key = ""
        self._exercised = False  # this session has run before, so it needs no warm-up
        self._measuring = False  # the current run has made its first step

    def run(self, command: Command) -> None:
        """One run from its folder to its last event."""
        run = self._store.open(command.run)
        journal = Journal(run)
        log = os.open(run.path / "log.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.close(log)
        end: Event
        self._measuring = False
        try:
            with FileLock(self._store.root / "measuring.lock", timeout=0):
                request = run.request
                request = msgspec.structs.replace(request, options={**request.options, **command.options})
                self._measure(request, journal)
            end = Done(t_s=journal.now())
        except Timeout:
            end = Failed(
                t_s=journal.now(),
                message="Another run is going on this machine, and two at once would spoil both measurements.",
                hint="Wait for it or stop it, then run again.",
                user_error=True,
            )
        except (Cancelled, KeyboardInterrupt):
            end = Done(t_s=journal.now(), cancelled=True)
        except ExplorerError as error:
            end = Failed(t_s=journal.now(), message=error.message, hint=error.hint, user_error=not self._measuring)
        except MemoryError:
            self._drop()
            end = Failed(
                t_s=journal.now(), message="The memory ran out.", hint="Choose a smaller model, dtype or context."
            )
        except OSError as error:
            end = _disk_failure(error, journal.now())
        except Exception as error:
            import traceback

            traceback.print_exc()
            self._drop()  # its state is unknown now
            end = Failed(
                t_s=journal.now(),
                message=f"{request.backend} stopped with {type(error).__name__}: {_first_line(error)}.",
                hint="The run's log has the details; try another dtype, option or backend.",
            )
        journal.end(end)

    def _drop(self) -> None:
        self._drop_draft()
        if self._session is not None:
            self._session.close()
        self._session, self._session_key, self._exercised = None, "", False
        gc.collect()

    def _drop_draft(self) -> None:
        if self._draft is not None:
            self._draft.close()
        self._draft, self._draft_key = None, ""
        gc.collect()

    # -------------------------------------------------------- opening

    def _open(self, request: Request, journal: Journal) -> tuple[Session, float, bool, int]:
        before = resident().rss_bytes
        if self._session is not None and self._session_key == request.session_key():
            return self._session, 0.0, True, before
        self._drop()
        self._session, seconds = self._load(request, journal)
        self._session_key = request.session_key()
        return self._session, seconds, False, before

    def _open_draft(self, request: Request | None, journal: Journal) -> tuple[Session | None, float]:
        """The draft model's session and its loading time; one that is no longer wanted gives its memory back."""
        key = request.session_key() if request else ""
        if key != self._draft_key:
            self._drop_draft()
        if request is None or self._draft is not None:
            return self._draft, 0.0
        self._draft, seconds = self._load(request, journal)
        self._draft_key, self._exercised = key, False
        return self._draft, seconds

    def _load(self, request: Request, journal: Journal) -> tuple[Session, float]:
        """The opened session of a request, and the seconds that the library took."""
        from core.models import catalogue, spec

        backend = registry.get("backend", request.backend)
        journal.phase("preparing", f"Looking for {request.model}")
        entry = catalogue.find(request.model)
        fmt, path = _provide(entry, backend.formats, journal)
        model = spec.read(path, fmt)
        dtype = request.dtype or (backend.dtypes[0] if backend.dtypes else None)
        if dtype:
            model = spec.retype(model, dtype)
        model = msgspec.structs.replace(
            model,
            name=entry.id,
            random_weights=entry.random_weights or model.random_weights,
            source=entry.note or model.source,
        )
        started = time.perf_counter()
        journal.phase("loading", f"Loading {entry.label}")
        session = backend.open(path, model, request, lambda *a, **k: journal.phase("loading", *a, **k))
        session.sync()
        return session, time.perf_counter() - started

    def _prompt(self, session: Session, task: Generate, request: Request) -> tuple[Ids, str]:
        if task.prompt_tokens is not None:
            rng = np.random.default_rng(request.seed)
            row = rng.integers(0, session.spec.vocab_size, task.prompt_tokens)
            return np.tile(row, (request.batch, 1)).astype(np.int64), ""
        text = task.prompt or ""
        if task.chat and session.chat_template:
            from core.models.chat import render

            text = render(session.chat_template, text, task.system, session.bos_token, session.eos_token)
        row = np.array(session.encode(text), dtype=np.int64)
        return np.tile(row, (request.batch, 1)), text

    # -------------------------------------------------------- passes

    def _measure(self, request: Request, journal: Journal) -> None:
        strategy = registry.get("strategy", request.strategy)
        params = settings(strategy.Params, request.params, strategy.label)
        wanted_draft = draft_request(request)
        session, load_s, warm, before = self._open(request, journal)
        draft, draft_load_s = self._open_draft(wanted_draft, journal)
        task = request.task
        ids, text = self._prompt(session, task, request)
        if draft is not None:
            same_tokenizer(session, draft, text)
        for need in sorted(strategy.needs - session.capabilities):
            raise ExplorerError(
                f"{strategy.label} needs '{need}', which {session.spec.name} cannot do in {request.backend}.",
                "Choose the strategy 'encode' for encoders, or another backend.",
            )
        if request.batch > 1 and "batch" not in session.capabilities:
            raise ExplorerError(f"{request.backend} runs one sequence at a time with this model.", "Set batch to 1.")
        generates = bool(strategy.needs & {"cache", "stream"})
        n_needed = ids.shape[1] + (task.max_new_tokens if generates else 0)
        if ids.shape[1] == 0:
            raise ExplorerError("The prompt is empty.", "Type a prompt or set a number of prompt tokens.")
        if n_needed > session.max_context:
            raise ExplorerError(
                f"{ids.shape[1]} prompt tokens and {task.max_new_tokens} new ones exceed the context of "
                f"{session.max_context} tokens.",
                "Shorten the prompt or ask for fewer tokens.",
            )
        journal.write(
            Loaded(
                t_s=journal.now(),
                seconds=load_s + draft_load_s,
                warm=warm,
                spec=session.spec,
                n_prompt_tokens=int(ids.shape[1]),
                prompt_text=text,
                environment=_environment(request, session),
                capabilities=tuple(sorted(session.capabilities)),
                rss_before_bytes=before,
                rss_after_bytes=resident().rss_bytes,
            )
        )
        for message in (*session.warnings, *((DRAFT_NOTE,) if draft else ())):
            journal.write(Warned(t_s=journal.now(), message=message))
        stop = frozenset() if task.ignore_eos or task.prompt_tokens is not None else frozenset(session.eos_ids)
        config = GenerationConfig(limit=task.max_new_tokens, sampling=task.sampling, seed=request.seed, stop=stop)
        drafts = () if draft is None else (draft,)
        for number, (kind, profiler) in enumerate(self._plan(request, session, journal)):
            p = Pass(t_s=journal.now(), number=number, kind=kind, profiler=profiler)
            journal.write(p)
            instrument = registry.get("profiler", profiler) if profiler else None
            warmup = WARMUP_GUESSED if strategy.single else WARMUP_TOKENS
            most = warmup if kind == "warmup" else instrument.limit if instrument else None
            limit = config.limit if most is None else min(config.limit, most)
            steps = strategy.decode(session, ids, msgspec.structs.replace(config, limit=limit), params, *drafts)
            attachment = instrument.attach(session, number) if instrument else None
            try:
                self._steps(steps, session, p, attachment, journal, int(ids.shape[1]))
            finally:
                steps.close()
                if attachment:
                    attachment.close()
                    for event in attachment.events():
                        journal.adopt(event)
        self._exercised = True
        for message in _slow_precisions(request, session.spec, journal.run):
            journal.write(Warned(t_s=journal.now(), message=message))
        journal.phase("finished")

    def _plan(self, request: Request, session: Session, journal: Journal) -> Iterator[tuple[PassKind, str | None]]:
        """Warm-up (unless this session has run before), timing, then one pass per profiler."""
        if not self._exercised:
            for _ in range(request.warmup):
                yield "warmup", None
        for _ in range(request.repeats):
            yield "timing", None
        for name in request.profilers:
            profiler = registry.get("profiler", name)
            reason = profiler.unavailable()
            missing = profiler.needs - session.capabilities
            if request.batch > 1 and profiler.single:
                reason = "it measures one sequence, so set batch to 1."
            if reason or missing:
                why = reason or f"{request.backend} cannot do '{', '.join(sorted(missing))}' with this model."
                journal.write(Warned(t_s=journal.now(), message=f"{profiler.label} not measured: {why}"))
                continue
            yield "profile", name

    def _steps(
        self,
        steps: Iterator[Any],
        session: Session,
        p: Pass,
        attachment: Attachment | None,
        journal: Journal,
        n_prompt: int,
    ) -> None:
        tokens: list[int] = []
        text = TextStream(session)
        n_read, phase, last_memory = 0, "", 0.0
        if attachment:
            attachment.phase("prefill")
        while True:
            started = time.perf_counter()
            advance = next(steps, None)
            if advance is None:
                break
            session.sync()
            seconds = time.perf_counter() - started
            accepted = advance.tokens[0] if advance.tokens else ()
            tokens.extend(accepted)
            n_read += advance.n_input
            step = Step(
                t_s=journal.now(),
                pass_no=p.number,
                phase=advance.phase,
                seconds=seconds,
                n_tokens=len(accepted),
                n_forward=advance.n_forward,
                n_input=advance.n_input,
                n_context=session.n_committed,
                text=text.add(accepted),
                tokens=accepted,
                guess=advance.guess,
                n_draft=advance.n_draft,
            )
            journal.write(step)
            self._measuring = True
            if attachment:
                attachment.step(step)
                if accepted and phase != "decode":  # the first token ends the prefill
                    attachment.phase("decode")
                    phase = "decode"
                for event in attachment.events():
                    journal.adopt(event)
            elif journal.now() - last_memory > MEMORY_EVERY_S:
                last_memory = journal.now()
                now = resident()
                journal.write(
                    Memory(
                        t_s=last_memory,
                        pass_no=p.number,
                        phase=advance.phase,
                        rss_bytes=now.rss_bytes,
                        anon_bytes=now.anon_bytes,
                        file_bytes=now.file_bytes,
                    )
                )
            if journal.run.cancel_requested:
                raise Cancelled


class TextStream:
    """Turns accepted ids into new text, holding back what is not yet a whole character."""

    def __init__(self, session: Session) -> None:
        self._session = session
        self._ids: list[int] = []
        self._start, self._shown = 0, ""  # the text of ids[start:] that was given out already

    def add(self, ids: tuple[int, ...]) -> str:
        """Decodes only the last stretch again, so that the cost does not grow with the text."""
        self._ids.extend(ids)
        whole = self._session.decode(self._ids[self._start :])
        if whole.endswith("\ufffd"):
            return ""
        new, self._shown = whole[len(self._shown) :], whole
        if len(self._ids) - self._start > DECODE_WINDOW:
            self._start = len(self._ids) - DECODE_OVERLAP
            self._shown = self._session.decode(self._ids[self._start :])
        return new


def _provide(entry: ModelEntry, formats: tuple[str, ...], journal: Journal) -> tuple[str, str]:
    """(format, path) of a file the backend opens; what must be derived is made in a process of its own."""
    direct = next((fmt for fmt in formats if fmt in entry.files and fmt != "config"), None)
    if direct:
        from core.models.formats import check

        check(entry.files)
        return direct, entry.files[direct]
    command = [sys.executable, "-m", "core.models.artifacts", entry.id, ",".join(formats)]
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE)
    assert child.stdout is not None
    last: dict[str, Any] = {}
    try:
        for line in child.stdout:
            with contextlib.suppress(msgspec.DecodeError):  # a library may print, too
                last = msgspec.json.decode(line, type=dict[str, Any])
            if "note" in last:
                journal.phase("preparing", **last)
    finally:
        if child.poll() is None and "path" not in last:
            child.kill()
        code = child.wait()
    if "path" in last:
        return last["format"], last["path"]
    if "message" in last:
        raise ExplorerError(last["message"], last["hint"])
    raise ExplorerError(
        f"Preparing {entry.label} ended early with status {code}.",
        "The memory may have run out: choose a smaller model; the run's log has the last lines.",
    )


def _environment(request: Request, session: Session) -> dict[str, Any]:
    backend = registry.get("backend", request.backend)
    versions = {name: importlib.metadata.version(name) for name in backend.distributions}
    found = machine()
    return {
        "threads": request.threads or found.physical_cores,
        "dtype": session.spec.dtype,
        **session.environment,
        "versions": {"python": platform.python_version(), **versions},
        "machine": msgspec.to_builtins(found),
        "load_average": list(os.getloadavg()) if hasattr(os, "getloadavg") else None,
        "date": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
    }


def _slow_precisions(request: Request, model: ModelSpec, run: Run) -> tuple[str, ...]:
    """Why a lower precision did not pay in this run, as far as its layers and this machine's ceilings tell."""
    result = summarize(run.id, request, run.events(), "running")
    here = machine()
    threads = int(result.threads or here.usable_cores)
    device = str(result.environment.get("device") or "cpu")
    stored = ceilings.load(data_dir() / "ceilings", here.machine_id, threads, device)
    return fallback.warnings(model, result.layers, stored, result.environment)


def _disk_failure(error: OSError, t_s: float) -> Failed:
    if error.errno == errno.ENOSPC:
        return Failed(t_s=t_s, message="The disk is full.", hint="Free some space; what was measured so far is kept.")
    return Failed(t_s=t_s, message=f"A file could not be used: {error}.", hint="Check the path and its permissions.")


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")


def main(root: str) -> None:
    commands: queue.Queue[Command | None] = queue.Queue()
    running: list[str] = []
    store = Store(Path(root))

    def listen() -> None:
        for line in sys.stdin:
            commands.put(msgspec.json.decode(line, type=Command))
        commands.put(None)
        for run_id in running:  # the parent is gone
            store.open(run_id).cancel()
        time.sleep(LEAVE_AFTER_S)
        os.killpg(os.getpgrp(), signal.SIGKILL)  # a conversion may be a child of ours

    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal belongs to the parent
    threading.Thread(target=listen, daemon=True).start()
    worker = Worker(store)
    while (command := commands.get()) is not None:
        running[:] = [command.run]
        worker.run(command)
        running.clear()


if __name__ == "__main__":
    main(sys.argv[1])
