"""Runs as folders: what is written survives crashes, copies and damage."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import os
import shutil
import sqlite3
import subprocess
import sys
import zipfile
from pathlib import Path

import msgspec
import pytest

from core.report.run_forms import export_run
from core.runs.owner import Owner
from core.runs.store import Run, Store
from core.types import (
    Counts,
    Disturbance,
    Done,
    Failed,
    Loaded,
    ModelSpec,
    Pass,
    Phase,
    Request,
    Step,
    from_json,
    to_json,
)
from hardware.errors import ExplorerError
from tests.support.facts import host, setup


def test_a_request_survives_json(fake_request: Request) -> None:
    assert from_json(to_json(fake_request), Request) == fake_request
    assert from_json(to_json(fake_request), Request).key() == fake_request.key()


def test_events_are_read_incrementally_and_damage_is_passed_over(store: Store, fake_request: Request) -> None:
    run = store.create(fake_request)
    assert run.events() == []
    run.append(Phase(t_s=0.1, name="loading"))
    assert len(run.events()) == 1
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b'{"type":"step","t_s":1,\n{"half": ')
    assert len(run.events()) == 1
    with (run.path / "events.jsonl").open("ab") as file:
        file.write(b"\n")
    run.append(Done(t_s=1.0))
    assert [type(e) for e in run.events()] == [Phase, Done]
    assert run.status() == "done"


def test_status_follows_from_the_folder(store: Store, fake_request: Request) -> None:
    run = store.create(fake_request)
    assert run.status() == "interrupted"  # nobody owns it
    run.own(os.getpid())
    assert run.status() == "queued"
    child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    run.own(child.pid, watched=True)
    child.kill()
    child.wait()
    assert run.status() == "queued"  # this process is about to say why
    run.disown()
    assert run.status() == "interrupted"
    run.own(os.getpid())
    run.append(Phase(t_s=0.1, name="loading"))
    assert run.status() == "running"
    run.append(Failed(t_s=0.2, message="Broken.", hint="Mend it."))
    assert run.status() == "failed"
    assert run.result().error == "Broken."


def test_a_finished_run_is_one_that_is_there_and_done(store: Store, fake_request: Request) -> None:
    run = store.create(fake_request)
    run.own(os.getpid())
    assert store.finished(run.id) is None and store.finished("nowhere") is None
    run.append(Done(t_s=1.0))
    found = store.finished(run.id)
    assert found is not None and found.id == run.id
    (run.path / "events.jsonl").unlink()
    (run.path / "events.jsonl").mkdir()  # damaged, and not only absent
    assert store.finished(run.id) is None


def test_a_new_data_folder_is_its_owners_alone_and_one_that_is_there_stays_as_it_is(tmp_path: Path) -> None:
    new, shared = tmp_path / "new", tmp_path / "shared"
    shared.mkdir()
    shared.chmod(0o755)
    for root in (new, shared):
        Store(root)
    assert new.stat().st_mode & 0o077 == 0 and shared.stat().st_mode & 0o777 == 0o755


def test_a_bundle_redraws_elsewhere(store: Store, fake_request: Request, tmp_path: Path) -> None:
    run = store.create(fake_request)
    run.append(
        Step(t_s=1, pass_no=0, phase="decode", seconds=0.5, counts=Counts(tokens=1, forwards=1, inputs=1), n_context=3)
    )
    run.append(Done(t_s=2))
    other = Store(tmp_path / "elsewhere")
    copy = other.load(run.bundle())
    assert copy.id == run.id and copy.request == run.request and copy.events() == run.events()
    assert copy.result() == run.result()
    assert other.load(run.bundle()).path == copy.path  # twice is once


def test_a_bundle_brings_the_ceilings_of_its_machine(store: Store, fake_request: Request, tmp_path: Path) -> None:
    """The roofline is redrawn under the roof of the machine that ran it, whatever machine shows it."""
    from core.runs.ceilings import ceilings_of
    from hardware import ceilings

    gemm = ceilings.Gemm("fp32", 8, 8, 8, 1e11, "made for a test")
    read = ceilings.ReadPoint(1 << 20, 2e10, 2e10)
    roofs = ceilings.Ceilings(
        machine_id="elsewhere", device="cpu", threads=3, date="2026-01-01T00:00:00Z", quick=True, seconds=1.0,
        gemms=(gemm,), reads=(read,),
    )  # fmt: skip
    ceilings.save(roofs, store.root / "ceilings")
    run = store.create(fake_request)
    spec = ModelSpec(name="m", architecture="a", d_model=1, n_blocks=0, vocab_size=1, max_context=None, layers=())
    run.append(
        Loaded(
            t_s=0, seconds=1, warm=False, spec=spec, n_prompt_tokens=1, prompt_text="", setup=setup(threads=3),
            host=host(machine_id="elsewhere"), capabilities=(),
        )
    )  # fmt: skip
    other = Store(tmp_path / "elsewhere")
    copy = other.load(run.bundle())
    assert ceilings_of(other.root, copy.result()) == roofs


@pytest.mark.parametrize("data", [b"", b"PK nonsense", b"hello"])
def test_a_strange_file_is_no_bundle(store: Store, data: bytes) -> None:
    with pytest.raises(ExplorerError, match="not a Roofscope run bundle"):
        store.load(data)


def test_a_bundle_cannot_write_outside_the_store(store: Store, fake_request: Request, tmp_path: Path) -> None:
    run = store.create(fake_request)
    source = zipfile.ZipFile(io.BytesIO(run.bundle()))
    evil = io.BytesIO()
    with zipfile.ZipFile(evil, "w") as out:
        for name in source.namelist():
            data = source.read(name)
            if name == "roofscope.json":
                data = data.replace(run.id.encode(), b"../../escaped")
            out.writestr(name, data)
    with pytest.raises(ExplorerError, match="not a Roofscope run bundle"):
        store.load(evil.getvalue())
    assert store.ids() == [run.id] and not [*store.root.parent.rglob("escaped")]


def test_history_indexes_finished_runs_and_survives_a_lost_index(store: Store, fake_request: Request) -> None:
    first = store.create(fake_request)
    first.append(Done(t_s=1))
    assert [r["run_id"] for r in store.history()] == [first.id]
    (store.root / "index.sqlite").write_bytes(b"this is not a database at all, whatever its name says")
    assert [r["run_id"] for r in store.history()] == [first.id]
    assert store.history()[0]["disturbed"] == ""
    store.delete(first.id)
    assert store.history() == []


def test_a_data_folder_that_was_moved_away_begins_anew(store: Store, fake_request: Request) -> None:
    first = store.create(fake_request)
    store.root.rename(store.root.with_name("elsewhere"))
    assert store.ids() == store.history() == []
    second = store.create(fake_request)
    assert store.ids() == [second.id]
    shutil.rmtree(store.root)
    assert Store(store.root.with_name("elsewhere")).ids() == [first.id]
    shutil.rmtree(store.folder, ignore_errors=True)
    assert store.create(fake_request).id in store.ids()


def test_an_index_of_an_earlier_version_is_read_and_written_anew(store: Store, fake_request: Request) -> None:
    """Its rows held the stages as lists, whose reading took most of the time of a long history."""
    run = store.create(fake_request)
    run.append(Done(t_s=3.0, cancelled=False))
    (row,) = store.history()
    assert json.loads(row["stages"])[0][:2] == ["starting", 3.0]
    with contextlib.closing(sqlite3.connect(store.root / "index.sqlite")) as index, index:
        old = to_json(row | {"stages": json.loads(row["stages"]), "model": "kept"}).decode()
        index.execute("UPDATE history SET row = ?", (old,))
    assert store.history() == [row | {"model": "kept"}], "it was not made anew"
    with contextlib.closing(sqlite3.connect(store.root / "index.sqlite")) as index:
        ((words,),) = index.execute("SELECT row FROM history").fetchall()
    assert json.loads(words)["stages"] == row["stages"]


def test_history_tells_what_disturbed_a_run(store: Store, fake_request: Request) -> None:
    run = store.create(fake_request)
    spec = ModelSpec(name="m", architecture="a", d_model=1, n_blocks=1, vocab_size=1, max_context=None, layers=())
    run.append(
        Loaded(
            t_s=1,
            seconds=1,
            warm=False,
            spec=spec,
            n_prompt_tokens=8,
            prompt_text="",
            setup=setup(),
            host=host(),
            capabilities=(),
        )
    )
    run.append(Pass(t_s=2, number=0, kind="timing"))
    one = Counts(tokens=1, forwards=1, inputs=1)
    run.append(Step(t_s=2, pass_no=0, phase="decode", seconds=0.5, counts=one, n_context=9))
    run.append(Disturbance(t_s=3, pass_no=0, seconds=2, n_cores=2, n_threads=2, cpu_s=2, waited_s=2, others_s=2))
    run.append(Done(t_s=4))
    (row,) = store.history()
    assert row["disturbed"].startswith("Disturbed while it was timed: ")
    steps = list(csv.DictReader(io.StringIO(export_run(run, "steps.csv").decode())))
    assert [(s["pass_kind"], s["disturbed"]) for s in steps] == [("timing", "True")]
    found = msgspec.json.decode(export_run(run, "json"))["result"]
    assert found["provisional"] is False and found["disturbance"]["disturbed"] is True
    assert found["disturbance"]["lost_share"] == 0.5


def test_a_half_written_folder_is_a_row_and_not_a_crash(store: Store) -> None:
    (store.folder / "20260101-000000-aaaaaa").mkdir()
    (row,) = store.history()
    assert row["status"] == "damaged" and "incomplete" in row["error"]
    with pytest.raises(ExplorerError, match="There is no run"):
        store.open("20260101-000000-aaaaaa")


@pytest.mark.parametrize("run_id", ["", "nope", "../x", ".hidden"])
def test_an_unknown_run_is_one_sentence(store: Store, run_id: str) -> None:
    with pytest.raises(ExplorerError, match="There is no run"):
        store.open(run_id)


def test_a_run_is_somebodys_from_its_first_moment_on(store: Store, fake_request: Request) -> None:
    """Whoever looks while it begins must not take it for interrupted, and the index never again look at it."""
    run = store.create(fake_request, os.getpid())
    assert run.status() == "queued"
    with (run.path / "owner.json").open("rb") as reader:
        run.own(os.getpid(), watched=True)
        assert msgspec.json.decode(reader.read()), "a reader in the middle sees the old one or the new one"


def test_an_end_that_is_written_while_one_looks_is_seen(
    store: Store, fake_request: Request, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = store.create(fake_request, os.getpid())

    def gone(self: Owner, silent_s: float) -> bool:
        Run(run.path).append(Done(t_s=1.0))
        return False

    monkeypatch.setattr(Owner, "at_work", gone)
    assert run.status() == "done"


def test_an_interrupted_run_that_goes_on_after_all_is_no_more_so_in_the_history(
    store: Store, fake_request: Request
) -> None:
    run = store.create(fake_request)
    assert [row["status"] for row in store.history()] == ["interrupted"]
    run.append(Done(t_s=1.0, cancelled=True))
    assert [row["status"] for row in store.history()] == ["cancelled"]
