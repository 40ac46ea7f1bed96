"""One native engine per process, for the tests: a pytest plugin over pytest-xdist.

Every worker process of a run has a lane for its lifetime: an engine, BROWSER, PROCESSES for tests that start others, so
that few of these kinds run at a time, or PLAIN. It imports only the files of its lane. Where there are more
lanes than processes, the next lane begins in a new process when one has ended, and when all have begun, the lane with
the most left to do gets another process. A crash in native code ends one worker: that test fails, and a new process of
the lane goes on behind it.

`python -m pytest` starts a process for every lane that its files name, four at once at most, and none for a file of one
lane: that runs in the process of pytest itself, as with `-n 0`. A test that loads an engine which is not its own fails.
At the end stands what processor time each lane has used, with all that its tests started.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from xdist.scheduler import LoadFileScheduling

from core.engine import ENGINES, loaded
from tests.support.engines import ALONE, LANES, PLAIN, become, lane_of, lanes_of
from tests.support.long_files import EACH_S, LONG_S
from tests.support.processor_time import spent_s

AT_ONCE = 4
WORTH_HELP = 6  # files of a lane that nobody has begun, for which another process is started
RULE = "One native engine per process (tests/README.md)"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--lane", choices=LANES, help="run the tests of one lane, in this process")


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("numprocesses", None):
        config.pluginmanager.register(processes := Processes(config), "lanes")
        del config.option.tx[len(processes.given) :]  # xdist starts one of each, and no lane is left for more


def pytest_xdist_auto_num_workers(config: pytest.Config) -> int:
    """Processes at once; 0, which is this process, where there is but one lane. Chosen tests run here, too."""
    lanes = _lanes(config)
    here = len(lanes) < 2 or config.getoption("lane") or any("::" in arg for arg in config.args)
    return 0 if here else min(AT_ONCE, len(lanes))


def _lanes(config: pytest.Config) -> list[str]:
    """The lanes of the files that this run was asked for; where it finds no file, a process says so."""
    found: set[str] = set()
    for arg in config.args:
        path = config.invocation_params.dir / arg.split("::")[0]
        for file in path.rglob("test_*.py") if path.is_dir() else [path] if path.is_file() else []:
            found |= lanes_of(file)
    return [lane for lane in LANES if lane in found] or [PLAIN]


def _own(config: pytest.Config) -> str | None:
    """The lane of this process; None where nobody has chosen one."""
    lane: str | None = getattr(config, "workerinput", {}).get("lane") or config.getoption("lane")
    return lane


# ---------------------------------------------------------------- in the controller


class Processes:
    """Gives every worker its lane, a replacement the lane of the worker that died, and starts those that wait.

    Where none waits any more, the process that ends is followed by one that helps the lane with the most left to do.
    """

    def __init__(self, config: pytest.Config) -> None:
        self.given = handed_out(_lanes(config), int(config.getoption("numprocesses")))
        self._config = config
        self._waiting = list(self.given)
        self._lane: dict[str, str] = {}
        self._spent_s: dict[str, float] = defaultdict(float)

    def pytest_configure_node(self, node: Any) -> None:
        node.workerinput["lane"] = self._lane[node.gateway.id] = self._waiting.pop(0)

    def pytest_testnodedown(self, node: Any, error: object | None) -> None:
        session: Any = self._config.pluginmanager.get_plugin("dsession")
        lane = self._lane[node.gateway.id]
        self._spent_s[lane] += getattr(node, "workeroutput", {}).get("spent_s", 0.0)
        if error:  # xdist starts another
            self._waiting.insert(0, lane)
        elif not session.shuttingdown and not session.shouldstop:
            if not self._waiting and (behind := session.sched.behind()):
                self._waiting.append(behind)
            if self._waiting:
                session._clone_node(node)

    def pytest_xdist_make_scheduler(self, config: pytest.Config, log: Any) -> LaneScheduling:
        return LaneScheduling(config, log, self.given)

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        each = ", ".join(f"{lane} {seconds:.0f}" for lane, seconds in self._spent_s.items())
        total = sum(self._spent_s.values())
        terminalreporter.write_line(f"Seconds of processor time by lane: {each}; together {total:.0f}")


def handed_out(lanes: list[str], n: int) -> list[str]:
    """The lane of every process, in the order in which they start, `n` at once.

    Processes to spare are of the first lane that may have several; they wait for each other's list of tests.
    """
    shared = [lane for lane in lanes if lane not in ALONE]
    return [*shared[:1] * (n - len(lanes)), *lanes]


class Lane(LoadFileScheduling):
    """The processes of one lane share its files. A test in which a process died is not run again."""

    def remove_node(self, node: Any) -> str | None:
        """The test in which the process died, if any; the others that it had are for those that live."""
        given = self.assigned_work[node]
        crashed = next((test for tests in given.values() for test, done in tests.items() if not done), None)
        left = {
            file: {test: False for test, done in tests.items() if not done and test != crashed}
            for file, tests in given.items()
        }
        # a process that is given a file without a test to run waits for ever
        self.assigned_work[node] = {file: tests for file, tests in left.items() if tests}
        if self.collection is None:
            self.registered_collections.pop(node, None)
        super().remove_node(node)
        return crashed

    def _expected_s(self, file: str) -> float:
        return LONG_S.get(file, EACH_S * len(self.workqueue[file]))

    def _reschedule(self, node: Any) -> None:
        """A process that has come to help knows no test yet: it is given work once it has told its own."""
        if node in self.registered_collections:
            super()._reschedule(node)

    def _assign_work_unit(self, node: Any) -> None:
        """The file that takes longest comes first, so that no process has it alone at the end."""
        self.workqueue.move_to_end(max(self.workqueue, key=self._expected_s), last=False)
        try:
            super()._assign_work_unit(node)
        except OSError:  # the process has died, and nobody has heard of it yet
            self.workqueue.update([self.assigned_work[node].popitem()])


class LaneScheduling:
    """xdist's scheduling by files, once for each lane."""

    def __init__(self, config: pytest.Config, log: Any, given: Sequence[str]) -> None:
        self._config = config
        self._lanes = {lane: Lane(config, log) for lane in given}
        for lane, inner in self._lanes.items():
            inner.numnodes = list(given).count(lane)

    def _of(self, node: Any) -> Lane:
        return self._lanes[node.workerinput["lane"]]

    def behind(self) -> str | None:
        """The lane for which another process is worth starting: that with the most files that nobody has begun."""
        left = {name: len(lane.workqueue) for name, lane in self._lanes.items() if name not in ALONE}
        lane = max(left, key=left.__getitem__, default=None)
        return lane if lane is not None and left[lane] >= WORTH_HELP else None

    @property
    def nodes(self) -> list[Any]:
        return [node for lane in self._lanes.values() for node in lane.nodes]

    @property
    def collection_is_completed(self) -> bool:
        return all(lane.collection_is_completed for lane in self._lanes.values())

    @property
    def tests_finished(self) -> bool:
        return all(lane.tests_finished for lane in self._lanes.values())

    @property
    def has_pending(self) -> bool:
        return any(lane.has_pending for lane in self._lanes.values())

    def add_node(self, node: Any) -> None:
        self._of(node).add_node(node)

    def add_node_collection(self, node: Any, collection: Sequence[str]) -> None:
        """A lane starts when its own processes have collected."""
        lane = self._of(node)
        lane.add_node_collection(node, collection)
        if lane.collection_is_completed:
            lane.schedule()
            for other in lane.nodes:  # a process runs a test only when it knows the next one
                lane._reschedule(other)
        session: Any = self._config.pluginmanager.get_plugin("session")
        session.testscollected = sum(len(lane.collection or ()) for lane in self._lanes.values())

    def schedule(self) -> None:
        """Every lane has started by itself."""

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        self._of(node).mark_test_complete(node, item_index, duration)

    def mark_test_pending(self, item: str) -> None:
        raise NotImplementedError

    def remove_pending_tests_from_node(self, node: Any, indices: Sequence[int]) -> None:
        raise NotImplementedError

    def remove_node(self, node: Any) -> str | None:
        return self._of(node).remove_node(node)


