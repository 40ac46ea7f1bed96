"""The C library's heap: how many parts of it there are, and what is freed given back to the system.

glibc gives new threads parts of their own ("arenas"), up to eight for each core, and every one of them keeps what it
once needed. A server that answers each click in a new thread fills them all. Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import sys

_M_ARENA_MAX = -8  # malloc.h


def few_arenas() -> bool:
    """Let no more than two parts come to be, besides those there are already. False where that cannot be said."""
    call = _glibc("mallopt")
    return call is not None and call(_M_ARENA_MAX, 2) == 1


def give_back() -> None:
    """Let the system have the memory of what was freed, which glibc keeps for itself until told otherwise."""
    call = _glibc("malloc_trim")
    if call is not None:
        call(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library; None on other systems, and where the library is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
