"""History and two runs side by side."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from streamlit.testing.v1 import AppTest

from core.runs import demo
from core.runs.history import matching
from core.runs.store import IMPORTED, Store
from hardware.detect import machine_id
from pages.compare._history_table import _machine
from pages.ui import text
from tests.pages.conftest import pages, sound

Open = Callable[..., AppTest]
HISTORY, COMPARE = "pages/compare/history.py", "pages/compare/compare.py"


def test_every_run_has_a_row(app: Open, filled: Store) -> None:
    at = sound(app(HISTORY))
    table = at.dataframe[0].value
    assert len(table) == 2
    assert list(table["Model"]) == ["tiny-moe", "tiny-moe"]
    assert list(table["What"]) == ["Native", "Autoregressive"]
    assert (table["Decode (tok/s)"] > 0).all()
    assert list(table["Machine"]) == ["This machine", "This machine"]
    assert not {"Name", "Note"} & set(table), "nobody gave one"
    filled.annotate(filled.ids()[0], name="First try")
    table = sound(app(HISTORY)).dataframe[0].value
    assert next(iter(table["Name"])) == "First try" and "Note" not in table


def test_a_run_of_another_machine_says_whose_numbers_these_are(app: Open, store: Store) -> None:
    recorded = store.load(demo.BUNDLE.read_bytes())
    host = recorded.result().host
    assert host is not None
    if host.machine.machine_id == machine_id():
        pytest.skip("the recorded run was made on this very machine")
    assert list(sound(app(HISTORY)).dataframe[0].value["Machine"]) == [host.machine.cpu]
    at = sound(app(run=recorded.id))
    assert any("On another machine" in m.value for m in at.markdown)


def test_a_machine_of_the_same_kind_is_another_machine() -> None:
    """Its id is the same; the name is what a study calls it, and an import has none."""
    rows = [{"machine_id": machine_id(), "machine": "A processor", "origin": name} for name in ("", "desk", IMPORTED)]
    assert [_machine(row) for row in rows] == ["This machine", "desk", "A processor"]


def test_search(app: Open, filled: Store) -> None:
    at = app(HISTORY)
    at.text_input(key="search").set_value("tiny native").run()
    assert len(sound(at).dataframe[0].value) == 1
    at.text_input(key="search").set_value("no such thing").run()
    assert not sound(at).dataframe
    rows = [{"run_id": "1", "model": "Gpt2", "text": None}, {"run_id": "2", "model": "bert"}]
    assert [r["run_id"] for r in matching(rows, "GPT")] == ["1"]
    assert matching(rows, "") == rows
    written = [{"run_id": "1", "backend": "llama_cpp", "strategy": "early_exit"}, {"run_id": "2", "backend": "pytorch"}]
    for words in ("llama.cpp early exit", "llama_cpp EARLY_EXIT", "llama.cpp"):
        assert [r["run_id"] for r in matching(written, words)] == ["1"], words


def test_a_damaged_folder_is_a_row_with_a_sentence(app: Open, filled: Store) -> None:
    shutil.copytree(filled.folder / filled.ids()[0], filled.folder / "20990101-000000-ffffff")
    (filled.folder / "20990101-000000-ffffff" / "request.json").write_text("{")
    at = sound(app(HISTORY))
    assert at.dataframe[0].value["Status"][0] == "Damaged"
    assert any("1 damaged" in c.value for c in at.caption)


def test_an_interrupted_run_says_so(app: Open, filled: Store) -> None:
    newest = filled.ids()[0]
    path = filled.folder / "20990101-000000-eeeeee"
    shutil.copytree(filled.folder / newest, path)
    lines = (path / "events.jsonl").read_bytes().splitlines(keepends=True)
    (path / "events.jsonl").write_bytes(b"".join(lines[: len(lines) // 2]) + b'{"type":"st')
    filled.open(path.name).disown()  # the app that ran it is gone
    at = sound(app(run=path.name))
    assert any("interrupted" in w.proto.title for w in at.warning)


def test_two_runs_side_by_side(app: Open, filled: Store) -> None:
    newest, older = filled.ids()
    at = sound(app(COMPARE, first=older, second=newest))
    assert at.selectbox(key="first").value == older
    assert at.selectbox(key="second").value == newest
    assert {"Decode speed", "Time to first token", "Peak memory"} <= {m.label for m in at.metric}
    assert all("×" in m.delta for m in at.metric if m.delta)
    assert "Strategy" in str(at.table[0].value)
    assert at.get("vega_lite_chart")


def test_one_run_cannot_be_compared(app: Open, filled: Store) -> None:
    filled.delete(filled.ids()[0])
    at = sound(app(COMPARE))
    assert any("Two runs are needed" in m.value for m in at.markdown)


def test_what_a_pass_costs_on_another_machine_is_not_said_of_this_one(app: Open, store: Store) -> None:
    result = store.load(demo.BUNDLE.read_bytes()).result()
    assert result.host is not None and result.forward_cost is not None
    if result.host.machine.machine_id == machine_id():
        pytest.skip("the recorded run was made on this very machine")
    at = sound(app("pages/understand/decoding.py"))
    machine = result.host.machine.cpu
    assert [machine in name for name in at.selectbox(key="of").options] == [True]
    (told,) = [m.value for m in at.markdown if "per forward pass" in m.value]
    assert text.escape(machine) in told and " here" not in told


def test_a_fresh_store_holds_the_recorded_run_and_every_page_draws_it(app: Open, home: Path) -> None:
    (home / "data" / demo.OFFERED).unlink()
    at = sound(app())
    assert any("Recorded run" in m.value for m in at.markdown)
    assert len(sound(app(HISTORY)).dataframe[0].value) == 1
    for path in pages():
        sound(app(path))
    Store(home / "data").delete(str(demo.recorded_id()))
    sound(app())
    assert not Store(home / "data").ids()  # deleted is deleted
