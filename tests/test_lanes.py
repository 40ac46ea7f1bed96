"""The suite's own processes: which lane a file is in, and that a crash in native code costs one test."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

from core.engine import ENGINES
from tests.support.engines import ALONE, BROWSER, LANES, PLAIN, PROCESSES, lanes_of
from tests.support.lanes import Lane, handed_out

ROOT = Path(__file__).parents[1]
INI = "[pytest]\naddopts = -p xdist -n auto -p no:cacheprovider\nmarkers = engine(name): a native engine\n"
CONFTEST = """
import pytest
pytest_plugins = ("tests.support.lanes",)

@pytest.fixture(autouse=True)
def noted(request):
    with open(request.config.rootpath / "ran.txt", "a") as file:
        file.write(request.node.nodeid + "\\n")
"""
WAIT_S = 180  # a run that hangs
MARK = "mark.engine"  # apart from its bracket, so that this file's own text names no engine


@pytest.mark.parametrize(
    ("text", "lanes"),
    [
        ("def test_a(): pass", {PLAIN}),
        (f'pytestmark = pytest.{MARK}("pytorch")\n@pytest.{MARK}("llama_cpp")\n', {"pytorch"}),
        (f'pytestmark = [\n    pytest.mark.model,\n    pytest.{MARK}("pytorch"),\n]\n', {"pytorch"}),
        (f'@pytest.{MARK}("llama_cpp")\ndef test_a(): pass', {PLAIN, "llama_cpp"}),
        ("params=[engines." + "param(name) for name in BACKENDS]", {PLAIN, *ENGINES}),
    ],
)
def test_a_files_lanes_are_in_its_text(text: str, lanes: set[str], tmp_path: Path) -> None:
    (tmp_path / "test_a.py").write_text(text)
    assert lanes_of(tmp_path / "test_a.py") == lanes


def test_a_folder_says_the_lane_of_tests_without_an_engine(tmp_path: Path) -> None:
    for folder, lane in (("browser", BROWSER), ("runs", PROCESSES), ("stats", PLAIN)):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "test_a.py").write_text("def test_a(): pass")
        assert lanes_of(tmp_path / folder / "test_a.py") == {lane}


def test_processes_to_spare_are_of_the_first_lane_that_may_have_several() -> None:
    assert handed_out(list(LANES), 4) == list(LANES) == handed_out(list(LANES), 1)
    assert handed_out(list(LANES), 7) == [PROCESSES, *LANES]
    assert handed_out([PROCESSES, PLAIN], 2) == [PROCESSES, PLAIN] and handed_out([], 4) == []
    assert handed_out([BROWSER, PLAIN], 4) == [PLAIN, PLAIN, BROWSER, PLAIN] and ALONE == (BROWSER,)
    assert handed_out([BROWSER], 3) == [BROWSER]


def suite(folder: Path, *args: str, at: str = "", **files: str) -> tuple[str, int]:
    """What pytest prints about these files, or the folder `at` in it, and its exit status.

    `ran.txt` lists the tests that began.
    """
    (folder / "pytest.ini").write_text(INI)
    (folder / "conftest.py").write_text(CONFTEST)
    for name, text in files.items():
        (folder / f"test_{name}.py").write_text(f"import os, pytest\n{text}")
    command = [sys.executable, "-m", "pytest", *args, str(folder / at)]
    env = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")} | {"PYTHONPATH": str(ROOT)}
    env["PYTEST_DISABLE_PLUGIN_AUTOLOAD"] = "1"  # dozens of processes are started: of all plugins they need xdist
    done = subprocess.run(command, cwd=folder, env=env, capture_output=True, text=True, check=False, timeout=WAIT_S)
    return done.stdout, done.returncode


def test_a_crash_costs_one_test_and_a_foreign_engine_is_named(tmp_path: Path) -> None:
    (tmp_path / "onnxruntime.py").touch()  # stands in for the library
    said, _ = suite(
        tmp_path,
        crash=f'pytestmark = pytest.{MARK}("llama_cpp")\ndef test_1(): pass\ndef test_2(): os.abort()\n'
        "def test_3(): pass\ndef test_4(): pass\n",
        plain="def test_clean(): pass\ndef test_foreign(): import onnxruntime\n",
    )
    failed = re.findall(r"^FAILED (\S+) - (.*)$", said, re.M)
    assert re.search(r"2 failed, 4 passed", said), said
    assert sorted(name for name, _ in failed) == ["test_crash.py::test_2", "test_plain.py::test_foreign"]
    assert "loaded onnxruntime" in said


def test_two_engines_in_one_process_are_refused(tmp_path: Path) -> None:
    both = f'@pytest.{MARK}("pytorch")\ndef test_a(): pass\n@pytest.{MARK}("llama_cpp")\ndef test_b(): pass\n'
    said, _ = suite(tmp_path, "-n", "0", both=both)
    assert "no tests ran" in said


@pytest.mark.parametrize("processes", ["2", "5"])
def test_more_processes_than_lanes_may_be_asked_for(processes: str, tmp_path: Path) -> None:
    """Of the browser's lane there is one process, however many are asked for; of a folder without tests, too."""
    for name in ("browser", "empty"):
        (tmp_path / name).mkdir()
    (tmp_path / "browser" / "test_a.py").write_text("def test_1(): pass\ndef test_2(): pass\n")
    said, status = suite(tmp_path, "-n", processes, at="browser")
    assert status == 0 and "2 passed" in said and re.search(r"by lane: browser \d+; together", said), said
    said, status = suite(tmp_path, "-n", processes, at="empty")
    assert status == pytest.ExitCode.NO_TESTS_COLLECTED and "no tests ran" in said, said


