"""What lies on the disk is found and named; what cannot be made again, and what a process uses, stays."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from filelock import FileLock

from core import storage
from core.cli import cli
from core.endpoints.store import endpoints
from core.loadtest.load_store import LoadStore
from core.loadtest.plan import Plan
from core.models import artifact_cache, derived
from core.paths import cache_dir, data_dir
from core.runs import chats
from core.runs.chats import Chat, Turn
from core.runs.demo import load_into
from core.runs.lineage import TOLD, work_folder
from core.runs.owner import Owner
from core.runs.store import Store
from core.types import ModelEntry, Progress, to_json
from hardware.errors import ExplorerError
from tests.pages.conftest import TINY
from tests.support.progress import silent

LONG_AGO_S = 1_500_000_000.0


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with a cache of its own: nothing is freed that other tests share."""
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "own"))
    monkeypatch.setenv("HOME", str(tmp_path / "own"))
    return tmp_path / "own"


def write(path: Path, n_bytes: int = 10, age: bool = True) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"x" * n_bytes)
    return aged(path) if age else path


def aged(path: Path) -> Path:
    """As if written long ago."""
    for file in (path, *(path.rglob("*") if path.is_dir() else ())):
        os.utime(file, (LONG_AGO_S, LONG_AGO_S))
    return path


def model(name: str, parent: str = "base") -> Path:
    folder = derived.folder() / name
    write(folder / "weights", 1000)
    derived.write_about(folder, {"parent": parent, "transform": "prune", "label": name})
    return aged(folder)


def artifact(key: str, source: Path, n_bytes: int, used_s: float = LONG_AGO_S) -> Path:
    entry = ModelEntry(id=source.name, label=source.name, family="local", files={"hf": str(source)})

    def build(out: Path, progress: Progress) -> None:
        write(out / "w", n_bytes)

    final = artifact_cache.made(key, entry, "a copy", silent, lambda: n_bytes, build)
    for file in (final / artifact_cache.MARKER, final.with_name(f"{key}.used")):
        os.utime(file, (used_s, used_s))
    return final


@pytest.fixture
def full(tmp_path: Path) -> Store:
    """Something of every kind."""
    store = Store(data_dir())
    load_into(store)
    (run_id,) = store.ids()
    model("small")
    model("smaller", parent="small")
    write(tmp_path / "mine" / "w")
    artifact("aaaa", tmp_path / "mine", 300)
    artifact("bbbb", tmp_path / "gone", 400)
    chats.save(data_dir(), "20261127-080000-abcdef", Chat(sides=(TINY,), turns=(Turn(question="Why?"),)))
    aged(data_dir() / "chats")
    write(work_folder() / "k1" / "checkpoint.pt", 500)
    (work_folder() / "k1" / TOLD).write_bytes(to_json({"run": run_id, "model": "small", "transform": "distill"}))
    write(work_folder() / "k2" / TOLD, 2)
    write(data_dir() / "studies" / "ladder-x" / "study.json", 20)
    LoadStore(data_dir()).create(Plan(address="http://127.0.0.1:8080"), local=True)
    write(derived.folder() / ".half.partial" / "w", 60)
    write(data_dir() / "runs" / ".killed.abc123" / "request.json", 7)
    write(artifact_cache.folder() / "part-cccc-1234" / "w", 80)
    write(cache_dir() / "kernels" / "step-1234.so", 30)
    write(home_hub() / "models--org--name" / "blobs" / "abc", 900)
    aged(derived.folder() / ".half.partial")
    aged(data_dir() / "runs" / ".killed.abc123")
    aged(artifact_cache.folder() / "part-cccc-1234")
    aged(work_folder())
    return store


def home_hub() -> Path:
    return storage.hub_folder()


def of(kind: str) -> list[storage.Item]:
    return [item for item in storage.items() if item.kind == kind]


