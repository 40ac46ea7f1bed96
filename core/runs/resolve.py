"""What a request's names stand for here and now: the model's entry, format and files, the number format that will
run, the architecture with it, the plugins with their typed settings, and the other models that the request brings.

Every part that needs to know one of these asks `resolve`; none works it out again. Nothing is loaded or measured here,
and whether the machine can carry it out is core.runs.check's question.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import msgspec

from core import plugins
from core.bounds import checked
from core.dtypes import canonical_dtype
from core.models import artifacts, catalogue, spec
from core.models.identity import stamp
from core.plugins import settings
from core.runs.companions import companions
from core.types import (
    Backend,
    Derive,
    Evaluate,
    ModelEntry,
    ModelSpec,
    Profiler,
    ReadsQuantized,
    Request,
    Strategy,
    to_json,
)
from hardware.errors import ExplorerError

_CORRECT = "Correct it and run again."


@dataclass(frozen=True)
class Resolved:
    """One request, resolved.

    format, path: of the file or folder that will be opened; path is None where it must be converted first.
    dtype: what the weights are turned into when they are loaded; None: they stay as stored.
    files: identity of the files behind the model. task: the typed settings of an eval or a transform.
    companions: by role ("draft", "reference").
    """

    request: Request
    backend: Backend
    options: Any
    strategy: Strategy
    params: Any
    profilers: tuple[Profiler, ...]
    task: Any
    entry: ModelEntry
    format: str
    path: str | None
    dtype: str | None
    spec: ModelSpec
    files: str
    companions: Mapping[str, Resolved]

    @property
    def session_key(self) -> str:
        """Hash of what determines the opened session: equal keys may share a warm worker and an open model."""
        r, dtype = self.request, self.dtype or self.request.dtype
        parts = [self.entry.id, self.files, r.backend, self.format, dtype, r.threads, r.batch, r.options]
        if self.spec.random_weights:
            parts.append(r.seed)
        if isinstance(r.task, Derive):  # what it leaves in a process's memory must not be measured with later runs
            parts.append("derive")
        return hashlib.sha256(to_json(parts)).hexdigest()[:16]

    def spec_of(self, path: str) -> ModelSpec:
        """The architecture as the file at `path` has it, in this format, with the number format that will run."""
        return _named(_read(path, self.format, stamp({self.format: path})), self.entry, self.dtype)


def resolve(request: Request) -> Resolved:
    """Raises ExplorerError, one sentence with its next step, for a name or a setting that stands for nothing here."""
    checked(request, "the request", _CORRECT)
    try:
        to_json(request)
    except UnicodeEncodeError:
        raise ExplorerError("The request holds text that is no UTF-8.", "Write prompts and names in UTF-8.") from None
    except (RecursionError, OverflowError):
        raise ExplorerError("The request holds values that are nested too deeply or too large.", _CORRECT) from None
    backend = plugins.get("backend", request.backend)
    strategy = plugins.get("strategy", request.strategy)
    profilers = tuple(plugins.get("profiler", name) for name in request.profilers)
    options = settings(backend.Options, request.options, backend.label)
    params = settings(strategy.Params, request.params, strategy.label)
    task, formats = _task(request, backend)
    entry = catalogue.find(request.model)
    files = stamp(entry.files)
    kind = artifacts.route(entry, formats)
    if not _reads_quantized(request):
        artifacts.check_precision(entry, kind)
    source, there, stored = _source(entry, kind)
    path = there if kind == source and kind != "config" else None
    if kind != source:
        own = artifacts.drawn_dtype(spec.read_config(there)) if source == "config" else stored.dtype
        stored = spec.retype(stored, artifacts.converted_dtype(kind, own))
    dtype = None
    if not isinstance(request.task, Derive):
        dtype = loaded_dtype(backend, kind, stored.dtype, request.dtype, trained=entry.family == "derived")
    return Resolved(
        request=request,
        backend=backend,
        options=options,
        strategy=strategy,
        params=params,
        profilers=profilers,
        task=task,
        entry=entry,
        format=kind,
        path=path,
        dtype=dtype,
        spec=_named(stored, entry, dtype),
        files=files,
        companions={role: resolve(other) for role, other in companions(request).items()},
    )


def _source(entry: ModelEntry, kind: str) -> tuple[str, str, ModelSpec]:
    """The format and the path of the files that `kind` is or will be made of, and the architecture in them. Raises
    ExplorerError where it cannot be made of them."""
    source = kind if kind in entry.files else next(iter(entry.files))
    there = entry.files[source]
    stored = _read(there, source, stamp({source: there}))
    artifacts.check_family(stored.architecture, source, kind)
    if kind == source == "gguf":
        artifacts.check_alone(entry.label, stored)
    return source, there, stored


def reaches(entry: ModelEntry, backend: str) -> ExplorerError | None:
    """Why a backend cannot get at the model's weights; None where it can. Reads headers and configurations."""
    plugin = plugins.get("backend", backend)
    if reason := plugin.unavailable():
        return ExplorerError(f"{plugin.label} is not installed.", reason)
    try:
        kind = artifacts.route(entry, plugin.formats)
        artifacts.check_precision(entry, kind)
        _source(entry, kind)
    except ExplorerError as error:
        return error
    return None


