"""Does it fit into some memory, and if so how far could one go there: the longest context, the largest batch."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from core.analysis.memory import Shape, as_stored, split, workspace_bytes
from core.analysis.work import kv_cache_bytes
from core.types import ModelSpec, Record

MOST_TOKENS = 1 << 30

# What an operating system, a display or a driver leaves: 95 % of a card, nine tenths of a computer's memory,
# three quarters of an Apple machine's (recommendedMaxWorkingSetSize is 70 to 78 % of it).
USABLE = {"soc": 0.75, "cpu": 0.90}
USABLE_ELSEWHERE = 0.95


class Fit(Record, omit_defaults=False):
    """Whether a run fits into some memory, and how far one could go there. 0: not even one."""

    fits: bool
    longest_context: int
    largest_batch: int


def fit(spec: ModelSpec, shape: Shape, rooms_bytes: Sequence[float], runtime_bytes: float = 0.0) -> list[Fit]:
    """For each amount of memory: does it fit, the longest context (this batch), the largest batch (this context)."""
    spec = as_stored(spec, shape.weight_dtype)
    stored = msgspec.structs.replace(shape, weight_dtype=None)
    one = split(spec, _with(stored, batch=1))
    each = one.total_bytes - one.weights_bytes
    needed = one.weights_bytes + each * shape.batch + runtime_bytes
    return [
        Fit(
            fits=needed <= room,
            longest_context=longest_context(spec, stored, room, runtime_bytes),
            largest_batch=max(0, int((room - runtime_bytes - one.weights_bytes) // each)) if each else 0,
        )
        for room in rooms_bytes
    ]


def usable_bytes(kind: str, mem_bytes: float) -> float:
    """Of a device's memory, what a model may take. kind: Device.kind."""
    return mem_bytes * USABLE.get(kind, USABLE_ELSEWHERE)


def longest_context(spec: ModelSpec, shape: Shape, room_bytes: float, runtime_bytes: float = 0.0) -> int:
    """Most tokens per sequence whose memory fits in `room_bytes`; 0 when not even one does.

    At most spec.max_context, or MOST_TOKENS where the architecture sets no limit.
    """
    spec = as_stored(spec, shape.weight_dtype)
    stored = msgspec.structs.replace(shape, weight_dtype=None)
    limit = spec.max_context or MOST_TOKENS
    if not spec.causal:  # all tokens are in one forward
        return _largest(
            limit, lambda n: split(spec, _with(stored, n_forward=n)).total_bytes <= room_bytes - runtime_bytes
        )
    fixed = split(spec, _with(stored, n_context=1))

    def needs(n: int) -> float:
        kv = kv_cache_bytes(spec, n, shape.batch, shape.kv_dtype, shape.windowed)
        return fixed.weights_bytes + fixed.activations_bytes + kv + workspace_bytes(spec, _with(stored, n_context=n))

    return _largest(limit, lambda n: needs(n) <= room_bytes - runtime_bytes)


def _largest(limit: int, fits: Callable[[int], bool]) -> int:
    """The largest n up to `limit` for which `fits` holds, which must hold for everything below it."""
    if limit < 1 or not fits(1):
        return 0
    low, high = 1, 2
    while high <= limit and fits(high):
        low, high = high, high * 2
    high = min(high, limit + 1)
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if fits(middle) else (low, middle)
    return low


def _with(shape: Shape, **changes: int) -> Shape:
    return msgspec.structs.replace(shape, **changes)
