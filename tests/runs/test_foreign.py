"""Whatever a run folder or a bundle holds, it is a row, or one sentence; nothing that comes from outside takes more."""

from __future__ import annotations

import io
import json
import os
import random
import sqlite3
import zipfile
from datetime import datetime, timedelta, timezone
from pathlib import Path

import pytest

from core.runs import store as runs
from core.runs.demo import load_into, recorded_id
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import Request
from hardware.errors import ExplorerError

ODD = (None, -1, 0, 1e300, -1e300, 2**63, 2**80, "", "x" * 5000, "\0", [], {}, True, [[[]]], "NaN")


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """With the run that comes with the project."""
    found = Store(tmp_path)
    load_into(found)
    return found


@pytest.fixture
def bundle(store: Store) -> dict[str, bytes]:
    """The files of a good bundle."""
    with zipfile.ZipFile(io.BytesIO(store.open(store.ids()[0]).bundle())) as found:
        return {name: found.read(name) for name in found.namelist()}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as out:
        for name, data in files.items():
            out.writestr(name, data)
    return buffer.getvalue()


def renamed(files: dict[str, bytes], **about: object) -> dict[str, bytes]:
    return files | {"roofscope.json": json.dumps(json.loads(files["roofscope.json"]) | about).encode()}


def test_a_bundle_that_unpacks_to_gigabytes_is_refused_before_it_does(
    store: Store, bundle: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(runs, "MOST_BUNDLE_BYTES", 2_000_000)
    for name in ("events.jsonl", "log.txt"):
        with pytest.raises(ExplorerError, match="more than 2 MB"):
            store.load(zipped(renamed(bundle, run_id="new") | {name: b"0" * 3_000_000}))
    assert "new" not in store.ids()


@pytest.mark.parametrize("run_id", ["", ".", "..", "../up", "a/b", "a\0b", "x" * 300, "-rf", 7, None, ["a"], "a b"])
def test_an_id_that_is_no_plain_name_is_refused(store: Store, bundle: dict[str, bytes], run_id: object) -> None:
    before = sorted(store.root.rglob("*"))
    with pytest.raises(ExplorerError, match="not a Roofscope run bundle"):
        store.load(zipped(renamed(bundle, run_id=run_id)))
    assert sorted(store.root.rglob("*")) == before


ROOFS = {
    "machine_id": "elsewhere", "device": "cpu", "threads": 2, "date": "2026-01-01T00:00:00Z", "quick": True,
    "seconds": 1.0, "gemms": [],
    "reads": [{"working_set_bytes": 1024, "bytes_per_s": 2e10, "median_bytes_per_s": 1e10}],
}  # fmt: skip


@pytest.mark.parametrize(
    "odd",
    [
        *({"machine_id": name} for name in ("../up", "../../../up", "/up", "a/b", "a\0b", "x" * 300, "", "..", "a\n")),
        *({"threads": n} for n in (0, -1, 10**30)),
        *({"reads": [ROOFS["reads"][0] | {name: 0}]} for name in ROOFS["reads"][0]),  # type: ignore[index,operator]
        {"gemms": [{"dtype": "fp32", "m": 1, "k": 1, "n": 1, "flop_per_s": -1.0, "kernel": ""}]},
        {"mem_bytes": 0},
        {"copy_bytes_per_s": 1e300},
        {"versions": [[[]]]},
    ],
)
def test_ceilings_that_came_along_are_a_machines_or_left_out(
    store: Store, bundle: dict[str, bytes], tmp_path: Path, odd: dict[str, object]
) -> None:
    """They are kept in a file that is called as they call their machine."""
    before = sorted(tmp_path.parent.rglob("*.json"))
    run = store.load(zipped(renamed(bundle, run_id="new") | {"ceilings.json": json.dumps(ROOFS | odd).encode()}))
    assert run.result().status == "done"
    after = sorted(tmp_path.parent.rglob("*.json"))
    assert {path for path in after if not path.is_relative_to(run.path)} == set(before)
    store.load(zipped(renamed(bundle, run_id="good") | {"ceilings.json": json.dumps(ROOFS).encode()}))
    assert (store.root / "ceilings" / "elsewhere-cpu-2.json").is_file()


def test_a_bundle_that_is_refused_leaves_no_ceilings(store: Store, bundle: dict[str, bytes]) -> None:
    late = renamed(bundle, run_id="late", created_s=1e300) | {"ceilings.json": json.dumps(ROOFS).encode()}
    with pytest.raises(ExplorerError, match="damaged"):
        store.load(zipped(late))
    assert not (store.root / "ceilings" / "elsewhere-cpu-2.json").exists()


def test_a_damaged_zip_is_one_sentence(store: Store, bundle: dict[str, bytes]) -> None:
    good = zipped(renamed(bundle, run_id="new"))
    rng = random.Random(1)
    refused = 0
    for _ in range(200):
        data = bytearray(good)
        for _ in range(rng.choice((1, 4, 64))):
            data[rng.randrange(len(data))] = rng.randrange(256)
        for damaged in (bytes(data), good[: rng.randrange(len(good))]):
            try:
                store.delete(store.load(damaged).id)  # the damage may be where nothing reads
                load_into(store)
            except ExplorerError:
                refused += 1
    assert refused > 200
    assert not [p for p in store.folder.iterdir() if p.name.startswith(".")], "nothing half imported is left"


def test_what_a_newer_version_has_written_says_so(store: Store, bundle: dict[str, bytes]) -> None:
    lines = [json.loads(line) for line in bundle["events.jsonl"].splitlines()]
    newer = [line | ({"format": 99} if line["type"] == "loaded" else {}) for line in lines] + [{"type": "hologram"}]
    events = b"\n".join(json.dumps(line).encode() for line in newer) + b"\n"
    found = store.load(zipped(renamed(bundle, run_id="newer") | {"events.jsonl": events})).result()
    assert found.warnings[0].startswith("A newer version of Roofscope has written this run")
    assert not any("newer version" in words for words in store.load(zipped(bundle)).result().warnings)
    with pytest.raises(ExplorerError, match="newer version of Roofscope has made this bundle"):
        store.load(zipped(renamed(bundle, run_id="later", format="roofscope-run-2")))


def test_a_run_whose_events_contradict_each_other_is_not_imported(store: Store, bundle: dict[str, bytes]) -> None:
    lines = [json.loads(line) for line in bundle["events.jsonl"].splitlines()]
    step = next(line for line in lines if line["type"] == "step")
    odd = [*lines[:2], step | {"seconds": -1.0, "tokens": None}, {"type": "step"}, [], 5]
    events = b"\n".join(json.dumps(line).encode() for line in odd) + b"\n"
    found = store.load(zipped(renamed(bundle, run_id="odd") | {"events.jsonl": events}))
    assert found.result().status == "interrupted", "lines that are damaged are passed over, and that is said"
    assert found.result().warnings[-1] == "4 of this run's 6 events cannot be read, so that figures may be missing."
    assert not any("cannot be read" in words for words in store.load(zipped(bundle)).result().warnings)
    with pytest.raises(ExplorerError, match="not a Roofscope run bundle"):
        store.load(zipped(renamed(bundle, run_id="late", created_s=10**400)))
    with pytest.raises(ExplorerError, match="damaged: it says that it was made"):
        store.load(zipped(renamed(bundle, run_id="late", created_s=1e300)))
    assert "late" not in store.ids()


def test_whatever_its_events_say_a_run_is_a_row_and_can_be_deleted(store: Store) -> None:
    """Values of every event are replaced at random; the run is read or called damaged, and never more."""
    source = store.open(store.ids()[0])
    lines = [json.loads(line) for line in (source.path / "events.jsonl").read_bytes().splitlines()]
    kinds = {line["type"]: line for line in lines}
    few = [*kinds.values(), *(line for line in lines if line["type"] == "step")][:40]
    rng = random.Random(7)
    for n in range(300):
        made = [dict(line) for line in few if rng.random() > 0.1]
        for _ in range(rng.choice((1, 1, 3))):
            line = rng.choice(made)
            name = rng.choice(list(line))
            line[name] = rng.choice([*ODD, rng.choice(few).get(name)])
        path = store.folder / f"odd-{n}"
        path.mkdir()
        (path / "request.json").write_bytes((source.path / "request.json").read_bytes())
        (path / "created.json").write_text(str(rng.choice((1.0, 1e300, -1, 1e9))))
        (path / "events.jsonl").write_bytes(b"\n".join(json.dumps(line).encode() for line in made) + b"\n")
    rows = {row["run_id"]: row for row in store.history()}
    assert len(rows) == 301
    assert {row["status"] for row in rows.values()} >= {"damaged", "done"}
    assert all(row["error"] for row in rows.values() if row["status"] == "damaged")
    assert store.history() == list(rows.values()), "from the index as well"
    for run_id in rows:
        store.delete(run_id)
    assert store.history() == []


def test_the_last_moment_that_a_run_may_be_of_is_a_date_everywhere() -> None:
    ahead = timezone(timedelta(hours=14))  # Kiritimati
    assert datetime.fromtimestamp(runs._YEAR_9999_S, ahead).year == 9999


def test_of_several_runs_those_go_that_can(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another tab has deleted one meanwhile, one is going, and the folder of one cannot be written."""
    for name in ("gone", "going", "kept", "odd"):
        (store.folder / name).mkdir()
    request = (store.open(recorded_id() or "").path / "request.json").read_bytes()
    (store.folder / "going" / "request.json").write_bytes(request)
    Run(store.folder / "going").own(os.getpid())
    removed = runs.removed

    def refuse(path: Path) -> None:
        if path.name == "kept":
            raise PermissionError(13, "Permission denied")
        removed(path)

    monkeypatch.setattr(runs, "removed", refuse)
    store.delete("gone")
    kept = store.delete_all(["gone", "going", "kept", "odd"])
    assert [str(error).split(" ")[2] for error in kept] == ["going", "kept"] and all(error.hint for error in kept)
    assert {"going", "kept"} <= set(store.ids()) and not {"gone", "odd"} & set(store.ids())


def test_a_folder_that_is_no_run_is_a_row(store: Store) -> None:
    for name, files in {"empty": {}, "list": {"request.json": b"[]"}, "bytes": {"request.json": b"\xff\0"}}.items():
        (store.folder / name).mkdir()
        for file, data in files.items():
            (store.folder / name / file).write_bytes(data)
    rows = {row["run_id"]: row["status"] for row in store.history()}
    assert rows["empty"] == rows["list"] == rows["bytes"] == "damaged"
    for name in ("empty", "list", "bytes"):
        store.delete(name)


def test_names_that_are_no_utf8_and_links_take_no_list_down(store: Store, tmp_path: Path) -> None:
    """A link can be deleted, and what it leads to stays."""
    kept = store.ids()[0]
    os.makedirs(os.path.join(os.fsencode(store.folder), b"\xff\xfe"))
    (tmp_path / "there").mkdir()
    (store.folder / "linked").symlink_to(store.folder / kept)
    (store.folder / "leads-out").symlink_to(tmp_path / "there")
    for history in (store.history, store.history):  # with the index that the first one makes
        rows = {row["run_id"]: row["status"] for row in history()}
        assert rows == {kept: "done", "linked": "done", "leads-out": "damaged"}
    for name in ("linked", "leads-out"):
        store.delete(name)
    assert store.ids() == [kept] and store.open(kept).status() == "done" and (tmp_path / "there").is_dir()


def test_history_needs_no_index(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    before = store.history()
    index = store.root / "index.sqlite"
    index.write_bytes(b"no database " * 100)
    assert store.history() == before
    index.unlink()
    index.mkdir()  # nothing can be written there
    assert store.history() == before
    index.rmdir()

    def full(*args: object, **kwargs: object) -> None:
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(sqlite3, "connect", full)
    assert store.history() == before
    store.delete(before[0]["run_id"])
    assert store.history() == before[1:]


def test_a_run_of_another_container_goes_on_while_it_writes(runner: Runner, fake_request: Request) -> None:
    run = runner.wait(runner.start(fake_request))
    lines = (run.path / "events.jsonl").read_bytes().splitlines(keepends=True)
    (run.path / "events.jsonl").write_bytes(b"".join(lines[:-1]))
    told = json.loads((run.path / "owner.json").read_bytes()) if (run.path / "owner.json").exists() else {}
    told |= {"pid": 2**22 + 1, "started": 1.0, "here": "another boot pid:[1]", "watcher": None}
    (run.path / "owner.json").write_text(json.dumps(told))
    assert Run(run.path).status() == "running"
    for name in ("events.jsonl", "owner.json"):
        os.utime(run.path / name, (1e9, 1e9))
    assert Run(run.path).status() == "interrupted"
