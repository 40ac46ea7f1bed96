"""A run's name and note: kept, bounded, found, exported and left out of what is shared without texts."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import msgspec
import pytest
from click.testing import CliRunner

from core.cli import cli
from core.paths import data_dir
from core.report.bundle_for_others import shared_bundle
from core.report.run_forms import export_run
from core.runs import about
from core.runs.about import MOST_NAME, MOST_NOTE, About
from core.runs.history import matching
from core.runs.store import Run, Store
from core.types import Done, Request
from hardware.errors import ExplorerError
from tests.pages.conftest import TINY


def ended(store: Store, request: Request = TINY) -> Run:
    run = store.create(request)
    run.append(Done(t_s=1.0))
    return run


@pytest.fixture
def store(home: Path) -> Store:
    return Store(data_dir())


def test_words_are_kept_and_bounded(store: Store) -> None:
    run = ended(store)
    assert run.about == About()
    store.annotate(run.id, name="  cold\nstart ", note="line one\r\nline two\n")
    assert run.about == About(name="cold start", note="line one\nline two")
    store.annotate(run.id, note="")
    assert run.about == About(name="cold start"), "what is not given stays"
    store.annotate(run.id, name="")
    assert not (run.path / about.FILE).exists()
    for given in ({"name": "n" * (MOST_NAME + 1)}, {"note": "n" * (MOST_NOTE + 1)}):
        with pytest.raises(ExplorerError, match="at most"):
            store.annotate(run.id, **given)
    with pytest.raises(ExplorerError, match="no run"):
        store.annotate("20990101-000000-000000", name="x")


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        ("a\x00b\x1b[31mc", "ab[31mc"),
        ("abc\u202egnp.exe", "abcgnp.exe"),
        ("\ud800x", "x"),
        ("été 漢字 🎉", "été 漢字 🎉"),
    ],
)
def test_hostile_characters_are_left_out(store: Store, given: str, kept: str) -> None:
    run = ended(store)
    assert store.annotate(run.id, name=given, note=given) == About(name=kept, note=kept)
    (run.path / about.FILE).write_bytes(msgspec.json.encode({"name": given.replace("\ud800", ""), "note": ""}))
    assert run.about.name == kept, "as well where it came with a bundle"


@pytest.mark.parametrize(
    "data", [b"{", b"[]", b'{"name": 3}', b'{"name": "' + b"n" * 200 + b'"}', b" " * 200_000, b"\xff"]
)
def test_a_file_that_is_none_says_nothing(store: Store, data: bytes) -> None:
    run = ended(store)
    (run.path / about.FILE).write_bytes(data)
    assert run.about == About()
    assert store.history()[0]["name"] == ""


def test_history_finds_it_also_when_it_was_given_later(store: Store) -> None:
    first, second = ended(store), ended(store)
    assert {row["name"] for row in store.history()} == {""}
    store.annotate(first.id, name="Baseline", note="before the BIOS update")
    rows = store.history()
    assert [row["run_id"] for row in matching(rows, "baseline bios")] == [first.id]
    assert matching(rows, second.id) and not matching(rows, "baseline nothing")


def test_the_command_line_names_and_finds(store: Store) -> None:
    run = ended(store)
    for command in (["name", run.id, "Baseline"], ["note", run.id, "a remark"]):
        done = CliRunner().invoke(cli, ["runs", *command])
        assert done.exit_code == 0, done.output
    assert run.about == About(name="Baseline", note="a remark")
    found = json.loads(CliRunner().invoke(cli, ["runs", "--find", "REMARK", "--json"]).stdout)
    assert [row["name"] for row in found] == ["Baseline"]
    assert json.loads(CliRunner().invoke(cli, ["runs", "--find", "nothing", "--json"]).stdout) == []
    assert "Baseline" in CliRunner().invoke(cli, ["runs"]).stdout
    wrong = CliRunner().invoke(cli, ["runs", "name", run.id, "n" * 200])
    assert wrong.exit_code == 2 and "at most" in wrong.stderr
    assert CliRunner().invoke(cli, ["runs", "note", "none", "x"]).exit_code == 2


def test_it_goes_with_exports_and_not_with_what_has_no_texts(store: Store, tmp_path: Path) -> None:
    run = ended(store)
    store.annotate(run.id, name="Baseline", note="on <b>my</b> desk")
    told = json.loads(export_run(run, "json"))
    assert (told["name"], told["note"]) == ("Baseline", "on <b>my</b> desk")
    again = Store(tmp_path / "other").load(run.bundle())
    assert again.about == run.about
    bare = shared_bundle(run, texts=False)
    assert about.FILE not in zipfile.ZipFile(io.BytesIO(bare)).namelist()
    assert about.FILE in zipfile.ZipFile(io.BytesIO(shared_bundle(run, texts=True))).namelist()
