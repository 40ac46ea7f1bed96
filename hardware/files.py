"""Files that are there whole or as they were, whatever happens to the process, the disk or the power."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(path: Path, data: bytes) -> None:
    """Write beside, force it to disk, rename. Raises OSError (a full disk), and then the old file is untouched.

    A kill in between leaves a hidden `.part` file, which nothing reads.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
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
