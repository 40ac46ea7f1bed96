"""The few layers that decide a phase's time, each in one sentence, with what would help.

Equal layers of all blocks are one suspect ("the 30 mlp.down_proj layers"). Whether memory or
arithmetic limits it follows from its intensity against the ridge and from nothing else; how far it is
from the roof then says whether the machine or the kernel is at fault. Knows no machine: it is told.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

from core.analysis.breakdown import Attribution, Phase
from core.layer_names import block_of
from core.types import LayerKind, LayerResult, Record

NEAR_ROOF = 0.6  # of the attainable rate: from here on the machine, not the kernel, is the limit
OVERHEAD_S = 15e-6  # a call this short is mostly the cost of calling
TOP = 4  # groups that are told
UNATTRIBUTED = 0.10  # of a phase's time: worth a sentence

Bound = Literal["memory", "compute"]


class Ceiling(Record):
    """The two figures of a reference roofline. source: where they come from, for the sentence."""

    flop_per_s: float
    bytes_per_s: float
    source: str = "this machine"

    @property
    def ridge(self) -> float:
        """FLOP per byte from which arithmetic is the limit."""
        return self.flop_per_s / self.bytes_per_s

    def bound(self, intensity: float) -> Bound:
        return "memory" if intensity < self.ridge else "compute"

    def ideal_s(self, flops: float, n_bytes: float) -> float:
        """The time that the roof allows."""
        return max(flops / self.flop_per_s, n_bytes / self.bytes_per_s)


class Bottleneck(Record, omit_defaults=False):
    """A group of equal layers in one phase. layers: their names, slowest first.

    share: of the time attributed to layers. of_roof: ideal over measured time; above 1 the ceiling or
    the count is wrong. finding, advice: one sentence each.
    """

    title: str
    kind: LayerKind
    phase: Phase
    layers: tuple[str, ...]
    seconds: float
    share: float
    bound: Bound | None
    of_roof: float | None
    finding: str
    advice: str


def bottlenecks(layers: Sequence[LayerResult], phase: Phase, ceiling: Ceiling | None = None) -> list[Bottleneck]:
    """The groups that take most of a phase, largest first. Only measured layers count."""
    groups: dict[str, list[LayerResult]] = {}
    for layer in layers:
        if layer.phase == phase and layer.seconds:
            groups.setdefault(_part(layer.name), []).append(layer)
    whole = sum(x.seconds or 0.0 for members in groups.values() for x in members)
    ranked = sorted(groups.items(), key=lambda g: -sum(x.seconds or 0.0 for x in g[1]))
    return [_judge(part, members, phase, whole, ceiling) for part, members in ranked[:TOP]]


def outside(attributions: Sequence[Attribution], phase: Phase) -> str | None:
    """One sentence when much of a phase's time is in no layer; else None."""
    for a in attributions:
        if a.phase == phase and a.unattributed_share >= UNATTRIBUTED:
            return (
                f"{a.unattributed_share:.0%} of the instrumented {phase} is in no layer: sampling, the library's own "
                "bookkeeping and the profiler itself. Fewer, larger steps would help: speculative decoding, or a "
                "library with less overhead per step."
            )
    return None


def _judge(
    part: str, members: Sequence[LayerResult], phase: Phase, whole: float, ceiling: Ceiling | None
) -> Bottleneck:
    seconds = sum(x.seconds or 0.0 for x in members)
    calls = sum(x.calls or 0 for x in members)
    counted = all(x.flops is not None and x.bytes is not None for x in members)
    flops, n_bytes = sum(x.flops or 0.0 for x in members), sum(x.bytes or 0.0 for x in members)
    bound: Bound | None = None
    of_roof: float | None = None
    if ceiling is not None and counted and n_bytes:
        bound = ceiling.bound(flops / n_bytes)
        of_roof = ceiling.ideal_s(flops, n_bytes) / seconds
    kind = members[0].kind
    title = part if len(members) == 1 else f"{len(members)} × {part}"
    subject = f"The {part} layer takes" if len(members) == 1 else f"The {len(members)} {part} layers take"
    per = "per token" if phase == "decode" else "in all"
    finding = f"{subject} {seconds / whole:.0%} of the time in layers, {_time(seconds)} {per}"
    if bound is not None and of_roof is not None:
        finding += f": {bound}-bound, at {_share(of_roof)} of what {ceiling.source if ceiling else ''} allows."
    elif not counted:
        finding += ": its FLOPs are not counted, so its distance from the roof is unknown."
    else:
        finding += "."
    return Bottleneck(
        title=title,
        kind=kind,
        phase=phase,
        layers=tuple(x.name for x in sorted(members, key=lambda x: -(x.seconds or 0.0))),
        seconds=seconds,
        share=seconds / whole,
        bound=bound,
        of_roof=of_roof,
        finding=finding,
        advice=_advice(part, kind, phase, bound, of_roof, seconds / len(members), bool(calls), flops),
    )


def _advice(
    part: str,
    kind: LayerKind,
    phase: Phase,
    bound: Bound | None,
    of_roof: float | None,
    each_s: float,
    called: bool,
    flops: float,
) -> str:
    core = part.endswith("attn.core")
    if called and each_s < OVERHEAD_S and (of_roof is None or of_roof < NEAR_ROOF):
        return "Each call is so short that calling costs more than computing: a fused step or a compiled graph help."
    if bound is None or of_roof is None:
        return "Measure this machine's ceilings to learn whether memory or arithmetic limits it."
    if of_roof > 1.05:
        return "It beats its own roof, so the ceiling or the count is wrong; the Roofline page lists the likely causes."
    if bound == "memory" and of_roof >= NEAR_ROOF:
        if core:
            return "Only fewer cache bytes help: a shorter context, a KV cache in 8 bits, fewer KV heads, a window."
        if kind == "head":
            return (
                "Only fewer bytes help: a lower precision for the head, a smaller vocabulary, several tokens per read."
            )
        if not flops or kind in ("norm", "other"):
            return "Only fewer passes over memory help: fuse it with its neighbours."
        if phase == "decode":
            return "Only fewer bytes per token help: lower weight precision, a larger batch, or speculative decoding."
        return "Only fewer bytes help: a lower weight precision, or a longer prompt per forward."
    if kind == "embedding":
        return "It only copies one row per token, so its time is the cost of the call."
    if kind in ("norm", "other") or not flops:
        return "It computes next to nothing: fused into a neighbour, or in a compiled graph, it would nearly vanish."
    if bound == "memory":
        return "The kernel leaves bandwidth unused: try other threads, another backend, or another number format."
    if of_roof >= NEAR_ROOF:
        return "Only faster or less arithmetic helps: bf16 or int8 matrix units, a shorter prompt, pruning."
    return "The kernel leaves arithmetic unused: larger prompt chunks or batch, a better GEMM, or another backend."


def _part(name: str) -> str:
    """The layer's place within its block, experts and stacked networks taken together."""
    if block_of(name) is None:
        return name
    return re.sub(r"\.\d+(?=\.)", "", ".".join(name.split(".")[2:]))


def _share(value: float) -> str:
    return "less than 1%" if value < 0.01 else f"{value:.0%}"


def _time(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor:
            return f"{seconds / factor:.3g} {unit}"
    return f"{seconds / 1e-9:.3g} ns"
