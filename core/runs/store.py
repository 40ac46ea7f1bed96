"""Runs as folders: request.json, events.jsonl, log.txt, about.json, cancel. The folders are the truth.

An index beside them (SQLite) makes history fast; it can be rebuilt from the folders at any time.
This module knows nothing of workers or screens.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import secrets
import shutil
import sqlite3
import struct
import time
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec

from core.runs import about, old_form
from core.runs.about import About
from core.runs.ceilings import adopt, ceilings_of
from core.runs.event_folder import EventFolder
from core.runs.owner import SILENT_S, Owner
from core.runs.recording import Recording, Sorted
from core.runs.stages import spent
from core.runs.summarize import summarize
from core.runs.verdicts import with_verdicts
from core.types import GOING, Done, Event, Failed, Request, Result, RunStatus, from_json, to_json
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, contents, is_utf8, removed, sync, written_s

PLATFORM = "platform.json"  # what the cloud said later of the time of a run
BUNDLE = ("request.json", "events.jsonl", "log.txt", about.FILE, PLATFORM)
CEILINGS = "ceilings.json"  # of the machine that ran it, for its roofline
ORIGIN = "origin.json"
IMPORTED = "imported"
FORMAT = "roofscope-run-1"
_NEWER = re.compile(r"roofscope-run-[1-9][0-9]{0,8}", re.ASCII)
MOST_BUNDLE_BYTES = 256_000_000  # unpacked; a run of 50,000 tokens with all profilers has a fifth of that
MOST_VALUE = 2.0**63  # no time, number or size of a run is larger
_YEAR_9999_S = 253_402_214_400.0  # but for its last day: the clocks of some places are ahead
_COLUMNS = (  # of a history row, as they are in the result
    *("run_id", "task", "status", "model", "backend", "strategy", "dtype", "threads", "batch"),
    *(
        "n_prompt_tokens",
        "n_new_tokens",
        "ttft_s",
        "tpot_s",
        "tok_per_s",
        "prefill_tok_per_s",
        "peak_memory_bytes",
        "load_s",
        "error",
    ),
)
_ID = re.compile(r"[\w][\w.-]{0,99}", re.ASCII)
BROKEN_ZIP = (  # what opening and reading a damaged or foreign zip may raise
    *(zipfile.BadZipFile, zlib.error, struct.error, EOFError, NotImplementedError, RuntimeError, OSError, ValueError),
)
_decoder = msgspec.json.Decoder(Event)


@dataclass
class Run(EventFolder[Event]):
    """One run folder, read incrementally."""

    _recording: Recording | None = field(default=None, repr=False, compare=False)
    _sorted: Sorted = field(default_factory=Sorted, repr=False, compare=False)

    @property
    def request(self) -> Request:
        """What was asked. Raises ExplorerError when it cannot be read."""
        try:
            data = contents(self.path / "request.json")
            try:
                return from_json(data, Request)
            except msgspec.ValidationError:
                return old_form.request(data)
        except (OSError, msgspec.DecodeError, RecursionError) as error:
            if not self.is_there:
                raise _unknown(self.id) from error
            raise _damaged(self.id, "it is incomplete, its request cannot be read") from error

    @property
    def created_s(self) -> float:
        """Wall-clock seconds when the run was requested; t_s of its events counts from here.

        Raises ExplorerError when it cannot be read.
        """
        try:
            found = from_json(contents(self.path / "created.json"), float)
        except (OSError, msgspec.DecodeError) as error:
            raise _damaged(self.id, "when it was made cannot be read") from error
        if not 0 <= found <= _YEAR_9999_S:
            raise _damaged(self.id, f"it says that it was made {found:g} seconds after 1970")
        return float(found)

    @property
    def about(self) -> About:
        """What somebody calls it, and remarks about it."""
        return about.read(self.path)

    @property
    def origin(self) -> str:
        """The machine that measured it, where that is not this one; two of one kind have the same id in a result.

        What a study calls it, or IMPORTED of a bundle, which does not say. It is no part of a bundle.
        """
        try:
            return from_json(contents(self.path / ORIGIN), str)
        except (OSError, msgspec.DecodeError):
            return ""

    def _decoded(self, lines: bytes) -> list[Any]:
        try:
            found: list[Any] = _decoder.decode_lines(lines)
            return found
        except UNREADABLE:
            return [_event(line) for line in lines.splitlines() if line.strip()]

    def _ended(self) -> RunStatus | None:
        """The end that its last event tells of."""
        events = self.events()
        last = events[-1] if events else None
        if isinstance(last, Failed):
            return "failed"
        if isinstance(last, Done):
            return "cancelled" if last.cancelled else "done"
        return None

    def _gaps(self) -> tuple[str, ...]:
        """That lines of it are damaged, in a sentence; nothing where all can be read."""
        if not self.n_unread:
            return ()
        total = self.n_unread + self.n_events
        return (f"{self.n_unread:,} of this run's {total:,} events cannot be read, so that figures may be missing.",)

    def settled(self, status: str) -> bool:
        """Whether the status that was just seen stays: nobody goes on with it, also nobody who has yet to say so."""
        made_s = abs(time.time() - written_s(self.path / "request.json"))
        silent = min(self._silent_s(), made_s) > SILENT_S
        return status not in GOING and (status != "interrupted" or silent)

    def failure(self) -> Failed | None:
        """Why it ended early; None for any other end, and before one."""
        return next((e for e in reversed(self.events()) if isinstance(e, Failed)), None)

    def recording(self) -> Recording:
        """What its events say so far; the same one until there are more."""
        with self._reading:
            events = self.events()
            if self._recording is None or len(self._recording.events) != len(events):
                self._recording = Recording(self.request, list(events), self._sorted)
            return self._recording

    def result(self) -> Result:
        """Everything that is known of it, and of a run that has ended what a reader should be told.

        Raises ExplorerError when its events contradict each other, as those of a foreign run may.
        """
        recording, status = self.recording(), self.status()
        try:
            with self._reading:  # what is sorted grows with the events
                found = summarize(self.id, recording, status)
            for name in _COLUMNS:
                value = getattr(found, name)
                if isinstance(value, int | float) and not abs(value) < MOST_VALUE:
                    raise _damaged(self.id, f"it says {name} {value:g}")
            if status in GOING:
                return found
            judged = with_verdicts(found, recording.spec, ceilings_of(self.path.parents[1], found))
            return msgspec.structs.replace(judged, warnings=(*judged.warnings, *self._gaps()))
        except ExplorerError:
            raise
        except Exception as error:  # events are well formed each, and can say anything together
            raise _damaged(self.id, f"its events contradict each other ({type(error).__name__})") from error

    def bundle(self) -> bytes:
        """A zip that redraws every chart on a machine without the model."""
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as bundle:
            bundle.writestr(
                "roofscope.json", to_json({"format": FORMAT, "run_id": self.id, "created_s": self.created_s})
            )
            for name in BUNDLE:
                if (self.path / name).exists():
                    bundle.write(self.path / name, name)
            result = self.result()
            bundle.writestr("result.json", to_json(result))
            if found := ceilings_of(self.path.parents[1], result):
                bundle.writestr(CEILINGS, to_json(found))
        return buffer.getvalue()


class Store:
    """All runs under one folder."""

    def __init__(self, root: Path) -> None:
        """Raises ExplorerError where the folder cannot be one."""
        self.root = root
        self.folder = root / "runs"
        self._make()

    def _make(self) -> None:
        root = self.root
        try:
            root.mkdir(mode=0o700, parents=True, exist_ok=True)  # prompts and answers are their owner's alone
            self.folder.mkdir(exist_ok=True)
        except OSError as error:
            why = (
                "a file is in its place" if isinstance(error, FileExistsError | NotADirectoryError) else error.strerror
            )
            raise ExplorerError(
                f"The data folder {root} cannot be used: {why}.", "Set ROOFSCOPE_HOME to a folder that can be written."
            ) from error

    def create(self, request: Request, pid: int | None = None) -> Run:
        """A new run. pid: of the process that has it from the first moment on."""
        now = time.time()
        when = time.strftime("%Y%m%d-%H%M%S", time.localtime(now))
        run_id = f"{when}-{int(now % 1 * 1000):03d}{secrets.token_hex(2)}"  # sorts by time
        files = {"request.json": to_json(request)}
        if pid is not None:
            files["owner.json"] = to_json(Owner.of(pid))
        return self._write(run_id, now, files)

    def _write(self, run_id: str, created_s: float, files: dict[str, bytes], foreign: bool = False) -> Run:
        """Make a run folder at once or not at all. foreign: only if it can be read; raises ExplorerError when not."""
        self._make()
        building = self.folder / f".{run_id}.{secrets.token_hex(3)}"
        try:
            building.mkdir()
            (building / "created.json").write_bytes(to_json(created_s))
            for name, data in files.items():
                (building / name).write_bytes(data)
            if foreign:
                summed_up(Run(building))
            sync(*building.iterdir(), building)
            building.rename(self.folder / run_id)
            sync(self.folder)
        except ExplorerError:
            shutil.rmtree(building, ignore_errors=True)
            raise
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise ExplorerError(
                f"The run could not be stored: {error.strerror or error}.",
                f"Free some space or permissions in {self.root}.",
            ) from error
        return Run(self.folder / run_id)

    def open(self, run_id: str) -> Run:
        """The run of this id. Raises ExplorerError when there is none."""
        path = self.folder / run_id
        if not run_id or "/" in run_id or run_id.startswith(".") or not os.path.exists(path / "request.json"):
            raise _unknown(run_id)
        return Run(path)

    def finished(self, run_id: str) -> Run | None:
        """The run of this id if it is there, can be read and is done."""
        try:
            run = self.open(run_id)
            return run if run.status() == "done" else None
        except (ExplorerError, OSError):
            return None

    def ids(self) -> list[str]:
        """Newest first. A folder whose name is no UTF-8 is no run.

        Where all was moved away meanwhile, it begins anew. Raises ExplorerError where it cannot.
        """
        try:
            with os.scandir(self.folder) as entries:  # told with the names, without a look at each folder
                names = (e.name for e in entries if not e.name.startswith(".") and is_utf8(e.name) and e.is_dir())
                return sorted(names, reverse=True)
        except FileNotFoundError:
            self._make()
            return []

    def runs(self) -> Iterator[Run]:
        """Newest first, damaged ones among them."""
        for run_id in self.ids():
            yield Run(self.folder / run_id)

    def delete(self, run_id: str) -> None:
        """Remove a run, a damaged one too. Raises ExplorerError while it is going, and for an unknown one."""
        if run_id not in self.ids():
            raise _unknown(run_id)
        run = Run(self.folder / run_id)
        with contextlib.suppress(OSError):  # of a damaged one nothing can be told
            if run.status() in GOING:
                raise ExplorerError(f"The run {run_id} is still going.", "Stop it first.")
        removed(run.path)

    def delete_all(self, ids: Iterable[str]) -> list[ExplorerError]:
        """As many of them as can go; why the others cannot. One that somebody else has deleted meanwhile is gone."""
        kept = []
        for run_id in ids:
            try:
                self.delete(run_id)
            except ExplorerError as error:
                if run_id in self.ids():
                    kept.append(error)
            except OSError as error:
                kept.append(
                    ExplorerError(f"The run {run_id} cannot be deleted: {error.strerror}.", f"See {self.folder}.")
                )
        return kept

    def annotate(self, run_id: str, name: str | None = None, note: str | None = None) -> About:
        """Call a run something, or remark about it; None leaves what there is, and empty words take it away.

        Raises ExplorerError for a run that is not there, words that are too long, and a full disk.
        """
        run = self.open(run_id)
        kept = run.about
        words = about.about(kept.name if name is None else name, kept.note if note is None else note)
        about.write(run.path, words)
        with contextlib.suppress(sqlite3.Error):
            self._forget(run_id)
        return words

    def _forget(self, run_id: str) -> None:
        """Have its row made anew."""
        with contextlib.closing(sqlite3.connect(self.root / "index.sqlite")) as index, index:
            index.execute("DELETE FROM history WHERE run_id = ?", (run_id,))

    # ------------------------------------------------------------ import

    def load(self, data: bytes, origin: str = IMPORTED) -> Run:
        """Import a bundle made by Run.bundle; a run that is here already is opened instead. origin: see Run.origin.

        Raises ExplorerError for what is none, for one that is damaged or too large, and for a run that cannot be read.
        """
        try:
            files = _unpacked(data)
            about = from_json(files.pop("roofscope.json"), dict[str, Any])
            if about["format"] != FORMAT and _NEWER.fullmatch(about["format"]):
                raise ExplorerError(
                    "A newer version of Roofscope has made this bundle.", "Install that version, and import it there."
                )
            run_id, created_s = about["run_id"], float(about["created_s"])
            if about["format"] != FORMAT or not _ID.fullmatch(run_id):
                raise KeyError("format")
            from_json(files["request.json"], Request)
        except (KeyError, ValueError, TypeError, OverflowError, *UNREADABLE) as error:
            raise ExplorerError(
                "This file is not a Roofscope run bundle.", "Export one from History as zip."
            ) from error
        roofs = files.pop(CEILINGS, None)
        if (self.folder / run_id).exists():
            return self.open(run_id)
        run = self._write(run_id, created_s, files | {ORIGIN: to_json(origin)}, foreign=True)
        if roofs is not None:
            adopt(self.root, roofs)
        return run

    # ------------------------------------------------------------ index

    def history(self) -> list[dict[str, Any]]:
        """One row per run, newest first: what a table shows. Finished runs come from the index, where there is one.

        `stages` is one string, which `written_out` reads.
        """
        try:
            return self._history()
        except (sqlite3.DatabaseError, msgspec.DecodeError):
            # damaged, or the disk is full or read-only: what can be made again goes first
            with contextlib.suppress(OSError):
                (self.root / "index.sqlite").unlink(missing_ok=True)
        try:
            return self._history()
        except (sqlite3.DatabaseError, msgspec.DecodeError, OSError):
            return [row(run) for run in self.runs()]

    def _history(self) -> list[dict[str, Any]]:
        ids = self.ids()
        with contextlib.closing(sqlite3.connect(self.root / "index.sqlite")) as index, index:
            index.execute("CREATE TABLE IF NOT EXISTS history (run_id TEXT PRIMARY KEY, row TEXT NOT NULL)")
            rows = index.execute("SELECT run_id, row FROM history")
            kept = {run_id: from_json(words, dict[str, Any]) for run_id, words in rows}
            known = {run_id: old for run_id, old in kept.items() if "stages" in old}  # an older one knows less
            older = [old for old in known.values() if not isinstance(old["stages"], str)]
            for old in older:
                old["stages"] = to_json(old["stages"]).decode() if old["stages"] else ""
            fresh = {run_id: row(Run(self.folder / run_id)) for run_id in ids if run_id not in known}
            settled = [
                (run_id, to_json(new).decode())
                for run_id, new in fresh.items()
                if Run(self.folder / run_id).settled(new["status"])
            ]
            settled += [(old["run_id"], to_json(old).decode()) for old in older]
            index.executemany("INSERT OR REPLACE INTO history VALUES (?, ?)", settled)
            index.executemany("DELETE FROM history WHERE run_id = ?", [(n,) for n in kept.keys() - set(ids)])
        found = known | fresh
        return [found[run_id] for run_id in ids]


def _event(line: bytes) -> Event | None:
    try:
        found: Event = _decoder.decode(line)
        return found
    except UNREADABLE:
        return old_form.event(line)


def row(run: Run) -> dict[str, Any]:
    """The history row of a run; a damaged folder gives a row that says so."""
    try:
        return summed_up(run)
    except (ExplorerError, OSError) as error:
        nothing = dict.fromkeys(("created_s", *_COLUMNS, "did", "text", "disturbed", "machine", "machine_id", "origin"))
        named = {**msgspec.structs.asdict(run.about), "stages": ""}
        return nothing | named | {"run_id": run.id, "status": "damaged", "error": str(error)}


def written_out(rows: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of a history for other programs: their stages as a list."""
    return [{**row, "stages": msgspec.json.decode(row["stages"] or b"[]")} for row in rows]


