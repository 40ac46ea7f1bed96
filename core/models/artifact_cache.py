"""The cache of derived files: folders named by what they were made from, whole or absent.

A folder is built beside its final place, forced to disk and renamed, under a lock between processes.
A crash, a kill or a full disk leaves at most a `part-` folder, which the next build sweeps away.
Knows nothing of models or conversions.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path

from filelock import FileLock, Timeout

from core.errors import ExplorerError
from core.paths import cache_dir
from core.types import ModelEntry, Progress

Build = Callable[[Path, Progress], None]  # writes into an empty folder

MARKER = "artifact.json"  # its presence says that the folder is whole; it names the source
_BLOCK = 1 << 20
_N_BLOCKS = 128  # a file of at most 128 MB is hashed whole


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
    if (final / MARKER).is_file():
        return final
    folder().mkdir(parents=True, exist_ok=True)
    with _lock(key, progress):
        if (final / MARKER).is_file():
            return final
        _sweep(key)
        need, free = n_bytes(), shutil.disk_usage(folder()).free
        if need > free:
            raise _disk_full(what, entry, need, free)
        part = folder() / f"part-{key}-{uuid.uuid4().hex[:8]}"
        part.mkdir()
        try:
            build(part, progress)
            about = {"model": entry.id, "label": entry.label, "what": what, "files": entry.files}
            (part / MARKER).write_text(json.dumps(about, indent=2), encoding="utf-8")
            _flush(part)
            shutil.rmtree(final, ignore_errors=True)  # without its marker it is only the rest of a deletion
            os.replace(part, final)
            _flush_folder(folder())
        except Exception as error:
            if _no_space(error):
                raise _disk_full(what, entry, need, shutil.disk_usage(folder()).free) from error
            raise
        finally:
            shutil.rmtree(part, ignore_errors=True)
    return final


def _no_space(error: BaseException | None) -> bool:
    """Whether the disk is full, which the libraries written in Rust and C++ tell only in their message."""
    while error is not None:
        if getattr(error, "errno", None) == errno.ENOSPC or os.strerror(errno.ENOSPC) in str(error):
            return True
        error = error.__cause__ or error.__context__
    return False


def _disk_full(what: str, entry: ModelEntry, need: int, free: int) -> ExplorerError:
    return ExplorerError(
        f"The disk is too full to make {what} of {entry.label}: {need / 1e9:.2f} GB are needed and "
        f"{free / 1e9:.2f} GB are free.",
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
    for part in folder().glob("part-*"):
        owner = part.name.split("-")[1]
        if owner == key:
            shutil.rmtree(part, ignore_errors=True)
            continue
        try:
            with FileLock(folder() / f"{owner}.lock", timeout=0):
                shutil.rmtree(part, ignore_errors=True)
        except Timeout:
            pass


def _flush(part: Path) -> None:
    """Force the files to disk, so that after a power cut the rename never shows an empty artifact."""
    for file in part.rglob("*"):
        if file.is_file():
            with file.open("rb") as f:
                os.fsync(f.fileno())
    _flush_folder(part)


def _flush_folder(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
