"""Prediction on this machine: its own measured ceilings, and what each backend adds to them.

    seconds of a forward = reading * weights / bandwidth  and  computing * FLOPs / peak   (their sum, or the larger)
                           + caching * KV cache / bandwidth + touching * activations / cache bandwidth
                           + forward_s + layer_s * n_layers

reading and computing are the inverses of the shares of the ceilings that a backend's kernels reach, the bandwidth
being that of the forward's working set and the peak that of the dtype that matrices are multiplied in. Whether a
backend computes while it reads, so that only the larger counts, is part of the fit. caching is how often the KV
cache is gone over: once by attention, more often where a library copies it to append a token. touching is what is
done to activations between the products, which lie in a cache: norms, activation functions, softmax, copies.
forward_s and layer_s are what a call of the model and of a primitive layer cost beside the kernels. All are fitted
to runs of this backend with weights of this dtype (`fit_overhead`); before there are any, `typical` stands in with a
wide range.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Literal

import msgspec
import numpy as np

from core import plugins
from core.analysis.calibrate import relative_fit
from core.analysis.capacity import usable_bytes
from core.analysis.device_time import Spread
from core.analysis.memory import Split, as_stored, split
from core.analysis.predict import Bound, Expected, Times, as_figure, as_rate, memory_figure, shape_of
from core.analysis.time_parts import BANDWIDTH, CACHE, OVERHEAD, Load, Parts, Timed, load_of, moved_bytes
from core.analysis.work import LayerWork, total, work
from core.dtypes import canonical_dtype, is_quantized, mix_note
from core.types import ModelSpec, Record
from hardware.ceilings import Ceilings
from hardware.errors import ExplorerError

FITTED = ("reading", "computing", "caching", "touching", "forward_s", "layer_s")


# Where activations lie between two layers: hundreds of tokens by thousands of elements.
_ACTIVATIONS_BYTES = 2 * 2**20


class Overhead(Record):
    """What a backend adds to the roof for weights of one dtype. n_runs: forwards it was fitted to; 0: a guess.

    arithmetic: the dtype that matrices are multiplied in ("fp32", "bf16", "int8"); it and the other dtypes are
    those of the runs. weights is empty in a guess.
    """

    backend: str
    reading: float
    computing: float
    forward_s: float
    layer_s: float
    spread: Spread
    caching: float = 1.0
    touching: float = 0.0
    overlaps: bool = True  # computes while it reads
    weights: str = ""
    arithmetic: str = "fp32"
    activation_dtype: str = "fp32"
    kv_dtype: str = "fp16"
    n_runs: int = 0


class Terms(Record):
    """One forward at the ceilings: seconds that its parts would take, each alone."""

    reading_s: float  # bytes of weights over bandwidth
    caching_s: float  # bytes of the KV cache, read and written, over bandwidth
    computing_s: float  # FLOPs that kernels execute over peak
    touching_s: float  # bytes of activations over a cache's bandwidth
    ideal_s: float  # the roofline of useful FLOPs
    n_layers: int


class Observation(Record):
    """One measured kind of forward beside its terms."""

    model: str
    phase: Literal["prefill", "decode"]
    seconds: float
    terms: Terms
    weights: str = "fp32"
    arithmetic: str = "fp32"
    activation_dtype: str = "fp32"
    kv_dtype: str = "fp16"


class PredictionHere(Expected, omit_defaults=False):
    """On this machine, in one backend."""

    backend: str


def typical(backend: str, arithmetic: str = "fp32") -> Overhead:
    """A stand-in before any run: kernels at two thirds of the ceilings, some microseconds for each layer.

    Quantized weights are unpacked while they are multiplied, so kernels reach a small part of the int8 peak.
    """
    return Overhead(
        backend=backend,
        reading=1.5,
        computing=8.0 if arithmetic == "int8" else 1.5,
        caching=1.5,
        touching=1.5,
        forward_s=1e-4,
        layer_s=1e-5,
        spread=Spread(low=0.5, high=2.0),
        arithmetic=arithmetic,
    )


def is_foreign(overhead: Overhead, weights: str) -> bool:
    """Whether the runs behind it had weights of another dtype."""
    return overhead.n_runs > 0 and overhead.weights != canonical_dtype(weights)


def for_weights(overhead: Overhead, weights: str) -> Overhead:
    """The same for weights of this dtype: with a wide range where its runs had others, whose kernels differ."""
    if not is_foreign(overhead, weights):
        return overhead
    wide = typical(overhead.backend).spread
    spread = Spread(low=min(wide.low, overhead.spread.low), high=max(wide.high, overhead.spread.high))
    return msgspec.structs.replace(overhead, spread=spread)


def arithmetic_dtype(weights: str, ceilings: Ceilings) -> str:
    """In what a processor's libraries multiply matrices whose weights are stored so, as far as it was measured.

    Quantized weights: int8, as llama.cpp turns the activations to 8 bits. fp16, bf16: whatever is faster of itself and
    fp32, for many processors have no arithmetic of 16 bits and engines widen such weights as they are read.
    """
    dtype, peaks = canonical_dtype(weights), ceilings.flop_per_s
    if is_quantized(dtype):
        order = ["int8"]
    elif dtype in ("fp16", "bf16"):
        order = sorted({dtype, "fp32"} & peaks.keys(), key=lambda name: -peaks[name])
    else:
        order = [dtype]
    return next((name for name in order if name in peaks), "fp32")


def observe(
    spec: ModelSpec,
    ceilings: Ceilings,
    phase: Literal["prefill", "decode"],
    seconds: float,
    *,
    n_new: int,
    n_past: int = 0,
    batch: int = 1,
    compute_dtype: str = "fp32",
    activation_dtype: str = "fp32",
    kv_dtype: str = "fp16",
    n_logits: int = 1,
) -> Observation:
    """A measured forward of `n_new` tokens per sequence, ready for `fit_overhead`. spec: session.spec of that run."""
    forward = total(
        work(spec, n_new, n_past, batch, activation_dtype=activation_dtype, kv_dtype=kv_dtype, n_logits=n_logits)
    )
    return Observation(
        model=spec.name,
        phase=phase,
        seconds=seconds,
        terms=_terms(forward, len(spec.layers), ceilings, compute_dtype),
        weights=canonical_dtype(spec.dtype),
        arithmetic=compute_dtype,
        activation_dtype=activation_dtype,
        kv_dtype=kv_dtype,
    )


def fit_overhead(backend: str, observations: Sequence[Observation]) -> Overhead:
    """Fit a backend's numbers to its runs, all with weights of one dtype; raises ExplorerError without any.

    `typical` is added as weak evidence, so that one or two runs move only what they tell about.
    The spread holds nine in ten of measured over fitted times, and is at least a tenth to either side.
    """
    if not observations:
        raise ExplorerError(
            f"There is no run of {plugins.label('backend', backend)} to calibrate with.", "Run a model first."
        )
    last = observations[-1]
    assert {o.weights for o in observations} == {last.weights}, "one fit for two kinds of weights"
    found = [_fit(backend, observations, overlaps) for overlaps in (True, False)]
    fitted = min(found, key=lambda overhead: sum(abs(_ratio(overhead, o) - 1) for o in observations))
    low, high = (float(q) for q in np.quantile([_ratio(fitted, o) for o in observations], [0.05, 0.95]))
    return msgspec.structs.replace(
        fitted,
        spread=Spread(low=min(0.9, 0.95 * low), high=max(1.1, 1.05 * high)),
        weights=last.weights,
        arithmetic=last.arithmetic,
        activation_dtype=last.activation_dtype,
        kv_dtype=last.kv_dtype,
        n_runs=len(observations),
    )


def _fit(backend: str, observations: Sequence[Observation], overlaps: bool) -> Overhead:
    guess = typical(backend, observations[-1].arithmetic)
    named = {name: float(getattr(guess, name)) for name in FITTED}
    seconds = [o.seconds for o in observations]
    # One pseudo-run per number: "this part alone takes what the guess says", a twentieth as heavy as a run.
    scale = float(np.median(seconds))
    found = relative_fit(
        [*(_weighable(o.terms, overlaps) for o in observations), *({name: scale / v} for name, v in named.items())],
        [*seconds, *([scale] * len(named))],
        weights=[*([1.0] * len(seconds)), *([0.05 / len(named)] * len(named))],
    )
    return msgspec.structs.replace(guess, overlaps=overlaps, **{name: found.get(name, 0.0) for name in named})


def _weighable(terms: Terms, overlaps: bool) -> dict[str, float]:
    """What the fitted numbers are multiplied with; of reading and computing the longer, if they overlap."""
    found = {
        "reading": terms.reading_s,
        "computing": terms.computing_s,
        "caching": terms.caching_s,
        "touching": terms.touching_s,
        "forward_s": 1.0,
        "layer_s": float(terms.n_layers),
    }
    if overlaps:
        del found["computing" if terms.reading_s > terms.computing_s else "reading"]
    return found


def _ratio(overhead: Overhead, o: Observation) -> float:
    return o.seconds / forward_seconds(overhead, o.terms)


def forward_seconds(overhead: Overhead, terms: Terms) -> float:
    """The formula above."""
    reading, computing = overhead.reading * terms.reading_s, overhead.computing * terms.computing_s
    kernels = max(reading, computing) if overhead.overlaps else reading + computing
    rest = overhead.caching * terms.caching_s + overhead.touching * terms.touching_s
    return kernels + rest + overhead.forward_s + overhead.layer_s * terms.n_layers


def forward_parts(
    overhead: Overhead, forward: LayerWork, n_layers: int, ceilings: Ceilings, knee_bytes: float | None
) -> Timed:
    """The formula above for one forward, its seconds by what would shorten them.

    knee_bytes: working sets up to it are read from a cache (None: there is none). Between the two the measured
    bandwidth is a mean of logarithms, so that the seconds of a reading belong to either in proportion.
    """
    terms = _terms(forward, n_layers, ceilings, overhead.arithmetic)
    from_memory = _from_memory(ceilings, moved_bytes(forward), knee_bytes)

    def read(seconds: float, share: float = from_memory) -> Parts:
        return {BANDWIDTH: share * seconds, CACHE: (1 - share) * seconds}

    def both(*found: Parts) -> Parts:
        return {name: sum(parts.get(name, 0.0) for parts in found) for name in {n for parts in found for n in parts}}

    reading = read(overhead.reading * terms.reading_s)
    computing = {overhead.arithmetic: overhead.computing * terms.computing_s}
    if overhead.overlaps:
        kernels = reading if sum(reading.values()) >= computing[overhead.arithmetic] else computing
    else:
        kernels = both(reading, computing)
    parts = both(
        kernels,
        read(overhead.caching * terms.caching_s),
        read(overhead.touching * terms.touching_s, _from_memory(ceilings, _ACTIVATIONS_BYTES, knee_bytes)),
        {OVERHEAD: overhead.forward_s + overhead.layer_s * n_layers},
    )
    seconds = sum(parts.values())
    if seconds < terms.ideal_s:  # calibrated seconds never undercut the ideal ones
        moving = terms.reading_s + terms.caching_s
        parts = read(moving) if terms.ideal_s <= moving else {overhead.arithmetic: terms.ideal_s}
    return Timed(
        ideal=terms.ideal_s,
        seconds=max(seconds, terms.ideal_s),
        parts={name: value for name, value in parts.items() if value},
        in_cache=from_memory == 0.0,
    )


def _from_memory(ceilings: Ceilings, working_set_bytes: float, knee_bytes: float | None) -> float:
    """How much of the elasticity of the bandwidth at a working set is the memory's; the rest is the cache's."""
    sizes = sorted(point.working_set_bytes for point in ceilings.reads)
    if knee_bytes is None or not sizes or working_set_bytes >= sizes[-1]:
        return 1.0 if knee_bytes is None or not sizes or sizes[-1] > knee_bytes else 0.0
    if working_set_bytes <= sizes[0]:
        return float(sizes[0] > knee_bytes)
    low, high = next((a, b) for a, b in itertools.pairwise(sizes) if working_set_bytes <= b)
    share = math.log(working_set_bytes / low) / math.log(high / low)
    return (1 - share) * (low > knee_bytes) + share * (high > knee_bytes)


def predict_local(
    spec: ModelSpec,
    ceilings: Ceilings,
    overhead: Overhead,
    *,
    prompt_tokens: int,
    new_tokens: int,
    batch: int = 1,
    weights: str | None = None,
    compute_dtype: str | None = None,
    activation_dtype: str | None = None,
    kv_dtype: str | None = None,
    micro_batch: int = 512,
    held: Split | None = None,
    runtime_bytes: float = 0.0,
) -> PredictionHere:
    """What `spec` will do here with that backend.

    overhead: for weights of this dtype, or at least for their arithmetic (`arithmetic_dtype`). weights: as if they
    were stored so; None: as they are. The other dtypes are those of the runs behind the overhead unless given.
    micro_batch: prompt tokens per forward of the backend. held: the memory as the backend itself tells it. Where it
    does not: as the architecture needs it, with runtime_bytes of the backend's library.
    """
    spec = as_stored(spec, weights)
    foreign = is_foreign(overhead, spec.dtype)
    overhead = for_weights(overhead, spec.dtype)
    compute_dtype = compute_dtype or overhead.arithmetic
    activation_dtype, kv_dtype = activation_dtype or overhead.activation_dtype, kv_dtype or overhead.kv_dtype

    load = load_of(
        spec,
        prompt_tokens=prompt_tokens,
        new_tokens=new_tokens,
        batch=batch,
        kv_dtype=kv_dtype,
        activation_dtype=activation_dtype,
        micro_batch=micro_batch,
    )
    times = _times(load, ceilings, overhead, compute_dtype)
    shape = shape_of(spec, prompt_tokens, new_tokens, batch, micro_batch, activation_dtype, kv_dtype)
    parts = held or split(spec, shape, runtime_bytes)
    peak = memory_figure(parts)
    usable = None if ceilings.mem_bytes is None else usable_bytes("cpu", ceilings.mem_bytes)
    return PredictionHere(
        backend=overhead.backend,
        ttft_s=times.ttft,
        tpot_s=times.tpot,
        prefill_tok_per_s=as_rate(batch * prompt_tokens, times.ttft),
        decode_tok_per_s=None if times.tpot is None else as_rate(batch, times.tpot),
        peak_memory_bytes=peak,
        memory=parts,
        usable_memory_bytes=usable,
        fits=None if usable is None else peak.calibrated <= usable,
        bound_by=times.decode_bound,
        prefill_bound_by=times.prefill_bound,
        starting=times.decode_starting,
        prefill_starting=times.prefill_starting,
        assumptions=_assumptions(ceilings, overhead, compute_dtype, foreign, weights),
    )


def _times(load: Load, ceilings: Ceilings, overhead: Overhead, compute_dtype: str) -> Times:
    def terms(forward: LayerWork) -> Terms:
        return _terms(forward, len(load.spec.layers), ceilings, compute_dtype)

    def starting(parts: Sequence[Terms], seconds: float) -> float:
        n = sum(forward_seconds(overhead, part) > part.ideal_s for part in parts)  # else the ideal time is all there is
        return n * (overhead.forward_s + overhead.layer_s * len(load.spec.layers)) / seconds

    prompt = [terms(forward) for forward in load.prompt]
    seconds = sum(max(part.ideal_s, forward_seconds(overhead, part)) for part in prompt)
    step = None if load.step is None else terms(load.step)
    tpot = None if step is None else as_figure(step.ideal_s, forward_seconds(overhead, step), overhead.spread)
    first = starting(prompt, seconds)
    return Times(
        ttft=as_figure(sum(part.ideal_s for part in prompt), seconds, overhead.spread),
        prefill_bound=_bound(prompt),
        prefill_starting=first,
        tpot=tpot,
        decode_bound=_bound(prompt if step is None else [step]),
        decode_starting=first if step is None or tpot is None else starting([step], tpot.calibrated),
    )


def _assumptions(
    ceilings: Ceilings, overhead: Overhead, compute_dtype: str, foreign: bool, weights: str | None
) -> tuple[str, ...]:
    engine = plugins.label("backend", overhead.backend)
    found = [
        f"The ceilings were measured on {ceilings.date[:10]} with {ceilings.threads} threads.",
        f"Matrices are multiplied in {compute_dtype}.",
        "Bandwidth is that of the working set: weights and KV cache of one forward.",
        f"{engine} was calibrated with {overhead.n_runs} measured forward passes on this machine."
        if overhead.n_runs
        else f"{engine} has no undisturbed run here yet: typical overheads stand in; the range is wide.",
    ]
    if foreign:
        found.append(f"Those runs had {overhead.weights} weights, whose kernels differ: the range is wide.")
    if weights and mix_note(weights):
        found.append(mix_note(weights))
    return (*found, *ceilings.doubts)


def _terms(forward: LayerWork, n_layers: int, ceilings: Ceilings, dtype: str) -> Terms:
    peak = ceilings.flop_per_s.get(dtype)
    moved = moved_bytes(forward)
    bandwidth = ceilings.bandwidth(moved)
    if peak is None or bandwidth is None:
        known = ", ".join(ceilings.flop_per_s) or "none"
        raise ExplorerError(
            f"The measured ceilings hold no {dtype} arithmetic or no bandwidth (known: {known}).",
            "Measure the ceilings again, or choose another dtype.",
        )
    return Terms(
        reading_s=forward.weight_bytes / bandwidth,
        caching_s=(forward.kv_read_bytes + forward.kv_write_bytes) / bandwidth,
        computing_s=forward.flops_executed / peak,
        touching_s=forward.activation_bytes / (ceilings.bandwidth(_ACTIVATIONS_BYTES) or bandwidth),
        ideal_s=max(moved / bandwidth, forward.flops / peak),
        n_layers=n_layers,
    )


def _bound(forwards: Sequence[Terms]) -> Bound:
    """The same as intensity against the ridge."""
    memory = sum(f.reading_s + f.caching_s for f in forwards)
    return "memory" if memory > sum(f.computing_s for f in forwards) else "compute"
