"""What a study has done so far: one file, study.json, of run ids. A kill loses at most the run that was going.

Knows runs and their ends; does not know what they are for.
"""

from __future__ import annotations

import contextlib
import copy
import math
import re
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import msgspec
from filelock import FileLock, Timeout

from core.analysis.search import Range
from core.paths import data_dir
from core.runs.foresight import Foreseen
from core.runs.measuring import ASKED_S, SPOILED, BusyError
from core.runs.other_machine import LostMachineError, OtherMachine
from core.runs.store import Run, Store
from core.studies import old_form
from core.studies.plan import NAMED, Study
from core.types import Record, Request, Result, Scalar, to_json
from hardware.errors import ExplorerError
from hardware.files import contents, is_utf8, write_whole

P = TypeVar("P", bound=Study)
FILE, IN_USE = "study.json", "study.lock"
BEGUN = "%Y-%m-%d %H:%M:%S.%f"  # how State.begun is written
Say = Callable[[str], None]


class Trial(Record):
    """A free shape: what was chosen, and its figures."""

    params: dict[str, Scalar]
    figures: dict[str, float]


class State(msgspec.Struct, Generic[P], kw_only=True):
    """What is written down of a study.

    runs: key -> run id. failures: key -> why it has no run that counts. items: eval -> how many. spent_s: over all
    sessions. took_s: key -> seconds of its run, loading and waiting included. refused: cell -> why it cannot run.
    expected_s, ranges: cell -> seconds it was expected to take and figures it was expected to have, before any ran.
    scores: of architectures, what was computed of them beside the runs. trials: of free shapes, in the order asked,
    random ones behind. machines: key -> the machine that its run was begun on, where that is not this one. kinds: of
    each of these machines, as core.runs.other_machine tells them apart.
    """

    plan: P
    minutes: float
    begun: str
    runs: dict[str, str] = {}
    failures: dict[str, str] = {}
    items: dict[str, int] = {}
    spent_s: float = 0.0
    took_s: dict[str, float] = {}
    refused: dict[str, str] = {}
    expected_s: dict[str, float] = {}
    ranges: dict[str, dict[str, Range]] = {}
    scores: dict[str, float] = {}
    trials: list[Trial] = []
    machines: dict[str, str] = {}
    kinds: dict[str, str] = {}


class Runs(Protocol):
    """Where a study's runs are made: core.runs.runner here, core.runs.other_machine on another machine."""

    store: Store

    def foresee(self, requests: Sequence[Request]) -> tuple[Foreseen, ...]: ...

    def free(self, waiting: Callable[[], None]) -> None: ...

    def start(self, request: Request) -> str: ...

    def wait(self, run_id: str) -> Run: ...

    def cancel(self, run_id: str) -> None: ...

    def close(self) -> None: ...


class Ledger(Generic[P]):
    """The state of one study in its folder, and the way to add a run to it; several threads may, see `at`."""

    def __init__(self, folder: Path, plan: P, minutes: float, runner: Runs, say: Say, again: bool = False) -> None:
        """Goes on with the study in the folder when it has the same plan; `again` or another plan begins anew.

        Raises ExplorerError while another process carries it out: each would write over the other's runs. And for
        minutes that are none, or no number, which could not be written down.
        """
        if not math.isfinite(minutes):
            raise ExplorerError(f"A study of {minutes} minutes has no end.", "Give it a number of minutes.")
        if minutes <= 0:
            raise ExplorerError(f"A study of {minutes:g} minutes has no time.", "Give it a number of minutes above 0.")
        self.folder, self.plan, self.runner, self.say = folder, plan, runner, say
        self._path = folder / FILE
        self._since, self._lock = [time.monotonic()], threading.RLock()  # of all that `at` gives
        folder.mkdir(parents=True, exist_ok=True)
        self._in_use = FileLock(folder / IN_USE, is_singleton=True, thread_local=False)  # once in this process
        try:
            self._in_use.acquire(timeout=ASKED_S)
        except Timeout:
            raise ExplorerError(
                "Another process carries out this study already.", "Stop it or wait for its end."
            ) from None
        found = None if again else read(folder)
        if found is not None and _without_labels(found.plan) == _without_labels(plan):
            self.state: State[P] = msgspec.structs.replace(found, plan=plan, minutes=minutes)
            return
        if self._path.exists():
            self._path.rename(folder / f"study-{time.strftime('%Y%m%d-%H%M%S')}.json")
        self.state = State(plan=plan, minutes=minutes, begun=datetime.now().strftime(BEGUN))
        self.save()

    def at(self, runner: Runs, say: Say) -> Ledger[P]:
        """The same study with its runs made elsewhere: one state, one clock."""
        other = copy.copy(self)
        other.runner, other.say = runner, say
        return other

    @property
    def left_s(self) -> float:
        """Of the study's time, counted over all its sessions; below 0 when it is over."""
        self._count()
        return self.state.minutes * 60 - self.state.spent_s

    def done(self, key: str) -> Run | None:
        """The finished run of this key, if there is one."""
        run_id = self.state.runs.get(key)
        return None if run_id is None else self.runner.store.finished(run_id)

    def perform(self, key: str, request: Request, label: str = "") -> Run | None:
        """The finished run of this key: of an earlier session, or a new one. None when it failed, now or earlier.

        A run that was stopped or interrupted is done anew; one that failed is not. label: what it is called while it
        goes; the key without.
        """
        if (run := self.done(key)) is not None:
            return run
        if key in self.state.failures:
            return None
        while run is None and key not in self.state.failures:  # while somebody else is quicker, after each wait
            run = self._once(key, request, label)
        return run if run is not None and run.status() == "done" else None

    def _once(self, key: str, request: Request, label: str) -> Run | None:
        """One try, and the run that came of it, whatever its end; None where it failed or somebody else measured."""
        self.runner.free(lambda: self.say(f"{self._clock()}  waiting for another run to end"))
        self.say(f"{self._clock()}  {label or key}")
        began = time.monotonic()
        try:
            run_id = self.runner.start(request)
        except BusyError:
            return None
        except LostMachineError:  # it says nothing of this run
            raise
        except ExplorerError as error:
            self.fail(key, str(error), label)
            return None
        with self._lock:
            self.state.runs[key] = run_id
            self.state.took_s.pop(key, None)
            if isinstance(self.runner, OtherMachine):
                self.state.machines[key] = self.runner.name
            self.save()
        try:
            run = self.runner.wait(run_id)
        except KeyboardInterrupt:
            self.runner.cancel(run_id)
            self.runner.wait(run_id)
            self.save()
            raise
        if run.status() == "failed":
            failed = run.failure()
            if failed and failed.message.endswith(SPOILED):
                return None
            self.fail(key, f"{failed.message} {failed.hint}".strip() if failed else "The run failed.", label)
            return None
        with self._lock:
            if run.status() == "done":
                self.state.took_s[key] = time.monotonic() - began
            self.save()
        return run

    def adopt(self, key: str, run_id: str) -> None:
        """Take a run that was made elsewhere."""
        self.state.runs[key] = run_id
        self.save()

    def fail(self, key: str, reason: str, label: str = "") -> None:
        """Note why a key has no run that counts. label: what it is called; the key without."""
        self.say(f"{self._clock()}  {label or key}: {reason}")
        with self._lock:
            self.state.failures[key] = reason
            self.save()

    def save(self) -> None:
        with self._lock:
            self._count()
            try:
                write_whole(self._path, to_json(self.state))
            except OSError as error:
                raise ExplorerError(
                    f"The study could not be stored: {error.strerror or error}.", f"Free some space in {self.folder}."
                ) from error

    def _count(self) -> None:
        with self._lock:
            now = time.monotonic()
            self.state.spent_s += now - self._since[0]
            self._since[0] = now

    def _clock(self) -> str:
        self._count()
        return f"{self.state.spent_s / 60:5.1f} of {self.state.minutes:g} min"


