"""A device that exists or might, and the time of a case on it. This module knows no file and no clock."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import msgspec

from core.analysis.device_time import PUBLISHED, Spread
from core.analysis.predict import as_figure
from core.analysis.predict_here import Overhead, forward_parts
from core.analysis.time_parts import (
    BANDWIDTH,
    CACHE,
    OVERHEAD,
    POWER,
    Cache,
    Load,
    Timed,
    load_of,
    prompt_time,
    step_time,
    together,
)
from core.types import ModelSpec, Record
from hardware.ceilings import Ceilings
from hardware.device import Device, validate
from hardware.errors import ExplorerError

PhaseName = Literal["prefill", "decode"]
FLOPS = "flops"  # the FLOP/s of every dtype together
WORDS = {
    BANDWIDTH: "bandwidth",
    CACHE: "cache bandwidth",
    POWER: "power limit",
    OVERHEAD: "starting kernels",
    FLOPS: "FLOP/s",
}


class Case(Record):
    """What is asked of the device. weights None: as the model has them."""

    prompt_tokens: int = 512
    new_tokens: int = 128
    batch: int = 1
    weights: str | None = None
    kv_dtype: str = "fp16"


class Measured(Record):
    """This machine by its measured ceilings and what one backend adds to them. knee_bytes: where its caches end.
    runtime_bytes: what the backend holds beyond what the architecture needs."""

    ceilings: Ceilings
    overhead: Overhead
    knee_bytes: float | None
    runtime_bytes: float = 0.0


class Design(Record):
    """A device that exists or might. dollars: its price, None where none was given.

    cache: one that may hold the whole model; None: there is none, or it is never large enough. starts: how many times
    faster than today kernels are started. measured: in place of the device's figures, for this machine; device then
    says what memory it has.
    """

    device: Device
    cache: Cache | None = None
    dollars: float | None = None
    starts: float = 1.0
    hypothetical: bool = False
    measured: Measured | None = None


class Phase(Record, omit_defaults=False):
    """One phase on a design. shares: of its time by resource, which sum to 1. binds: the largest of them."""

    name: PhaseName
    ideal_s: float
    seconds: float
    low_s: float
    high_s: float
    shares: dict[str, float]
    binds: str
    in_cache: bool


def design(
    device: Device, cache: Cache | None = None, dollars: float | None = None, hypothetical: bool = False
) -> Design:
    """A design whose every figure can be true; raises ExplorerError with one sentence for one that cannot."""
    validate(device, "The design")
    if cache is not None:
        check_positive("size of the cache", cache.size_bytes, "Give it in megabytes, or leave the cache out.")
        check_positive("bandwidth of the cache", cache.bytes_per_s, "Give it in GB/s, or leave the cache out.")
        if cache.bytes_per_s < device.mem_bandwidth_bytes_per_s:
            raise ExplorerError(
                f"The cache of '{device.name}' is slower than its memory.",
                "Give the cache at least the memory's bandwidth, or leave it out.",
            )
    if dollars is not None:
        check_positive(f"price of '{device.name}'", dollars, "Give it in dollars, or leave it out when it is unknown.")
    return Design(device=device, cache=cache, dollars=dollars, hypothetical=hypothetical)


def this_machine(ceilings: Ceilings, overhead: Overhead, name: str, runtime_bytes: float = 0.0) -> Design:
    """The design that this machine is, with that backend; raises ExplorerError where no bandwidth was measured."""
    knee = max(ceilings.knees, default=None)
    measured = Measured(ceilings=ceilings, overhead=overhead, knee_bytes=knee, runtime_bytes=runtime_bytes)
    return Design(device=ceilings.as_device(name), measured=measured)


def _faster(of: Measured, factors: Mapping[str, float]) -> Measured:
    memory, cache, flops = (factors.get(name, 1.0) for name in (BANDWIDTH, CACHE, FLOPS))
    reads = tuple(
        msgspec.structs.replace(point, bytes_per_s=point.bytes_per_s * (memory if outside else cache))
        for point in of.ceilings.reads
        for outside in [of.knee_bytes is None or point.working_set_bytes > of.knee_bytes]
    )
    gemms = tuple(
        msgspec.structs.replace(gemm, flop_per_s=gemm.flop_per_s * flops * factors.get(gemm.dtype, 1.0))
        for gemm in of.ceilings.gemms
    )
    starts = factors.get(OVERHEAD, 1.0)
    overhead = msgspec.structs.replace(
        of.overhead, forward_s=of.overhead.forward_s / starts, layer_s=of.overhead.layer_s / starts
    )
    ceilings = msgspec.structs.replace(of.ceilings, reads=reads, gemms=gemms)
    return msgspec.structs.replace(of, ceilings=ceilings, overhead=overhead)


def check_positive(what: str, value: float, hint: str) -> None:
    """Raise ExplorerError for a figure that is not a finite number above zero."""
    if not math.isfinite(value) or value <= 0:
        raise ExplorerError(f"The {what} is {value:g}, and must be above zero.", hint)


def changed(of: Design, factors: Mapping[str, float]) -> Design:
    """The design with some resources multiplied. factors: by resource, or FLOPS for every dtype together."""
    for name, factor in factors.items():
        check_positive(f"factor of the {word(name)}", factor, "1 leaves it as it is, 2 doubles it.")
    device = of.device
    everything = factors.get(FLOPS, 1.0)
    peaks = {d: peak * everything * factors.get(d, 1.0) for d, peak in device.peak_flop_per_s.items()}
    device = msgspec.structs.replace(
        device,
        mem_bandwidth_bytes_per_s=device.mem_bandwidth_bytes_per_s * factors.get(BANDWIDTH, 1.0),
        peak_flop_per_s=peaks,
        tdp_w=None if device.tdp_w is None else device.tdp_w * factors.get(POWER, 1.0),
    )
    cache = of.cache and msgspec.structs.replace(of.cache, bytes_per_s=of.cache.bytes_per_s * factors.get(CACHE, 1.0))
    return msgspec.structs.replace(
        of,
        device=device,
        cache=cache,
        starts=of.starts * factors.get(OVERHEAD, 1.0),
        measured=of.measured and _faster(of.measured, factors),
    )


def altered(
    base: Design,
    factors: Mapping[str, float],
    mem_bytes: float | None,
    cache: Cache | None,
    dollars: float | None,
) -> Design:
    """The device as somebody wishes it, under a name that says so; raises ExplorerError for what cannot be.

    mem_bytes, cache: in place of its own. dollars: what it would cost. Without any change the device itself.
    """
    known = {FLOPS, *resources(base)}
    for name in factors:
        if name not in known:
            raise ExplorerError(f"{base.device.name} has no '{name}' to change.", f"It has {', '.join(sorted(known))}.")
    if cache is not None and base.measured is not None:
        raise ExplorerError("This machine's caches are measured.", "Change what they are read with instead.")
    kept = {name: factor for name, factor in factors.items() if factor != 1.0}
    now = changed(base, kept)
    more = mem_bytes is not None and mem_bytes != base.device.mem_bytes
    hypothetical = bool(kept) or cache is not None or more
    device = msgspec.structs.replace(
        now.device,
        name=f"{base.device.name}, changed" if hypothetical else base.device.name,
        mem_bytes=now.device.mem_bytes if mem_bytes is None else mem_bytes,
    )
    made = design(device, cache, dollars, hypothetical)
    return msgspec.structs.replace(made, measured=now.measured, starts=now.starts)


def loaded(spec: ModelSpec, case: Case, of: Design) -> Load:
    """The work of a case as this design does it; raises ExplorerError for sizes that make no sense."""
    activations = of.measured.overhead.activation_dtype if of.measured else "fp16"
    return load_of(spec, activation_dtype=activations, **msgspec.structs.asdict(case))


def times(load: Load, of: Design) -> tuple[Phase, ...]:
    """Prefill, and decode unless the model is an encoder."""
    prompt, step = _timed(load, of, "prefill"), _timed(load, of, "decode")
    named: tuple[tuple[PhaseName, Timed | None], ...] = (("prefill", prompt), ("decode", step))
    return tuple(_phase(name, found, _spread(of, name)) for name, found in named if found)


def seconds(load: Load, of: Design, phase: PhaseName) -> float:
    """Calibrated seconds of the prompt, or of one decode step."""
    found = _timed(load, of, phase)
    if found is None:
        raise ExplorerError(f"{load.spec.name} is an encoder and does not decode.", "Ask for its prefill.")
    return found.seconds


def _timed(load: Load, of: Design, phase: PhaseName) -> Timed | None:
    if of.measured is not None:
        here, n_layers = of.measured, len(load.spec.layers)
        forwards = load.prompt if phase == "prefill" else (load.step,) if load.step else ()
        found = [
            forward_parts(here.overhead, forward, n_layers, here.ceilings, here.knee_bytes) for forward in forwards
        ]
        return together(found) if found else None
    starts = {name: getattr(PUBLISHED, name) / of.starts for name in ("gpu_layer_s", "gpu_layer_2024_s", "soc_layer_s")}
    calibration = msgspec.structs.replace(PUBLISHED, **starts) if of.starts != 1 else PUBLISHED
    how = prompt_time if phase == "prefill" else step_time
    return how(load, of.device, calibration, cache=of.cache)


def _spread(of: Design, phase: PhaseName) -> Spread:
    if of.measured is not None:
        return of.measured.overhead.spread
    return PUBLISHED.spread(of.device, phase)


def _phase(name: PhaseName, found: Timed, spread: Spread) -> Phase:
    figure = as_figure(found.ideal, found.seconds, spread)
    shares = {part: value / found.seconds for part, value in sorted(found.parts.items(), key=lambda p: -p[1])}
    return Phase(
        name=name,
        ideal_s=found.ideal,
        seconds=found.seconds,
        low_s=figure.low,
        high_s=figure.high,
        shares=shares,
        binds=next(iter(shares)),
        in_cache=found.in_cache,
    )


def resources(of: Design) -> tuple[str, ...]:
    """All that a design's time could answer to."""
    if of.measured is not None:
        return (BANDWIDTH, CACHE, *of.measured.ceilings.flop_per_s, OVERHEAD)
    power = (POWER,) if of.device.tdp_w is not None else ()
    cache = (CACHE,) if of.cache is not None else ()
    return (BANDWIDTH, *cache, *of.device.peak_flop_per_s, *power, OVERHEAD)


def word(resource: str) -> str:
    """A resource as a person calls it: `bandwidth`, `fp16 FLOP/s`, `starting kernels`."""
    return WORDS.get(resource, f"{resource.replace('_acc16', ' with fp16 sums')} FLOP/s")
