"""Shared processor time: what a process that works for this one uses is this one's, and no disturbance."""

from __future__ import annotations

import subprocess
import sys

from hardware import load


def test_a_companions_time_is_ours() -> None:
    code = "import time\nprint(flush=True)\nwhile time.process_time() < 0.5: pass\nprint(flush=True)\ninput()"
    child = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        child.stdout.readline()
        ours, alone = load.read(child.pid), load.read()
        child.stdout.readline()
        found, without = load.between(ours, load.read(child.pid)), load.between(alone, load.read())
    child.wait()
    assert found.cpu_s > without.cpu_s + 0.3
    if found.others_s is not None and without.others_s is not None:
        assert found.others_s < without.others_s
