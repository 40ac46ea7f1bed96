"""What a model will do on this machine: the one place that puts the measured ceilings, what this machine's own runs
say of a backend, and the formula of core.analysis.predict_here together.

Every page, command, plan and advice that names a speed or a memory for this machine asks here, so that the same
question has the same answer wherever it stands.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, get_args

import msgspec

from core.analysis.capacity import usable_bytes
from core.analysis.designs import Case, Design, this_machine
from core.analysis.memory import Split, as_stored
from core.analysis.predict import Expected, Prediction
from core.analysis.predict_here import Overhead, PredictionHere, arithmetic_dtype, for_weights, predict_local
from core.dtypes import canonical_dtype
from core.runs import overheads as own_runs
from core.runs.ceilings import kept
from core.runs.overheads import Overheads
from core.runs.resolve import Resolved, supposed_dtype
from core.runs.store import Store
from core.types import Backend, Generate, ModelSpec, Request
from hardware.ceilings import Ceilings
from hardware.detect import usable_cores
from hardware.errors import ExplorerError

CACHE_OPTION = "kv_dtype"  # of a backend whose cache may have a number format of its own


@dataclass(frozen=True)
class Here:
    """This machine at one number of threads: its ceilings, and what its own runs tell of every backend."""

    ceilings: Ceilings
    overheads: Overheads

    @classmethod
    def at(cls, store: Store, threads: int | None = None) -> Here | None:
        """Reads the newest runs, which takes a moment. threads: None for all cores; None without ceilings of them."""
        found = kept(store.root, threads or usable_cores())
        return None if found is None else cls(found, own_runs.known(store, found))

    def overhead(self, backend: str, weights: str) -> Overhead:
        """What the backend adds to the ceilings, for weights of this dtype; with a wide range where it is a guess."""
        return for_weights(self.overheads.of(backend, arithmetic_dtype(weights, self.ceilings), weights), weights)

    def predict(
        self,
        spec: ModelSpec,
        backend: Backend,
        *,
        prompt_tokens: int,
        new_tokens: int,
        batch: int = 1,
        weights: str | None = None,
        kv_dtype: str | None = None,
    ) -> PredictionHere:
        """Of a model as this backend would run it; raises ExplorerError for what has no ceiling.

        weights: as if it were stored so; None: as it is. kv_dtype: of the cache where the backend can choose; None: as
        in its runs.
        """
        request = self._request(spec, backend, prompt_tokens, new_tokens, batch, kv_dtype)
        return self._predict(spec, backend, request, supposed_dtype(backend, spec.dtype, weights))

    def predict_request(self, wanted: Resolved) -> PredictionHere:
        """Of a generation that is resolved: its own number format, cache and sizes; raises ExplorerError."""
        return self._predict(wanted.spec, wanted.backend, wanted.request, wanted.spec.dtype)

    def _predict(self, spec: ModelSpec, backend: Backend, request: Request, dtype: str) -> PredictionHere:
        prompt, new = lengths(request)
        cache = request.options.get(CACHE_OPTION)
        return predict_local(
            spec,
            self.ceilings,
            self.overhead(backend.name, dtype),
            prompt_tokens=prompt,
            new_tokens=new,
            batch=request.batch,
            weights=None if dtype == spec.dtype else dtype,
            kv_dtype=_cache(backend, str(cache) if cache else None),
            held=held(as_stored(spec, dtype), backend, request),
            runtime_bytes=float(backend.runtime_bytes),
        )

    def design(self, spec: ModelSpec, backend: Backend, case: Case, name: str) -> tuple[Design, Case]:
        """This machine with that backend as a design whose figures can be changed, and the case as it runs it.

        Unchanged, its times and its memory are those of `predict`.
        """
        dtype = supposed_dtype(backend, spec.dtype, case.weights)
        overhead = self.overhead(backend.name, dtype)
        request = self._request(spec, backend, case.prompt_tokens, case.new_tokens, case.batch, case.kv_dtype)
        told = held(as_stored(spec, dtype), backend, request)
        kv = _cache(backend, case.kv_dtype) or overhead.kv_dtype
        case = msgspec.structs.replace(case, weights=None if dtype == spec.dtype else dtype, kv_dtype=kv)
        beyond = float(backend.runtime_bytes)
        if told is not None:
            needed = predict_local(spec, self.ceilings, overhead, **msgspec.structs.asdict(case)).memory
            beyond = max(0.0, told.total_bytes - needed.total_bytes)
        return this_machine(self.ceilings, overhead, name, beyond), case

    def _request(
        self, spec: ModelSpec, backend: Backend, prompt: int, new: int, batch: int, kv_dtype: str | None
    ) -> Request:
        """What such a run would ask for."""
        cache = _caches(backend).get(_cache(backend, kv_dtype) or "")
        return Request(
            model=spec.name,
            backend=backend.name,
            task=Generate(prompt_tokens=prompt, max_new_tokens=new),
            threads=self.ceilings.threads,
            batch=batch,
            options={CACHE_OPTION: cache} if cache else {},
        )

    def beside_devices(self, found: PredictionHere, name: str, asked: dict[str, Any]) -> Prediction:
        """The same figures in the form that those of data sheets have. asked: the inputs, to be shown."""
        device = self.ceilings.as_device(name)
        usable = found.usable_memory_bytes or usable_bytes(device.kind, device.mem_bytes)
        same: dict[str, Any] = {field: getattr(found, field) for field in Expected.__struct_fields__} | {
            "usable_memory_bytes": usable,
            "fits": found.peak_memory_bytes.calibrated <= usable,
        }
        return Prediction(
            **same,
            device=name,
            doubts="",
            inputs=asked
            | {
                "backend": found.backend,
                "threads": self.ceilings.threads,
                "ceilings": self.ceilings.date,
                "flop_per_s": self.ceilings.flop_per_s,
                "mem_bandwidth_bytes_per_s": device.mem_bandwidth_bytes_per_s,
                "mem_bytes": device.mem_bytes,
            },
        )


def held(spec: ModelSpec, backend: Backend, request: Request) -> Split | None:
    """The memory that the backend tells before it loads the model: at the full length, while it is timed; None where
    it cannot have the model so. spec: with the dtype it will have there."""
    prompt, new = lengths(request)
    try:
        told = backend.reserve(spec, msgspec.structs.replace(request, profilers=()), prompt + new)
    except ExplorerError:
        return None
    return Split(
        weights_bytes=float(told.weights_bytes + told.packed_bytes),
        kv_bytes=float(told.kv_bytes),
        activations_bytes=0.0,
        workspace_bytes=float(told.workspace_bytes),
        runtime_bytes=float(told.runtime_bytes),
    )


def _caches(backend: Backend) -> dict[str, str]:
    """The number formats of a cache between which the backend can choose -> its own names of them."""
    types = {f.name: f.type for f in msgspec.structs.fields(backend.Options)}
    return {canonical_dtype(name): name for name in get_args(types.get(CACHE_OPTION))}


def _cache(backend: Backend, asked: str | None) -> str | None:
    """The number format of the cache that was asked for, where the backend can have it."""
    found = canonical_dtype(asked) if asked else None
    return found if found in _caches(backend) else None


def lengths(request: Request) -> tuple[int, int]:
    """Tokens of the prompt, roughly where it is a text, and new ones."""
    task = request.task
    assert isinstance(task, Generate)
    return task.prompt_tokens or len(task.prompt or "") // 3 + 32, task.max_new_tokens


def must(here: Here | None, threads: int) -> Here:
    """Raises ExplorerError where the ceilings are not measured."""
    if here is None:
        raise ExplorerError(
            f"The ceilings of this machine with {threads} threads have not been measured.",
            f"Run: python -m core ceilings --threads {threads}",
        )
    return here
