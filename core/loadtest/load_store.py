"""Load tests as folders: about.json, events.jsonl, owner.json, cancel. The folders are the truth, as with runs.

A test is written while it goes on, line by line, so that one that is stopped or dies keeps what it had. It is carried
out in a process of its own: the load generator's share of the processor is its own then, and can be told.
"""

from __future__ import annotations

import contextlib
import re
import secrets
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from core.loadtest import plan as plans
from core.loadtest.events import Event
from core.loadtest.lengths import read_rows
from core.loadtest.plan import Plan
from core.loadtest.report import Report, report, status_of
from core.loadtest.sending import key_of
from core.runs import detached
from core.runs.detached import launch
from core.runs.event_folder import OWNER, EventFolder
from core.runs.measuring import BusyError, holder
from core.types import GOING, Record, RunStatus, from_json, to_json
from hardware.detect import machine
from hardware.errors import ExplorerError
from hardware.files import UNREADABLE, contents, removed

FOLDER = "loads"
LOG = "log.txt"
_ID = re.compile(r"[\w][\w.-]{0,99}", re.ASCII)
_decoder = msgspec.json.Decoder(Event)


class About(Record):
    """What a test is: its plan, when it was asked for, and where from. local: the server runs on the same machine."""

    created_s: float
    plan: Plan
    machine: str = ""
    cores: int | None = None
    local: bool = False


@dataclass
class LoadTest(EventFolder[Event]):
    """One test's folder, read as it grows."""

    @property
    def about(self) -> About:
        """Raises ExplorerError when it cannot be read."""
        try:
            found = from_json(contents(self.path / "about.json"), About)
        except (OSError, msgspec.DecodeError) as error:
            raise ExplorerError(
                f"The load test {self.id} is damaged: its plan cannot be read.", "Delete it."
            ) from error
        if not 0 <= found.created_s < 1e11:
            raise ExplorerError(f"The load test {self.id} is damaged: its date is impossible.", "Delete it.")
        return found

    @property
    def created_s(self) -> float:
        return self.about.created_s

    def _decoded(self, lines: bytes) -> Iterator[Event]:
        for line in lines.split(b"\n"):
            with contextlib.suppress(*UNREADABLE):
                yield _decoder.decode(line)

    def _ended(self) -> RunStatus | None:
        return status_of(self.events())

    def events(self) -> list[Event]:
        """All events so far; none where they cannot be read at all."""
        try:
            return super().events()
        except OSError:
            return self._events

    def report(self) -> Report:
        """What is known so far. Raises ExplorerError for a damaged test."""
        about = self.about
        try:
            return report(self.id, about.plan, self.events(), self.status(), cores=about.cores, local=about.local)
        except (ArithmeticError, ValueError, TypeError) as error:  # events are well formed each, and can say anything
            raise ExplorerError(
                f"The load test {self.id} is damaged: its events contradict each other ({type(error).__name__}).",
                "Delete it.",
            ) from error

    def cancel(self) -> None:
        """Ask for a stop; returns at once. Its process drops its connections and keeps what it measured."""
        with contextlib.suppress(OSError):
            super().cancel()

    def last_words(self) -> str:
        """What its process said last, for one that died."""
        return detached.last_words(self.path / LOG, 20)


class LoadStore:
    """All load tests of a data folder."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.folder = root / FOLDER

    def create(self, plan: Plan, local: bool) -> LoadTest:
        """A new folder, whole or not at all. Raises ExplorerError (a full disk)."""
        here = machine()
        now = time.time()
        about = About(created_s=now, plan=plan, machine=here.cpu, cores=here.usable_cores, local=local)
        name = f"{time.strftime('%Y%m%d-%H%M%S', time.localtime(now))}-{int(now % 1 * 1000):03d}{secrets.token_hex(2)}"
        building = self.folder / f".{name}"
        try:
            building.mkdir(parents=True)
            (building / "about.json").write_bytes(to_json(about))
            building.rename(self.folder / name)
        except OSError as error:
            shutil.rmtree(building, ignore_errors=True)
            raise _unstored(error, self.root) from error
        return LoadTest(self.folder / name)

    def open(self, test_id: str) -> LoadTest:
        """Raises ExplorerError when there is no such test."""
        path = self.folder / test_id
        if not _ID.fullmatch(test_id) or not path.is_dir():
            raise ExplorerError(f"There is no load test '{test_id}'.", "List them with `roofscope loads`.")
        return LoadTest(path)

    def ids(self) -> list[str]:
        """Newest first."""
        if not self.folder.is_dir():
            return []
        return sorted((p.name for p in self.folder.iterdir() if p.is_dir() and _ID.fullmatch(p.name)), reverse=True)

    def going(self) -> LoadTest | None:
        """The test that a process of this machine carries out, if any."""
        holds = holder(self.root)
        ids = self.ids()
        if holds is not None and holds.run in ids:
            return self.open(holds.run)
        newest = self.open(ids[0]) if ids else None
        return newest if newest is not None and newest.status() in GOING else None

    def start(self, plan: Plan, local: bool) -> LoadTest:
        """Carry out a plan in a process of its own. Raises ExplorerError when it cannot be, BusyError meanwhile."""
        plans.check(plan)
        read_rows(plan.dataset)
        key_of(plan.key)
        if self.going() is not None:
            raise ExplorerError("A load test is going already.", "Stop it or wait for its end.")
        if (other := holder(self.root)) is not None:
            raise BusyError(other)
        test = self.create(plan, local)
        try:
            test.own()  # until its process is there
            launch(("-m", "core.loadtest.generator", str(self.root), test.id), test.path / LOG, test.path / OWNER)
        except OSError as error:
            shutil.rmtree(test.path, ignore_errors=True)
            raise _unstored(error, self.root) from error
        return test

    def delete(self, test_id: str) -> None:
        """Remove a test, a damaged one too; refused while it is going."""
        test = self.open(test_id)
        if test.status() in GOING:
            raise ExplorerError(f"The load test {test_id} is still going.", "Stop it first.")
        removed(test.path)

    def rows(self) -> list[dict[str, Any]]:
        """One row per test, newest first, read from what each says of itself; a damaged one says so."""
        return [self._row(self.open(test_id)) for test_id in self.ids()]

    def _row(self, test: LoadTest) -> dict[str, Any]:
        try:
            about, status = test.about, str(test.status())
        except ExplorerError as error:
            return {
                "id": test.id,
                "created_s": None,
                "status": "damaged",
                "address": "",
                "model": str(error),
                "load": "",
            }
        plan = about.plan
        load = f"{', '.join(f'{level:g}' for level in plan.levels)} {plan.unit}"
        what = {"created_s": about.created_s, "status": status, "address": plan.address, "model": plan.model}
        return {"id": test.id, **what, "load": f"search, {load}" if plan.find else load}


def _unstored(error: OSError, root: Path) -> ExplorerError:
    return ExplorerError(
        f"The load test could not be stored: {error.strerror or error}.", f"Free some space in {root}."
    )
