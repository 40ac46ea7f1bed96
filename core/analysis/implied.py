"""What the latencies of a model behind a server imply: effective bandwidth, active bytes, and its layers' times.

A server tells no inside. But reading a prompt costs arithmetic in proportion to its length, and a step of decoding
reads the weights once and the cache of the whole context, so that two straight lines tell something:

    ITL(context) = active bytes / B + context · KV bytes per token / B
    TTFT(prompt) = what does not depend on it + prompt · 2 · active parameters / F

B and F are what the server reaches, network and queue included. One of the three, KV bytes per token, active bytes or
a device's bandwidth, must be known from elsewhere, and what follows is an estimate with its range: 95 % intervals of
the lines (Student's t over least squares), and of quotients their widest combination. Pure; knows no server.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Sequence
from typing import Literal

from core.analysis.bottlenecks import Ceiling
from core.analysis.roofline import Point, point
from core.analysis.work import work
from core.stats.quantiles import student_t
from core.types import ModelSpec, Record
from hardware.errors import ExplorerError

LENGTHS, SPREAD = 3, 2.0  # different lengths at least, and the longest over the shortest
LEVEL = 0.95
FLOPS_PER_PARAM = 2.0
Phase = Literal["prefill", "decode"]
_BLOCK = re.compile(r"^blocks\.\d+\.")


class Timing(Record, omit_defaults=False):
    """One measured answer. n_context: tokens in the cache in the middle of its decoding. None: not measured."""

    n_prompt: int
    n_context: float
    ttft_s: float | None = None
    itl_s: float | None = None


class Span(Record, omit_defaults=False):
    """A value and the range that it may have."""

    value: float
    low: float
    high: float


class Line(Record, omit_defaults=False):
    """Seconds over tokens: at none, and for each more. longest: tokens of the longest. n: answers."""

    at_zero: Span
    per_token: Span
    lengths: int
    longest: float
    n: int

    def at(self, n_tokens: float) -> float:
        return self.at_zero.value + n_tokens * self.per_token.value

    @property
    def grows(self) -> bool:
        """Whether the slope is above zero, its whole interval."""
        return self.per_token.low > 0


class Implied(Record, omit_defaults=False):
    """What follows. itl, ttft: the lines. bandwidth in bytes/s; basis: from what it follows, in words.

    active_bytes: weights that a step reads. most_bytes: more cannot be, if the device is the one named.
    active_params: that the lines allow at the device's arithmetic, at most. points: under the device's roofs.
    """

    itl: Line | None
    ttft: Line | None
    bandwidth: Span | None
    active_bytes: Span | None
    most_bytes: float | None
    most_params: float | None
    basis: str
    points: tuple[Point, ...]
    notes: tuple[str, ...]


def implied(
    timings: Sequence[Timing],
    ceiling: Ceiling,
    *,
    kv_bytes_per_token: float | None = None,
    active_bytes: float | None = None,
    active_params: float | None = None,
) -> Implied:
    """What timings over several lengths imply on the device whose ceiling it is.

    kv_bytes_per_token, active_bytes, active_params: of the configuration that the user names, or as the server says.
    Raises ExplorerError where the lengths are too few for a line.
    """
    itl = _line([(t.n_context, t.itl_s) for t in timings if t.itl_s])
    ttft = _line([(float(t.n_prompt), t.ttft_s) for t in timings if t.ttft_s])
    if itl is None and ttft is None:
        raise ExplorerError(_few(timings), "Measure it at three or more prompt lengths, as from 64 to 1024 tokens.")
    notes: list[str] = []
    bandwidth = read = None
    basis = ""
    if itl is None:
        notes.append("The contexts are too few or too near each other for a line of the inter-token latency.")
    elif kv_bytes_per_token and itl.grows:
        slope = itl.per_token
        bandwidth = Span(
            value=kv_bytes_per_token / slope.value,
            low=kv_bytes_per_token / slope.high,
            high=kv_bytes_per_token / slope.low,
        )
        read = _positive(itl.at_zero, bandwidth)
        basis = "from how the inter-token latency grows with the context, and the KV bytes of the configuration"
    elif active_bytes and itl.at_zero.low > 0:
        rest = itl.at_zero
        bandwidth = Span(value=active_bytes / rest.value, low=active_bytes / rest.high, high=active_bytes / rest.low)
        read = Span(value=active_bytes, low=active_bytes, high=active_bytes)
        basis = "from the inter-token latency without a context, and the bytes of the weights"
    if itl is not None and not itl.grows:
        notes.append("The inter-token latency does not measurably grow with the context: its slope tells nothing.")
    if ttft is not None and not ttft.grows:
        notes.append("TTFT does not measurably grow with the prompt: it says nothing of the arithmetic.")
    params = active_params
    points = _points(itl, ttft, bandwidth, read, params, kv_bytes_per_token or 0.0, ceiling)
    if params is None:
        notes.append("Without the number of parameters there is no point under the roofs.")
    return Implied(
        itl=itl,
        ttft=ttft,
        bandwidth=bandwidth,
        active_bytes=read,
        most_bytes=None if itl is None else itl.at_zero.high * ceiling.bytes_per_s,
        most_params=None
        if ttft is None or not ttft.grows
        else ttft.per_token.high * ceiling.flop_per_s / FLOPS_PER_PARAM,
        basis=basis,
        points=points,
        notes=tuple(notes),
    )


def _few(timings: Sequence[Timing]) -> str:
    lengths = sorted({t.n_prompt for t in timings})
    if not lengths:
        return "No answer of this model has been measured, one request at a time, yet."
    listed = ", ".join(map(str, lengths[:8]))
    return (
        f"Of this model there are answers to {len(lengths)} prompt length{'s' if len(lengths) != 1 else ''} "
        f"({listed} tokens), and a line needs {LENGTHS} of which the longest is twice the shortest."
    )


def _line(pairs: Sequence[tuple[float, float | None]]) -> Line | None:
    """Least squares of seconds over tokens; None where the lengths are too few or too near each other."""
    known = [(x, y) for x, y in pairs if y is not None and y > 0]
    lengths = sorted({round(x) for x, _ in known})
    if len(lengths) < LENGTHS or lengths[-1] < SPREAD * max(1, lengths[0]):
        return None
    n = len(known)
    mean_x, mean_y = math.fsum(x for x, _ in known) / n, math.fsum(y for _, y in known) / n
    spread = math.fsum((x - mean_x) ** 2 for x, _ in known)
    slope = math.fsum((x - mean_x) * (y - mean_y) for x, y in known) / spread
    start = mean_y - slope * mean_x
    error = math.sqrt(math.fsum((y - start - slope * x) ** 2 for x, y in known) / (n - 2))
    t = student_t((1 + LEVEL) / 2, n - 2)
    off_slope, off_start = t * error / math.sqrt(spread), t * error * math.sqrt(1 / n + mean_x**2 / spread)
    return Line(
        at_zero=Span(value=start, low=start - off_start, high=start + off_start),
        per_token=Span(value=slope, low=slope - off_slope, high=slope + off_slope),
        lengths=len(lengths),
        longest=float(lengths[-1]),
        n=n,
    )


def _positive(seconds: Span, rate: Span) -> Span | None:
    """Seconds times a rate, in its widest combination; None where the seconds may be none."""
    if seconds.low <= 0:
        return None
    return Span(value=seconds.value * rate.value, low=seconds.low * rate.low, high=seconds.high * rate.high)


def _points(
    itl: Line | None,
    ttft: Line | None,
    bandwidth: Span | None,
    read: Span | None,
    params: float | None,
    kv: float,
    ceiling: Ceiling,
) -> tuple[Point, ...]:
    """A step of decoding at the longest context and a prompt of the longest length, under the roofs of the device,
    each also at the ends of the range of its bytes."""
    if not params or read is None or bandwidth is None:
        return ()
    found = []
    ends = [("estimated", read.value)]
    if read.high > read.low:
        ends += [("low end of its bytes", read.low), ("high end of its bytes", read.high)]
    for words, weights in ends:
        if itl is not None and (seconds := itl.at(itl.longest)) > 0:
            moved = weights + kv * itl.longest
            found.append(_point("decode", words, FLOPS_PER_PARAM * params, moved, seconds, ceiling))
        if ttft is not None and ttft.grows:
            n = ttft.longest
            moved, flops = weights + kv * n, FLOPS_PER_PARAM * params * n
            found.append(_point("prefill", words, flops, moved, ttft.per_token.value * n, ceiling))
    return tuple(found)


def _point(phase: Phase, words: str, flops: float, n_bytes: float, seconds: float, ceiling: Ceiling) -> Point:
    name = f"{phase.capitalize()}, {words}"
    return point(f"{phase}:{words}", name, "phase", phase, "predicted", flops, n_bytes, seconds, ceiling)


# ---------------------------------------------------------------- the network behind it


class Part(Record, omit_defaults=False):
    """Equal layers of all blocks together. flops, bytes: computed. ideal_s: by the roofs. seconds: estimated."""

    name: str
    phase: Phase
    n_layers: int
    flops: float
    bytes: float
    ideal_s: float
    seconds: Span
    share: float


def network(spec: ModelSpec, phase: Phase, n_tokens: int, measured: Span, ceiling: Ceiling) -> tuple[Part, ...]:
    """The layers of a configuration as they would share a phase's measured time, the largest first.

    Each takes what the roofs of the device allow it, all scaled alike until they add up to what was measured: the
    scale holds network, queue and the distance from the roofs, which is not equal for all layers. So the shares are
    estimates. n_tokens: of the prompt, or in the cache at a step. Raises ExplorerError for a model without layers.
    """
    rows = work(spec, n_tokens, 0) if phase == "prefill" else work(spec, 1, n_tokens)
    groups: dict[str, list[tuple[float, float, float]]] = {}
    for row in rows:
        if row.bytes or row.flops:
            name = _BLOCK.sub("", row.name)
            groups.setdefault(name, []).append((row.flops, row.bytes, ceiling.ideal_s(row.flops, row.bytes)))
    whole = math.fsum(ideal for members in groups.values() for _, _, ideal in members)
    if not whole:
        raise ExplorerError(f"{spec.name} has no layers that could be counted.", "Choose another configuration.")
    parts = [_part(name, phase, members, whole, measured) for name, members in groups.items()]
    return tuple(sorted(parts, key=lambda part: -part.ideal_s))


def _part(name: str, phase: Phase, members: Sequence[tuple[float, float, float]], whole: float, all_: Span) -> Part:
    ideal = math.fsum(m[2] for m in members)
    share = ideal / whole
    return Part(
        name=name,
        phase=phase,
        n_layers=len(members),
        flops=math.fsum(m[0] for m in members),
        bytes=math.fsum(m[1] for m in members),
        ideal_s=ideal,
        seconds=Span(value=share * all_.value, low=share * all_.low, high=share * all_.high),
        share=share,
    )


def typical(values: Iterable[float]) -> Span | None:
    """The middle of what was measured, and its ends; None without any."""
    found = sorted(values)
    if not found:
        return None
    half = len(found) // 2
    middle = found[half] if len(found) % 2 else (found[half - 1] + found[half]) / 2
    return Span(value=middle, low=found[0], high=found[-1])
