"""The measured ceilings of this machine: measured while nothing else is, and those that belong to a run."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import msgspec

from core.runs.measuring import measuring
from core.types import Result, from_json
from hardware import ceilings
from hardware.ceilings import Ceilings
from hardware.detect import machine_id
from hardware.files import UNREADABLE

FOLDER = "ceilings"
CAME_ALONG = "These ceilings came with an imported run, from another machine of this kind: measure this one again."


def measure(
    root: Path,
    threads: int,
    quick: bool = True,
    on_progress: Callable[[str, float, float], None] = lambda note, done, total: None,
    should_stop: Callable[[], bool] = lambda: False,
    device: str = "cpu",
    probe: bool = False,
) -> Ceilings:
    """Measure now and keep the result under `root`; a probe is not kept. Else as hardware.ceilings.measure.

    Raises BusyError while anything else is measured, ExplorerError, OSError (a full disk).
    """
    with measuring(root, f"a measurement of this machine's ceilings with {threads} threads"):
        found = ceilings.measure(threads, quick, on_progress, should_stop, device=device, probe=probe)
        if not probe:
            ceilings.save(found, root / FOLDER)
    return found


def kept(root: Path, threads: int, device: str = "cpu") -> Ceilings | None:
    """What is kept under `root` of this machine at so many threads."""
    return ceilings.load(root / FOLDER, machine_id(), threads, device)


def ceilings_of(root: Path, result: Result) -> Ceilings | None:
    """What is kept under `root` for the run's machine, or for this one where the run does not tell."""
    setup = result.setup
    if setup is None or setup.threads is None:
        return None
    return ceilings.load(root / FOLDER, ran_on(result), setup.threads, setup.device)


def ran_on(result: Result) -> str:
    """The id of the machine that ran it."""
    return result.host.machine.machine_id if result.host else machine_id()


def adopt(root: Path, data: bytes) -> None:
    """Keep the ceilings that came with a bundle, unless that machine's are here already.

    Those that are damaged, or that cannot be kept, are left out.
    An id stands for a kind of machine, so ceilings for this machine's own id may be another one's: they say so.
    """
    try:
        found = from_json(data, Ceilings)
    except UNREADABLE:
        return
    if found.machine_id == machine_id():
        found = msgspec.structs.replace(found, warnings=(*found.warnings, CAME_ALONG))
    if ceilings.load(root / FOLDER, found.machine_id, found.threads, found.device) is None:
        with contextlib.suppress(OSError):
            ceilings.save(found, root / FOLDER)
