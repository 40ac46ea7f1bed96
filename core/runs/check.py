"""Reasons why a request cannot run, found before anything is loaded."""

from __future__ import annotations

import psutil

from core import registry
from core.analysis.work import kv_cache_bytes
from core.errors import ExplorerError
from core.models import catalogue, spec
from core.runs.draft import draft_request
from core.settings import settings
from core.types import ModelEntry, ModelSpec, Record, Request

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
    backend = registry.get("backend", request.backend)
    dtype = request.dtype or (backend.dtypes[0] if backend.dtypes else None)
    if dtype is None and fmt not in backend.formats:  # an artifact will be derived in fp32
        dtype = "fp32"
    if dtype is None and found.weight_bytes is None:  # a bare architecture
        dtype = found.dtype
    return spec.retype(found, dtype) if dtype else found


def estimate(request: Request) -> MemoryEstimate:
    """Weights and KV cache at the full length asked for, the draft model's too, and the runtime's own share."""
    asked = [request.model]
    if request.params.get("draft") and (draft := draft_request(request)):
        asked.append(draft.model)
    models = [model_spec(catalogue.find(name), request) for name in asked]
    task = request.task
    n_tokens = (task.prompt_tokens or len(task.prompt or "") // 3 + 32) + task.max_new_tokens
    return MemoryEstimate(
        weights_bytes=sum(model.weight_bytes or 0 for model in models),
        kv_bytes=sum(
            int(kv_cache_bytes(model, n_tokens, request.batch, "fp32" if model.dtype == "fp32" else "fp16"))
            for model in models
        ),
        overhead_bytes=registry.get("backend", request.backend).runtime_bytes,
        available_bytes=psutil.virtual_memory().available,
    )


def check(request: Request) -> None:
    """Raises ExplorerError with the first reason why the request cannot run."""
    backend = registry.get("backend", request.backend)
    strategy = registry.get("strategy", request.strategy)
    for name in request.profilers:
        registry.get("profiler", name)
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
    if draft := draft_request(request):
        catalogue.find(draft.model)
    needed = estimate(request)
    if needed.verdict == "no" and not request.allow_oversize:
        raise ExplorerError(
            f"The model needs about {needed.total_bytes / 1e9:.1f} GB of memory, "
            f"and {needed.available_bytes / 1e9:.1f} GB are free.",
            "Choose a smaller model or dtype, close other programs, or allow it to run anyway.",
        )


def _check_numbers(request: Request) -> None:
    task = request.task
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
