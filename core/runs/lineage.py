"""The name of what a transform makes: a hash of everything that determines the model, its parent's content included.

Checkpoints lie under it, and a model made here keeps it, so that the same request finds both again, and a request whose
parent was replaced, or whose file of questions was edited, finds neither.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
from pathlib import Path
from typing import Any

import msgspec

from core.models import derived
from core.models.artifact_cache import fingerprint
from core.models.identity import content, newest_s
from core.paths import data_dir
from core.runs.resolve import Resolved
from core.types import Derive, to_json

TOLD = "told.json"  # beside checkpoints: which run they are of, which model it starts from, and what it does


def work_folder() -> Path:
    """Where checkpoints lie, a folder for each key."""
    return data_dir() / "work"


def job_key(wanted: Resolved) -> str:
    """Parent and its content, transform, settings (those left at their default, too) with the content of the files that
    they name, seed."""
    return _hash(wanted, content(wanted.entry.files))


def is_of(name: str, wanted: Resolved) -> bool:
    """Whether the model `name` is what this request would make.

    Models made before the parent's content was part of the key count if no file of the parent is younger than they.
    """
    found = derived.about(name)
    if "key" not in found:
        return False
    if found["key"] == job_key(wanted):
        return True
    made_s = (derived.folder() / name / derived.ABOUT).stat().st_mtime
    return bool(found["key"] == _hash(wanted, None) and newest_s(wanted.entry.files) <= made_s)


def _hash(wanted: Resolved, parent: str | None) -> str:
    task, entry = wanted.request.task, wanted.entry
    assert isinstance(task, Derive)
    given = msgspec.structs.asdict(wanted.task)
    parts = [entry.id, entry.files, task.transform, given, wanted.request.seed]
    read = [] if parent is None else [parent, *_content(given)]
    return hashlib.sha256(to_json([*parts, *read])).hexdigest()[:16]


def _content(given: dict[str, Any]) -> list[str]:
    """Of every file that a setting names; one that cannot be read is refused where it is read."""
    found = []
    for value in given.values():
        if isinstance(value, str) and os.path.isfile(path := os.path.expanduser(value)):
            with contextlib.suppress(OSError):
                found.append(fingerprint(Path(path)))
    return found
