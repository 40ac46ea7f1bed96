"""Which native engine a test needs: read from its marks, or from the text of its file.

One native engine per process is the rule of the house (core.engine). A test says what it needs by
`pytest.mark.engine("pytorch")`, on its module, its class, itself or a parameter; unmarked tests load no engine. Does
not know the processes: those are in tests.support.lanes.
"""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from core.engine import ENGINES

PLAIN, PROCESSES, BROWSER = "plain", "processes", "browser"  # lanes of tests that load no engine
LANES = (PROCESSES, BROWSER, "pytorch", PLAIN, "onnxruntime", "llama_cpp")  # in the order in which they begin
ALONE = (BROWSER,)  # of these never more than one process: a browser and a server are busy enough
START_MANY = ("cli", "faults", "runs", "service", "studies", "worker", "test_docs.py")  # folders and a file of tests/

WHOLE = re.compile(r"^pytestmark = (?:\[[^\]]*?)?pytest\.mark\.engine\(\"(\w+)\"", re.M)  # alone or in a list
PART = re.compile(r"\bmark\.engine\(\"(\w+)\"")
EVERY = re.compile(r"\bengines\.param\(|^from tests\.support\.tiny_session import\b", re.M)


_now = PLAIN


def own() -> str:
    """The lane of the test that runs in this process, or of the child that this process is."""
    return _now


def become(lane: str) -> None:
    """Said by whoever starts a test or a child."""
    global _now
    _now = lane


def param(value: Any, engine: str | None = None) -> Any:
    """A parameter of a test or a fixture that needs `engine`: a backend's name needs the engine of its name."""
    engine = engine or str(value)
    return pytest.param(value, marks=pytest.mark.engine(engine)) if engine in ENGINES else value


def lane_of(item: pytest.Item) -> str:
    """The engine that a test needs, or the lane of its file's tests without one."""
    mark = item.get_closest_marker("engine")
    return _without_engine(item.path) if mark is None else str(mark.args[0])


def _without_engine(file: Path) -> str:
    if file.parent.name == BROWSER:
        return BROWSER
    return PROCESSES if {file.name, file.parent.name} & set(START_MANY) else PLAIN


@cache
def lanes_of(file: Path) -> frozenset[str]:
    """The lanes that tests of a file may be in, read from its text, since importing it may load an engine."""
    text = file.read_text()
    if whole := WHOLE.search(text):
        return frozenset({whole[1]})
    return frozenset({_without_engine(file), *PART.findall(text), *(ENGINES if EVERY.search(text) else ())})