def _without_labels(plan: Study) -> Any:
    """What a plan does, whatever its parts are called and wherever it ends."""

    def bare(part: Any) -> Any:
        if isinstance(part, dict):
            return {name: bare(value) for name, value in part.items() if name not in ("label", "title", "limits")}
        return [bare(value) for value in part] if isinstance(part, list) else part

    return bare(msgspec.json.decode(to_json(plan)))


def in_use(folder: Path) -> bool:
    """Whether a process carries out the study in a folder, wherever it was started."""
    if not (folder / IN_USE).exists():
        return False
    try:
        with FileLock(folder / IN_USE, timeout=0):
            return False
    except (Timeout, OSError):
        return True


def folder_of(plan: Study) -> Path:
    """Where a study lies on this machine."""
    return data_dir() / "studies" / plan.name


def names(kind: type[Study]) -> tuple[str, ...]:
    """The names of the studies of this kind on this machine, newest first."""
    found = []
    for file in (data_dir() / "studies").glob(f"*/{FILE}"):
        try:
            found.append((-file.stat().st_mtime, file.parent.name))
        except OSError:
            continue
    return tuple(name for _, name in sorted(found) if is_utf8(name) and is_of(name, kind))


def is_of(name: str, kind: type[Study]) -> bool:
    """Whether a study is of this kind, by its name (`core.studies.plan.name_for`); one need not have a ledger yet."""
    return name.startswith(f"{kind.__struct_config__.tag}-")


def read(folder: Path) -> State[Any] | None:
    """The state in a folder; None when there is none, or none that can be read."""
    try:
        found: State[Any] = old_form.read(contents(folder / FILE), State)
    except (OSError, msgspec.DecodeError):
        return None
    return found


def title(name: str) -> str:
    """What a study is called, with four letters of its name, which tell two alike apart; without a ledger its name."""
    state = read(data_dir() / "studies" / name)
    if state is None:
        return name
    digest = re.search(r"-[0-9a-f]{4}([0-9a-f]{4})(?:-|$)", name)  # behind it stands where it was carried out
    return f"{state.plan.title} · {digest[1] if digest else name[-4:]}"


def finished(state: State[Any], store: Store) -> dict[str, Result]:
    """Key -> result of every finished run of a study; without those that count as failed or cannot be read."""
    found: dict[str, Result] = {}
    for key, run_id in state.runs.items():
        run = None if key in state.failures else store.finished(run_id)
        if run is not None:
            with contextlib.suppress(ExplorerError):
                found[key] = run.result()
    return found


def load(folder: Path, kind: type[P]) -> State[P]:
    """The state of a study of this kind. Raises ExplorerError where the folder has none."""
    state = read(folder)
    if state is None or not isinstance(state.plan, kind):
        raise ExplorerError(
            f"There is no {NAMED[kind]} in {folder.name}.", "Start one: it goes on where a stopped one was."
        )
    return state
