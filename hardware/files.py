"""Files that are there whole or as they were, whatever happens to the process, the disk or the power."""

from __future__ import annotations

import errno
import os
import shutil
import stat
import threading
from collections.abc import Iterable
from pathlib import Path

import msgspec

from hardware.errors import ExplorerError

_AT_ONCE = getattr(os, "O_NONBLOCK", 0)  # opening a pipe waits for nobody
UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)  # what reading JSON from outside may raise


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, force it to disk, rename. Raises OSError (a full disk), and then the old file is untouched.

    A kill in between leaves a hidden `.part` file, which nothing reads.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.part")  # of this tab alone
    try:
        with part.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise
    sync(path.parent)


def put(path: Path, data: bytes) -> None:
    """As `write_whole`, but for a reader alone: a power cut may lose it. Raises OSError."""
    part = path.with_name(f".{path.name}.{os.getpid()}-{threading.get_native_id()}.part")
    try:
        part.write_bytes(data)
        os.replace(part, path)
    except OSError:
        part.unlink(missing_ok=True)
        raise


def contents(path: Path, start: int = 0) -> bytes:
    """What a file holds from a byte on. Raises OSError, also where something else lies in its place: a pipe would be
    waited for, and a device may have no end."""
    with open(path, "rb", opener=lambda name, flags: os.open(name, flags | _AT_ONCE)) as file:
        if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
            raise OSError(errno.EINVAL, "It is not a file", str(path))
        file.seek(start)
        return file.read()


def read_given(path: Path) -> bytes:
    """What a file that somebody names on the command line holds; a pipe is read to its end. Raises OSError, also for a
    device, which may have none."""
    with path.open("rb") as file:
        mode = os.fstat(file.fileno()).st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISFIFO(mode)):
            raise OSError(errno.EINVAL, "It is neither a file nor a pipe", str(path))
        return file.read()


def sync(*paths: Path) -> None:
    """Force files and the names in folders to the disk, so that a power cut finds them. Raises OSError."""
    for path in paths:
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def parts(*folders: Path) -> Iterable[Path]:
    """What kills have left of `write_whole` in these folders."""
    return (part for folder in folders for part in folder.glob(".*.part"))


def written_s(path: Path) -> float:
    """When it was written last, seconds since 1970; 0 where it is not there or cannot be asked."""
    try:
        return path.stat().st_mtime
    except OSError:
        return 0.0


def is_utf8(name: str) -> bool:
    """Whether a name, as the system tells it, can be written as UTF-8: no table, index or address can say another."""
    return not any("\ud800" <= c <= "\udfff" for c in name)


def removed(folder: Path) -> None:
    """Delete a folder and what is in it; one that is gone is no error. Of a link, the link alone.

    Raises ExplorerError where something stays.
    """
    try:
        if folder.is_symlink():
            folder.unlink()
        else:
            shutil.rmtree(folder)
    except FileNotFoundError:
        if folder.exists():  # somebody else deletes it, too
            shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        raise ExplorerError(
            f"{folder.name} could not be deleted: {error.strerror or error}.", f"Look at the permissions in {folder}."
        ) from error
