"""A disk that forgets what was not forced to it: what a power cut leaves after the first n writes of a log.

Names (new files, renames, deletions) are there at once, as a journal of names brings them; contents are there as they
were when they were last synced, the worst that a file system may do. The log is tests/faults/shim.c's.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

OPEN, WRITE, RENAME, UNLINK, MKDIR, RMDIR, TRUNCATE, SYNC = range(8)


class Op(NamedTuple):
    """offset: of a write; the length of a truncation; 1 for an opening that empties the file."""

    kind: int
    path: str
    other: str
    offset: int
    data: bytes


def read(log: bytes) -> list[Op]:
    """The writes in the order in which they happened."""
    found, at = [], 0
    while at < len(log):
        kind, n_path, n_other, n_data = struct.unpack_from("=4I", log, at)
        (offset,) = struct.unpack_from("=q", log, at + 16)
        parts, at = [], at + 24
        for n in (n_path, n_other, n_data):
            parts.append(log[at : at + n])
            at += n
        found.append(Op(kind, parts[0].decode(), parts[1].decode(), offset, parts[2]))
    return found


@dataclass
class File:
    data: bytes
    synced: bytes


class Disk:
    """The files below a folder, as they are and as they would be after a power cut."""

    def __init__(self, base: Path, place: Path) -> None:
        """base: what is there before; its content counts as synced. place: where the writes of the log went."""
        self._place = place
        self._files: dict[str, File] = {}
        self._links: dict[str, str] = {}
        self._folders: set[str] = set()
        for path in base.rglob("*"):
            name = str(place / path.relative_to(base))
            if path.is_symlink():
                self._links[name] = str(path.readlink())
            elif path.is_dir():
                self._folders.add(name)
            else:
                self._files[name] = File(path.read_bytes(), path.read_bytes())

    def apply(self, op: Op) -> None:
        file = self._files.get(op.path)
        match op.kind:
            case 0:
                if file is None:
                    self._files[op.path] = File(b"", b"")
                elif op.offset:
                    file.data = file.synced = b""
            case 1 if file is not None:
                end = op.offset + len(op.data)
                file.data = file.data[: op.offset].ljust(op.offset, b"\0") + op.data + file.data[end:]
            case 2:
                self._rename(op.path, op.other)
            case 3:
                self._files.pop(op.path, None)
                self._links.pop(op.path, None)
            case 4:
                self._folders.add(op.path)
            case 5:
                self._folders.discard(op.path)
            case 6 if file is not None:
                file.data = file.data[: op.offset].ljust(op.offset, b"\0")
                file.synced = file.synced[: op.offset]
            case 7 if file is not None:
                file.synced = file.data

    def _rename(self, old: str, new: str) -> None:
        if old in self._files:
            self._files[new] = self._files.pop(old)
        for known in (self._files, self._links):
            for name in [n for n in known if n.startswith(f"{old}/")]:
                known[new + name[len(old) :]] = known.pop(name)  # type: ignore[index]
        for name in [n for n in self._folders if n == old or n.startswith(f"{old}/")]:
            self._folders.discard(name)
            self._folders.add(new + name[len(old) :])

    def write(self) -> None:
        """What the power cut leaves, into the place, which is empty."""
        for name in sorted(self._folders):
            Path(name).mkdir(parents=True, exist_ok=True)
        for name, target in self._links.items():
            Path(name).symlink_to(target)
        for name, file in self._files.items():
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_bytes(file.synced)
