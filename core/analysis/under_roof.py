"""What stands under a roof: a run's phases, layers and operators as measured, and a forward of any shape as predicted.

A predicted point lies on the roof by construction: it is the fastest that the machine allows. Knows
runs as results and models as layers; the roof itself is given.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

import msgspec

from core.analysis.bottlenecks import Ceiling
from core.analysis.roofline import Point, measured_layers, measured_phases, predicted_layers, predicted_phase
from core.analysis.work import LayerWork, total, work
from core.types import LayerKind, LayerResult, ModelSpec, PhaseResult, Record

Phase = Literal["prefill", "decode"]
Level = Literal["Phases", "Layers", "Operators"]


class Forward(Record, omit_defaults=False):
    """A forward to predict: new tokens per sequence after cached ones, for a batch of sequences."""

    n_new: int
    n_past: int
    batch: int = 1


At = Callable[[float], Ceiling]


def measured(
    phases: Sequence[PhaseResult], layers: Sequence[LayerResult], level: Level, ceiling: Ceiling, near: At | None = None
) -> tuple[Point, ...]:
    """The points of a run: its phases always, below them its layers or the library's operators.

    near: the ceiling for a working set of so many bytes; then layers that mostly move activations,
    which the layer before has just written, stand under the roof of the cache that holds them.
    """
    whole = measured_phases(map(per_forward, phases), ceiling)
    if level == "Phases":
        return whole
    if level == "Operators":
        return (*whole, *measured_layers(by_operator(layers), ceiling))
    points = [measured_layers([row], ceiling_for(row, ceiling, near)) for row in layers]
    return (*whole, *(point for found in points for point in found))


def ceiling_for(row: LayerResult, ceiling: Ceiling, near: At | None) -> Ceiling:
    """The ceiling of one layer: that of its own working set when that is mostly activations."""
    return near(row.bytes or 0.0) if near is not None and moves_activations(row) else ceiling


def ideal_times(layers: Iterable[LayerResult], ceiling: Ceiling, near: At | None) -> dict[str, float]:
    """The fastest time that the roof allows each timed and counted layer, by name."""
    return {
        x.name: ceiling_for(x, ceiling, near).ideal_s(x.flops, x.bytes)
        for x in layers
        if x.seconds and x.flops is not None and x.bytes
    }


def moves_activations(row: LayerResult) -> bool:
    """Whether most of its bytes are activations rather than weights, cache or state."""
    return row.bytes is not None and row.weight_bytes < 0.5 * row.bytes and not _streams(row.name)


def predicted(
    spec: ModelSpec,
    phase: Phase,
    forward: Forward,
    level: Level,
    ceiling: Ceiling,
    activation_dtype: str = "fp32",
    kv_dtype: str = "fp16",
    near: At | None = None,
) -> tuple[Point, ...]:
    """The same things on the roof, for a forward of this shape. Layers run one after the other."""
    rows = work(
        spec, forward.n_new, forward.n_past, forward.batch, activation_dtype=activation_dtype, kv_dtype=kv_dtype
    )
    everything = total(rows)
    if not everything.flops or not everything.bytes:
        return ()
    seconds = ideal_seconds(rows, ceiling)
    whole = predicted_phase(phase, everything.flops, everything.bytes, seconds, ceiling)
    if level != "Layers":
        return (whole,)
    points = [predicted_layers([row], phase, _ceiling_of(row, ceiling, near)) for row in rows]
    return (whole, *(point for found in points for point in found))


def _ceiling_of(row: LayerWork, ceiling: Ceiling, near: At | None) -> Ceiling:
    mostly = row.activation_bytes > 0.5 * row.bytes and not _streams(row.name)
    return near(row.bytes) if near is not None and mostly else ceiling


def _streams(name: str) -> bool:
    """Whether a layer without weights reads a cache or a state from memory."""
    return name.rpartition(".")[2] in ("core", "scan", "conv")


def ideal_seconds(rows: Iterable[LayerWork], ceiling: Ceiling) -> float:
    """The fastest that the roof allows when layers run one after the other."""
    return sum(ceiling.ideal_s(row.flops, row.bytes) for row in rows)


def per_forward(phase: PhaseResult) -> PhaseResult:
    """A phase's numbers for one of its forwards: all of decode becomes one mean step, prefill stays as it is."""
    n = phase.n_forward if phase.name == "decode" else 1
    if n <= 1:
        return phase
    return msgspec.structs.replace(
        phase, seconds=phase.seconds / n, flops=phase.flops / n, bytes=phase.bytes / n, n_forward=1
    )


def by_operator(layers: Iterable[LayerResult]) -> list[LayerResult]:
    """Layers that the library runs with the same operator, added up per phase. Uncounted ones make a sum uncounted."""
    groups: dict[tuple[str, Phase], list[LayerResult]] = {}
    for layer in layers:
        if layer.seconds and layer.op:
            groups.setdefault((layer.op, layer.phase), []).append(layer)
    return [_merged(op, phase, members) for (op, phase), members in groups.items()]


def working_set_bytes(layers: Iterable[LayerResult], phase: Phase) -> float:
    """Bytes of weights that one forward of the phase reads: what decides which memory level feeds it."""
    return sum(layer.weight_bytes for layer in layers if layer.phase == phase)


def _merged(op: str, phase: Phase, members: Sequence[LayerResult]) -> LayerResult:
    kinds = [m.kind for m in members]
    kind: LayerKind = max(set(kinds), key=lambda k: (kinds.count(k), k))
    counted = all(m.flops is not None and m.bytes is not None for m in members)
    return LayerResult(
        name=op,
        kind=kind,
        phase=phase,
        seconds=sum(m.seconds or 0.0 for m in members),
        calls=sum(m.calls or 0 for m in members),
        flops=sum(m.flops or 0.0 for m in members) if counted else None,
        bytes=sum(m.bytes or 0.0 for m in members) if counted else None,
        weight_bytes=sum(m.weight_bytes for m in members),
        n_params=sum(m.n_params for m in members),
        op=op,
    )