def summed_up(run: Run) -> dict[str, Any]:
    """A readable run as a row. Raises ExplorerError and OSError for a damaged one."""
    result, created_s = run.result(), run.created_s
    told = result.disturbance.sentence if result.disturbance is not None else ""
    if result.provisional and result.status not in GOING:
        told = "Only watched: it ended before it was timed."
    host = result.host.machine if result.host else None
    what: dict[str, Any] = {"did": run.request.plugin, "text": _gist(result)[:200], "disturbed": told}
    what |= {"machine": host.cpu if host else None, "machine_id": host.machine_id if host else None}
    what["origin"] = run.origin
    what |= msgspec.structs.asdict(run.about)
    # in one string: tables do not read it, and reading it for ten thousand rows would be most of their time
    what["stages"] = to_json(spent(run.request, run.events())).decode() if result.status == "done" else ""
    return {"created_s": created_s, **{name: getattr(result, name) for name in _COLUMNS}, **what}


def _unknown(run_id: str) -> ExplorerError:
    shown = run_id if len(run_id) <= 100 else f"{run_id[:100]}..."
    return ExplorerError(f"There is no run '{shown}'.", "Open History to see the runs on this machine.")


def _damaged(run_id: str, why: str) -> ExplorerError:
    return ExplorerError(f"The run {run_id} is damaged: {why}.", "Delete it in History.")


