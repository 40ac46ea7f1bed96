"""The heap of a process of its own: what is set here is set for good."""

from __future__ import annotations

import platform
import subprocess
import sys
from pathlib import Path

import pytest

from tests.browser.conftest import ROOT

pytestmark = pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the C library is not glibc")

THREADS = """
import ctypes, os, sys, threading
from hardware import heap
libc = ctypes.CDLL(None)
if sys.argv[1] == "few":
    assert heap.few_arenas()
all_there, done = threading.Barrier(9), threading.Barrier(9)
def hold():
    all_there.wait()
    kept = [bytearray(20_000) for _ in range(200)]
    done.wait()
for _ in range(8):
    threading.Thread(target=hold).start()
all_there.wait()
done.wait()
libc.fopen.restype = ctypes.c_void_p
out = ctypes.c_void_p(libc.fopen(b"/dev/stdout", b"w"))
libc.malloc_info(0, out)
libc.fclose(out)
"""
FREED = """
import psutil
from hardware import heap
def resident(): return psutil.Process().memory_info().rss / 1e6
kept = [bytearray(b"x" * 60_000) for _ in range(1000)]  # none so large that it is mapped by itself
del kept[:-1]
before = resident()
heap.give_back()
print(before - resident())
"""


def said(code: str, *arguments: str) -> str:
    command = [sys.executable, "-c", code, *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=60).stdout


def test_threads_share_few_parts_of_the_heap() -> None:
    assert said(THREADS, "few").count("<heap") <= 2
    assert said(THREADS, "as it is").count("<heap") > 2, "the threads did not need parts of their own"


def test_what_was_freed_goes_back() -> None:
    assert float(said(FREED)) > 30, "of 60 MB"


LARGE = """
import mmap, sys
from pathlib import Path
from ctypes import addressof, c_char
from hardware import heap
ground = mmap.mmap(-1, 8 * heap.HUGE_PAGE, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
address = addressof(c_char.from_buffer(ground))
if sys.argv[1] == "asked":
    assert heap.huge_pages(address, len(ground))
ground.write(b"x" * len(ground))
smaps = Path("/proc/self/smaps").read_text().splitlines()
inside, found = False, 0
for line in smaps:
    head = line.split()[0]
    if "-" in head and not head.endswith(":"):
        low, high = (int(x, 16) for x in head.split("-"))
        inside = low < address + len(ground) and address < high
    elif inside and head == "AnonHugePages:":
        found += int(line.split()[1])
print(found)
"""
ENABLED = Path("/sys/kernel/mm/transparent_hugepage/enabled")


@pytest.mark.skipif(
    not ENABLED.is_file() or "[madvise]" not in ENABLED.read_text(), reason="this system gives none, or always"
)
def test_huge_pages_are_given_where_they_are_asked_for() -> None:
    found = [
        int(subprocess.run([sys.executable, "-c", LARGE, how], cwd=ROOT, check=True, capture_output=True).stdout)
        for how in ("asked", "not")
    ]
    assert found[0] >= 4 * 2048 and found[1] == 0
