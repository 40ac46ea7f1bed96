"""The table of faults names what exists; a few operations are disturbed at some of their writes (make faults: all)."""

from __future__ import annotations

import ast
import random
import signal
import sys
from pathlib import Path

import pytest

from tests.faults import campaign, soak
from tests.faults.disk import Disk, Op
from tests.faults.operations import OPERATIONS
from tests.faults.scenario import Scenario, performed
from tests.faults.stage import Stage, check
from tests.faults.table import TABLE, TESTS
from tests.faults.trend import after, trend

TESTS_FOLDER = Path(__file__).parents[1]
SHORT = ["add a folder", "save a ledger", "make a model", "forget a model"]


def test_there_are_rows_enough_and_each_is_its_own() -> None:
    assert len(TABLE) >= 80
    assert len({fault.done for fault in TABLE}) == len({fault.check for fault in TABLE}) == len(TABLE)


@pytest.mark.parametrize("file", sorted({fault.check.split("::")[0] for fault in TESTS}))
def test_the_tests_that_the_table_names_are_there(file: str) -> None:
    tree = ast.parse((TESTS_FOLDER / file).read_text())
    there = {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
    assert {f.check.split("::")[1] for f in TESTS if f.check.split("::")[0] == file} <= there


def test_a_power_cut_leaves_names_and_what_was_forced_to_the_disk(tmp_path: Path) -> None:
    base, place = tmp_path / "base", tmp_path / "place"
    base.mkdir()
    (base / "old").write_bytes(b"first")
    (base / "emptied").write_bytes(b"there")

    def name(path: str) -> str:
        return str(place / path)

    disk = Disk(base, place)
    for op in (
        Op(0, name("new"), "", 0, b""),
        Op(1, name("new"), "", 0, b"lost"),
        Op(2, name("new"), name("old"), 0, b""),
        Op(0, name("kept"), "", 0, b""),
        Op(1, name("kept"), "", 0, b"kept"),
        Op(7, name("kept"), "", 0, b""),
        Op(1, name("kept"), "", 4, b" and lost"),
        Op(0, name("emptied"), "", 1, b""),
        Op(4, name("folder"), "", 0, b""),
        Op(2, name("kept"), name("folder/kept"), 0, b""),
        Op(2, name("folder"), name("other"), 0, b""),
    ):
        disk.apply(op)
    disk.write()
    left = {str(p.relative_to(place)): p.read_bytes() for p in place.rglob("*") if p.is_file()}
    assert left == {"old": b"", "emptied": b"", "other/kept": b"kept"}


def test_what_grows_is_told_from_what_wanders() -> None:
    exact = trend([[(float(x), 3.0 + 2.0 * x) for x in range(12)]])
    assert exact is not None and exact.slope == pytest.approx(2.0) and exact.high - exact.low < 1e-9
    noise = random.Random(1)
    flat = [(float(n), 200.0 + noise.gauss(0, 3)) for n in range(240)]
    leak = [(x, y + 0.5 * x) for x, y in flat]
    steady, grows = trend([flat]), trend([leak])
    assert steady is not None and steady.low < 0 < steady.high and steady.said(0.1) == "does not grow"
    assert grows is not None and grows.said(0.1) == "grows" and grows.low < 0.5 < grows.high
    assert trend([[(1.0, 1.0), (2.0, 2.0)]]) is None and trend([]) is None, "two readings say nothing"


def test_a_line_by_hand_has_the_interval_of_its_residuals() -> None:
    # y = 0, 1, 1 over x = 0, 1, 2: slope 1/2, residuals -1/6, 1/3, -1/6, s^2 = 1/6, error sqrt(1/12), t(1) = 12.706
    found = trend([[(0.0, 0.0), (1.0, 1.0), (2.0, 1.0)]])
    assert found is not None and found.slope == pytest.approx(0.5)
    assert found.high - found.slope == pytest.approx(12.7062 * (1 / 12) ** 0.5, rel=1e-4)


def test_processes_that_follow_each_other_have_a_level_each() -> None:
    """Each of three workers grows by 1 MB a run, and each starts where the first one did."""
    lives = [[(10.0 * n + x, 100.0 + x) for x in range(8)] for n in range(3)]
    found = trend(lives)
    assert found is not None and found.slope == pytest.approx(1.0) and found.n == 24


def test_a_long_life_says_more_than_a_short_one() -> None:
    """Four readings that stay, in two blocks of two, and two that grow by 1: (2 * 0 + 1/2) / (2 * 2 + 1/2) = 1/9."""
    found = trend([[(0.0, 5.0), (1.0, 5.0), (2.0, 5.0), (3.0, 5.0)], [(0.0, 1.0), (1.0, 2.0)]], blocks=2)
    assert found is not None and found.slope == pytest.approx(1 / 9)


def test_of_a_life_counts_what_came_once_it_was_warm() -> None:
    life = [(10.0, 1.0, 1), (11.0, 2.0, 2), (12.0, 3.0, 2), (13.0, 4.0, 3)]
    assert after(life, 2) == [(13.0, 4.0)] and after(life, 1) == [(x, y) for x, y, _ in life[1:]] and not after(life, 3)


def soaked(lives: int, runs: int, leak: float) -> dict[str, dict[str, object]]:
    """Rows of workers that each do so many runs, one every fourth act, that fill caches by 0.7 MB a run up to the 15th,
    as llama.cpp does, and lose so many MB in every run."""
    samples = []
    for n in range(lives * runs * 4):
        life, run = divmod(n // 4, runs)
        rss = int(1e6 * (280 + 0.7 * min(run, 15) + leak * run))
        worker = soak.Seen(1000 - life, rss, rss, 5, 2)
        samples.append(soak.Sample(float(n), n + 1, n // 4 + 1, soak.Seen(1, 10**8, 10**8, 20, 9), worker, 2))
    return {row["what"]: row for row in soak.rows("a piece", samples)}


def test_warming_up_is_no_leak_and_lives_that_only_warm_up_say_nothing() -> None:
    memory = "worker: memory, resident (MB)"
    for lives, runs in ((4, 60), (20, 30), (40, 25)):
        row = soaked(lives, runs, 0.0)[memory]
        assert row["verdict"] == "does not grow" and row["per 100 acts"] == pytest.approx(0, abs=1e-9), row
    for leak in (0.0, 5.0):
        row = soaked(100, 10, leak)[memory]
        assert row["verdict"] == "lives too short to tell" and row["least"] is row["per 100 acts"] is None, row


def test_a_leak_is_seen_in_lives_that_are_hardly_longer_than_their_warming_up() -> None:
    """0.5 MB in each run, and so in each four acts: 12.5 MB in a hundred."""
    for lives, runs in ((4, 60), (20, 30), (40, 25)):
        row = soaked(lives, runs, 0.5)["worker: memory, resident (MB)"]
        assert row["verdict"] == "grows" and row["per 100 acts"] == pytest.approx(12.5, rel=0.05), row
    assert soaked(40, 25, 0.05)["worker: memory, resident (MB)"]["verdict"] == "does not grow", "1.25 MB do no harm"


def test_a_soak_finds_what_leaks_and_in_which_process() -> None:
    """The app leaks a file every ten acts; each of three workers keeps its memory, at a level of its own."""
    noise = random.Random(2)
    samples = []
    for n in range(1, 301):
        app = soak.Seen(1, int(200e6 + noise.gauss(0, 1e6)), int(150e6 + noise.gauss(0, 1e6)), 30 + n // 10, 12)
        level = 100e6 + 50e6 * (n // 100)
        worker = soak.Seen(2 + n // 100, int(level + noise.gauss(0, 1e6)), int(level), 12, 4)
        samples.append(soak.Sample(float(n), n, n // 2, app, worker, 2))
    found = {row["what"]: row for row in soak.rows("a piece", samples)}
    assert found["app: open files"]["verdict"] == "grows"
    assert found["app: open files"]["per 100 acts"] == pytest.approx(10, abs=0.5)
    assert {row["verdict"] for name, row in found.items() if name != "app: open files"} == {"does not grow"}
    curve = soak.curve("a piece", samples)
    assert 20 <= len(curve) <= 30 and curve[-1]["acts"] > 280 and curve[0]["processes"] == 2


def test_a_scenario_that_goes_wrong_says_what(tmp_path: Path) -> None:
    def nothing_there(stage: Stage) -> None:
        check(stage.store.ids(), "no run")

    def astray(stage: Stage) -> None:
        raise KeyError("x")

    cases = (nothing_there, "no run", None), (astray, "KeyError: 'x'", None), (astray, "not tried: no C", "no C")
    for n, (do, said, reason) in enumerate(cases):
        made = Scenario("g", "n", "d", "s", "l", do, lambda reason=reason: reason)
        assert performed(made, tmp_path / str(n)) == said


def test_what_a_scenario_started_is_found_and_ended(tmp_path: Path) -> None:
    with Stage(tmp_path) as stage:
        child = stage.start(sys.executable, "-c", "import time; time.sleep(600)")
        stage.until(lambda: [p for p in stage.processes() if p.pid == child.pid], "it")
        child.send_signal(signal.SIGSTOP)
    assert child.wait(60) == -signal.SIGKILL and not stage.processes()


@pytest.mark.skipif(campaign.unavailable() is not None, reason=str(campaign.unavailable()))
def test_operations_disturbed_at_their_writes() -> None:
    assert set(SHORT) <= {operation.name for operation in OPERATIONS}
    rows = list(campaign.disturbed([*SHORT, "careless"], most=3))
    assert len(rows) == 3 * (len(SHORT) + 1) and all(row["points"] >= 2 for row in rows)
    found = {(row["operation"], row["way"]): row["wrong"] for row in rows}
    careless = {way: found.pop(("careless", way)) for way in ("kill", "full", "power")}
    assert not any(found.values()), found
    assert all(careless.values()), "a file that is written in place is neither the old nor the new one"
