"""Looks up what the rules judge by: the run, its machine's ceilings, what the backends' own runs say, other forms of
the model. The only part of advice that reads runs, ceilings and the catalogue."""

from __future__ import annotations

import contextlib

import msgspec

from core import plugins
from core.advice.evidence import Evidence, Guessed, Judged, Lighter
from core.advice.record import Loss
from core.analysis.predict_here import Overhead, arithmetic_dtype
from core.dtypes import bytes_per_element
from core.models import catalogue, derived, spec
from core.runs import overheads as fits
from core.runs.ceilings import FOLDER, ceilings_of, ran_on
from core.runs.check import check, estimate
from core.runs.companions import reference_request
from core.runs.overheads import Overheads
from core.runs.resolve import resolve, supposed_dtype
from core.runs.store import Run, Store
from core.types import Generate, ModelSpec, Request, Result
from hardware import ceilings as roofs
from hardware.ceilings import Ceilings
from hardware.errors import ExplorerError
from hardware.memory import limit_bytes

LOOKED_AT = 60  # newest runs, for those that guessed
GUESSING = ("prompt_lookup",)


def evidence_of(store: Store, run_id: str, known: Overheads | None = None) -> Evidence:
    """Everything around a finished generation; raises ExplorerError for a run that is none.

    known: what the runs here say of the backends, where somebody has it already: reading them takes a moment.
    """
    run = store.open(run_id)
    request = run.request
    if not isinstance(request.task, Generate):
        raise ExplorerError("Advice is about a generation, and this run is none.", "Choose a run of the page Run.")
    result = run.result()
    model = run.recording().spec
    if result.status != "done" or model is None:
        raise ExplorerError(f"The run {run_id} did not end well.", "Choose one that is done, or run it again.")
    ceilings = ceilings_of(store.root, result)
    if known is None and ceilings is not None:
        known = fits.known(store, ceilings)
    zeros, parent = _zeros(request.model)
    return Evidence(
        run_id=run_id,
        request=request,
        result=result,
        spec=model,
        ceilings=ceilings,
        overheads=_overheads(model, known, ceilings),
        fitted_models={} if known is None else _models(known),
        lighter=_lighter(request, model),
        by_threads=_other_threads(store, result, ceilings),
        limit_bytes=limit_bytes(),
        packed_bytes=_packed_bytes(request),
        zeros=zeros,
        parent=parent,
        guessed=_guessed(store, request),
        judged=_judged(store, request),
        engines=frozenset(_engines(request.model)),
        fused=fused_step(request, result),
    )


def fused_step(request: Request, result: Result) -> Request | None:
    """PyTorch's fused step. The library's own loop runs without it, whatever the session has."""
    native = request.strategy == "native"
    if request.backend != "pytorch" or (result.setup is not None and result.setup.fused and not native):
        return None
    changed = msgspec.structs.replace(request, options={**request.options, "fused": True})
    if native:
        changed = msgspec.structs.replace(changed, strategy="autoregressive", params={})
    try:
        check(changed)  # it is not for every model, nor beside every other option
    except ExplorerError:
        return None
    return changed


def _models(known: Overheads) -> dict[str, tuple[str, ...]]:
    return {backend: tuple(dict.fromkeys(o.model for o in found)) for backend, found in known.observed.items()}


def _overheads(
    model: ModelSpec, known: Overheads | None, ceilings: Ceilings | None
) -> dict[str, tuple[Overhead, ModelSpec]]:
    """What each backend adds for this model as it would run it; fitted ones only."""
    found: dict[str, tuple[Overhead, ModelSpec]] = {}
    if known is None or ceilings is None:
        return found
    for name in plugins.names("backend"):
        backend = plugins.get("backend", name)
        with contextlib.suppress(ExplorerError):
            dtype = supposed_dtype(backend, model.dtype, None)
            overhead = known.of(name, arithmetic_dtype(dtype, ceilings), dtype)
            if overhead.n_runs:
                found[name] = overhead, model if dtype == model.dtype else spec.retype(model, dtype)
    return found


def _engines(model: str) -> list[str]:
    """The backends that could open the model."""
    names = []
    for name in plugins.names("backend"):
        if name != "fake" and plugins.get("backend", name).unavailable() is None:
            with contextlib.suppress(ExplorerError):
                resolve(Request(model=model, backend=name, task=Generate(prompt_tokens=1)))
                names.append(name)
    return names