def loaded_dtype(backend: Backend, kind: str, stored: str, asked: str | None, trained: bool = False) -> str | None:
    """What a backend turns weights of format `kind`, stored as `stored`, into; None: they stay as they are.

    Integers in PyTorch's format stay. What was trained here in a number format runs in it unless another is asked
    for (`trained`); everything else runs in the backend's first one.
    """
    if not backend.dtypes or kind == "torch-int":
        return None
    return asked or (stored if trained and stored in backend.dtypes else backend.dtypes[0])


def supposed_dtype(backend: Backend, stored: str, weights: str | None) -> str:
    """In which number format a backend would run a model whose weights were stored as `weights`, or else as they are.

    For predictions, which need no file: a backend that chooses takes `weights` if it can; one that reads GGUF takes
    them as they are; others run what is converted for them.
    """
    weights = canonical_dtype(weights) if weights else None
    if backend.dtypes:
        return loaded_dtype(backend, "hf", stored, weights if weights in backend.dtypes else None) or stored
    return (weights or stored) if "gguf" in backend.formats else artifacts.converted_dtype(backend.formats[0], stored)


def _task(request: Request, backend: Backend) -> tuple[Any, tuple[str, ...]]:
    """The typed settings of an eval or a transform, and the formats that the model is wanted in."""
    match request.task:
        case Evaluate(eval=name, settings=given):
            plugin = plugins.get("eval", name)
            return settings(plugin.Params, given, plugin.label), backend.formats
        case Derive(transform=name, settings=given):
            transform = plugins.get("transform", name)
            return settings(transform.Params, given, transform.label), transform.formats
    return None, backend.formats


def _reads_quantized(request: Request) -> bool:
    """Whether the request is of a transform that reads the weights as another program has quantized them."""
    task = request.task
    return isinstance(task, Derive) and isinstance(plugins.get("transform", task.transform), ReadsQuantized)


@lru_cache(maxsize=64)
def _read(path: str, kind: str, files: str) -> ModelSpec:
    """files: its identity, so that a changed file is read again."""
    return spec.read(path, kind)


def _named(found: ModelSpec, entry: ModelEntry, dtype: str | None) -> ModelSpec:
    """The architecture under the name of its catalogue entry, with its weights in `dtype`; as stored where None.

    A bare configuration has no weights: they will be drawn in its own number format.
    """
    if dtype is None and found.weight_bytes is None:
        dtype = found.dtype
    return msgspec.structs.replace(
        spec.retype(found, dtype) if dtype else found,
        name=entry.id,
        random_weights=entry.random_weights or found.random_weights,
        source=entry.note or found.source,
    )
