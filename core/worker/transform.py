"""A run that makes a model from a model: the transform's world, and the new model's place in the catalogue.

Checkpoints lie in a folder of their own, named by what determines the model, so that the same request goes on
where a cancelled or killed one stopped.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path

import msgspec

from core import engine, plugins
from core.models import catalogue, derived, spec
from core.models.formats import files_of
from core.runs.lineage import TOLD, is_of, job_key, work_folder
from core.runs.resolve import resolve
from core.types import Curve, Derive, Made, Request, Source, to_json
from core.worker.journal import Journal
from core.worker.sessions import Sessions, provide
from hardware.detect import usable_cores


class TransformJob:
    """core.types.Job on a journal. progress, curve and check raise Cancelled."""

    def __init__(self, journal: Journal, folder: Path, request: Request) -> None:
        self.folder, self.seed = folder, request.seed
        self.threads = request.threads or usable_cores()
        self._journal = journal

    def progress(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        self._journal.phase("training", note, done, total, unit)
        self._journal.memory("training")

    def curve(self, step: int, total: int, **values: float) -> None:
        self._journal.write(Curve(t_s=self._journal.now(), step=step, total=total, values=values))
        self._journal.memory("training")
        self.check()

    def warn(self, message: str) -> None:
        self._journal.warn(message)

    def check(self) -> None:
        self._journal.stop_if_asked()

    def open(self, model: str, formats: tuple[str, ...]) -> Source:
        entry = catalogue.find(model)
        fmt, path = provide(entry, formats, self._journal)
        return Source(entry=entry, format=fmt, path=path, spec=spec.read(path, fmt))


def derive(request: Request, sessions: Sessions, journal: Journal) -> None:
    """Run the request's transform. Raises ExplorerError, OSError (a full disk), Cancelled."""
    task = request.task
    assert isinstance(task, Derive)
    wanted = resolve(request)
    transform, params = plugins.get("transform", task.transform), wanted.task
    sessions.close()
    key = job_key(wanted)
    folder = work_folder() / key
    folder.mkdir(parents=True, exist_ok=True)
    told = {"run": journal.run.id, "model": request.model, "transform": task.transform, "name": task.name}
    (folder / TOLD).write_bytes(to_json(told))
    job = TransformJob(journal, folder, request)
    journal.phase("preparing", f"Looking for {request.model}")
    source = job.open(request.model, transform.formats)
    transform.check(source.spec, params)
    engine.claim(transform.backend)
    suggested = f"{source.entry.id}-{transform.suffix(params)}"
    name = task.name or derived.free_name(suggested, lambda there: is_of(there, wanted))
    with derived.building(name) as out:
        outcome = transform.run(source, params, out, job)
        kind, path = next(iter(files_of(out).items()))
        model = spec.read(path, kind)
        size = model.weight_bytes or sum(f.stat().st_size for f in out.rglob("*") if f.is_file())
        made = Made(
            t_s=journal.now(),
            model=name,
            label=task.name or f"{source.entry.label} · {transform.suffix(params)}",
            note=outcome.note,
            size_bytes=size,
            n_params=model.n_params,
            bits_per_weight=8 * size / model.n_params,
            facts=outcome.facts,
        )
        about = {
            "label": made.label,
            "note": " ".join(filter(None, (outcome.note, source.entry.note))),
            "parent": source.entry.id,
            "transform": task.transform,
            "settings": msgspec.to_builtins(params),
            "seed": request.seed,
            "facts": outcome.facts,
            "size_bytes": size,
            "bits_per_weight": made.bits_per_weight,
            "run": journal.run.id,
            "made": time.strftime("%Y-%m-%dT%H:%M:%S%z"),
            "key": key,
        }
        derived.write_about(out, about)
        job.check()
    journal.write(made)
    shutil.rmtree(folder, ignore_errors=True)
    journal.phase("finished")
