"""What the tests cost: seconds of processor time by test and by file, a pytest plugin.

    python -m pytest --processor-times 20 ...    the 20 files and the 20 tests that took the most

Counts the process of the tests and all that it started, ended or not; not what was killed together with its parent, as
a browser's pages are. What a process does for several tests counts for the one that ran meanwhile.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import psutil
import pytest

NAME = "processor_s"


def spent_s() -> float:
    """Processor time of this process and of all that it started, in seconds."""
    own = os.times()
    spent = own.user + own.system + own.children_user + own.children_system
    for child in psutil.Process().children(recursive=True):
        with suppress(psutil.Error):
            times = child.cpu_times()
            spent += times.user + times.system + times.children_user + times.children_system
    return spent


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--processor-times", type=int, default=0, metavar="N", help="tell the N files and tests that cost the most"
    )


def pytest_configure(config: pytest.Config) -> None:
    if config.getoption("processor_times"):
        config.pluginmanager.register(Times(int(config.getoption("processor_times"))), "processor-times")


class Times:
    """Takes the time of each test where it runs, and adds up where the reports come in."""

    def __init__(self, n: int) -> None:
        self._n = n
        self._before_s = 0.0
        self._spent_s: dict[str, float] = {}

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_protocol(self, item: pytest.Item) -> Iterator[None]:
        self._before_s = spent_s()
        return (yield)

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
        if call.when == "teardown":
            item.user_properties.append((NAME, spent_s() - self._before_s))
        return (yield)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        if report.when == "teardown":
            self._spent_s[report.nodeid] = float(dict(report.user_properties).get(NAME, 0.0))  # type: ignore[arg-type]

    def pytest_terminal_summary(self, terminalreporter: Any) -> None:
        by_file: dict[str, float] = defaultdict(float)
        for test, seconds in self._spent_s.items():
            by_file[test.split("::")[0]] += seconds
        for what, spent in (("file", by_file), ("test", self._spent_s)):
            total = sum(spent.values())
            terminalreporter.section(f"processor time by {what}, {total:.0f} s together")
            for name, seconds in sorted(spent.items(), key=lambda pair: -pair[1])[: self._n]:
                terminalreporter.write_line(f"{seconds:8.2f} s  {name}")
