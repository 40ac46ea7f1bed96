"""Whatever lies where a file of the data folder belongs, every list is shown, and every reader has a sentence."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from core import storage
from core.advice.book import Book
from core.endpoints import store as endpoints
from core.learn import progress
from core.loadtest.load_store import LoadStore
from core.models import artifact_cache, catalogue, derived
from core.runs import measuring, screens
from core.runs.lineage import TOLD
from core.runs.store import Store
from core.studies import ledger, study_store
from core.studies.plan import Search, Sweep
from core.types import to_json
from hardware import catalogue as devices
from hardware import prices
from hardware.errors import ExplorerError

DEEP = b"[" * 100_000
PIPE, ENDLESS = b"(a pipe that nobody writes)", b"(a device without an end)"
CONTENTS: dict[str, bytes | None] = {
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a list of lists": b"[[1, 2], {}]",
    "an empty object": b"{}",
    "an object of wrong kinds": b'{"plan": 3, "facts": [1], "files": 7, "models": {"a": 1}, "model": [], "url": null}',
    "deep JSON": DEEP,
    "a deep field": b'{"other": ' + DEEP,
    "zeros": bytes(300),
    "no UTF-8": b'{"model": "\xff\xfe"}',
    "a folder": None,
    "a pipe": PIPE,
    "a device": ENDLESS,
}
FILES = (
    *("folders.json", "storage.json", progress.FILE, screens.REST, measuring.NOTE, "index.sqlite", prices.FILE),
    *("devices/odd.json", "endpoints/odd/endpoint.json", "endpoints/odd/model.json", "advice/odd.json"),
    *(f"studies/{name}-odd/{file}" for name in ("sweep", "search", "ladder") for file in (
        ledger.FILE, ledger.IN_USE, "findings.json", study_store.PID, study_store.LOG, study_store.PLAN)),
    *(f"loads/odd/{file}" for file in ("about.json", "events.jsonl", "owner.json", "log.txt")),
    *(f"runs/odd/{file}" for file in ("request.json", "created.json", "events.jsonl", "owner.json", "log.txt")),
    *("models/odd/roofscope.json", "models/odd/config.json", f"work/odd/{TOLD}"),
)  # fmt: skip


@pytest.fixture(params=CONTENTS)
def strange(request: pytest.FixtureRequest, home: Path) -> Path:
    """A data folder in which every file holds the same strange thing."""
    root = home / "data"
    for file in FILES:
        place = root / file
        place.parent.mkdir(parents=True, exist_ok=True)
        content = CONTENTS[request.param]
        if content is None:
            place.mkdir()
        elif content is PIPE:
            os.mkfifo(place)
        elif content is ENDLESS:
            place.symlink_to("/dev/zero")
        else:
            place.write_bytes(content)
    return root


def lists(root: Path) -> dict[str, Callable[[], object]]:
    """What must be shown, whatever there is."""
    return {
        "runs": lambda: Store(root).history(),
        "loads": lambda: LoadStore(root).rows(),
        "the load that goes on": lambda: LoadStore(root).going(),
        "storage": lambda: storage.summary(storage.items()),
        "models": lambda: catalogue.entries(refresh=True),
        "troubles": catalogue.problems,
        "endpoints": endpoints.endpoints,
        "advice": lambda: Book(root).cases(),
        "lessons": lambda: progress.done(root),
        "sweeps": lambda: ledger.names(Sweep),
        "searches": lambda: ledger.names(Search),
        "studies": study_store.studies,
        "the study that goes on": study_store.going,
        "who measures": lambda: measuring.holder(root),
        "who rests": lambda: screens.rest(root),
        "devices": lambda: devices.devices(root / "devices"),
        "quota": artifact_cache.quota_bytes,
        "lineage": lambda: (derived.about("odd"), derived.inherited("odd", "domain")),
        "a study's share": lambda: study_store.share_done("sweep-odd"),
    }


def test_every_list_is_shown_and_every_reader_has_a_sentence(strange: Path) -> None:
    wrong = []
    for name, read in lists(strange).items():
        try:
            read()
        except Exception as error:
            wrong.append(f"{name}: {type(error).__name__}: {error}"[:200])
    for name, kind in {"sweep": Sweep, "search": Search}.items():
        with contextlib.suppress(ExplorerError):
            ledger.load(strange / "studies" / f"{name}-odd", kind)
    for found in study_store.studies():
        with contextlib.suppress(ExplorerError):
            study_store.read(found.path)
    with contextlib.suppress(ExplorerError):
        prices.own(strange)
    assert not wrong


def test_names_that_are_no_utf8_take_no_list_down(home: Path) -> None:
    """As an old disk has them; every list can be sent to a browser, and written as JSON."""
    root = home / "data"
    for place in sorted({Path(file).parent for file in FILES} | {Path("models")}):
        folder = os.path.join(os.fsencode(root / place.parent), b"\xff\xfe" + os.fsencode(place.name))
        for file in FILES:
            if Path(file).parent == place:
                os.makedirs(folder, exist_ok=True)
                Path(os.fsdecode(os.path.join(folder, os.fsencode(Path(file).name)))).write_bytes(b"{}")
    for name, read in {**lists(root), "items": storage.items}.items():
        assert to_json(read()), name


def test_and_everything_that_is_no_setting_can_be_freed(strange: Path) -> None:
    for kind in ("loads", "runs", "studies", "models", "trainings"):
        storage.free_kind(kind, yes=True)
    left = {item.kind for item in storage.items() if not item.busy}
    assert not left & {"loads", "runs", "studies", "models"}
    assert not [path for folder in ("loads", "runs") for path in (strange / folder).glob("[!.]*")]
