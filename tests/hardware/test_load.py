"""What is read of the machine around a pass. A process that works for this one is this one, and no disturbance."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from hardware import load
from hardware.load import Reading, between

STOPPED = """
from hardware import load
load.count_stops()
before = load.read()
print(flush=True)
input()
print(load.between(before, load.read()).stops, flush=True)
"""


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


def test_the_difference_of_two_readings() -> None:
    before = Reading(10.0, 2.0, {"1": 0.5, "2": 0.1, "gone": 9.0, "woken": -0.2}, 100.0, 1.0)
    after = Reading(12.0, 5.0, {"1": 0.7, "2": 0.1, "new": 0.3, "woken": -0.3}, 104.0, 1.5)
    found = between(before, after)
    assert (found.seconds, found.cpu_s, found.stolen_s) == (2.0, 3.0, 0.5)
    assert found.waited_s == pytest.approx(0.5), "a thread that began meanwhile counts whole, one that ended not at all"
    assert found.others_s == pytest.approx(1.0)


def test_a_stop_and_a_sleep_of_the_machine_are_counted() -> None:
    before = Reading(10.0, 2.0, None, None, None, 1, 500.0)
    assert between(before, Reading(12.0, 3.0, None, None, None, 1, 500.0)).stops == 0
    assert between(before, Reading(12.0, 3.0, None, None, None, 3, 500.0)).stops == 2
    assert between(before, Reading(12.0, 3.0, None, None, None, 1, 4100.0)).stops == 1


@pytest.mark.skipif(not hasattr(signal, "SIGSTOP"), reason="no such signal here")
def test_a_process_that_was_stopped_and_goes_on_knows_it() -> None:
    child = subprocess.Popen(
        [sys.executable, "-c", STOPPED], cwd=Path(__file__).parents[2], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert child.stdin is not None and child.stdout is not None
    with child.stdin, child.stdout:
        child.stdout.readline()
        os.kill(child.pid, signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED | os.WNOWAIT)
        os.kill(child.pid, signal.SIGCONT)
        child.stdin.write(b"\n")
        child.stdin.flush()
        assert child.stdout.readline() == b"1\n"
    child.wait()


def test_what_the_system_does_not_tell_stays_unknown() -> None:
    found = between(Reading(0.0, 0.0, None, None, None), Reading(1.0, 1.0, None, 5.0, None))
    assert (found.waited_s, found.others_s, found.stolen_s) == (None, None, None)


def test_a_look_wants_all_its_processors() -> None:
    """Whoever else runs: what its threads had, waited for or lost to the hypervisor is what two of them want."""
    seen = load.probe(2, 0.3)
    lost_s = (seen.waited_s or 0.0) + (seen.stolen_s or 0.0)
    if seen.waited_s is not None and (os.cpu_count() or 1) > 1:
        assert seen.cpu_s + lost_s > 1.2 * seen.seconds
    assert seen.seconds >= 0.3


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux tells how long a thread waited")
def test_a_thread_that_shares_its_core_waits() -> None:
    """This process and another, both busy, held to one core: whatever else runs, each waits for the other."""
    code = """
import os, subprocess, sys, time
from hardware import load
os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
other = subprocess.Popen([sys.executable, "-c", "while True: pass"])
before, end = load.read(), time.monotonic() + 60
while time.monotonic() < end:
    found = load.between(before, load.read())
    if found.waited_s > 0.1 and found.others_s > 0.1:
        break
other.kill()
other.wait()
assert found.waited_s > 0.1 and found.others_s > 0.1, found
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-1000:]


def test_a_reading_counts_this_process() -> None:
    before, end = load.read(), time.process_time() + 0.05
    while time.process_time() < end:
        pass
    found = between(before, load.read())
    assert found.cpu_s >= 0.05 and found.seconds >= 0.05
