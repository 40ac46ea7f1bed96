"""Roofs and points of a roofline (Williams, Waterman, Patterson, CACM 2009).

A ceiling is a number, measured here or stated in a data sheet; a roof is its line in the chart.
Attainable FLOP/s = min(peak, bandwidth * intensity). Whether memory or arithmetic limits something is
decided by its intensity against the ridge and by nothing else; the distance below the roof is its
efficiency. A point cannot lie above a correct roof: where one does, the ceiling, the count or the time is
wrong, and the point says what to suspect. The x-axis counts model bytes (compulsory traffic), so roofs of
several memory levels may stand on one chart, but not those of a cache-aware roofline.
Roof and Point have the fields that core.charts.roofline draws; this module knows no chart and no file.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from core.analysis.bottlenecks import Bound, Ceiling
from core.analysis.work import LayerWork
from core.types import LayerResult, PhaseResult, Record
from hardware.ceilings import Ceilings
from hardware.device import Device

# Timer noise and a ceiling measured a little low move a point by some percent; more is an error.
TOLERANCE = 1.05
MB = 2**20


class Roof(Record, omit_defaults=False):
    """The line of one ceiling. value: FLOP/s of a compute roof, bytes/s of a memory roof.

    main: of the reference roofline. doubtful: the figure was worked out from others, or is disputed.
    """

    device: str
    kind: Literal["compute", "memory"]
    name: str
    value: float
    main: bool = False
    doubtful: bool = False


class Point(Record, omit_defaults=False):
    """One thing under the roofs. The measured and the predicted point of a thing share their id.

    efficiency: achieved over attainable. above: beyond any correct roof. whole: a phase, not a layer.
    """

    id: str
    name: str
    kind: str
    phase: Literal["prefill", "decode"]
    source: Literal["measured", "predicted"]
    intensity: float
    flop_per_s: float
    seconds: float
    bound: Bound
    roof_flop_per_s: float
    efficiency: float
    above: bool = False
    whole: bool = False


def attainable(intensity: float, ceiling: Ceiling) -> float:
    """FLOP/s that the roof allows at this intensity (FLOP per byte)."""
    return min(ceiling.flop_per_s, ceiling.bytes_per_s * intensity)


# ---------------------------------------------------------------- roofs


def ceiling_of(device: Device, dtype: str) -> Ceiling | None:
    """The two figures of a data sheet for one dtype; None when it has no peak for it."""
    peak = device.peak_flop_per_s.get(dtype)
    if peak is None:
        return None
    return Ceiling(flop_per_s=peak, bytes_per_s=device.mem_bandwidth_bytes_per_s, source=device.name)


def ceiling_here(
    ceilings: Ceilings, dtype: str, working_set_bytes: float, whose: str = "this machine"
) -> Ceiling | None:
    """The measured roof for a forward that touches `working_set_bytes`; None where it was not measured.

    whose: what to call the machine.

    The working set of a layer is that of the whole forward: the other layers have emptied the cache
    before it runs again.
    """
    peak, bandwidth = ceilings.flop_per_s.get(dtype), ceilings.bandwidth(working_set_bytes)
    if peak is None or bandwidth is None:
        return None
    return Ceiling(flop_per_s=peak, bytes_per_s=bandwidth, source=f"{whose} with {ceilings.threads} threads")


def roofs_of(device: Device, main_dtype: str | None) -> tuple[Roof, ...]:
    """Every stated roof of a device."""
    compute = [
        Roof(
            device=device.name,
            kind="compute",
            name=dtype,
            value=peak,
            main=dtype == main_dtype,
            doubtful=device.is_uncertain(f"peak_flop_per_s.{dtype}"),
        )
        for dtype, peak in device.peak_flop_per_s.items()
    ]
    memory = Roof(
        device=device.name,
        kind="memory",
        name="DRAM",
        value=device.mem_bandwidth_bytes_per_s,
        main=True,
        doubtful=device.is_uncertain("mem_bandwidth_bytes_per_s"),
    )
    return (*compute, memory)


def roofs_here(
    ceilings: Ceilings, main_dtype: str, working_set_bytes: float, name: str = "This machine"
) -> tuple[Roof, ...]:
    """Every measured roof: arithmetic by dtype, memory by level as the knees of the curve show them.

    The memory roof that counts for `working_set_bytes` is the main one. name: of the device in the chart.
    """
    compute = [
        Roof(device=name, kind="compute", name=dtype, value=peak, main=dtype == main_dtype)
        for dtype, peak in ceilings.flop_per_s.items()
    ]
    memory = []
    for knee in (*ceilings.knees, None):
        rate = ceilings.dram_read_bytes_per_s if knee is None else ceilings.bandwidth(knee)
        if rate is not None:
            label = "DRAM" if knee is None else f"cache up to {knee / MB:.3g} MB"
            memory.append((knee, Roof(device=name, kind="memory", name=label, value=rate)))
    holding = [i for i, (knee, _) in enumerate(memory) if knee is None or working_set_bytes <= knee]
    main = holding[0] if holding else None
    marked = [
        Roof(device=name, kind="memory", name=roof.name, value=roof.value, main=i == main)
        for i, (_, roof) in enumerate(memory)
    ]
    return (*compute, *marked)


# ---------------------------------------------------------------- points


def measured_layers(layers: Iterable[LayerResult], ceiling: Ceiling) -> tuple[Point, ...]:
    """A point for every layer that was timed and that computes something."""
    return tuple(
        point(f"{row.phase}:{row.name}", row.name, row.kind, row.phase, "measured", row.flops, row.bytes,
               row.seconds, ceiling)
        for row in layers
        if row.seconds and row.flops and row.bytes
    )  # fmt: skip


def predicted_layers(
    rows: Iterable[LayerWork], phase: Literal["prefill", "decode"], ceiling: Ceiling
) -> tuple[Point, ...]:
    """A point on the roof for every layer that computes something: the ideal that a measured one is joined to."""
    return tuple(
        point(f"{phase}:{row.name}", row.name, row.kind, phase, "predicted", row.flops, row.bytes,
               ceiling.ideal_s(row.flops, row.bytes), ceiling)
        for row in rows
        if row.flops and row.bytes
    )  # fmt: skip


def measured_phases(phases: Iterable[PhaseResult], ceiling: Ceiling) -> tuple[Point, ...]:
    """A point for prefill and one for decode. Their average would be neither, so it is not offered."""
    return tuple(
        point(f"{row.name}:all", row.name, "phase", row.name, "measured", row.flops, row.bytes, row.seconds, ceiling)
        for row in phases
        if row.seconds and row.flops and row.bytes
    )


def predicted_phase(
    phase: Literal["prefill", "decode"], flops: float, n_bytes: float, seconds: float, ceiling: Ceiling
) -> Point:
    """The predicted point of a whole phase."""
    return point(f"{phase}:all", phase, "phase", phase, "predicted", flops, n_bytes, seconds, ceiling)


def point(
    point_id: str,
    name: str,
    kind: str,
    phase: Literal["prefill", "decode"],
    source: Literal["measured", "predicted"],
    flops: float,
    n_bytes: float,
    seconds: float | None,
    ceiling: Ceiling,
) -> Point:
    """A forward or a part of one, of so many FLOPs and bytes, under a ceiling."""
    assert seconds and seconds > 0 and flops > 0 and n_bytes > 0, (name, seconds, flops, n_bytes)
    intensity, rate = flops / n_bytes, flops / seconds
    roof = attainable(intensity, ceiling)
    return Point(
        id=point_id,
        name=name,
        kind=kind,
        phase=phase,
        source=source,
        intensity=intensity,
        flop_per_s=rate,
        seconds=seconds,
        bound=ceiling.bound(intensity),
        roof_flop_per_s=roof,
        efficiency=rate / roof,
        above=rate > TOLERANCE * roof,
        whole=kind == "phase",
    )


# ---------------------------------------------------------------- why a point may lie above its roof

_CACHED = "Its data came from a cache, and the roof is that of memory: compare it with the roof of its working set."
_COUNT = "Its FLOPs are counted too high (masked scores that the kernel skips) or its bytes too low."
_SYNC = "Its time was taken before the device had finished."
_DTYPE = "The roof is for another dtype or accumulator than the kernel used (int8 or fp16 accumulation is faster)."
_SLOW_CEILING = "The ceiling was measured at a lower clock, with fewer threads or on a busy machine: measure it again."


def causes(point: Point) -> tuple[str, ...]:
    """What to suspect, most likely first, when a point lies above its roof; empty when it does not."""
    if not point.above:
        return ()
    if point.bound == "memory":
        return (_CACHED, _SLOW_CEILING, _COUNT, _SYNC, _DTYPE)
    return (_DTYPE, _SLOW_CEILING, _COUNT, _SYNC, _CACHED)
