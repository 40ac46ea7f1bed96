"""A module in a process of its own: what it prints, how it ends, and that nothing of it is left behind."""

import os
import time
from pathlib import Path

import psutil
import pytest

from hardware import child as module
from hardware.child import Child

TALKS = """
import sys
print("a library says hello")
print('{"note": "one"}')
print('[1, 2]')
print('{"note": "two"}')
print("cause", file=sys.stderr)
sys.exit(3)
"""
STAYS = """
import subprocess, sys, time
grandchild = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"])
print('{"grandchild": %d}' % grandchild.pid)
time.sleep(600)
"""


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(module, "ROOT", tmp_path)
    return tmp_path


def test_objects_come_in_order_and_other_lines_are_passed_over(place: Path) -> None:
    (place / "talks.py").write_text(TALKS)
    with Child("talks", [], hush=True) as child:
        said = [message for message in child.messages() if message]
    assert said == [{"note": "one"}, {"note": "two"}]
    assert child.status == 3 and child.last_error == "cause"


def test_an_early_leave_ends_the_process_and_what_it_started(place: Path) -> None:
    (place / "stays.py").write_text(STAYS)
    with pytest.raises(KeyboardInterrupt), Child("stays", []) as child:
        for message in child.messages():
            if message:
                grandchild = message["grandchild"]
                raise KeyboardInterrupt
    assert child.status is not None and child.status < 0
    deadline = time.monotonic() + 60
    while alive(grandchild):
        assert time.monotonic() < deadline, "the grandchild lives on"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_silence_is_told(place: Path) -> None:
    (place / "stays.py").write_text(STAYS)
    with Child("stays", []) as child:
        said = child.messages(every_s=0.01)
        assert any(message is None for message in (next(said) for _ in range(1000)))


def test_the_environment_is_this_one_and_what_is_added(place: Path) -> None:
    (place / "tells.py").write_text('import os, json; print(json.dumps({k: os.environ.get(k) for k in ("PATH", "X")}))')
    with Child("tells", [], {"X": "1"}) as child:
        assert next(m for m in child.messages() if m) == {"PATH": os.environ["PATH"], "X": "1"}