def _lighter(request: Request, model: ModelSpec) -> tuple[Lighter, ...]:
    """The same model in fewer bits that this backend runs, the nearest first: another dtype of its own, other files."""
    backend = plugins.get("backend", request.backend)
    own = 8 * (model.weight_bytes or 0) / max(1, model.n_params)
    found: list[tuple[float, Lighter]] = []
    for dtype in backend.dtypes:
        bits = 8 * bytes_per_element(dtype)
        if dtype == "fp16" or not 0 < bits < 0.9 * own:  # fp16 has no kernels on most processors
            continue
        with contextlib.suppress(ExplorerError):
            changed = msgspec.structs.replace(request, dtype=dtype)
            check(changed)  # its kernels are not for every model and processor
            found.append((bits, Lighter(request=changed, spec=spec.retype(model, dtype), words=dtype)))
    root = _root(request.model)
    for entry in catalogue.entries():
        formats = [f for f in backend.formats if f in entry.files and f != "config"]
        if entry.id == request.model or _root(entry.id) != root or entry.family != "derived" or not formats:
            continue
        with contextlib.suppress(ExplorerError):
            other = spec.read(entry.files[formats[0]], formats[0])
            bits = 8 * (other.weight_bytes or 0) / max(1, other.n_params)
            same_shape = other.n_params == model.n_params
            if same_shape and 0 < bits < 0.9 * own and not backend.dtypes:
                changed = msgspec.structs.replace(request, model=entry.id, dtype=None)
                found.append((bits, Lighter(request=changed, spec=other, words=f"{entry.id} ({other.dtype})")))
    return tuple(lighter for _, lighter in sorted(found, key=lambda f: -f[0]))


def _root(name: str) -> str:
    """The model that a derived one comes from in the end; any other is its own."""
    seen: set[str] = set()
    while name not in seen and (parent := derived.about(name).get("parent")):
        seen.add(name)
        name = str(parent)
    return name


def _other_threads(store: Store, result: Result, ceilings: Ceilings | None) -> dict[int, Ceilings]:
    """The ceilings of the same machine and device at other thread counts."""
    if ceilings is None:
        return {}
    machine, cores = ran_on(result), result.host.machine.usable_cores if result.host else None
    counts = {n for n in (1, 2, 4, 8, cores, (cores or 0) // 2) if n and n != ceilings.threads}
    found = {n: roofs.load(store.root / FOLDER, machine, n, ceilings.device) for n in sorted(counts)}
    return {n: known for n, known in found.items() if known is not None}


def _packed_bytes(request: Request) -> int:
    with contextlib.suppress(ExplorerError):
        return estimate(resolve(request)).packed_bytes
    return 0


def _zeros(model: str) -> tuple[float | None, str]:
    """(share of zeros, the model before) of one that was pruned without structure."""
    about = derived.about(model)
    if about.get("transform") != "prune":
        return None, ""
    settings = about.get("settings") or {}
    share = settings.get("sparsity", 0.5)
    parent = str(about.get("parent") or "")
    there = {e.id for e in catalogue.entries()}
    return float(share), parent if parent in there else ""


def _guessed(store: Store, request: Request) -> tuple[Guessed, ...]:
    """Earlier runs that guessed from the prompt with the same model."""
    rows = [
        row
        for row in store.history()[:LOOKED_AT]
        if row["model"] == request.model and row["strategy"] in GUESSING and row["status"] == "done"
    ]
    found = []
    for row in rows[:8]:
        with contextlib.suppress(ExplorerError, OSError):
            run: Run = store.open(row["run_id"])
            if tokens := run.result().tokens_per_forward:
                found.append(Guessed(run_id=row["run_id"], tokens_per_forward=tokens))
    return tuple(found)


def _judged(store: Store, request: Request) -> tuple[Judged, ...]:
    """Divergences from a reference that evaluations here found for this model and its relatives, newest first."""
    rows = [row for row in store.history() if row["status"] == "done" and row["did"] == "divergence"]
    root, found = _root(request.model), list[Judged]()
    for row in rows[:LOOKED_AT]:
        if _root(str(row["model"])) != root:
            continue
        with contextlib.suppress(ExplorerError, OSError):
            run = store.open(row["run_id"])
            reference = reference_request(run.request)
            score = next((s for s in run.result().scores if s.name == "kl"), None)
            if reference is not None and score is not None and _root(reference.model) == root:
                elsewhere = (
                    ""
                    if reference.backend == run.request.backend
                    else f" in {plugins.label('backend', reference.backend)}"
                )
                loss = Loss(run_id=run.id, reference=reference.model + elsewhere, score=score)
                found.append(Judged(request=run.request, loss=loss))
    return tuple(found)
