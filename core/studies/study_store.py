"""The studies on this machine: what is there, a way to start one in a process of its own, and the recorded ones.

A study's folder holds study.json (its ledger), findings.json, report.html and table.md. Recorded studies come with
the project, so that there is something to look at before the first own one.
"""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

from core.paths import data_dir
from core.runs import detached
from core.runs.detached import launch, owner_of
from core.runs.owner import Owner
from core.studies import architecture_found, ledger, old_form
from core.studies.findings import Findings
from core.studies.plan import Architectures, FreeShapes, Search, Sweep, name_for
from core.studies.standings import Standings
from core.types import Record, to_json
from hardware.errors import ExplorerError
from hardware.files import contents, is_utf8, written_s

RECORDED = Path(__file__).with_name("recorded")
_COMMANDS: dict[type, tuple[str, ...]] = {
    Sweep: ("sweep",),
    Search: ("search",),
    Architectures: ("architectures", "cut"),
    FreeShapes: ("architectures", "free"),
}
LOG, PID, PLAN = "study.log", "study.pid", "plan.json"


class StudyFolder(Record):
    """A study that can be looked at. recorded: it came with the project."""

    name: str
    path: str
    recorded: bool


def studies() -> tuple[StudyFolder, ...]:
    """Those with findings: own ones, newest first, then the recorded ones with the ladder before the benchmarks."""
    own = [p for p in (data_dir() / "studies").glob("[!.]*/findings.json") if is_utf8(p.parent.name)]
    own.sort(key=lambda p: -written_s(p))
    known = {p.parent.name for p in own}
    shipped = [p for p in RECORDED.glob("*/findings.json") if p.parent.name not in known]
    shipped.sort(key=lambda p: (not p.parent.name.startswith("ladder"), p.parent.name))
    return tuple(StudyFolder(name=p.parent.name, path=str(p.parent), recorded=p in shipped) for p in (*own, *shipped))


def recorded_architectures() -> dict[str, Path]:
    """The folders of the searches for architectures that came with the project, by name; own ones go before."""
    own = set(ledger.names(Architectures))
    found = (file.parent for file in sorted(RECORDED.glob(f"*/{architecture_found.FILE}")))
    return {folder.name: folder for folder in found if folder.name not in own}


def has_ledger(name: str) -> bool:
    """Whether the study's own list of runs is on this machine."""
    return (data_dir() / "studies" / name / ledger.FILE).is_file()


def read(path: str) -> Findings | Standings:
    """The findings in a study's folder. Raises ExplorerError when they cannot be read."""
    file = Path(path) / "findings.json"
    try:
        found: Findings | Standings = old_form.read(contents(file), Findings | Standings)
        if not _compared(found):
            raise LookupError("what it is compared with is not in it")
        return found
    except (OSError, msgspec.DecodeError, LookupError) as error:
        raise ExplorerError(
            f"The findings of {Path(path).name} cannot be read.", "Run the study again: it goes on where it stopped."
        ) from error


def readable() -> tuple[Findings | Standings, ...]:
    """What all studies have found, in their order; those that cannot be read are left out."""
    found = []
    for study in studies():
        with contextlib.suppress(ExplorerError):
            found.append(read(study.path))
    return tuple(found)


def _compared(found: Findings | Standings) -> bool:
    """Whether those that it speaks of are in it: it may have come with a bundle."""
    there = {row.id for row in found.rows}
    if isinstance(found, Standings):
        return {found.plan.baseline, found.plan.candidate} <= there
    return found.plan.baseline in there and there <= {r.id for r in found.plan.recipes}


def going() -> str | None:
    """The name of the study that a process of this machine carries out, if any."""
    for file in (data_dir() / "studies").glob(f"*/{PID}"):
        if _owner(file) is not None:
            return file.parent.name
    return None


def start(kind: str, model: str, minutes: float) -> None:
    """Carry out a study in a process of its own; it goes on where a stopped one left off."""
    _launch(name_for(kind, model), "study", kind, "--model", model, "--minutes", str(minutes))


def start_sweep(plan: Sweep | Search | Architectures | FreeShapes, minutes: float, *more: str) -> None:
    """Carry out a sweep or a search in a process of its own; its plan lies in its folder. more: arguments besides."""
    folder = data_dir() / "studies" / plan.name
    folder.mkdir(parents=True, exist_ok=True)
    try:
        (folder / PLAN).write_bytes(to_json(plan))
    except OSError as error:
        raise ExplorerError(f"The plan could not be stored: {error.strerror}.", "Free some disk space.") from error
    command = _COMMANDS[type(plan)]
    _launch(plan.name, *command, "--plan", str(folder / PLAN), "--minutes", str(minutes), *more)


def _launch(name: str, *arguments: str) -> None:
    """Start a command that carries out the study of this name; raises ExplorerError while one is going."""
    if going():
        raise ExplorerError("A study is going already.", "Stop it or wait for its end.")
    folder = data_dir() / "studies" / name
    if ledger.in_use(folder):
        raise ExplorerError("Another process carries out this study already.", "Stop it or wait for its end.")
    folder.mkdir(parents=True, exist_ok=True)
    launch(("-m", "core", *arguments), folder / LOG, folder / PID)


def stop() -> None:
    """End the study that is going; what it did is kept."""
    for file in (data_dir() / "studies").glob(f"*/{PID}"):
        if (owner := _owner(file)) is not None:
            with contextlib.suppress(ProcessLookupError):
                os.kill(owner.pid, signal.SIGINT)


def last_words(name: str, n: int = 3) -> str:
    """The last lines that a study's process said."""
    return detached.last_words(data_dir() / "studies" / name / LOG, n)


def share_done(name: str) -> float | None:
    """How much of a study's time is used; None before it has a ledger."""
    state = ledger.read(data_dir() / "studies" / name)
    if state is None or state.minutes <= 0:
        return None
    return max(0.0, min(1.0, state.spent_s / (60 * state.minutes)))


def _owner(file: Path) -> Owner | None:
    """The process that carries out a study; None when it is over."""
    return owner_of(file, file.with_name(LOG))