DEATHS = {  # of three files of three tests: the first, the middle and the last one, one behind the other, and kill -9
    ("pytorch", 1, 1): "os.abort()",
    ("onnxruntime", 2, 2): "os.abort()",
    ("onnxruntime", 2, 3): "os.abort()",
    ("llama_cpp", 3, 3): "os.abort()",
    ("plain", 2, 1): "os.kill(os.getpid(), 9)",
}


@pytest.mark.parametrize("processes", ["2", "5"], ids=["lanes wait", "one lane has two"])
def test_behind_a_dead_process_every_other_test_runs_once(processes: str, tmp_path: Path) -> None:
    files = {}
    for lane in ("pytorch", "onnxruntime", "llama_cpp", PLAIN):
        mark = "" if lane == PLAIN else f'pytestmark = pytest.{MARK}("{lane}")\n'
        for n in (1, 2, 3):
            tests = [f"def test_{k}(): {DEATHS.get((lane, n, k), 'pass')}\n" for k in (1, 2, 3)]
            files[f"{lane}_{n}"] = mark + "".join(tests)
    said, status = suite(tmp_path, "-n", processes, **files)
    every = [f"test_{name}.py::test_{k}" for name in files for k in (1, 2, 3)]
    died = [f"test_{lane}_{n}.py::test_{k}" for lane, n, k in DEATHS]
    assert sorted((tmp_path / "ran.txt").read_text().split()) == sorted(every)
    assert sorted(re.findall(r"^FAILED (\S+)", said, re.M)) == sorted(died), said
    assert status == pytest.ExitCode.TESTS_FAILED and "5 failed, 31 passed" in said


WAITING = """
def test_1(): open("begun", "w")
def test_2(): pass
def test_3(): until("helped")
"""
UNTIL = """
import time

def until(name):
    end = time.monotonic() + 60
    while not os.path.exists(name):
        assert time.monotonic() < end
        time.sleep(0.05)
"""


def test_a_lane_with_much_left_is_helped_when_another_has_ended(tmp_path: Path) -> None:
    """Its own process waits in the first file until somebody has begun another one."""
    engine = f'pytestmark = pytest.{MARK}("pytorch")\ndef test_1(): until("begun")\ndef test_2(): pass\n'
    files = {f"later_{i}": "def test_1(): open('helped', 'w')\ndef test_2(): pass\n" for i in range(9)}
    said, status = suite(tmp_path, "-n", "2", first=UNTIL + WAITING, other=UNTIL + engine, **files)
    assert status == 0 and "23 passed" in said, said
    assert re.search(r"by lane: (pytorch|plain) \d+, (plain|pytorch) \d+; together \d+", said), said


def test_a_process_killed_while_it_collects_has_another(tmp_path: Path) -> None:
    """In a lane of two processes, of which the other has collected already or not."""
    once = "from pathlib import Path\nif not Path('killed').exists(): Path('killed').touch(); os.kill(os.getpid(), 9)\n"
    mark = f'pytestmark = pytest.{MARK}("pytorch")\n'
    tests = "def test_1(): pass\ndef test_2(): pass\n"
    said, status = suite(tmp_path, "-n", "3", a=mark + once + tests, b=mark + tests, c=tests)
    assert status == 0 and "6 passed" in said, said


class Process:
    """As much of xdist's worker as a scheduler needs."""

    shutting_down = False

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.workerinput = {"lane": PLAIN}
        self.given: list[int] = []

    def send_runtest_some(self, numbers: list[int]) -> None:
        self.given += numbers

    def shutdown(self) -> None:
        self.shutting_down = True


def test_two_helpers_that_come_at_once_are_given_work_each_when_it_has_told_its_tests() -> None:
    """One of them told its tests first, and the other one was asked for them before it knew them."""
    lane = Lane(SimpleNamespace(getvalue=lambda name: ["popen"], option=SimpleNamespace(loadscopereorder=False)), None)
    lane.numnodes = 1
    tests = [f"test_{file}.py::test_{n}" for file in range(8) for n in range(3)]
    first, second, third = (Process(name) for name in ("gw0", "gw1", "gw2"))
    lane.add_node(first)
    lane.add_node_collection(first, tests)
    lane.schedule()
    lane.add_node(second)
    lane.add_node(third)
    lane.add_node_collection(second, tests)
    lane.schedule()
    assert second.given and not third.given
    lane.add_node_collection(third, tests)
    lane.schedule()
    assert third.given and not set(third.given) & set(first.given + second.given)