# ---------------------------------------------------------------- in the process that runs tests


class AnotherLane(pytest.Module):
    """A file without tests for this process: not imported."""

    def collect(self) -> list[pytest.Item]:
        return []


def pytest_pycollect_makemodule(module_path: Path, parent: Any) -> pytest.Module | None:
    lane = _own(parent.config)
    if lane is None or lane in lanes_of(module_path):
        return None
    return AnotherLane.from_parent(parent, path=module_path)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector: pytest.Collector) -> Iterator[None]:
    before = loaded()
    report: Any = yield
    if isinstance(collector, pytest.Module) and (found := loaded() - before):
        lanes = lanes_of(collector.path)
        if len(lanes) > 1 or not found <= lanes:
            report.outcome = "failed"
            report.longrepr = f"{RULE}: importing {collector.path.name} loads {', '.join(sorted(found))}."
    return report


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if lane_of(item) not in lanes_of(item.path):
            raise pytest.UsageError(f"{item.nodeid} needs {lane_of(item)}, which the text of its file does not say.")
    if (lane := _own(config)) is not None:
        items[:] = [item for item in items if lane_of(item) == lane]


def pytest_collection_finish(session: pytest.Session) -> None:
    engines = sorted({lane_of(item) for item in session.items} & ENGINES.keys())
    if len(engines) > 1 and not session.config.option.collectonly:
        raise pytest.UsageError(f"{RULE}: these tests need {', '.join(engines)}. Leave out -n 0, or choose with -k.")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_setup(item: pytest.Item) -> Iterator[None]:
    return (yield from _watched(item))


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    return (yield from _watched(item))


def pytest_sessionfinish(session: pytest.Session) -> None:
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["spent_s"] = spent_s()


def _watched(item: pytest.Item) -> Any:
    """Fails the test where it loads an engine that is not its own."""
    become(lane_of(item))
    before = loaded()
    result = yield
    if foreign := loaded() - before - {lane_of(item)}:
        pytest.fail(f"{RULE}: this test loaded {', '.join(sorted(foreign))}, and is one of {lane_of(item)}.", False)
    return result
