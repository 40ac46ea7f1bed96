"""How much memory this process may still take: what the system has to give, and what its control groups allow.

Groups of version 1 and 2 are read, every one from the process's own up to the root, for each may set a limit. Pages
of files that a group holds only because they were read are not counted as used: the kernel drops them when it must.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

_ROOT = Path("/")
_NO_LIMIT = 2**60  # version 1 writes a number near 2**63 where there is none


def available_bytes(root: Path = _ROOT) -> int:
    """What a process like this one may take now without swapping: MemAvailable, within the limits of its groups."""
    rooms = [limit - used for limit, used in _groups(root)]
    return max(0, min([int(psutil.virtual_memory().available), *rooms]))


def limit_bytes(root: Path = _ROOT) -> int:
    """All that it could ever have: the machine's memory, or the tightest limit of its groups."""
    return min([int(psutil.virtual_memory().total), *(limit for limit, _ in _groups(root))])


def _groups(root: Path) -> Iterator[tuple[int, int]]:
    """(limit, used) of every group over this process that has a limit."""
    for folder, limit, usage, dropped in _places(root):
        most, used = _number(folder / limit), _number(folder / usage)
        if most is None or most >= _NO_LIMIT or used is None:
            continue
        stat = _fields(folder / "memory.stat")
        yield most, max(0, used - sum(stat.get(name, 0) for name in dropped))


def _places(root: Path) -> Iterator[tuple[Path, str, str, tuple[str, ...]]]:
    """Folder, names of its files for limit and usage, and the fields of memory.stat that can be dropped."""
    top = root / "sys/fs/cgroup"
    for line in _text(root / "proc/self/cgroup").splitlines():
        _, kinds, path = line.split(":", 2)
        if not kinds:
            names = ("memory.max", "memory.current", ("inactive_file", "active_file"))
            mounts = (top, top / "unified")
        elif "memory" in kinds.split(","):
            names = ("memory.limit_in_bytes", "memory.usage_in_bytes", ("total_inactive_file", "total_active_file"))
            mounts = (top / "memory", top / kinds)
        else:
            continue
        own = PurePosixPath(path)
        inside = [parent.relative_to("/") for parent in (own, *own.parents)]  # in a container the path is the host's
        for folder in dict.fromkeys(mount / part for mount in mounts for part in inside):
            if (folder / names[0]).is_file():
                yield folder, *names


def _text(path: Path) -> str:
    try:
        return path.read_text(errors="replace")
    except OSError:
        return ""


def _number(path: Path) -> int | None:
    text = _text(path).strip()
    return int(text) if text.isdigit() else None


def _fields(path: Path) -> dict[str, int]:
    rows = (line.split() for line in _text(path).splitlines())
    return {row[0]: int(row[1]) for row in rows if len(row) == 2 and row[1].isdigit()}
