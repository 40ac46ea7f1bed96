"""What lies on the disk: of which kind, how large, used when, made from what, used by what; and how it is freed.

Knows the folders of runs, chats, load tests, models, checkpoints, converted files, studies and downloads, and for each
whether it can be made again. What cannot is never removed without consent, and nothing is removed that a living process
uses.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Literal

import msgspec
from filelock import FileLock, Timeout

from core import plugins
from core.loadtest.load_store import FOLDER as LOADS
from core.loadtest.load_store import LoadStore
from core.models import artifact_cache, derived
from core.models.artifact_cache import JUST_S, size_bytes
from core.models.places import hub_folder
from core.paths import cache_dir, data_dir
from core.runs import chats
from core.runs.lineage import TOLD, work_folder
from core.runs.store import Store
from core.studies import ledger
from core.types import GOING, Record, from_json
from hardware.errors import ExplorerError
from hardware.files import contents, is_utf8, parts
from hardware.process import holders

Name = Literal[
    "runs", "chats", "loads", "models", "trainings", "studies", "artifacts", "orphans", "kernels", "leftovers",
    "downloads", "rest",
]  # fmt: skip
KERNELS = "kernels"  # a folder of the cache, see core.backends.pytorch.native
_HIDDEN = ("runs", LOADS, "work", "studies", "endpoints")  # folders in which what goes is hidden first
_COVERED = ("runs", chats.FOLDER, LOADS, "models", "work", "studies")  # folders that have a kind of their own


class Kind(Record):
    """A kind of thing on the disk. again: it can be made again, or is of no use, so that nobody need be asked."""

    name: Name
    label: str
    about: str
    again: bool


KINDS = (
    Kind(name="runs", label="Runs", about="What was measured: request, events and log.", again=False),
    Kind(name="chats", label="Chats", about="Questions, and which runs answered; the runs are apart.", again=False),
    Kind(name="loads", label="Load tests", about="What was sent to model servers, and what came back.", again=False),
    Kind(name="models", label="Models made here", about="What transforms and trainings made.", again=False),
    Kind(
        name="trainings",
        label="Stopped trainings",
        about="Checkpoints with the optimizer's state, from which the same request goes on.",
        again=False,
    ),
    Kind(
        name="studies", label="Studies", about="Ledgers, findings and reports; their runs are kept apart.", again=False
    ),
    Kind(
        name="artifacts",
        label="Converted files",
        about="Made for a backend from a model that is still there; they are made again when they are needed.",
        again=True,
    ),
    Kind(
        name="orphans",
        label="Converted, model gone",
        about="The model that they were made from is no longer where it was, or was made anew.",
        again=True,
    ),
    Kind(
        name="kernels",
        label="Kernels",
        about="Compiled for this processor, and which of them was the fastest here for which model.",
        again=True,
    ),
    Kind(
        name="leftovers",
        label="Half-made",
        about="Left behind by processes that were killed; nothing reads it.",
        again=True,
    ),
    Kind(
        name="downloads",
        label="Downloads",
        about="Models in the Hugging Face cache, which other programs share.",
        again=False,
    ),
    Kind(
        name="rest",
        label="Settings and measurements",
        about="Devices, ceilings, the index of runs and small files; always kept.",
        again=False,
    ),
)
BY_NAME = {kind.name: kind for kind in KINDS}
FREED = tuple(kind.name for kind in KINDS if kind.name != "rest")


class Item(Record):
    """One thing on the disk.

    used_s: when it was used or written last, seconds since 1970. busy: why it cannot go now; empty where it can.
    """

    kind: Name
    name: str
    path: str
    size_bytes: int
    used_s: float
    made_from: str = ""
    used_by: tuple[str, ...] = ()
    busy: str = ""


class Total(Record):
    """All items of a kind. oldest_s: of them, the one that was used longest ago; None where there is none."""

    kind: Kind
    n: int
    size_bytes: int
    n_busy: int
    oldest_s: float | None


class Summary(Record):
    """Bytes of everything, of what needs no question before it goes, of its quota, and what the disk has free."""

    total_bytes: int
    again_bytes: int
    quota_bytes: int
    free_bytes: int


class Freed(Record):
    """What went, and why the others did not, a sentence each."""

    n: int
    size_bytes: int
    kept: tuple[str, ...] = ()


# ---------------------------------------------------------------- what there is


def items() -> tuple[Item, ...]:
    """Everything, by kind and the largest first, but for what has a name that is no UTF-8."""
    order = [kind.name for kind in KINDS]
    found = (item for item in _all() if is_utf8(item.path))
    return tuple(sorted(found, key=lambda item: (order.index(item.kind), -item.size_bytes, item.name)))


def totals(found: Iterable[Item]) -> tuple[Total, ...]:
    """A row for every kind."""
    known = tuple(found)
    rows = []
    for kind in KINDS:
        own = [item for item in known if item.kind == kind.name]
        rows.append(
            Total(
                kind=kind,
                n=len(own),
                size_bytes=sum(item.size_bytes for item in own),
                n_busy=sum(bool(item.busy) for item in own if kind.name in FREED),
                oldest_s=min((item.used_s for item in own), default=None),
            )
        )
    return tuple(rows)


def summary(found: Iterable[Item]) -> Summary:
    """All of it in four numbers."""
    known = tuple(found)
    return Summary(
        total_bytes=sum(item.size_bytes for item in known),
        again_bytes=sum(item.size_bytes for item in known if BY_NAME[item.kind].again),
        quota_bytes=quota_bytes(),
        free_bytes=shutil.disk_usage(data_dir()).free,
    )


def age_s(item: Item) -> float:
    """Seconds since it was used or written last."""
    return max(0.0, time.time() - item.used_s)


def asks(found: Iterable[Item]) -> tuple[Item, ...]:
    """Those that cannot be made again."""
    return tuple(item for item in found if not BY_NAME[item.kind].again)


def _all() -> Iterator[Item]:
    derived.restore()
    rows = Store(data_dir()).history()
    going = [row for row in rows if row["status"] in GOING]
    opened = holders(data_dir() / "models", cache_dir(), _hub())
    yield from _runs(rows)
    yield from _chats()
    yield from _loads()
    yield from _models(rows, going, opened)
    yield from _trainings(going)
    yield from _studies()
    yield from _artifacts(opened)
    yield from _kernels(opened)
    yield from _leftovers(going)
    yield from _downloads(opened)
    for root, covered in ((data_dir(), _COVERED), (cache_dir(), ("artifacts", KERNELS))):
        for path in sorted(root.iterdir()) if root.is_dir() else ():
            if path.name not in covered and path.suffix != ".part":
                yield _item("rest", path, busy="It is always kept.")


def _runs(rows: Sequence[dict[str, Any]]) -> Iterator[Item]:
    studies: dict[str, list[str]] = {}
    for folder in _folders(data_dir() / "studies"):
        with suppress(ExplorerError, msgspec.MsgspecError, OSError):
            state = ledger.read(folder)
            for run_id in state.runs.values() if state is not None else ():
                studies.setdefault(run_id, []).append(f"study {folder.name}")
    for row in rows:
        made_from = (
            " in ".join(filter(None, (row["model"], row["backend"] and plugins.label("backend", row["backend"]))))
            or "damaged"
        )
        busy = "It is still going." if row["status"] in GOING else ""
        used_by = tuple(studies.get(row["run_id"], ()))
        yield _item("runs", data_dir() / "runs" / row["run_id"], made_from=made_from, used_by=used_by, busy=busy)


def _chats() -> Iterator[Item]:
    for chat_id in chats.ids(data_dir()):
        file = chats.path(data_dir(), chat_id)
        try:
            chat = chats.load(data_dir(), chat_id)
            models = ", ".join(
                dict.fromkeys(f"{side.model} in {plugins.label('backend', side.backend)}" for side in chat.sides)
            )
        except ExplorerError:
            models = "damaged"
        yield _item("chats", file, name=chat_id, made_from=models)


def _loads() -> Iterator[Item]:
    loads = LoadStore(data_dir())
    for test_id in loads.ids():
        test = loads.open(test_id)
        try:
            made_from = test.about.plan.address
        except ExplorerError:
            made_from = "damaged"
        busy = "It is still going." if test.status() in GOING else ""
        yield _item("loads", test.path, made_from=made_from, busy=busy)


def _models(rows: Sequence[dict[str, Any]], going: Sequence[dict[str, Any]], opened: dict[str, int]) -> Iterator[Item]:
    folders = [f for f in _folders(derived.folder()) if (f / derived.ABOUT).is_file()]
    about = {folder.name: derived.about(folder.name) for folder in folders}
    for folder in folders:
        name, own = folder.name, about[folder.name]
        ran = [row for row in rows if row["model"] == name]
        children = [f"model {other}" for other, told in about.items() if told.get("parent") == name]
        used_by = (*children, *([f"{len(ran)} run{'s' * (len(ran) != 1)}"] if ran else []))
        going_on = any(row["model"] == name for row in going)
        item = _item(
            "models",
            folder,
            made_from=f"{own.get('parent') or '?'} by {own.get('transform') or '?'}",
            used_by=used_by,
            busy="A run of it is going." if going_on else _held(folder, opened),
        )
        last_s = max((row["created_s"] or 0.0 for row in ran), default=0.0)
        yield msgspec.structs.replace(item, used_s=max(item.used_s, last_s))


def _trainings(going: Sequence[dict[str, Any]]) -> Iterator[Item]:
    """Folders without a checkpoint are of runs that were killed before there was one."""
    busy = "A model is being made." if any(row["task"] == "derive" for row in going) else ""
    for folder in _folders(work_folder()):
        told = _read(folder / TOLD)
        words = f"{told['model']} by {told['transform']}" if {"model", "transform"} <= told.keys() else ""
        used_by = (f"run {told['run']}",) if "run" in told else ()
        with suppress(OSError):  # another process removes it just now
            kind: Name = "trainings" if any(path.name != TOLD for path in folder.iterdir()) else "leftovers"
            yield _item(kind, folder, made_from=words, used_by=used_by, busy=busy)


def _studies() -> Iterator[Item]:
    for folder in _folders(data_dir() / "studies"):
        lock, busy = folder / ledger.IN_USE, ""
        if lock.exists():
            try:
                with FileLock(lock, timeout=0):
                    pass
            except (Timeout, OSError):
                busy = "It is being carried out."
        yield _item("studies", folder, busy=busy)


def _artifacts(opened: dict[str, int]) -> Iterator[Item]:
    for final in artifact_cache.whole():
        told, places = artifact_cache.about(final), artifact_cache.sources(final)
        busy = _held(final, opened)
        if not busy and artifact_cache.in_use(final, ()):
            busy = "It was asked for a moment ago."
        try:
            outdated = _outdated(final, places)
        except OSError:  # another process removes it just now
            continue
        item = _item(
            "orphans" if outdated else "artifacts",
            final,
            name=f"{told.get('label') or told.get('model') or '?'}: {told.get('what') or 'converted'}",
            made_from=str(told.get("model") or ""),
            busy=busy,
        )
        yield msgspec.structs.replace(item, used_s=artifact_cache.used_s(final))


def _outdated(final: Path, sources: Sequence[Path]) -> bool:
    """Whether the model is gone, or was made here again after it had been converted."""
    if not sources or not all(place.exists() for place in sources):
        return True
    made_s = (final / artifact_cache.MARKER).stat().st_mtime
    here = [place for place in sources if place.is_relative_to(derived.folder())]
    return any(_written_s(place) > made_s for place in here)


def _kernels(opened: dict[str, int]) -> Iterator[Item]:
    for path in sorted(p for p in (cache_dir() / KERNELS).glob("[!.]*") if p.suffix != ".lock"):
        library = path.suffix == ".so"
        held = opened.get(os.path.realpath(path))
        name = "compiled step" if library else "fastest kernels" if path.suffix == ".json" else path.name
        busy = "" if held is None else f"Process {held} has it open."
        yield _item("kernels", path, name=name, made_from="this processor", busy=busy)


def _leftovers(going: Sequence[dict[str, Any]]) -> Iterator[Item]:
    making = any(row["task"] == "derive" for row in going)
    for path in derived.leftovers():
        yield _leftover(path, "A model is being made." if making else "")
    hidden = [path for folder in _HIDDEN for path in sorted((data_dir() / folder).glob(".*"))]
    hidden += sorted((cache_dir() / KERNELS).glob(".*"))
    folders = (data_dir(), *(p for p in sorted(data_dir().glob("*/")) if p.name not in ("runs", "models", "work")))
    folders = (*folders, *sorted((data_dir() / "endpoints").glob("[!.]*/")))
    for path in (*hidden, *parts(*folders), *artifact_cache.parts(), *sorted(_hub().glob(".models--*.gone"))):
        yield _leftover(path, "")


def _leftover(path: Path, busy: str) -> Item:
    item = _item("leftovers", path, busy=busy)
    if not busy and abs(time.time() - item.used_s) < JUST_S:
        return msgspec.structs.replace(item, busy="It was written a moment ago.")
    return item


def _downloads(opened: dict[str, int]) -> Iterator[Item]:
    for repository in sorted(_hub().glob("models--*")):
        name = "/".join(repository.name.split("--")[1:])
        begun = any(repository.glob("blobs/*.incomplete"))
        words = "the Hugging Face hub, not finished" if begun else "the Hugging Face hub"
        yield _item("downloads", repository, name=name, made_from=words, busy=_held(repository, opened))


def _hub() -> Path:
    try:
        return hub_folder()
    except RuntimeError:  # a home that is not there
        return data_dir() / "nowhere"


def _item(kind: Name, path: Path, name: str = "", **more: Any) -> Item:
    return Item(
        kind=kind,
        name=name or path.name,
        path=str(path),
        size_bytes=size_bytes(path),
        used_s=_written_s(path),
        **more,
    )


def _written_s(path: Path) -> float:
    """When something in it was written last."""
    found = [0.0]
    for file in (path, *(path.rglob("*") if path.is_dir() and not path.is_symlink() else ())):
        with suppress(OSError):
            found.append(file.lstat().st_mtime)
    return max(found)


def _folders(root: Path) -> list[Path]:
    return sorted(p for p in root.glob("[!.]*") if p.is_dir())


def _held(place: Path, opened: dict[str, int]) -> str:
    """Why it cannot go, where a process has it open; else nothing."""
    inside = os.path.join(os.path.realpath(place), "")
    pid = next((pid for path, pid in opened.items() if path.startswith(inside)), None)
    return "" if pid is None else f"Process {pid} has it open."


def _read(file: Path) -> dict[str, Any]:
    try:
        return from_json(contents(file), dict[str, Any])
    except (OSError, msgspec.MsgspecError):
        return {}


# ---------------------------------------------------------------- what goes


def free(chosen: Iterable[Item], yes: bool = False) -> Freed:
    """Remove these; what is in use by now stays, and is said.

    Raises ExplorerError, before anything is removed, where something cannot be made again and `yes` does not say so.
    """
    wanted = tuple(chosen)
    if not yes and (precious := asks(wanted)):
        raise ExplorerError(
            f"{len(precious)} of {len(wanted)} cannot be made again: {_listed(precious)}.",
            "Say yes to it: on the page in the question, on the command line with --yes.",
        )
    now = {(item.kind, item.path): item for item in items()}
    n = n_bytes = 0
    kept = []
    for item in wanted:
        there = now.get((item.kind, item.path))
        if there is None:
            kept.append(f"{item.name} is no longer there.")
            continue
        try:
            if there.busy:
                raise ExplorerError(there.busy)
            _remove(there)
        except (ExplorerError, OSError) as error:
            kept.append(f"{item.name} stays: {error}")
            continue
        n, n_bytes = n + 1, n_bytes + there.size_bytes
    return Freed(n=n, size_bytes=n_bytes, kept=tuple(kept))


def free_kind(kind: str, yes: bool = False) -> Freed:
    """Remove everything of a kind that is not in use. Raises ExplorerError like `free`, and for an unknown kind."""
    if kind not in FREED:
        raise ExplorerError(f"There is nothing to free of the kind '{kind}'.", f"Known: {', '.join(FREED)}.")
    return free([item for item in items() if item.kind == kind], yes)


def limit(n_bytes: int) -> Freed:
    """Keep this as the quota of what can be made again, and hold it now: what was used longest ago goes first.

    Files that nothing finds any more go before the others.
    """
    if not 0 <= n_bytes < 2**63:
        raise ExplorerError(f"A limit cannot be {n_bytes} bytes.", "Use 0 or more, for example 5GB.")
    artifact_cache.set_quota(n_bytes)
    found = [item for item in items() if item.kind in ("orphans", "artifacts")]
    found.sort(key=lambda item: (item.kind == "artifacts", item.used_s))
    over = sum(item.size_bytes for item in found) - n_bytes
    going = []
    for item in found:
        if over <= 0:
            break
        if not item.busy:
            going.append(item)
            over -= item.size_bytes
    freed = free(going)
    if over > 0:
        stays = f"{over / 1e6:.1f} MB over the limit stay: they are in use."
        return msgspec.structs.replace(freed, kept=(*freed.kept, stays))
    return freed


def quota_bytes() -> int:
    """What files that can be made again may take together."""
    return artifact_cache.quota_bytes()


def _remove(item: Item) -> None:
    """Raises ExplorerError and OSError."""
    path = Path(item.path)
    match item.kind:
        case "runs":
            Store(data_dir()).delete(path.name)
        case "chats":
            path.unlink()
        case "loads":
            LoadStore(data_dir()).delete(path.name)
        case "models":
            derived.remove(path.name)
        case "artifacts" | "orphans":
            _discard(path)
        case "leftovers":
            if path.parent == artifact_cache.folder():
                _discard(path)
            elif path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        case "kernels":
            path.unlink()
        case "trainings" | "studies" | "downloads":
            going = path.with_name(f".{path.name}.gone")  # whole until it has this name, and then a leftover
            shutil.rmtree(going, ignore_errors=True)
            path.rename(going)
            shutil.rmtree(going)
        case "rest":
            raise ExplorerError("It is always kept.")


def _discard(path: Path) -> None:
    if not artifact_cache.discard(path):
        raise ExplorerError("A process is making it, or it cannot be removed.")


def _listed(found: Sequence[Item]) -> str:
    names = [f"{BY_NAME[item.kind].label.lower()} {item.name}" for item in found[:3]]
    return ", ".join(names) + (f" and {len(found) - 3} more" if len(found) > 3 else "")