def test_everything_is_of_a_kind_and_says_what_made_and_uses_it(full: Store) -> None:
    found = {(item.kind, item.name): item for item in storage.items()}
    names = {kind: {name for k, name in found if k == kind} for kind in storage.BY_NAME}
    (run_id,) = full.ids()
    assert names["runs"] == {run_id}
    assert names["models"] == {"small", "smaller"} and names["studies"] == {"ladder-x"}
    assert names["trainings"] == {"k1"}
    assert found["chats", "20261127-080000-abcdef"].made_from == "tiny-moe in Fake"
    assert [item.made_from for item in found.values() if item.kind == "loads"] == ["http://127.0.0.1:8080"]
    assert names["artifacts"] == {"mine: a copy"} and names["orphans"] == {"gone: a copy"}
    assert names["kernels"] == {"compiled step"}
    assert names["leftovers"] == {".half.partial", ".killed.abc123", "part-cccc-1234", "k2"}
    assert names["downloads"] == {"org/name"}
    assert found["models", "small"].used_by == ("model smaller",)
    assert found["models", "small"].made_from == "base by prune"
    training = found["trainings", "k1"]
    assert training.made_from == "small by distill" and training.used_by == (f"run {run_id}",)
    assert found["downloads", "org/name"].size_bytes == 900
    assert not [item for item in found.values() if item.busy and item.kind != "rest"]
    rows = {row.kind.name: row for row in storage.totals(found.values())}
    assert rows["leftovers"].n == 4 and rows["leftovers"].oldest_s == LONG_AGO_S
    everything = storage.summary(found.values())
    assert everything.total_bytes == sum(row.size_bytes for row in rows.values())
    files = [f for root in (data_dir(), cache_dir(), home_hub()) for f in root.rglob("*") if f.is_file()]
    beside = [f for f in files if f.suffix in (".lock", ".used")]
    assert everything.total_bytes == sum(f.stat().st_size for f in files if f not in beside)


@pytest.mark.parametrize("kind", [k.name for k in storage.KINDS if k.again])
def test_what_can_be_made_again_goes_without_a_question(full: Store, kind: str) -> None:
    before = {item.path for item in storage.items() if item.kind not in (kind, "rest")}
    done = storage.free_kind(kind)
    assert done.n and done.size_bytes and not done.kept
    assert not of(kind)
    assert before <= {item.path for item in storage.items()}, "nothing else went"


@pytest.mark.parametrize("kind", [k for k in storage.FREED if not storage.BY_NAME[k].again])
def test_what_cannot_be_made_again_goes_after_a_yes_only(full: Store, kind: str) -> None:
    before = storage.items()
    with pytest.raises(ExplorerError, match="cannot be made again"):
        storage.free_kind(kind)
    assert storage.items() == before
    assert storage.free_kind(kind, yes=True).kept == ()
    assert not of(kind)


def test_settings_are_never_freed(full: Store) -> None:
    with pytest.raises(ExplorerError, match="nothing to free"):
        storage.free_kind("rest", yes=True)
    assert storage.free(of("rest"), yes=True).n == 0


