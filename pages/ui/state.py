"""What the tab remembers and what all tabs share. What only a widget's key holds is set beside the widget.

The store and the runner belong to the process, so a run survives a reload or a second tab.
Which run is shown belongs to the tab and to its address (`?run=`).
"""

from __future__ import annotations

import math
import threading
import zlib
from collections.abc import Callable, Collection, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import streamlit as st
from streamlit.elements.widgets.number_input import NumberInputSerde

from core.loadtest.events import Ended
from core.loadtest.load_store import FOLDER as LOADS
from core.loadtest.load_store import LoadStore, LoadTest
from core.loadtest.report import Report
from core.models.fetch import Download
from core.paths import data_dir
from core.runs.demo import load_into
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import Generate, Result, Task
from hardware.errors import ExplorerError

T = TypeVar("T")
RUN = "run"  # the name of the run in the address and in the tab's state
_KEPT_RUNS = 8  # opened runs that are kept for all tabs, each with its events in memory
_KEPT_EVENTS = 200_000  # of all of them together, about 150 MB; the one asked for last is kept whatever it has


def _read(self: NumberInputSerde, given: float | None) -> float | None:
    """The number of a widget; none for `?threads=1e999`, on which Streamlit's way to make it a whole one fails."""
    return _streamlits(self, None if isinstance(given, float) and math.isinf(given) else given)


_streamlits = NumberInputSerde.deserialize
NumberInputSerde.deserialize = _read


def store() -> Store:
    """The runs of this machine."""
    return _store(data_dir())


@st.cache_resource(show_spinner=False)
def _store(root: Path) -> Store:
    store = Store(root)
    load_into(store)
    return store


def runner() -> Runner:
    """Starts and stops runs; one per process."""
    return _runner(data_dir())


@st.cache_resource(show_spinner=False, on_release=lambda runner: runner.close())
def _runner(root: Path) -> Runner:
    return Runner(_store(root))


@st.cache_resource(show_spinner=False)
def downloads() -> list[Download]:
    """Downloads from the hub since the app started, newest last."""
    return []


def choose_run(run_id: str) -> None:
    """Show this run on every page of this tab, and put it into the address."""
    st.session_state[RUN] = run_id
    if st.query_params.get(RUN) != run_id:
        st.query_params[RUN] = run_id


def forget_run() -> None:
    """Show the newest run again."""
    st.session_state.pop(RUN, None)
    st.query_params.pop(RUN, None)


def asked_run() -> str | None:
    """The run that the address or the tab asks for, whether it exists or not."""
    return st.query_params.get(RUN) or st.session_state.get(RUN)


def current_run(*tasks: type[Task]) -> Run | None:
    """The run to show: the one asked for, else the one that is going, else the newest; None without any.

    tasks: what the page can show, a generation without; runs of other kinds are passed over.
    """
    for run_id in (asked_run(), runner().active(), *store().ids()):
        if run_id and shows(run_id) and isinstance(open_run(run_id).request.task, tasks or Generate):
            return open_run(run_id)
    return None


def readable(run_id: str) -> bool:
    """Whether there is such a run and its folder can be read: a damaged one is left to History."""
    try:
        run = open_run(run_id)
        return bool(run.request and run.created_s >= 0)
    except (ExplorerError, OSError):
        return False


def shows(run_id: str) -> bool:
    """Whether there is such a run, and its events make sense together."""
    try:
        return readable(run_id) and bool(result_of(open_run(run_id)))
    except (ExplorerError, OSError):
        return False


def open_run(run_id: str) -> Run:
    """The run, opened once for all tabs so that reading its events costs only what is new.

    Raises ExplorerError when there is no such run.
    """
    opened = _opened(data_dir())
    with opened.changing:
        kept = opened.runs.pop(run_id, None)
        run = kept if kept is not None and kept[0].path.exists() else (store().open(run_id), None)
        opened.runs[run_id] = run  # behind all others
        while len(opened.runs) > 1 and (len(opened.runs) > _KEPT_RUNS or opened.n_events > _KEPT_EVENTS):
            opened.runs.pop(next(iter(opened.runs)))
    return run[0]


class _Opened:
    """Runs by id with the newest result of each; the one asked for last is the last."""

    def __init__(self) -> None:
        self.changing = threading.Lock()
        self.runs: dict[str, tuple[Run, tuple[tuple[int, str], Result] | None]] = {}

    @property
    def n_events(self) -> int:
        return sum(run.n_events for run, _ in self.runs.values())


