"""The recorded run that ships with the app, so that no page is ever empty: a bundle beside this file."""

from __future__ import annotations

import zipfile
from functools import cache
from pathlib import Path

import msgspec

from core.runs.store import Store

BUNDLE = Path(__file__).with_name("demo.zip")
OFFERED = "recorded-run-offered"  # a file in the store's folder


def load_into(store: Store) -> None:
    """Import the recorded run into a store that has no run; once, so that it stays deleted when it is deleted."""
    offered = store.root / OFFERED
    if BUNDLE.is_file() and not offered.exists() and not store.ids():
        store.load(BUNDLE.read_bytes())
        offered.touch()


def recorded_id() -> str | None:
    """The id of the recorded run; None when none is shipped."""
    return _id(BUNDLE) if BUNDLE.is_file() else None


@cache
def _id(bundle: Path) -> str:
    with zipfile.ZipFile(bundle) as file:
        return str(msgspec.json.decode(file.read("roofscope.json"))["run_id"])
