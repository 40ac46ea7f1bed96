"""The cache of converted files: folders named by what they were made from, whole or absent.

A folder is built beside its final place, forced to disk and renamed, under a lock between processes.
A crash, a kill or a full disk leaves at most a `part-` folder, which the next build sweeps away. Before a build the
artifacts that were used longest ago give way, as far as the quota and the disk ask for it, but none that a living
process has open. Knows nothing of models or conversions.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import time
import uuid
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from core.paths import cache_dir, data_dir
from core.types import ModelEntry, Progress
from hardware.errors import ExplorerError
from hardware.files import contents, sync, write_whole
from hardware.process import holders

Build = Callable[[Path, Progress], None]  # writes into an empty folder

MARKER = "artifact.json"  # its presence says that the folder is whole; it names the source
_BLOCK = 1 << 20
_N_BLOCKS = 128  # a file of at most 128 MB is hashed whole
QUOTA_BYTES = 20_000_000_000  # where the user has set none
PART = "part-"
JUST_S = 120.0  # what was asked for so recently is about to be opened
_QUOTA = "storage.json"  # in the data folder


def folder() -> Path:
    """Where the artifacts are. Each may be deleted while no run uses it."""
    return cache_dir() / "artifacts"


# ---------------------------------------------------------------- names


def key_of(*parts: object) -> str:
    """The name of what these parts determine."""
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:20]


def fingerprints(source: Path) -> tuple[str, ...]:
    """What a model folder is: its json files and its weights."""
    files = sorted(f for f in source.iterdir() if f.suffix in (".json", ".safetensors", ".jinja") and f.name != MARKER)
    return tuple(f"{f.name} {fingerprint(f)}" for f in files)


def fingerprint(path: Path) -> str:
    """What a file is, whatever its name and place."""
    stat = path.stat()
    return _hashed(os.path.realpath(path), stat.st_size, stat.st_mtime_ns)


@lru_cache(maxsize=256)
def _hashed(path: str, size: int, mtime_ns: int) -> str:
    """Hash of a file's content; of a large file, of its size, its date and blocks spread evenly over it."""
    digest = hashlib.sha256(str(size).encode())
    with open(path, "rb") as file:
        if size <= _BLOCK * _N_BLOCKS:
            while chunk := file.read(_BLOCK):
                digest.update(chunk)
        else:
            digest.update(str(mtime_ns).encode())
            for i in range(_N_BLOCKS):
                file.seek((size - _BLOCK) * i // (_N_BLOCKS - 1))
                digest.update(file.read(_BLOCK))
    return digest.hexdigest()


# ---------------------------------------------------------------- all or nothing


def made(key: str, entry: ModelEntry, what: str, progress: Progress, n_bytes: Callable[[], int], build: Build) -> Path:
    """The artifact `key`, built when it is not there yet. One process builds, others wait for it."""
    final = folder() / key
    if _whole(final):
        return final
    try:
        return _made(key, entry, what, progress, n_bytes, build)
    except OSError as error:
        if _no_space(error):
            raise _disk_full(what, entry) from error
        raise


def _made(key: str, entry: ModelEntry, what: str, progress: Progress, n_bytes: Callable[[], int], build: Build) -> Path:
    final = folder() / key
    folder().mkdir(parents=True, exist_ok=True)
    with _lock(key, progress):
        if _whole(final):
            return final
        _sweep(key)
        need = n_bytes()
        make_room(need)
        free = shutil.disk_usage(folder()).free
        if need > free:
            raise _disk_full(what, entry, need, free)
        part = folder() / f"{PART}{key}-{uuid.uuid4().hex[:8]}"
        part.mkdir()
        try:
            build(part, progress)
            about = {"model": entry.id, "label": entry.label, "what": what, "files": entry.files}
            (part / MARKER).write_text(json.dumps(about, indent=2), encoding="utf-8")
            flush(part)
            shutil.rmtree(final, ignore_errors=True)  # without its marker it is only the rest of a deletion
            os.replace(part, final)
            sync(folder())
            _whole(final)
        except Exception as error:
            if _no_space(error):
                raise _disk_full(what, entry, need, shutil.disk_usage(folder()).free) from error
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _whole(final: Path) -> bool:
    """Whether an artifact is there; if so, it is used now."""
    if not (final / MARKER).is_file():
        return False
    with suppress(OSError):  # read-only, or a full disk
        _used(final).touch()
    return True


def _no_space(error: BaseException | None) -> bool:
    """Whether the disk is full, which the libraries written in Rust and C++ tell only in their message."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_full(what: str, entry: ModelEntry, need: int | None = None, free: int = 0) -> ExplorerError:
    sizes = "" if need is None else f": {need / 1e9:.2f} GB are needed and {free / 1e9:.2f} GB are free"
    return ExplorerError(
        f"The disk is too full to make {what} of {entry.label}{sizes}.",
        f"Free space in {folder()}, or set ROOFSCOPE_HOME to a folder on a larger disk.",
    )


@contextmanager
def _lock(key: str, progress: Progress) -> Iterator[None]:
    lock = FileLock(folder() / f"{key}.lock")
    while True:
        try:
            lock.acquire(timeout=1)
            break
        except Timeout:
            progress("Waiting for another process that prepares the same model")
    try:
        yield
    finally:
        lock.release()


def _sweep(key: str) -> None:
    """Remove what a killed process left half-built: parts of `key`, whose lock we hold, and of unlocked keys."""
    for part in folder().glob(f"{PART}*"):
        owner = part.name.split("-")[1]
        if owner == key:
            shutil.rmtree(part, ignore_errors=True)
            continue
        try:
            with FileLock(folder() / f"{owner}.lock", timeout=0):
                shutil.rmtree(part, ignore_errors=True)
        except Timeout:
            pass


def flush(part: Path) -> None:
    """Force a folder's files to disk, so that after a power cut a rename never shows an empty one."""
    sync(*(path for path in part.rglob("*") if path.is_file() or path.is_dir()), part)


# ---------------------------------------------------------------- what gives way


def whole() -> tuple[Path, ...]:
    """The artifacts that are there, those that were used longest ago first."""
    found = (marker.parent for marker in folder().glob(f"*/{MARKER}"))
    return tuple(sorted((final for final in found if not final.name.startswith(PART)), key=used_s))


def parts() -> tuple[Path, ...]:
    """What killed processes left half-built, and what living ones build: `discard` tells them apart."""
    return tuple(folder().glob(f"{PART}*"))


def about(final: Path) -> dict[str, Any]:
    """model and label it was made of, what it is, and the model's files; empty where it cannot be read."""
    try:
        found = json.loads((final / MARKER).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def used_s(final: Path) -> float:
    """When it was asked for last, or made; seconds since 1970."""
    return max((f.stat().st_mtime for f in (_used(final), final / MARKER) if f.is_file()), default=0.0)


def sources(final: Path) -> tuple[Path, ...]:
    """The files and folders of the model that it was made from."""
    found = about(final).get("files")
    return tuple(Path(p) for p in found.values() if isinstance(p, str)) if isinstance(found, dict) else ()


def made_from(place: Path) -> tuple[Path, ...]:
    """The artifacts of a model whose files lie in this folder."""
    return tuple(final for final in whole() if any(source.is_relative_to(place) for source in sources(final)))


def discard(path: Path) -> bool:
    """Remove an artifact or a part; False where another process builds it just now."""
    key = path.name.split("-")[1] if path.name.startswith(PART) else path.name
    try:
        with FileLock(folder() / f"{key}.lock", timeout=0):
            (path / MARKER).unlink(missing_ok=True)  # first: without it the folder is only the rest of a deletion
            shutil.rmtree(path, ignore_errors=True)
            if path.name == key:
                _used(path).unlink(missing_ok=True)
    except (Timeout, OSError):
        return False
    return not path.exists()


def in_use(final: Path, opened: Iterable[str]) -> bool:
    """Whether a living process has it open or was given it a moment ago. opened: what `holders` told."""
    inside = os.path.join(os.path.realpath(final), "")
    return abs(time.time() - used_s(final)) < JUST_S or any(path.startswith(inside) for path in opened)


def make_room(n_bytes: int) -> tuple[Path, ...]:
    """Remove artifacts, those used longest ago first, until `n_bytes` more fit into the quota and onto the disk."""
    sizes = {final: size_bytes(final) for final in whole()}
    taken, gone = sum(sizes.values()), list[Path]()
    opened: dict[str, int] | None = None
    for final, size in sizes.items():
        short = n_bytes - shutil.disk_usage(folder()).free
        if taken + n_bytes <= quota_bytes() and short <= 0:
            break
        opened = holders(folder()) if opened is None else opened
        if not in_use(final, opened) and discard(final):
            taken -= size
            gone.append(final)
    return tuple(gone)


def size_bytes(place: Path) -> int:
    """Of a file, or of all files in a folder; links count for themselves."""
    total = 0
    for path in (place, *(place.rglob("*") if place.is_dir() and not place.is_symlink() else ())):
        with suppress(OSError):  # gone meanwhile
            total += path.lstat().st_size if path.is_symlink() or path.is_file() else 0
    return total


def quota_bytes() -> int:
    """What all artifacts together may take."""
    try:
        found = json.loads(contents(data_dir() / _QUOTA))["quota_bytes"]
        return int(found) if 0 <= found < 2**63 else QUOTA_BYTES
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return QUOTA_BYTES


def set_quota(n_bytes: int) -> None:
    """Keep this as the quota; nothing is removed by it. Raises ExplorerError where it cannot be kept."""
    file = data_dir() / _QUOTA
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(file, json.dumps({"quota_bytes": n_bytes}).encode())
    except OSError as error:
        raise ExplorerError(
            f"The quota could not be kept: {error.strerror}.", f"Free some space or permissions in {data_dir()}."
        ) from error


def _used(final: Path) -> Path:
    """A file whose date says when the artifact was used; beside it, since what is inside makes up its identity."""
    return final.with_name(f"{final.name}.used")
