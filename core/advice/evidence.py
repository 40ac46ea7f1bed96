"""What the rules judge by: one finished run with all that is known around it. Pure: it is told, it looks nothing up."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property

import msgspec

from core import plugins
from core.advice.record import Gain, Loss, Quality
from core.analysis.bottlenecks import Ceiling
from core.analysis.device_time import Spread
from core.analysis.predict_here import Overhead, PredictionHere, arithmetic_dtype, predict_local
from core.analysis.roofline import ceiling_here
from core.analysis.work import LayerWork, total, work
from core.types import ModelSpec, PhaseResult, Record, Request, Result
from hardware.ceilings import Ceilings
from hardware.errors import ExplorerError

_SPEED = frozenset({"use_mmap", "n_ctx", "spinning"})  # options that change no figure


class Lighter(Record):
    """The same model in fewer bits that this engine has kernels for."""

    request: Request
    spec: ModelSpec
    words: str


class Judged(Record):
    """An earlier evaluation of what a configuration's predictions lose against a reference."""

    request: Request
    loss: Loss


class Guessed(Record):
    """An earlier run that guessed tokens of the same model."""

    run_id: str
    tokens_per_forward: float


@dataclass(frozen=True)
class Evidence:
    """A finished run. overheads: what each backend adds here for this model as that backend would run it, with the
    model so stored; only fitted ones. lighter: nearest first. by_threads: ceilings of other thread counts.
    limit_bytes: the memory a process may take. packed_bytes: of second copies of the weights that can be left out.
    zeros, parent: of a model pruned without structure, the share of zeros and what it was cut from.
    judged: divergences of this model and its relatives, newest first. fused: the request with a step of few, large
    operators, where the run had none and can have one.
    """

    run_id: str
    request: Request
    result: Result
    spec: ModelSpec
    ceilings: Ceilings | None = None
    overheads: dict[str, tuple[Overhead, ModelSpec]] = field(default_factory=dict)
    fitted_models: dict[str, tuple[str, ...]] = field(default_factory=dict)
    lighter: tuple[Lighter, ...] = ()
    by_threads: dict[int, Ceilings] = field(default_factory=dict)
    limit_bytes: float | None = None
    packed_bytes: int = 0
    zeros: float | None = None
    parent: str = ""
    guessed: tuple[Guessed, ...] = ()
    judged: tuple[Judged, ...] = ()
    engines: frozenset[str] = frozenset()
    fused: Request | None = None

    # ------------------------------------------------------------ what was measured

    def phase(self, name: str) -> PhaseResult | None:
        return next((p for p in self.result.phases if p.name == name and p.seconds > 0), None)

    @cached_property
    def arithmetic(self) -> str | None:
        """The dtype that matrices are multiplied in; None without ceilings."""
        return None if self.ceilings is None else arithmetic_dtype(self.spec.dtype, self.ceilings)

    def ceiling(self, name: str) -> Ceiling | None:
        """The measured roof of a phase: that of the working set of its forwards."""
        found = self.phase(name)
        if self.ceilings is None or self.arithmetic is None or found is None or not found.n_forward:
            return None
        return ceiling_here(self.ceilings, self.arithmetic, found.bytes / found.n_forward)

    def bound(self, name: str) -> str | None:
        found, roof = self.phase(name), self.ceiling(name)
        return None if found is None or roof is None or not found.bytes else roof.bound(found.flops / found.bytes)

    def of_roof(self, name: str) -> float | None:
        """The share of what the ceilings allow that the phase reached."""
        found, roof = self.phase(name), self.ceiling(name)
        if found is None or roof is None or not found.bytes:
            return None
        # n forwards, each under its own roof, take as long together as one of all their work
        return roof.ideal_s(found.flops, found.bytes) / found.seconds

    @property
    def bits_per_weight(self) -> float | None:
        return None if not self.spec.weight_bytes else 8 * self.spec.weight_bytes / self.spec.n_params

    @cached_property
    def past(self) -> int:
        """Tokens in the cache at the middle of the answer."""
        return (self.result.n_prompt_tokens or 1) + self.result.n_new_tokens // 2

    @cached_property
    def step(self) -> tuple[LayerWork, ...]:
        """One decode step, computed."""
        setup = self.result.setup
        return work(
            self.spec,
            1,
            self.past,
            self.result.batch,
            activation_dtype=setup.activation_dtype if setup else "fp32",
            kv_dtype=setup.kv_dtype if setup else "fp16",
        )

    @property
    def step_bytes(self) -> float:
        whole = total(self.step)
        return whole.weight_bytes + whole.kv_read_bytes + whole.kv_write_bytes

    @property
    def plain(self) -> bool:
        """Whether it took one token per forward."""
        return self.request.strategy in ("autoregressive", "native")

    # ------------------------------------------------------------ what the fitted equation says

    @property
    def overhead(self) -> Overhead | None:
        """What this backend adds here, fitted; None before there are runs enough."""
        found = self.overheads.get(self.request.backend)
        return None if found is None or not found[0].n_runs else found[0]

    def predicted(
        self,
        spec: ModelSpec | None = None,
        overhead: Overhead | None = None,
        kv_dtype: str | None = None,
        batch: int | None = None,
    ) -> PredictionHere | None:
        """The run's sizes by the fitted equation; None where ceilings or overhead do not reach."""
        overhead = overhead or self.overhead
        if overhead is None or self.ceilings is None:
            return None
        setup = self.result.setup
        try:
            return predict_local(
                spec or self.spec,
                self.ceilings,
                overhead,
                prompt_tokens=self.result.n_prompt_tokens or 1,
                new_tokens=max(1, self.result.n_new_tokens),
                batch=batch or self.result.batch,
                kv_dtype=kv_dtype or (setup.kv_dtype if setup else None),
            )
        except ExplorerError:
            return None

    def fitted(self, ratio: float, overhead: Overhead, extra: str = "") -> Gain:
        """A gain by the fitted equation: the time before was measured, only the time after is predicted."""
        engine = plugins.label("backend", overhead.backend)
        words = f"The fitted equation of {engine} on this machine, {overhead.n_runs} forward passes behind it"
        return self.ranged(ratio, overhead.spread, f"{words}{extra}.", overhead)

    def ranged(self, ratio: float, spread: Spread, basis: str, overhead: Overhead | None) -> Gain:
        return Gain(
            likely=ratio,
            low=ratio / spread.high,
            high=ratio / spread.low,
            basis=basis,
            n_runs=overhead.n_runs if overhead else 0,
            models=self.fitted_models.get(overhead.backend, ()) if overhead else (),
        )

    def changed(self, **changes: object) -> Request:
        """The run's request with something else in it."""
        return msgspec.structs.replace(self.request, **changes)

    def with_options(self, **options: object) -> Request:
        return msgspec.structs.replace(self.request, options={**self.request.options, **options})

    def quality(self, changed: Request) -> Quality:
        """What is known of a changed request's predictions: those of the same weights, arithmetic and cache."""
        return next((j.loss for j in self.judged if _computes(j.request) == _computes(changed)), "unknown")


def _computes(request: Request) -> tuple[object, ...]:
    """What decides over the figures that a model computes; how fast it does is no part of it."""
    options = {name: value for name, value in request.options.items() if value is not None and name not in _SPEED}
    return request.model, request.backend, request.dtype, sorted(options.items())
