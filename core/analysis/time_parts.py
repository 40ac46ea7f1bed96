"""What a forward's time on a device consists of: seconds for each resource of the device that they would shrink with.

The work of a prompt and of a decode step is counted once (`load_of`), so that any number of devices can be asked
for their time at once (`prompt_time`, `step_time`). The seconds are those of core.analysis.device_time, taken apart:
the memory's bandwidth, a dtype's FLOP/s, the power limit, and what starting kernels costs, which no figure of a data
sheet shortens. This module knows no file and no clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence

import msgspec

from core.analysis.device_time import (
    PUBLISHED,
    Calibration,
    compute_peak,
    decode_rest,
    decode_terms,
    ideal_peak,
    launch_seconds,
    prefill_terms,
)
from core.analysis.memory import as_stored
from core.analysis.work import LayerWork, total, work
from core.dtypes import canonical_dtype
from core.types import Attention, ModelSpec, Record
from hardware.device import Device
from hardware.errors import ExplorerError

BANDWIDTH, CACHE, POWER, OVERHEAD = "bandwidth", "cache", "power", "overhead"
Parts = dict[str, float]  # seconds by resource: one of those above, or the dtype whose FLOP/s count


class Load(Record):
    """The work that a request brings, whatever the device.

    prompt: every forward of it, in order. step: one decode step at the answer's mean context, None for an encoder.
    step_kv_bytes: of the cache, as a step reads it when each query head reads its own. spec: with its weights as
    asked for; weights: their dtype.
    """

    spec: ModelSpec
    weights: str
    prompt: tuple[LayerWork, ...]
    step: LayerWork | None
    step_kv_bytes: float


class Cache(Record):
    """A cache that may hold all that a forward reads, and how fast it is read then."""

    size_bytes: float
    bytes_per_s: float


class Timed(Record):
    """The seconds of a phase. ideal: by the roofline alone. calibrated: what the fit adds to it.

    seconds: the calibrated time, never below the ideal one; parts: of it. in_cache: the cache held what it reads.
    """

    ideal: float
    seconds: float
    parts: Parts
    in_cache: bool = False


def load_of(
    spec: ModelSpec,
    *,
    prompt_tokens: int,
    new_tokens: int,
    batch: int = 1,
    weights: str | None = None,
    kv_dtype: str = "fp16",
    activation_dtype: str = "fp16",
    micro_batch: int = 512,
) -> Load:
    """The work of one request; raises ExplorerError for sizes that make no sense. Arguments as predict.predict's."""
    check_sizes(prompt_tokens, new_tokens, batch, micro_batch)
    spec = as_stored(spec, weights)

    def rows(n_new: int, n_past: int) -> tuple[LayerWork, ...]:
        return work(spec, n_new, n_past, batch, kv_dtype=kv_dtype, activation_dtype=activation_dtype)

    forwards = chunks(prompt_tokens, micro_batch) if spec.causal else [(prompt_tokens, 0)]
    step = rows(1, prompt_tokens + new_tokens // 2) if spec.causal else ()
    return Load(
        spec=spec,
        weights=canonical_dtype(spec.dtype),
        prompt=tuple(total(rows(n_new, n_past)) for n_new, n_past in forwards),
        step=total(step) if step else None,
        step_kv_bytes=_kv_read_per_head(spec, step) if step else 0.0,
    )


def prompt_time(
    load: Load,
    device: Device,
    calibration: Calibration = PUBLISHED,
    thread_share: float = 1.0,
    cache: Cache | None = None,
) -> Timed:
    """Time to first token: every chunk takes the larger of its reading and its arithmetic."""
    ideal: Parts = defaultdict(float)
    parts: Parts = defaultdict(float)
    roof, peak = ideal_peak(device, load.weights), compute_peak(device, load.weights)
    held = [_holds(cache, forward) for forward in load.prompt]
    for forward, in_cache in zip(load.prompt, held, strict=True):
        where, bandwidth = _read_from(device, cache, in_cache)
        _add(ideal, _roofline(forward, where, bandwidth, roof))
        reading = {where: calibration.memory * forward.weight_bytes / bandwidth}
        arithmetic = _arithmetic(device, load.weights, forward.flops_executed, thread_share, calibration, peak[0])
        _add(parts, _longer(reading, arithmetic))
        _add(parts, {OVERHEAD: launch_seconds(device, load.spec.n_blocks, calibration)})
    return _timed(ideal, parts, all(held))


def step_time(
    load: Load,
    device: Device,
    calibration: Calibration = PUBLISHED,
    thread_share: float = 1.0,
    cache: Cache | None = None,
) -> Timed | None:
    """Time of one decode step: the larger of reading, with all that goes beside it, and arithmetic."""
    step = load.step
    if step is None:
        return None
    in_cache = _holds(cache, step)
    where, bandwidth = _read_from(device, cache, in_cache)
    ideal = _roofline(step, where, bandwidth, ideal_peak(device, load.weights))
    reads = device if where == BANDWIDTH else _with_bandwidth(device, bandwidth)
    names = {"memory": where, "unpack": "fp32", "soc_unpack_k": "fp32"}
    beside: Parts = defaultdict(float)
    for name, value in decode_terms(reads, step.weight_bytes, load.spec.n_blocks, load.weights).items():
        beside[names.get(name, OVERHEAD)] += getattr(calibration, name) * value
    beside[where] += decode_rest(reads, load.step_kv_bytes, 0.0, thread_share, calibration)
    if device.kind == "cpu":
        beside["fp32"] += decode_rest(reads, 0.0, step.flops, thread_share, calibration)
    peak = compute_peak(device, load.weights)[0]
    arithmetic = _arithmetic(device, load.weights, step.flops, thread_share, calibration, peak)
    return _timed(ideal, _longer(beside, arithmetic), in_cache)


def moved_bytes(forward: LayerWork) -> float:
    """Bytes that must come from memory; activations may stay in a cache."""
    return forward.weight_bytes + forward.kv_read_bytes + forward.kv_write_bytes


def chunks(n_tokens: int, micro_batch: int) -> list[tuple[int, int]]:
    """(new, past) tokens of every forward of a prompt."""
    return [(min(micro_batch, n_tokens - past), past) for past in range(0, n_tokens, micro_batch)]


def check_sizes(prompt_tokens: int, new_tokens: int, batch: int, micro_batch: int) -> None:
    """Raise ExplorerError for a size that makes no sense."""
    sizes = {"prompt_tokens": prompt_tokens, "new_tokens": new_tokens, "batch": batch, "micro_batch": micro_batch}
    for name, value in sizes.items():
        if value < 1:
            raise ExplorerError(
                f"A prediction needs {name} of at least 1, not {value}.", "Give a positive whole number."
            )
        if value > 10_000_000:
            raise ExplorerError(f"{name} of {value} is more than any model handles.", "Give a smaller number.")


def _holds(cache: Cache | None, forward: LayerWork) -> bool:
    return cache is not None and moved_bytes(forward) <= cache.size_bytes


def _read_from(device: Device, cache: Cache | None, in_cache: bool) -> tuple[str, float]:
    return (CACHE, cache.bytes_per_s) if cache and in_cache else (BANDWIDTH, device.mem_bandwidth_bytes_per_s)


def _with_bandwidth(device: Device, bytes_per_s: float) -> Device:
    return msgspec.structs.replace(device, mem_bandwidth_bytes_per_s=bytes_per_s)


def _roofline(forward: LayerWork, where: str, bandwidth: float, roof: tuple[str, float]) -> Parts:
    return _longer({where: moved_bytes(forward) / bandwidth}, {roof[0]: forward.flops / roof[1]})


def _arithmetic(
    device: Device, weights: str, flops: float, thread_share: float, calibration: Calibration, dtype: str
) -> Parts:
    terms = prefill_terms(device, flops, weights, thread_share)
    parts: Parts = defaultdict(float)
    for name, value in terms.items():
        parts[POWER if name == "joules_per_flop" else dtype] += getattr(calibration, name) * value
    return parts


def together(found: Sequence[Timed]) -> Timed:
    """Several forwards, one after the other."""
    parts: Parts = defaultdict(float)
    for one in found:
        _add(parts, one.parts)
    return Timed(
        ideal=sum(one.ideal for one in found),
        seconds=sum(one.seconds for one in found),
        parts=dict(parts),
        in_cache=all(one.in_cache for one in found),
    )


def _longer(one: Parts, other: Parts) -> Parts:
    return one if sum(one.values()) >= sum(other.values()) else other


def _add(to: Parts, more: Parts) -> None:
    for name, seconds in more.items():
        to[name] += seconds


def _timed(ideal: Parts, parts: Parts, in_cache: bool) -> Timed:
    kept = _longer(parts, ideal)  # calibrated seconds never undercut the ideal ones
    return Timed(
        ideal=sum(ideal.values()),
        seconds=sum(kept.values()),
        parts={name: seconds for name, seconds in kept.items() if seconds},
        in_cache=in_cache,
    )


def _kv_read_per_head(spec: ModelSpec, rows: Sequence[LayerWork]) -> float:
    """Bytes of the KV cache that a step reads when each query head reads its own: attention that is not fused.

    Beyond 8 heads per KV head kernels multiply matrices, and read it no more often.
    """
    read = 0.0
    for layer, row in zip(spec.layers, rows, strict=True):
        grouped = layer.op.n_heads / layer.op.n_kv_heads if isinstance(layer.op, Attention) else 1.0
        read += row.kv_read_bytes * min(grouped, 8.0)
    return read
