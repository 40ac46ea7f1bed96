"""A process is known again whatever the clock does; of another system's one can only see that it writes."""

from __future__ import annotations

import os
import subprocess
import sys

import msgspec
import psutil
import pytest

from core.runs.owner import SILENT_S, Owner

LONG_S = 10 * SILENT_S


def test_a_process_is_alive_until_it_ends_however_long_it_says_nothing() -> None:
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as child:
        owner = Owner.of(child.pid)
        assert owner.alive(LONG_S)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)  # it has ended, and nobody has asked why
        assert not owner.alive(0)
    assert not owner.alive(0)
    with pytest.raises(psutil.NoSuchProcess):
        Owner.of(child.pid)


def test_a_number_given_to_another_process_is_not_it() -> None:
    me = Owner.of(os.getpid())
    assert not msgspec.structs.replace(me, started=me.started - 1).alive(0)


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system keeps the wall-clock time of the start")
def test_a_step_of_the_clock_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    me = Owner.of(os.getpid())
    monkeypatch.setattr(psutil.Process, "create_time", lambda self: 1.0)  # it is counted from the wall clock
    assert me.alive(LONG_S) and Owner.of(os.getpid()) == me


def test_a_process_of_another_container_lives_as_long_as_it_writes() -> None:
    other = msgspec.structs.replace(Owner.of(os.getpid()), here="another boot pid:[1]", pid=2**22 + 1)
    assert other.alive(SILENT_S - 1) and not other.alive(SILENT_S + 1)
    watched = msgspec.structs.replace(other, watcher=Owner.of(os.getpid()))
    assert watched.at_work(LONG_S), "who waits for its end is here"
