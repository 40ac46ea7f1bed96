"""Models made here: a folder in data_dir()/models with the files and roofscope.json, which tells how it was made.

A model appears whole or not at all: it is built under a hidden name and renamed. Knows nothing of transforms.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.models import artifact_cache, catalogue
from core.paths import data_dir
from core.types import Scalar, to_json
from hardware.errors import ExplorerError
from hardware.files import contents, sync

ABOUT = "roofscope.json"


def folder() -> Path:
    return data_dir() / "models"


def check_name(name: str) -> str:
    """A name that can be a catalogue id and a folder. Raises ExplorerError."""
    if not re.fullmatch(r"[\w][\w.+-]{0,99}", name):
        raise ExplorerError(
            f"'{name}' cannot be the name of a model.", "Use letters, digits, dots, dashes and underscores."
        )
    return name


def free_name(wanted: str, same: Callable[[str], bool]) -> str:
    """The id of a new model: `wanted`, unless another model has it; one made in the same way is replaced.

    same: whether the model of this id was made in the same way. Characters that a folder cannot have become dashes.
    """
    stem = check_name(re.sub(r"[^\w.+-]+", "-", wanted).strip("-.")[:90] or "model")
    taken = {e.id for e in catalogue.entries(refresh=True)}
    name, n = stem, 2
    while name in taken and not same(name):
        name, n = f"{stem}-{n}", n + 1
    return name


def about(name: str) -> dict[str, Any]:
    """How a derived model was made; empty for other models."""
    try:
        found = json.loads(contents(folder() / name / ABOUT))
    except (OSError, ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def inherited(name: str, *facts: str) -> dict[str, Scalar]:
    """These facts as a model was made with them, or else its nearest ancestor that has them all; empty without one.

    Training leaves `domain` and `dtype`, of consistency training also `window` and `fill`: what a model was trained
    for it does best.
    """
    seen: set[str] = set()
    while name and name not in seen:
        seen.add(name)
        made = about(name)
        told = made.get("facts")
        known = told if isinstance(told, dict) else {}
        if set(facts) <= known.keys():
            return {fact: known[fact] for fact in facts}
        name = str(made.get("parent") or "")
    return {}


@contextmanager
def building(name: str) -> Iterator[Path]:
    """An empty folder that becomes the model `name` when the block ends well, and is removed when it does not."""
    folder().mkdir(parents=True, exist_ok=True)
    restore()
    partial = folder() / f".{name}.partial"
    shutil.rmtree(partial, ignore_errors=True)  # of a process that was killed
    partial.mkdir()
    try:
        yield partial
        artifact_cache.flush(partial)
        final = folder() / name
        old = folder() / f".{name}.old"
        shutil.rmtree(old, ignore_errors=True)
        if final.exists():
            final.rename(old)
        partial.rename(final)
        sync(folder())
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    catalogue.entries(refresh=True)


def write_about(path: Path, facts: dict[str, Any]) -> None:
    (path / ABOUT).write_bytes(to_json(facts))


def leftovers() -> tuple[Path, ...]:
    """What processes that were killed left half-made or half-deleted; of a living one, what it makes now."""
    return tuple(p for p in folder().glob(".*") if p.suffix in (".partial", ".old"))


def restore() -> None:
    """Give back models that were moved away by a process that was killed before the new one stood in their place."""
    for old in folder().glob(".*.old"):
        final = old.with_name(old.name[1 : -len(".old")])
        if (old / ABOUT).is_file() and not final.exists():
            old.rename(final)


def remove(name: str) -> None:
    """Delete a derived model and what was converted from it. Raises ExplorerError for any other."""
    place = folder() / name
    known = {about.parent.name for about in folder().glob(f"[!.]*/{ABOUT}")}
    if name not in known:
        raise ExplorerError(f"'{name}' is not a model made here.", "Only derived models can be deleted.")
    exports = artifact_cache.made_from(place)
    try:
        (place / ABOUT).unlink()  # first: without it the folder is only the rest of a deletion
        shutil.rmtree(place)
    except OSError as error:
        raise ExplorerError(
            f"The model {name} could not be deleted: {error.strerror}.", f"Check the permissions of {folder()}."
        ) from error
    finally:
        catalogue.entries(refresh=True)
    for export in exports:
        artifact_cache.discard(export)