@st.cache_resource(show_spinner=False)
def _opened(root: Path) -> _Opened:
    return _Opened()


def result_of(run: Run) -> Result:
    """The run's result, computed anew only when its events or its status changed."""
    opened = _opened(data_dir())
    version = (len(run.events()), run.status())
    kept = opened.runs.get(run.id)
    if kept is not None and kept[0] is run and kept[1] is not None and kept[1][0] == version:
        return kept[1][1]
    result = run.result()
    with opened.changing:
        if (kept := opened.runs.get(run.id)) is not None and kept[0] is run:
            opened.runs[run.id] = (run, (version, result))  # in its place
    return result


def open_load(test_id: str) -> LoadTest:
    """The load test, opened once per tab so that reading its events costs only what is new. Raises ExplorerError."""
    opened: dict[str, LoadTest] = st.session_state.setdefault("opened_loads", {})
    path = data_dir() / LOADS / test_id
    if test_id not in opened or opened[test_id].path != path or not path.exists():
        opened.clear()
        opened[test_id] = LoadStore(data_dir()).open(test_id)
    return opened[test_id]


def report_of(test: LoadTest) -> Report:
    """Its report, computed anew only when a level has ended or its status changed."""
    known: dict[str, tuple[tuple[int, str], Report]] = st.session_state.setdefault("load_reports", {})
    version = (sum(isinstance(e, Ended) for e in test.events()), str(test.status()))
    if test.id not in known or known[test.id][0] != version:
        known.clear()
        known[test.id] = (version, test.report())
    return known[test.id][1]


def keep_run_in_address() -> None:
    """Put the tab's run back into the address, which forgets it when the page changes."""
    asked = st.query_params.get(RUN)
    if asked is None and st.session_state.get(RUN):
        st.query_params[RUN] = st.session_state[RUN]
    elif asked is not None:
        st.session_state[RUN] = asked


def enter(title: str) -> None:
    """A page begins to be drawn."""
    st.session_state["page-shown"] = title


def adopt(key: str, known: Collection[str], default: str | None, free: bool = False) -> None:
    """Before a widget is drawn: its value from an address that somebody opened or a link changed, else the default.

    known: values that are accepted; free: any other is accepted too. What this tab wrote into the
    address itself (publish) is not news, but to the page that a link leads to.
    """
    asked = st.query_params.get(key)
    drawn: dict[str, str] = st.session_state.setdefault("drawn", {})
    here = str(st.session_state.get("page-shown", ""))
    turned = drawn.get(key) != here
    news = asked != _published().get(key) or turned or key not in st.session_state
    drawn[key] = here
    if asked is not None and news and (free or asked in known):
        st.session_state[key] = asked
    if key not in st.session_state or not (free or st.session_state[key] in known):
        st.session_state[key] = default
    elif turned:
        st.session_state[key] = st.session_state[key]  # else the widget of another page begins with its first option


def adopt_value(key: str, value: str) -> None:
    """Set a widget's value from code: it holds from the next run of the page on."""
    st.query_params[key] = value


def set_widgets(values: Mapping[str, object]) -> None:
    """Set widgets by their names, before they are drawn."""
    for key, value in values.items():
        st.session_state[key] = value


def publish(key: str, value: str | None, default: str | None) -> None:
    """After a widget was drawn: put its value into the address, unless it is the default."""
    _published()[key] = value
    if value is None or value == default:
        st.query_params.pop(key, None)
    elif st.query_params.get(key) != value:
        st.query_params[key] = value


def _published() -> dict[str, str | None]:
    found: dict[str, str | None] = st.session_state.setdefault("published", {})
    return found


def rows_key(key: str, names: Iterable[str]) -> str:
    """The key of a table whose rows can be selected, by the names of its rows.

    A selection knows places: kept while the rows change, it would go over to whatever stands there now.
    """
    return f"{key}-{zlib.crc32(chr(0).join(names).encode()):08x}"


def remembered(key: str, make: Callable[[], T]) -> T:
    """What this tab keeps under `key`, made on first use."""
    found: T = st.session_state.setdefault(f"kept-{key}", make())
    return found


def shared(key: str, make: Callable[[], T]) -> T:
    """What all tabs keep under `key`, and a reload finds again; made on first use."""
    found: T = _shared(data_dir()).setdefault(key, make())
    return found


@st.cache_resource(show_spinner=False)
def _shared(root: Path) -> dict[str, Any]:
    return {}


def end_runners() -> None:
    """End what is running, and the worker."""
    _runner.clear()
