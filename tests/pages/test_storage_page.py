"""The page Storage frees what can be made again at once, and asks before anything else goes."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core import storage
from core.models import derived
from core.runs.store import Store
from tests.pages.conftest import sound

Open = Callable[..., AppTest]
PAGE = "pages/manage/storage.py"


@pytest.fixture
def half(filled: Store) -> Path:
    """What a process that was killed long ago left behind."""
    path = derived.folder() / ".half.partial"
    path.mkdir(parents=True)
    (path / "weights").write_bytes(b"x" * 5000)
    for file in (path / "weights", path):
        os.utime(file, (1e9, 1e9))
    return path


def test_everything_is_in_the_table(app: Open, filled: Store, half: Path) -> None:
    at = sound(app(PAGE))
    table = at.dataframe[0].value.set_index("Kind")
    assert table.loc["Runs", "How many"] == 2 and table.loc["Runs", "Made again"] == "no"
    assert table.loc["Half-made", "Size (MB)"] == pytest.approx(0.005)
    at.selectbox(key="kind").set_value("runs").run()
    assert sorted(sound(at).dataframe[1].value["Name"]) == sorted(filled.ids())


def test_what_can_be_made_again_goes_at_once(app: Open, half: Path) -> None:
    at = app(PAGE, kind="leftovers")
    at.button(key="free-all").click().run()
    assert [m.value for m in sound(at).success] == ["1 removed, 5.00 kB."]
    assert not half.exists()


def test_what_cannot_is_asked_for(app: Open, filled: Store) -> None:
    at = app(PAGE, kind="runs")
    at.button(key="free-all").click().run()
    assert any("These 2 cannot be made again" in m.value for m in sound(at).markdown)
    assert at.button(key="storage-yes") and len(filled.ids()) == 2


def test_the_limit_is_kept(app: Open, filled: Store) -> None:
    at = app(PAGE)
    at.number_input(key="storage-quota").set_value(3.5)
    next(b for b in at.button if b.label == "Keep this limit").click().run()
    assert sound(at).success and storage.quota_bytes() == 3_500_000_000


@pytest.mark.parametrize("page", ["pages/measure/run.py", "pages/compare/history.py", PAGE, "pages/plan/devices.py"])
def test_a_data_folder_that_is_a_file_takes_no_page_down(
    app: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, page: str
) -> None:
    (tmp_path / "file").write_text("not a folder")
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "file"))
    assert any("a file is in its place" in e.proto.title for e in sound(app(page)).error)


@pytest.mark.parametrize("run", ["x" * 5000, "a\0b", "../../etc", "."])
def test_an_id_that_no_run_can_have_is_a_notice(app: Open, filled: Store, run: str) -> None:
    sound(app("pages/measure/run.py", run=run))
