"""What a transform needs around it in a test: a source and a Job that records what it is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import msgspec

from core import plugins
from core.models import formats
from core.models import spec as specs
from core.types import ModelEntry, Outcome, Source


class Stopped(Exception):  # noqa: N818
    """The user asked for a stop."""


class Job:
    """core.types.Job. The user asks for a stop at a progress report (stop_at, counted from 1), or at a step of a curve
    (stop_step)."""

    seed, threads = 0, 1

    def __init__(self, folder: Path, stop_at: int | None = None, stop_step: int | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.folder, self.notes, self.warnings = folder, list[str](), list[str]()
        self.curves: list[tuple[int, int, dict[str, float]]] = []
        self._stop_at, self._stop_step = stop_at, stop_step

    def progress(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        assert note, "progress says what it is doing"
        assert done is None or total is None or 0 <= done <= total
        self.notes.append(note)
        self.check()

    def curve(self, step: int, total: int, **values: float) -> None:
        self.curves.append((step, total, values))
        if step == self._stop_step:
            raise Stopped
        self.check()

    def warn(self, message: str) -> None:
        self.warnings.append(message)

    def check(self) -> None:
        if self._stop_at is not None and len(self.notes) >= self._stop_at:
            raise Stopped

    def open(self, model: str, wanted: tuple[str, ...]) -> Source:
        found = source_of(Path(model))
        assert found.format in wanted
        return found


def source_of(path: Path) -> Source:
    fmt, file = next(iter(formats.files_of(path).items()))
    entry = ModelEntry(id="tiny", label="Tiny", family="local", files={fmt: file})
    return Source(entry=entry, format=fmt, path=file, spec=specs.read(file, fmt))


def make(name: str, path: Path, out: Path, **settings: Any) -> tuple[Source, Outcome]:
    """Run a transform on the model at `path`; the model made, and what the transform says of it."""
    transform = plugins.get("transform", name)
    params = msgspec.convert(settings, transform.Params)
    source = source_of(path)
    transform.check(source.spec, params)
    out.mkdir(parents=True)
    outcome = transform.run(source, params, out, Job(out.parent / f"{out.name}-job"))
    return source_of(out), outcome
