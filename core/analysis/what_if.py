"""What a change of a device would buy: elasticities, knees, lines of equal latency, and the front under cost.

The time of a phase is a sum of parts that each shrink with one resource (core.analysis.time_parts), so the share of
a part is the elasticity of the time to that resource, -d ln t / d ln resource, and the shares sum to 1. Where the
longer of two branches counts, the elasticity jumps at the ridge between them; `elasticities` therefore also takes a
finite step to either side. What no resource shortens is overhead. Efficiencies were fitted to devices that exist: of
one that does not, the ratios are worth more than the seconds. This module knows no file and no clock.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Literal

import msgspec
import numpy as np

from core.analysis.capacity import USABLE, USABLE_ELSEWHERE, usable_bytes
from core.analysis.designs import (
    FLOPS,
    Case,
    Design,
    Phase,
    PhaseName,
    changed,
    loaded,
    resources,
    seconds,
    times,
    word,
)
from core.analysis.device_time import compute_peak
from core.analysis.predict import bound, predict
from core.analysis.predict_here import predict_local
from core.analysis.time_parts import BANDWIDTH, OVERHEAD, POWER, Load, moved_bytes
from core.analysis.work import kv_bytes_per_token, total, work
from core.stats.pareto import Direction, front, membership
from core.types import ModelSpec, Record
from hardware.errors import ExplorerError

STEP = 1.1  # of the finite elasticities
RIDGE = 0.05  # left and right further apart than this: on a ridge
MOST_BATCH, MOST_TOKENS = 1 << 16, 1 << 22
REACH = 8.0  # factors to either side, of lines of equal time
UNSURE = 0.5  # of a price, to either side
DRAWS = 2000


class Elasticity(Record, omit_defaults=False):
    """How the time answers to one resource. share: of the time, the elasticity here.

    faster, slower: the same over a step of a tenth up and down; they differ on a ridge. doubled: time now over time
    with twice of it.
    """

    resource: str
    share: float
    faster: float
    slower: float
    doubled: float
    ridge: bool


class Knees(Record, omit_defaults=False):
    """Where the regime changes. None: nowhere up to any sensible size.

    batch: sequences from which a decode step is compute-bound. prompt_tokens: tokens of one forward from which a
    prompt is. cached_tokens: tokens, over all sequences, whose cache is as large as the weights; None without one.
    ridge: FLOP per byte.
    """

    batch: int | None
    prompt_tokens: int | None
    cached_tokens: float | None
    ridge: float
    dtype: str


class Candidate(Record, omit_defaults=False):
    """A design under cost. value: what is wanted of it; low and high hold nine in ten where devices were measured.

    on_front: nothing else is both better and cheaper. stable: how often it is on the front when every price is wrong
    by up to half. beaten_by: the cheapest that is better at no higher price.
    """

    name: str
    hypothetical: bool
    dollars: float
    value: float
    low: float
    high: float
    on_front: bool
    stable: float
    beaten_by: str


Metric = Literal["decode_tok_per_s", "ttft_s"]
BETTER: dict[Metric, Direction] = {"decode_tok_per_s": "higher", "ttft_s": "lower"}


# ---------------------------------------------------------------- what a change buys


def buys(load: Load, of: Design, phase: PhaseName, factors: Mapping[str, float]) -> float:
    """How many times faster the phase is with these resources multiplied."""
    return seconds(load, of, phase) / seconds(load, changed(of, factors), phase)


def elasticities(load: Load, of: Design, phase: PhaseName) -> tuple[Elasticity, ...]:
    """The resources that the phase answers to, the largest share first; their shares sum to 1."""
    now = seconds(load, of, phase)
    shares = next(p.shares for p in times(load, of) if p.name == phase)

    def finite(resource: str, factor: float) -> float:
        return math.log(now / seconds(load, changed(of, {resource: factor}), phase)) / math.log(factor)

    found = []
    for resource in resources(of):
        share, faster, slower = shares.get(resource, 0.0), finite(resource, STEP), finite(resource, 1 / STEP)
        if max(share, faster, slower) < 1e-9:
            continue
        # over a finite step a smooth elasticity moves by about share * (1 - share) * ln STEP to either side
        smooth = share * (1 - share) * math.log(STEP)
        found.append(
            Elasticity(
                resource=resource,
                share=share,
                faster=faster,
                slower=slower,
                doubled=buys(load, of, phase, {resource: 2.0}),
                ridge=max(abs(faster - share), abs(slower - share)) > smooth + RIDGE,
            )
        )
    return tuple(sorted(found, key=lambda e: -e.share))


def sentence(load: Load, of: Design, phase: PhaseName) -> str:
    """What a designer should take along, in one or two sentences."""
    found = next(p for p in times(load, of) if p.name == phase)
    bandwidth, flops = (buys(load, of, phase, {name: 2.0}) for name in (BANDWIDTH, FLOPS))
    words = (
        f"{phase.capitalize()} of {load.spec.name} on {of.device.name}: "
        f"twice the bandwidth buys ×{bandwidth:.3g} here, twice the FLOP/s ×{flops:.3g}."
    )
    rest = {name: share for name, share in found.shares.items() if name in (OVERHEAD, POWER) and share >= 0.05}
    kept = [f"{share:.0%} of the time is {_REST[name]}" for name, share in rest.items()]
    if found.in_cache:
        kept.append("the cache holds all that it reads, so the memory's bandwidth does not count")
    return words + (f" Neither shortens the rest: {', '.join(kept)}." if kept else "")


_REST = {OVERHEAD: "starting kernels", POWER: "set by the power limit"}


def regime(load: Load, of: Design) -> str:
    """One sentence where a cache holds some phase, or nearly does; else empty."""
    if of.cache is None or load.step is None:
        return ""
    needed, size = moved_bytes(load.step), of.cache.size_bytes
    what = f"a decode step reads {needed / 1e6:.3g} MB, and the cache holds {size / 1e6:.3g} MB"
    if needed <= size:
        return f"Another regime: {what}, so it is read at the cache's bandwidth."
    return f"Near another regime: {what}." if needed <= 2 * size else ""


# ---------------------------------------------------------------- knees, memory, lines of equal latency


def knees(spec: ModelSpec, case: Case, of: Design) -> Knees:
    """Where memory stops and arithmetic begins to limit, by the roofline of the dtype that kernels multiply in."""
    load = loaded(spec, case, of)
    spec = load.spec
    dtype, peak, bandwidth = reference(load, of)

    def computes(n_new: int, n_past: int, batch: int) -> bool:
        rows = work(spec, n_new, n_past, batch, kv_dtype=case.kv_dtype, activation_dtype="fp16")
        return bound(total(rows), peak, bandwidth) == "compute"

    past = case.prompt_tokens + case.new_tokens // 2
    per_token = kv_bytes_per_token(spec, case.kv_dtype) if spec.causal else 0.0
    return Knees(
        batch=_first(lambda n: computes(1, past, n), MOST_BATCH) if spec.causal else None,
        prompt_tokens=_first(lambda n: computes(n, 0, case.batch), MOST_TOKENS),
        cached_tokens=(spec.weight_bytes or 0) / per_token if per_token else None,
        ridge=peak / bandwidth,
        dtype=dtype,
    )


def knees_in_words(found: Knees) -> tuple[str, ...]:
    """The knees, a sentence each."""
    lines = [
        f"The ridge of {word(found.dtype).removesuffix(' FLOP/s')} lies at {found.ridge:.3g} FLOP per byte. It weighs "
        "reading against arithmetic, and does not count starting kernels."
    ]
    if found.prompt_tokens is not None:
        lines.append(f"A prompt is compute-bound from {found.prompt_tokens:,} tokens in one forward.")
    else:
        lines.append("A prompt stays memory-bound however long it is.")
    if found.cached_tokens is not None:
        lines.append(
            f"The KV cache is as large as the weights at {found.cached_tokens:,.0f} tokens over all sequences."
        )
        lines.append(
            f"A decode step is compute-bound from a batch of {found.batch:,}."
            if found.batch is not None
            else "A decode step stays memory-bound at any batch: every sequence brings a cache of its own to read."
        )
    return tuple(lines)


def reference(load: Load, of: Design) -> tuple[str, float, float]:
    """(dtype that matrices are multiplied in, its FLOP/s, the memory's bytes/s): the axes of a design's plane."""
    if of.measured is not None:
        dtype = of.measured.overhead.arithmetic
        return dtype, of.measured.ceilings.flop_per_s[dtype], of.device.mem_bandwidth_bytes_per_s
    return *compute_peak(of.device, load.weights), of.device.mem_bandwidth_bytes_per_s


def _first(holds: Callable[[int], bool], most: int) -> int | None:
    """The smallest n up to `most` for which it holds, if it holds for all above as well."""
    high = 1
    while not holds(high):
        high *= 2
        if high > most:
            return None
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    return high


def least_memory_bytes(spec: ModelSpec, case: Case, of: Design) -> float:
    """The memory that a device of this kind needs for all of a run, with what the system keeps for itself."""
    asked = msgspec.structs.asdict(case)
    if (here := of.measured) is not None:
        found = predict_local(spec, here.ceilings, here.overhead, runtime_bytes=here.runtime_bytes, **asked)
        peak = found.peak_memory_bytes
    else:
        peak = predict(spec, of.device, **asked).peak_memory_bytes
    return peak.calibrated / USABLE.get(of.device.kind, USABLE_ELSEWHERE)


class Line(Record):
    """Where in bandwidth (bytes/s) and FLOP/s a phase takes the same time: (bandwidth, FLOP/s), from left to right."""

    seconds: float
    points: tuple[tuple[float, float], ...]


def iso_latency(
    load: Load, of: Design, phase: PhaseName, speedups: Sequence[float] = (0.5, 1.0, 1.5, 2.0)
) -> tuple[Line, ...]:
    """Lines of equal time around the design. speedups: of its own time.

    A line with few points, or none, is one that no bandwidth or no arithmetic within reach brings about.
    """
    now = seconds(load, of, phase)
    _, peak, bandwidth = reference(load, of)
    grid = np.geomspace(1 / REACH, REACH, 17).tolist()

    def solved(goal: float, at: Callable[[float], Mapping[str, float]]) -> float | None:
        """The least factor with which the goal is met; the time falls in it."""

        def meets(factor: float) -> bool:
            return seconds(load, changed(of, at(factor)), phase) <= goal

        low, high = 1 / REACH, REACH
        if not meets(high) or meets(low):
            return None
        for _ in range(14):
            middle = math.sqrt(low * high)
            low, high = (low, middle) if meets(middle) else (middle, high)
        return high

    lines = []
    for speedup in speedups:
        goal = now / speedup
        found = []
        for x in grid:
            if (y := solved(goal, lambda f, x=x: {BANDWIDTH: x, FLOPS: f})) is not None:  # type: ignore[misc]
                found.append((x, y))
            if (y := solved(goal, lambda f, x=x: {BANDWIDTH: f, FLOPS: x})) is not None:  # type: ignore[misc]
                found.append((y, x))
        points = tuple((x * bandwidth, y * peak) for x, y in sorted(found, key=lambda p: (p[0], -p[1])))
        lines.append(Line(seconds=goal, points=points))
    return tuple(lines)


# ---------------------------------------------------------------- energy


def joules_per_token(phase: Phase, case: Case, of: Design) -> float | None:
    """At most, at full design power; None where the data sheet states none."""
    n_tokens = case.batch * (case.prompt_tokens if phase.name == "prefill" else 1)
    return None if of.device.tdp_w is None else of.device.tdp_w * phase.seconds / n_tokens


# ---------------------------------------------------------------- many models, many batches


class Cell(Record, omit_defaults=False):
    """What binds one model in one phase at one batch."""

    model: str
    phase: PhaseName
    batch: int
    seconds: float
    binds: str
    share: float
    bandwidth_buys: float
    flops_buys: float
    fits: bool
    joules_per_token: float | None


def matrix(specs: Sequence[ModelSpec], case: Case, of: Design, batches: Sequence[int]) -> tuple[Cell, ...]:
    """What binds per model, phase and batch."""
    cells = []
    for spec in specs:
        for batch in batches:
            asked = msgspec.structs.replace(case, batch=batch)
            load = loaded(spec, asked, of)
            fits = least_memory_bytes(spec, asked, of) <= of.device.mem_bytes
            for phase in times(load, of):
                cells.append(
                    Cell(
                        model=spec.name,
                        phase=phase.name,
                        batch=batch,
                        seconds=phase.seconds,
                        binds=phase.binds,
                        share=phase.shares[phase.binds],
                        bandwidth_buys=buys(load, of, phase.name, {BANDWIDTH: 2.0}),
                        flops_buys=buys(load, of, phase.name, {FLOPS: 2.0}),
                        fits=fits,
                        joules_per_token=joules_per_token(phase, asked, of),
                    )
                )
    return tuple(cells)


# ---------------------------------------------------------------- under cost


def under_cost(
    spec: ModelSpec, case: Case, designs: Sequence[Design], metric: Metric = "decode_tok_per_s"
) -> tuple[tuple[Candidate, ...], tuple[str, ...]]:
    """The priced designs that hold the model, with the front among them; and why the others are not there."""
    if metric == "decode_tok_per_s" and not spec.causal:
        raise ExplorerError(f"{spec.name} is an encoder and does not decode.", "Ask for the time of its only forward.")
    left_out, kept = [], []
    for of in designs:
        needed = least_memory_bytes(spec, case, of)
        if of.dollars is None:
            left_out.append(f"{of.device.name} has no price.")
        elif needed > of.device.mem_bytes:
            has = usable_bytes(of.device.kind, of.device.mem_bytes)
            left_out.append(
                f"{of.device.name} does not hold it: {has / 1e9:.3g} GB are usable, "
                f"{needed * has / of.device.mem_bytes / 1e9:.3g} GB are needed."
            )
        else:
            kept.append(of)
    values = [_values(loaded(spec, case, of), case.batch, of, metric) for of in kept]
    dollars = [of.dollars or 0.0 for of in kept]
    better: tuple[Direction, Direction] = (BETTER[metric], "lower")
    rows = [(v[0], d) for v, d in zip(values, dollars, strict=True)]
    on = front(rows, better) if rows else ()
    stable = _stability([v[0] for v in values], dollars, better)
    found = []
    for i, of in enumerate(kept):
        beaters = [
            (dollars[j], kept[j].device.name)
            for j in range(len(kept))
            if j != i and _beats(rows[j], rows[i], better[0] == "higher")
        ]
        value, low, high = values[i]
        found.append(
            Candidate(
                name=of.device.name,
                hypothetical=of.hypothetical,
                dollars=dollars[i],
                value=value,
                low=low,
                high=high,
                on_front=on[i],
                stable=stable[i],
                beaten_by=min(beaters)[1] if beaters else "",
            )
        )
    return tuple(sorted(found, key=lambda c: c.dollars)), tuple(left_out)


def _values(load: Load, batch: int, of: Design, metric: Metric) -> tuple[float, float, float]:
    phases = {p.name: p for p in times(load, of)}
    if metric == "ttft_s":
        first = phases["prefill"]
        return first.seconds, first.low_s, first.high_s
    step = phases["decode"]
    return batch / step.seconds, batch / step.high_s, batch / step.low_s


def _beats(one: tuple[float, float], other: tuple[float, float], higher: bool) -> bool:
    value, than = (one[0], other[0]) if higher else (-one[0], -other[0])
    return value >= than and one[1] <= other[1] and (value > than or one[1] < other[1])


def _stability(
    values: Sequence[float], dollars: Sequence[float], better: tuple[Direction, Direction]
) -> tuple[float, ...]:
    """How often each is on the front when each price by itself lies anywhere within UNSURE of what was given."""
    if not values:
        return ()
    rng = np.random.default_rng(0)
    wrong = rng.uniform(1 - UNSURE, 1 + UNSURE, size=(DRAWS, len(values)))
    samples = np.stack([np.broadcast_to(np.asarray(values), wrong.shape), np.asarray(dollars) * wrong], axis=-1)
    return membership(samples, better)