@pytest.fixture
def reader(full: Store) -> Iterator[int]:
    """A living process that has a model and an artifact mapped or open."""
    files = [derived.folder() / "small" / "weights", artifact_cache.folder() / "aaaa" / "w"]
    code = """if True:
        import mmap, sys
        with open(sys.argv[1], "rb") as file:
            mapped = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
        opened = open(sys.argv[2])
        print("there", flush=True)
        input()
    """
    command = [sys.executable, "-c", code, *map(str, files)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline()
        yield process.pid
        process.kill()


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere the system does not tell what is mapped")
def test_what_a_process_has_open_stays(full: Store, reader: int) -> None:
    done = storage.free_kind("models", yes=True)
    assert done.n == 1 and done.kept == (f"small stays: Process {reader} has it open.",)
    assert storage.limit(0).kept and (artifact_cache.folder() / "aaaa" / "w").exists()
    assert not (artifact_cache.folder() / "bbbb").exists()


def test_what_is_going_on_keeps_what_it_needs(full: Store) -> None:
    """A run of a model, made by a transform: neither they nor checkpoints nor half-made models can go."""
    (run_id,) = full.ids()
    run = full.open(run_id)
    request = json.loads((run.path / "request.json").read_bytes())
    request |= {"model": "small", "backend": "pytorch", "task": {"type": "derive", "transform": "prune"}}
    (run.path / "request.json").write_text(json.dumps(request))
    (run.path / "events.jsonl").write_bytes(b"")
    (run.path / "owner.json").write_bytes(to_json(Owner.of(os.getpid())))
    (data_dir() / "index.sqlite").unlink(missing_ok=True)
    busy = {item.name for item in storage.items() if item.busy and item.kind != "rest"}
    assert busy == {run_id, "small", "k1", "k2", ".half.partial"}
    assert storage.free_kind("trainings", yes=True).n == storage.free_kind("runs", yes=True).n == 0


def test_a_load_test_that_is_going_stays(full: Store) -> None:
    (test_id,) = LoadStore(data_dir()).ids()
    LoadStore(data_dir()).open(test_id).own()
    done = storage.free_kind("loads", yes=True)
    assert done.n == 0 and "still going" in done.kept[0] and LoadStore(data_dir()).ids() == [test_id]


def test_a_study_that_is_carried_out_stays(full: Store) -> None:
    with FileLock(data_dir() / "studies" / "ladder-x" / "study.lock"):
        assert [item.busy for item in of("studies")] == ["It is being carried out."]
    assert not of("studies")[0].busy


def test_what_was_written_or_asked_for_a_moment_ago_stays(full: Store, tmp_path: Path) -> None:
    write(data_dir() / "runs" / ".new.abc123" / "request.json", age=False)
    artifact("dddd", tmp_path / "mine", 10)
    artifact("dddd", tmp_path / "mine", 10).with_name("dddd.used").touch()
    busy = {item.path.rpartition("/")[2] for item in storage.items() if item.busy and item.kind != "rest"}
    assert busy == {".new.abc123", "dddd"}


def test_the_quota_lets_what_was_used_longest_ago_give_way(tmp_path: Path) -> None:
    source = write(tmp_path / "mine" / "w").parent
    for n, key in enumerate(("a1", "b2", "c3")):
        artifact(key, source, 1000, LONG_AGO_S + n)
    os.utime(artifact_cache.folder() / "a1.used", (LONG_AGO_S + 9,) * 2)  # used again: b2 is the oldest now
    assert storage.limit(10_000).n == 0 and storage.quota_bytes() == 10_000
    storage.limit(4000)
    artifact("d4", source, 1000)
    assert [path.name for path in artifact_cache.whole()] == ["d4", "c3", "a1"]
    artifact("e5", source, 9000)
    assert {path.name for path in artifact_cache.whole()} == {"e5"}, "larger than the quota, and wanted all the same"


def test_a_full_disk_lets_them_give_way_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = write(tmp_path / "mine" / "w").parent
    for n, key in enumerate(("a1", "b2")):
        artifact(key, source, 1000, LONG_AGO_S + n)
    usage = artifact_cache.shutil.disk_usage

    def small(path: Path) -> object:
        taken = sum(artifact_cache.size_bytes(final) for final in artifact_cache.whole())
        return usage(path)._replace(free=3000 - taken)

    monkeypatch.setattr(artifact_cache.shutil, "disk_usage", small)
    artifact("c3", source, 1200, LONG_AGO_S + 5)
    assert [path.name for path in artifact_cache.whole()] == ["b2", "c3"]


def test_exports_go_with_the_model_that_is_forgotten(full: Store) -> None:
    artifact("eeee", derived.folder() / "small", 50)
    assert "small: a copy" in {item.name for item in of("artifacts")}
    derived.remove("small")
    assert not (artifact_cache.folder() / "eeee").exists() and not (derived.folder() / "small").exists()
    assert (artifact_cache.folder() / "aaaa").exists()
    for name in ("small", "../models/smaller", ".half", "", "x" * 5000, "a\0b"):
        with pytest.raises(ExplorerError, match="not a model made here"):
            derived.remove(name)


def test_an_export_of_a_model_that_was_made_again_is_found_no_more(full: Store) -> None:
    artifact("eeee", derived.folder() / "small", 50)
    os.utime(derived.folder() / "small" / "weights", (LONG_AGO_S + 5,) * 2)
    assert {item.name for item in of("orphans")} == {"gone: a copy", "small: a copy"}


def test_a_model_that_was_moved_away_when_its_process_died_comes_back(full: Store) -> None:
    (derived.folder() / "small").rename(derived.folder() / ".small.old")
    assert "small" in {item.name for item in of("models")}
    with derived.building("other") as out:
        derived.write_about(out, {})
    assert (derived.folder() / "small" / "weights").exists()


# ---------------------------------------------------------------- the command


def command(*words: str) -> Result:
    return CliRunner().invoke(cli, ["storage", *words])


def test_the_command_lists_and_frees(full: Store) -> None:
    told = json.loads(command("--json").stdout)
    assert {row["kind"]["name"] for row in told["totals"]} == set(storage.BY_NAME) and told["quota_bytes"] > 0
    assert "k1" in command("trainings").stdout
    refused = command("--free", "trainings")
    assert refused.exit_code == 2 and "cannot be made again" in refused.stderr and "--yes" in refused.stderr
    assert of("trainings")
    assert command("--free", "trainings", "--yes").exit_code == 0 and not of("trainings")
    assert json.loads(command("--free", "models", "--item", "smaller", "--yes", "--json").stdout)["n"] == 1
    assert {item.name for item in of("models")} == {"small"}
    assert command("--limit", "0.2 kB").exit_code == 0 and storage.quota_bytes() == 200
    assert not of("artifacts") and not of("orphans") and of("leftovers")


@pytest.mark.parametrize(
    "words",
    [
        ("--limit", "much"),
        ("--limit", "-1"),
        ("--limit", "nan"),
        ("--limit", "9" * 4000),
        ("--limit", "999999999TB"),
        ("--limit", "1GB", "--free", "runs"),
        ("--free", "rest"),
        ("--free", "models", "--item", "none"),
        ("--item", "none"),
        ("nothing",),
    ],
)
def test_what_cannot_be_meant_is_one_sentence(full: Store, words: tuple[str, ...]) -> None:
    before = storage.items()
    done = command(*words)
    assert done.exit_code == 2 and "Traceback" not in done.output
    assert storage.items() == before


def test_what_a_killed_process_left_of_an_endpoint_is_a_leftover(full: Store) -> None:
    for path in (".127-8080.gone/endpoint.json", "127-8081/.endpoint.json.7-7.part"):
        file = data_dir() / "endpoints" / path
        file.parent.mkdir(parents=True)
        file.write_bytes(b"{}")
        for old in (file, file.parent):
            os.utime(old, (1e9, 1e9))
    assert endpoints() == ()
    found = [item for item in storage.items() if item.kind == "leftovers" and "endpoints" in item.path]
    assert len(found) == 2 and not any(item.busy for item in found)
    assert storage.free(found).n == 2


def test_what_a_clock_that_went_back_left_in_the_future_can_go(full: Store) -> None:
    part = data_dir() / ".folders.json.7-7.part"
    part.write_bytes(b"")
    os.utime(part, (4e9, 4e9))
    (found,) = [item for item in storage.items() if item.path == str(part)]
    assert not found.busy


def test_a_chat_goes_and_its_runs_stay(full: Store) -> None:
    with pytest.raises(ExplorerError, match="cannot be made again"):
        storage.free_kind("chats")
    assert storage.free_kind("chats", yes=True).n == 1
    assert not chats.ids(data_dir()) and full.ids()
