"""A server that gives way, and children that do not, all without privileges: in a process of its own."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SCRIPT = """
import os, subprocess, sys, threading
from hardware.priority import LOWER_BY, give_way, spawn

if os.getuid() == 0:
    os.setgroups([])
    os.setgid(65534)
    os.setuid(65534)
base = os.getpriority(os.PRIO_PROCESS, 0)
try:
    os.setpriority(os.PRIO_PROCESS, 0, base - 1)
    sys.exit("this user may raise priorities, so nothing would be proven")
except PermissionError:
    pass

go, seen = threading.Event(), {}
def look(name):
    seen[name] = os.getpriority(os.PRIO_PROCESS, threading.get_native_id())
def wait_and_look():
    go.wait()
    look("thread that was there")
def child():
    return int(subprocess.run(["nice"], capture_output=True, text=True, check=True).stdout)

there = threading.Thread(target=wait_and_look)
there.start()
assert spawn(child) == base, "before anything gave way"
assert give_way() and give_way(), "twice does no more"
go.set()
there.join()
later = threading.Thread(target=look, args=("thread that came later",))
later.start()
later.join()
look("main thread")
lowered = min(19, base + LOWER_BY)
assert lowered > base, "niced already"
assert set(seen.values()) == {lowered} and len(seen) == 3, seen
assert child() == lowered, "a child started anywhere gives way as well"
assert spawn(child) == base, "a worker does not"

def fail():
    raise FileNotFoundError("no such program")
try:
    spawn(fail)
    sys.exit("the failure got lost")
except FileNotFoundError:
    pass
assert spawn(child) == base, "after a failure"
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux has a niceness per thread")
def test_children_keep_the_priority_that_the_server_gave_up() -> None:
    done = subprocess.run([sys.executable, "-c", SCRIPT], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
