"""What Roofscope writes to the disk, one operation each: how it is done, and what may be seen of it afterwards.

An operation goes from "before" to "after"; whatever happens to it, one of the two is seen, nothing else. Every one
starts from a home that holds a finished run. Paths come from ROOFSCOPE_HOME.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

from core import storage
from core.models import artifact_cache, derived, places
from core.paths import data_dir
from core.runs.demo import load_into
from core.runs.store import Run, Store
from core.studies.ledger import FILE, State
from core.studies.ledger import read as read_ledger
from core.studies.plan import Plan
from core.types import Done, Generate, ModelEntry, Phase, Request, to_json
from hardware import catalogue as devices
from hardware.device import Device
from hardware.errors import ExplorerError
from hardware.files import write_whole

BEFORE, AFTER = "before", "after"
NEW = Request(model="tiny-moe", backend="fake", task=Generate(prompt="Hi", max_new_tokens=4), threads=1)


class Operation(NamedTuple):
    """done: completes "a process that ...". seen: the state, in words. left: what must be there in the end.

    prepare: in the home, before. perform: what is disturbed. state: BEFORE, AFTER or what is wrong.
    keeps: where a power cut right after it must not undo it. long: it takes seconds.
    """

    name: str
    done: str
    left: str
    prepare: Callable[[], Any]
    perform: Callable[[], Any]
    state: Callable[[], str]
    keeps: bool = True
    long: bool = False


def store() -> Store:
    return Store(data_dir())


def nothing() -> None:
    """The home as it is."""


def one_of(found: Any, before: Any, after: Any) -> str:
    return BEFORE if found == before else AFTER if found == after else f"it is {found!r}"[:200]


def old_run() -> str:
    return sorted(store().ids())[0]


def new_runs() -> list[Run]:
    """Those beside the one that was there."""
    known = sorted(store().ids())
    return [Run(store().folder / run_id) for run_id in known[1:]]


# ---------------------------------------------------------------- runs


def created() -> str:
    found = new_runs()
    if any(run.request != NEW for run in found):
        return "a run without its request"
    return AFTER if found else BEFORE


def waiting() -> None:
    store().create(NEW)


def record() -> None:
    """As the worker does, without a model; that it tells of a full disk is seen in a whole run."""
    from core.worker.journal import Journal

    (run,) = new_runs()
    (run.path / "events.jsonl").unlink(missing_ok=True)
    with sentence():
        journal = Journal(run)
        for n in range(6):
            journal.write(Phase(t_s=float(n), name="decode", note=f"step {n}"))
        journal.end(Done(t_s=7.0))


@contextmanager
def sentence() -> Iterator[None]:
    """The caller of what is inside makes a sentence of a full disk."""
    try:
        yield
    except OSError as error:
        raise ExplorerError(f"The disk: {error.strerror}.", "Free some space.") from error


def recorded() -> str:
    (run,) = new_runs()
    return {"interrupted": BEFORE, "cancelled": BEFORE, "done": AFTER}.get(run.status(), run.status())


def bundle() -> None:
    data = store().open(old_run()).bundle()
    (data_dir() / "bundle.zip").write_bytes(data)
    store().delete(old_run())
    store().create(NEW)


def load() -> None:
    store().load((data_dir() / "bundle.zip").read_bytes())


def loaded() -> str:
    return one_of(sum(run.status() == "done" for run in store().runs()), 0, 1)


def delete() -> None:
    for run in new_runs():
        store().delete(run.id)


def deleted() -> str:
    """Half of a deletion is a row, damaged, that can be deleted."""
    return BEFORE if new_runs() else AFTER


def unindexed() -> None:
    (data_dir() / "index.sqlite").unlink()


def history() -> None:
    store().history()


# ---------------------------------------------------------------- models and what is converted


def entry() -> ModelEntry:
    return ModelEntry(id="mine", label="Mine", family="local", files={"hf": str(data_dir() / "mine")})


def convert() -> None:
    def build(out: Path, progress: Any) -> None:
        (out / "weights.bin").write_bytes(b"w" * 5000)
        (out / "config.json").write_bytes(b"{}")

    artifact_cache.made("0a1b", entry(), "a copy", lambda *a, **k: None, lambda: 6000, build)


def converted() -> str:
    found = artifact_cache.whole()
    if any((final / "weights.bin").stat().st_size != 5000 or not artifact_cache.about(final) for final in found):
        return "half an artifact passes for a whole one"
    return AFTER if found else BEFORE


def discard() -> None:
    for final in artifact_cache.whole():
        artifact_cache.discard(final)


def discarded() -> str:
    return {BEFORE: AFTER, AFTER: BEFORE}.get(converted(), converted())


def make_model(words: str = "second") -> None:
    with sentence(), derived.building("made") as out:
        (out / "weights.bin").write_bytes(words.encode() * 700)
        derived.write_about(out, {"note": words})


def first_model() -> None:
    make_model("first")


def model_made() -> str:
    derived.restore()
    found = derived.about("made").get("note")
    place = derived.folder() / "made" / "weights.bin"
    if found is None or place.read_bytes() != str(found).encode() * 700:
        return "neither the old nor the new model"
    return one_of(found, "first", "second")


def forget() -> None:
    if derived.about("made"):
        derived.remove("made")


def forgotten() -> str:
    return BEFORE if derived.about("made") else AFTER


# ---------------------------------------------------------------- what the user wrote


def folders() -> None:
    places.change_folders(lambda known: ("/old",))


def add_folder() -> None:
    places.change_folders(lambda known: tuple(dict.fromkeys((*known, "/new"))))  # as the catalogue does


def device(watts: float) -> Callable[[], None]:
    def save() -> None:
        made = Device(
            name="Mine",
            kind="cpu",
            mem_bytes=1e9,
            mem_bandwidth_bytes_per_s=1e10,
            peak_flop_per_s={"fp32": 1e12},
            tdp_w=watts,
            sources=("me",),
        )
        devices.save(made, data_dir() / "devices")

    return save


def device_saved() -> str:
    problems = devices.problems(data_dir() / "devices")
    found = [d.tdp_w for d in devices.devices(data_dir() / "devices") if d.name == "Mine"]
    return str(problems[0]) if problems else one_of(found, [10.0], [20.0])


def quota(n_bytes: int) -> Callable[[], None]:
    return lambda: artifact_cache.set_quota(n_bytes)


def state_of(n: int) -> State[Any]:
    plan = Plan(name="p", title="P", model="m", recipes=(), evaluations=(), baseline="b")
    return State(plan=plan, minutes=1.0, begun="now", runs={f"run {i}": "x" for i in range(n)})


def ledger(n: int) -> Callable[[], None]:
    def save() -> None:
        folder = data_dir() / "studies" / "p"
        folder.mkdir(parents=True, exist_ok=True)
        with sentence():
            write_whole(folder / FILE, to_json(state_of(n)))

    return save


def ledger_saved() -> str:
    found = read_ledger(data_dir() / "studies" / "p")
    return "no ledger" if found is None else one_of(len(found.runs), 3, 4)


def free_study() -> None:
    if (data_dir() / "studies" / "p").exists():
        storage.free_kind("studies", yes=True)


def study_freed() -> str:
    """Whole under its name, or gone."""
    folder = data_dir() / "studies" / "p"
    if not folder.exists():
        return AFTER
    return BEFORE if read_ledger(folder) is not None else "half a study"


# ---------------------------------------------------------------- long ones


def run_fake() -> None:
    """A whole run of the fake backend, as a worker performs it."""
    from core.worker.sessions import Sessions
    from core.worker.worker import Command, perform

    (run,) = new_runs()
    (run.path / "events.jsonl").unlink(missing_ok=True)
    kept = [os.dup(1), os.dup(2)]  # a worker sends them into the run's log
    try:
        perform(store(), Sessions(), Command(run=run.id))
    except OSError as error:
        raise ExplorerError(f"The worker died: {error.strerror}.", "Its runner tells why.") from error
    finally:
        for n, descriptor in enumerate(kept, 1):
            os.dup2(descriptor, n)
            os.close(descriptor)


def run_done() -> str:
    (run,) = new_runs()
    if run.status() in ("interrupted", "failed", "cancelled"):
        run.result()
        return BEFORE
    return AFTER if run.status() == "done" and run.result().n_new_tokens == 4 else run.status()


def checkpoint(step: int) -> Callable[[], None]:
    def save() -> None:
        import torch

        from core.training.checkpoint import save

        folder = data_dir() / "work" / "key"
        with sentence():
            folder.mkdir(parents=True, exist_ok=True)
        save(folder, {"step": step, "model": torch.zeros(2000)})

    return save


def checkpoint_saved() -> str:
    from core.training.checkpoint import load

    found = load(data_dir() / "work" / "key")
    return "no checkpoint" if found is None else one_of(found["step"], 1, 2)


def fresh_home() -> None:
    """A finished run, and nothing else."""
    load_into(store())
    store().history()
    assert [run.status() for run in store().runs()] == ["done"]


OPERATIONS = (
    Operation("create a run", "makes a run's folder", "the run whole, or no run", nothing, waiting, created),
    Operation("record a run", "writes a run's events", "what was measured until then", waiting, record, recorded),
    Operation("import a bundle", "imports a run", "the run whole, or no run", bundle, load, loaded),
    Operation("delete a run", "deletes a run", "the others, half of it a row", waiting, delete, deleted, False),
    Operation("index the history", "writes the index", "every run in the table", unindexed, history, lambda: AFTER),
    Operation("convert a model", "converts a model's files", "them whole, or none", nothing, convert, converted),
    Operation("evict", "removes converted files", "them whole, or none", convert, discard, discarded, False),
    Operation("make a model", "replaces a model made here", "the old or the new", first_model, make_model, model_made),
    Operation("forget a model", "deletes a model made here", "it, or none", first_model, forget, forgotten, False),
    Operation(
        "add a folder",
        "keeps the list of folders",
        "the old or the new list",
        folders,
        add_folder,
        lambda: one_of(places.folders(), ("/old",), ("/old", "/new")),
    ),
    Operation("keep a device", "keeps a device", "the old or the new one", device(10.0), device(20.0), device_saved),
    Operation(
        "set the quota",
        "keeps the quota",
        "the old or the new one",
        quota(5),
        quota(6),
        lambda: one_of(artifact_cache.quota_bytes(), 5, 6),
    ),
    Operation("save a ledger", "notes a study's runs", "the old or the new one", ledger(3), ledger(4), ledger_saved),
    Operation("free a study", "deletes a study", "it whole, or none", ledger(3), free_study, study_freed, False),
    Operation("run", "runs the fake backend", "what was measured", waiting, run_fake, run_done, long=True),
    Operation(
        "save a checkpoint",
        "saves a training's checkpoint",
        "the old or the new one",
        checkpoint(1),
        checkpoint(2),
        checkpoint_saved,
        long=True,
    ),
)


def careless(words: str) -> Callable[[], None]:
    def write() -> None:
        with sentence():
            (data_dir() / "careless.txt").write_text(words)

    return write


CARELESS = Operation(  # what must be found: it is in no table
    "careless",
    "writes a file in place",
    "half of it",
    careless("old"),
    careless("new"),
    lambda: one_of((data_dir() / "careless.txt").read_text(), "old", "new"),
)


def clear(place: Path) -> None:
    """Nothing is left of a home."""
    shutil.rmtree(place, ignore_errors=True)
