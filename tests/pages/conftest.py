"""The whole app in AppTest, on an empty store or on one with runs of the fake backend."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from streamlit.components.v2 import manifest_scanner
from streamlit.testing.v1 import AppTest

from core.runs.runner import Runner
from core.runs.store import Store
from core.types import Generate, Request
from tests.support.shared import once

ROOT = Path(__file__).parents[2]
TINY = Request(
    model="tiny-moe", backend="fake", task=Generate(prompt="Hello there", max_new_tokens=8), threads=1, warmup=0
)


def pages() -> list[str]:
    """Every page of the app by its path, `pages/measure/run.py`."""
    return sorted(
        str(p.relative_to(ROOT)) for p in (ROOT / "pages").glob("*/*.py") if p.parent.name != "ui" and p.name[0] != "_"
    )


_components = functools.cache(manifest_scanner.scan_component_manifests)


@pytest.fixture(autouse=True)
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every AppTest asks all installed packages for Streamlit components: read once, which saves most of its time."""
    monkeypatch.setattr(manifest_scanner, "scan_component_manifests", lambda: list(_components()))


def two_runs(root: Path) -> None:
    """A data folder with two finished runs."""
    root.mkdir()
    runner = Runner(Store(root))
    for strategy in ("autoregressive", "native"):
        run_id = runner.start(msgspec.structs.replace(TINY, strategy=strategy))
        assert runner.wait(run_id).status() == "done"
    runner.close()


@pytest.fixture
def filled(home: Path) -> Store:
    """This test's store, with two finished runs in it; the newest one is first."""
    shutil.copytree(once("two-runs", two_runs), home / "data", dirs_exist_ok=True)
    return Store(home / "data")


@pytest.fixture
def app(home: Path) -> Iterator[Callable[..., AppTest]]:
    """Opens the app: app(page, **query)."""

    def open_app(page: str | None = None, **query: str) -> AppTest:
        at = AppTest.from_file(str(ROOT / "app.py"), default_timeout=180)
        if page:
            at.switch_page(page)
        for name, value in query.items():
            at.query_params[name] = value
        return at.run()

    yield open_app
    from pages.ui import state

    state._runner.clear()  # ends its worker


def sound(at: AppTest) -> AppTest:
    """No exception reached the screen, neither as a traceback nor as "something went wrong"."""
    assert not at.exception, at.exception[0].message
    broken = [e for e in at.error if "Something went wrong" in e.proto.title]
    assert not broken, at.code[-1].value if at.code else broken
    return at
