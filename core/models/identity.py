"""Which files a model is in right now: the same name may hold another one a minute later.

`identity` is what a reader sees of it. `stamp` asks the file system only, too, and is what a warm process is held
against. `content` reads, and is what a model that took an hour to make is named by: a copy, or the same package
installed again, is the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from core.models import gguf_file
from core.models.artifact_cache import MARKER, fingerprint, key_of
from core.types import ModelFile
from hardware.errors import ExplorerError

ABOUT = ("roofscope.json", MARKER)  # how it was made, which says nothing of how it computes
# In a model's folder, what decides how it computes: weights, configuration, tokenizer.
SUFFIXES = (".safetensors", ".json", ".jinja", ".onnx", ".data", ".model", ".txt")


def identity(path: str) -> ModelFile:
    """Of a folder, all its files together; of a file, with the weights that lie beside it (`model.onnx.data`)."""
    own = Path(path)
    parts = own.rglob("*") if own.is_dir() else (own, *own.parent.glob(f"{own.name}*data"))
    found = [part.stat() for part in parts if part.is_file()]
    return ModelFile(
        name=own.name,
        size_bytes=sum(s.st_size for s in found),
        modified_s=max((s.st_mtime for s in found), default=0.0),
    )


def files(fmt: str, path: str) -> tuple[Path, ...]:
    """The files behind one format of a model: all parts of a GGUF; weights and configuration of a folder."""
    place = Path(path)
    if fmt == "gguf":
        return tuple(gguf_file.parts(place))
    if place.is_dir():
        found = (f for f in place.iterdir() if f.suffix in SUFFIXES or ".onnx" in f.name)
        return tuple(sorted(f for f in found if f.name not in ABOUT))
    return (place,)


def stamp(stored: Mapping[str, str]) -> str:
    """Changes when a file is written, replaced or moved. stored: format -> path. Raises ExplorerError."""
    return key_of(*(_stamp(file) for fmt, path in sorted(stored.items()) for file in _there(fmt, path)))


def content(stored: Mapping[str, str]) -> str:
    """Changes when a file's content does; of a large file, its date and parts of it. Raises ExplorerError."""
    found = ((f.name, fingerprint(f)) for fmt, path in sorted(stored.items()) for f in _there(fmt, path))
    return key_of(*found)


def newest_s(stored: Mapping[str, str]) -> float:
    """When the last of the files was written, seconds since 1970. Raises ExplorerError."""
    return max(file.stat().st_mtime for fmt, path in stored.items() for file in _there(fmt, path))


def _there(fmt: str, path: str) -> tuple[Path, ...]:
    try:
        found = tuple(file for file in files(fmt, path) if file.is_file())
    except OSError:
        found = ()
    if not found:
        raise ExplorerError(f"{path} is no longer there.", "Refresh the list of models.")
    return found


def _stamp(file: Path) -> tuple[str, int, int, int]:
    stat = file.stat()
    return os.path.realpath(file), stat.st_size, stat.st_mtime_ns, stat.st_ino
