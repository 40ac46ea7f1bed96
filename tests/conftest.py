"""Every test gets a home of its own; converted models are made once per session and shared by all its processes."""

from __future__ import annotations

import dataclasses
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from core.paths import data_dir
from core.runs.demo import OFFERED
from core.runs.resolve import Resolved
from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Generate, Request
from hardware.process import patient
from tests.support import preloaded
from tests.support.shared import PLACE

pytest_plugins = ("tests.support.processor_time", "tests.support.lanes", "tests.support.garbage")

FORKING = ("cli", "pages", "runs", "service", "studies", "worker")  # folders whose runs' workers are forks

os.environ |= patient() | {"OMP_NUM_THREADS": "1"}  # before a test loads a library; several processes share the cores
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # hundreds of processes are started: they compile the code but once
sys.dont_write_bytecode = False
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN and threading.current_thread() is threading.main_thread():
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job; what tests start inherits it


@pytest.fixture(scope="session", autouse=True)
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that all processes of this session see."""
    own = tmp_path_factory.getbasetemp()
    path = (own.parent if "PYTEST_XDIST_WORKER" in os.environ else own) / "shared"
    path.mkdir(exist_ok=True)
    os.environ[PLACE] = str(path)
    return path


@pytest.fixture(scope="session")
def shared_cache(shared: Path) -> Path:
    cache = shared / "cache"
    cache.mkdir(exist_ok=True)
    return cache


@pytest.fixture(autouse=True)
def home(tmp_path: Path, shared_cache: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """ROOFSCOPE_HOME for this test; HOME too, so that no model folder of the machine is found."""
    path = tmp_path / "home"
    path.mkdir()
    (path / "cache").symlink_to(shared_cache)
    (path / "data").mkdir()
    (path / "data" / OFFERED).touch()  # tests start from an empty store, not from the recorded run
    monkeypatch.setenv("ROOFSCOPE_HOME", str(path))
    monkeypatch.setenv("HOME", str(path))
    for name in ("HF_HOME", "HF_HUB_CACHE", "OLLAMA_MODELS", "LLAMA_CACHE", "XDG_CACHE_HOME", "XDG_DATA_HOME"):
        monkeypatch.delenv(name, raising=False)
    return path


@pytest.fixture
def store(home: Path) -> Store:
    return Store(data_dir())


@pytest.fixture
def runner(store: Store) -> Iterator[Runner]:
    made = Runner(store)
    yield made
    made.close()


@pytest.fixture
def fake_request() -> Request:
    return Request(
        model="smollm2-135m", backend="fake", task=Generate(prompt="Hello", max_new_tokens=6), threads=1, retries=0
    )


@pytest.fixture
def unrepeated(monkeypatch: pytest.MonkeyPatch) -> None:
    """No timing pass is repeated, unless the request says how often: beside other tests nearly every one is disturbed.

    Each repetition would wait seconds for a calm that does not come. What is repeated, and when, tests/worker tells.
    """
    begin, default = Runner.begin, Request(model="", backend="").retries

    def once(self: Runner, wanted: Resolved, keep: int = 1) -> str:
        if wanted.request.retries == default:
            wanted = dataclasses.replace(wanted, request=msgspec.structs.replace(wanted.request, retries=0))
        return begin(self, wanted, keep)

    monkeypatch.setattr(Runner, "begin", once)


@pytest.fixture(autouse=True)
def workers(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where many short runs are made, their workers are forks of a process that has loaded what they need."""
    if request.path.parent.name in FORKING and "new_workers" not in request.fixturenames:
        preloaded.workers(monkeypatch, "endpoint", "fake", "pytorch")


@pytest.fixture
def new_workers() -> None:
    """This test's workers are new processes there, too, as the product starts them."""