def _unpacked(data: bytes) -> dict[str, bytes]:
    """The files of a bundle that are known. Raises ExplorerError for a damaged one, and before it fills the memory."""
    found: dict[str, bytes] = {}
    left = MOST_BUNDLE_BYTES
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as bundle:
            for name in ("roofscope.json", *BUNDLE, CEILINGS):
                if name in bundle.namelist():
                    found[name] = member(bundle, name, left + 1)
                    left -= len(found[name])
                    if left < 0:
                        raise ExplorerError(
                            f"This bundle holds more than {MOST_BUNDLE_BYTES / 1e6:.0f} MB, and no run does.",
                            "Export it again from the machine that it comes from.",
                        )
    except BROKEN_ZIP as error:
        raise ExplorerError(
            "This file is not a Roofscope run bundle, or it is damaged.", "Copy it again, or export the run as zip."
        ) from error
    return found


def member(bundle: zipfile.ZipFile, name: str, most: int) -> bytes:
    """At most so many bytes of a file in a zip. Raises KeyError without it, and what BROKEN_ZIP holds."""
    found = bundle.getinfo(name)
    if found.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise NotImplementedError("our bundles use no other way to compress, and what damage does to these differs")
    with bundle.open(found) as file:
        return file.read(most)


def _gist(result: Result) -> str:
    """What came out of a run in one line: its text, its scores, or the model it made."""
    if result.made:
        return f"{result.made.model} ({result.made.bits_per_weight:.2f} bits per weight)"
    if result.scores:
        return ", ".join(f"{s.label} {s.value:.4g}" for s in result.scores)
    return result.text
