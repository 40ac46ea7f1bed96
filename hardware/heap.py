"""The C library's heap: how many parts of it there are, what is freed given back, and pages that are large.

glibc gives new threads parts of their own ("arenas"), up to eight for each core, and every one of them keeps what it
once needed. A server that answers each click in a new thread fills them all. Elsewhere nothing is done.
"""

from __future__ import annotations

import ctypes
import sys

HUGE_PAGE = 1 << 21  # bytes, on x86-64 and most others
_PAGE = 1 << 12
_M_ARENA_MAX = -8  # malloc.h
_MADV_HUGEPAGE = 14  # mman.h


def few_arenas() -> bool:
    """Let no more than two parts come to be, besides those there are already. False where that cannot be said."""
    call = _glibc("mallopt")
    return call is not None and call(_M_ARENA_MAX, 2) == 1


def give_back() -> None:
    """Let the system have the memory of what was freed, which glibc keeps for itself until told otherwise."""
    call = _glibc("malloc_trim")
    if call is not None:
        call(0)


def huge_pages(address: int, n_bytes: int) -> bool:
    """Ask for huge pages in a range that nothing was written to yet. False where there are none to be had.

    Weights are read once per forward from end to end, and in pages of 4 KB every one of them costs a walk through
    tables of addresses, which the processor's own reading ahead does not cross.
    """
    call = _glibc("madvise")
    if call is None:
        return False
    start = -(-address // _PAGE) * _PAGE
    length = (address + n_bytes) // _PAGE * _PAGE - start
    return length > 0 and call(ctypes.c_void_p(start), ctypes.c_size_t(length), _MADV_HUGEPAGE) == 0


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library; None on other systems, and where the library is another one."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform == "linux" else None
