"""Reasons why a request cannot run, found before anything is loaded."""

from __future__ import annotations

import psutil

from core import plugins
from core.analysis.work import kv_cache_bytes
from core.errors import ExplorerError
from core.models import catalogue, derived, spec
from core.plugins import settings
from core.runs.companions import companions
from core.types import Derive, Evaluate, Generate, ModelEntry, ModelSpec, Record, Request, Task
from core.worker.sessions import run_dtype
from core.worker.transform import work_key

TIGHT = 0.85  # of the free memory
MAX_BATCH, MAX_REPEATS = 1024, 1000


class MemoryEstimate(Record):
    """What a request needs, computed before loading, beside what is free now."""

    weights_bytes: int
    kv_bytes: int
    overhead_bytes: int
    available_bytes: int

    @property
    def total_bytes(self) -> int:
        return self.weights_bytes + self.kv_bytes + self.overhead_bytes

    @property
    def verdict(self) -> str:
        """fits, tight or no"""
        if self.total_bytes > self.available_bytes:
            return "no"
        return "tight" if self.total_bytes > TIGHT * self.available_bytes else "fits"


def model_spec(entry: ModelEntry, request: Request) -> ModelSpec:
    """The architecture a request would run, with the dtype its backend would give it."""
    fmt, path = next(iter(entry.files.items()))
    found = spec.read(path, fmt)
    backend = plugins.get("backend", request.backend)
    dtype = run_dtype(entry, fmt, found, request)
    if dtype is None and fmt not in backend.formats:  # an artifact will be derived in fp32
        dtype = "fp32"
    if dtype is None and found.weight_bytes is None:  # a bare architecture
        dtype = found.dtype
    return spec.retype(found, dtype) if dtype else found


def estimate(request: Request) -> MemoryEstimate:
    """Weights and KV cache at the full length asked for, the companions' too, and the runtime's own share.

    While a draft is not yet named it is left out. A transform needs its source's weights at least.
    """
    others = () if request.params.get("draft") == "" else companions(request).values()
    models = [model_spec(catalogue.find(r.model), r) for r in (request, *others)]
    n_tokens = _length(request.task)
    return MemoryEstimate(
        weights_bytes=sum(model.weight_bytes or 0 for model in models),
        kv_bytes=sum(
            int(kv_cache_bytes(model, n_tokens, request.batch, "fp32" if model.dtype == "fp32" else "fp16"))
            for model in models
        ),
        overhead_bytes=plugins.get("backend", request.backend).runtime_bytes,
        available_bytes=psutil.virtual_memory().available,
    )


def _length(task: Task) -> int:
    """Tokens in the KV cache at the end; for an eval, whose items differ, a plain guess."""
    if isinstance(task, Generate):
        n_characters = len(task.prompt or "") + sum(len(words) for _, words in task.history)
        return (task.prompt_tokens or n_characters // 3 + 32) + task.max_new_tokens
    return 1024 if isinstance(task, Evaluate) else 0


def check(request: Request) -> None:
    """Raises ExplorerError with the first reason why the request cannot run."""
    backend = plugins.get("backend", request.backend)
    strategy = plugins.get("strategy", request.strategy)
    for name in request.profilers:
        plugins.get("profiler", name)
    if reason := backend.unavailable():
        raise ExplorerError(f"{backend.label} is not installed.", reason)
    if missing := strategy.needs - backend.capabilities:
        raise ExplorerError(
            f"{strategy.label} needs '{', '.join(sorted(missing))}', which {backend.label} cannot do.",
            "Choose another strategy or backend.",
        )
    if strategy.single and request.batch > 1:
        raise ExplorerError(f"{strategy.label} runs one sequence at a time.", "Set batch to 1.")
    if request.dtype and request.dtype not in backend.dtypes:
        known = ", ".join(backend.dtypes) or "only what the file holds"
        raise ExplorerError(f"{backend.label} cannot load weights as {request.dtype}.", f"It knows: {known}.")
    _check_numbers(request)
    settings(strategy.Params, request.params, strategy.label)
    settings(backend.Options, request.options, backend.label)
    catalogue.find(request.model)
    for other in companions(request).values():
        catalogue.find(other.model)
    _check_task(request, backend.capabilities)
    needed = estimate(request)
    if needed.verdict == "no" and not request.allow_oversize:
        raise ExplorerError(
            f"The model needs about {needed.total_bytes / 1e9:.1f} GB of memory, "
            f"and {needed.available_bytes / 1e9:.1f} GB are free.",
            "Choose a smaller model or dtype, close other programs, or allow it to run anyway.",
        )


def _check_task(request: Request, capabilities: frozenset[str]) -> None:
    """What an eval or a transform can tell before anything is loaded."""
    task = request.task
    if isinstance(task, Evaluate):
        plugin = plugins.get("eval", task.eval)
        settings(plugin.Params, task.settings, plugin.label)
        if missing := plugin.needs - capabilities:
            raise ExplorerError(
                f"{plugin.label} needs '{', '.join(sorted(missing))}', which {request.backend} cannot do.",
                "Choose another backend.",
            )
    elif isinstance(task, Derive):
        transform = plugins.get("transform", task.transform)
        params = settings(transform.Params, task.settings, transform.label)
        if reason := transform.unavailable():
            raise ExplorerError(f"{transform.label} cannot run here.", reason)
        if request.backend != transform.backend:
            raise ExplorerError(f"{transform.label} is done by {transform.backend}.", "Set the backend to it.")
        fmt, path = next(iter(catalogue.find(request.model).files.items()))
        transform.check(spec.read(path, fmt), params)
        if task.name is not None:
            derived.check_name(task.name)
            if task.name in {e.id for e in catalogue.entries(refresh=True)} and derived.about(task.name).get(
                "key"
            ) != work_key(request):
                raise ExplorerError(f"There is a model called '{task.name}' already.", "Choose another name.")


def _check_numbers(request: Request) -> None:
    task = request.task if isinstance(request.task, Generate) else Generate(prompt_tokens=1)
    if task.prompt_tokens is None and not (task.prompt or "").strip():
        raise ExplorerError("The prompt is empty.", "Type a prompt or set a number of prompt tokens.")
    if task.sampling.temperature < 0 or not 0 < (task.sampling.top_p if task.sampling.top_p is not None else 1) <= 1:
        raise ExplorerError(
            "The sampling settings are out of range.", "Use a temperature of 0 or more and 0 < top-p ≤ 1."
        )
    for label, value, low, high in (
        ("Prompt tokens", task.prompt_tokens, 1, 10_000_000),
        ("New tokens", task.max_new_tokens, 1, 1_000_000),
        ("Batch", request.batch, 1, MAX_BATCH),
        ("Repeats", request.repeats, 1, MAX_REPEATS),
        ("Warm-up passes", request.warmup, 0, MAX_REPEATS),
        ("Threads", request.threads, 1, 4096),
    ):
        if value is not None and not low <= value <= high:
            raise ExplorerError(f"{label} must be between {low} and {high}, not {value}.", "Correct it and run again.")
