"""Memory of a run: weights, KV cache, activations, workspace, runtime; computed, and taken from events.

Weights and KV cache follow exactly from the architecture. Activations are the largest set of layer
outputs alive at once when layers run one after the other and an output is freed after its last reader;
a library that works in place or reuses buffers needs less, one that copies needs more. Workspace is
the attention scores where they are written out. Runtime, the library itself, cannot be computed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import msgspec

from core.analysis.dtypes import bytes_per_element, canonical_dtype, retype
from core.analysis.work import kv_cache_bytes
from core.types import (
    Attention,
    Conv,
    Elementwise,
    Embedding,
    Layer,
    Linear,
    Loaded,
    Memory,
    ModelSpec,
    Norm,
    Record,
    Result,
    Rope,
    Scan,
)
from hardware.device import Device

Axis = Literal["context", "batch", "vocabulary", "precision"]

MOST_TOKENS = 1 << 30
LOGIT_BYTES = 4  # logits are fp32 whatever the model is


# What an operating system, a display or a driver leaves: 95 % of a card, nine tenths of a computer's memory,
# three quarters of an Apple machine's (recommendedMaxWorkingSetSize is 70 to 78 % of it).
USABLE = {"soc": 0.75, "cpu": 0.90}
USABLE_ELSEWHERE = 0.95


class Shape(Record, omit_defaults=False):
    """What is run. n_context: tokens in the cache at its fullest; n_forward: tokens of the largest forward.

    weight_dtype None: as stored. n_logits: positions whose logits are kept.
    """

    n_context: int
    n_forward: int
    batch: int = 1
    weight_dtype: str | None = None
    activation_dtype: str = "fp32"
    kv_dtype: str = "fp16"
    n_logits: int = 1
    fused_attention: bool = True


class Split(Record, omit_defaults=False):
    """Bytes by purpose. runtime_bytes None: not known."""

    weights_bytes: float
    kv_bytes: float
    activations_bytes: float
    workspace_bytes: float
    runtime_bytes: float | None = None

    @property
    def total_bytes(self) -> float:
        return (
            self.weights_bytes
            + self.kv_bytes
            + self.activations_bytes
            + self.workspace_bytes
            + (self.runtime_bytes or 0.0)
        )


class LiveSet(Record, omit_defaults=False):
    """One layer while it runs: its weights, its own output, and all outputs alive then (its own included)."""

    name: str
    weight_bytes: float
    output_bytes: float
    live_bytes: float


class Fit(Record, omit_defaults=False):
    """Whether a run fits into some memory, and how far one could go there. 0: not even one."""

    fits: bool
    longest_context: int
    largest_batch: int


class Measured(Record, omit_defaults=False):
    """Resident memory of the worker at the points that tell its parts. None: not measured.

    loading_bytes: growth while the model was opened (None when it was open already).
    growth_bytes: from the opened model to the highest point: KV cache, activations and workspace,
    as far as they were not reserved while opening.
    """

    runtime_bytes: int | None
    loading_bytes: int | None
    growth_bytes: int | None
    peak_bytes: int | None
    peaks: dict[str, int]  # phase -> highest
    true_peaks: bool  # the kernel's high-water mark, not the highest sample


def split(spec: ModelSpec, shape: Shape, runtime_bytes: float | None = None) -> Split:
    """Memory of one run, computed."""
    spec = as_stored(spec, shape.weight_dtype)
    alive = live_sets(spec, shape)
    return Split(
        weights_bytes=float(spec.weight_bytes or 0),
        kv_bytes=kv_cache_bytes(spec, shape.n_context, shape.batch, shape.kv_dtype) if spec.causal else 0.0,
        activations_bytes=max((x.live_bytes for x in alive), default=0.0),
        workspace_bytes=_workspace(spec, shape),
        runtime_bytes=runtime_bytes,
    )


def as_stored(spec: ModelSpec, weight_dtype: str | None) -> ModelSpec:
    """The spec with its weights in `weight_dtype`; as they are where None, unless their size is not known."""
    if weight_dtype is not None:
        return retype(spec, weight_dtype)
    return retype(spec, spec.dtype) if spec.weight_bytes is None else spec


def live_sets(spec: ModelSpec, shape: Shape) -> tuple[LiveSet, ...]:
    """Outputs alive while each layer runs, in the order of the layers, for the largest forward."""
    size = bytes_per_element(shape.activation_dtype)
    last_reader: dict[str, int] = {}
    for i, layer in enumerate(spec.layers):
        for name in _read(layer):
            last_reader[name] = i
    held: dict[str, float] = {}
    rows = []
    for i, layer in enumerate(spec.layers):
        output = _output_bytes(layer, spec, shape, size)
        held[layer.name] = output
        rows.append(
            LiveSet(
                name=layer.name,
                weight_bytes=float(layer.weight_bytes or 0),
                output_bytes=output,
                live_bytes=sum(held.values()),
            )
        )
        held = {name: b for name, b in held.items() if last_reader.get(name, -1) > i}
    return tuple(rows)


def with_vocabulary(spec: ModelSpec, vocab_size: int) -> ModelSpec:
    """The same network with another number of words: its token table and its head grow in proportion."""
    assert vocab_size >= 1
    old = spec.vocab_size

    def resized(layer: Layer) -> Layer:
        op = layer.op
        if isinstance(op, Embedding) and op.rows == old:
            changed: Embedding | Linear = msgspec.structs.replace(op, rows=vocab_size)
        elif isinstance(op, Linear) and op.d_out == old and layer.kind == "head":
            changed = msgspec.structs.replace(op, d_out=vocab_size)
        else:
            return layer
        return msgspec.structs.replace(
            layer,
            op=changed,
            n_params=layer.n_params * vocab_size // old,
            weight_bytes=None if layer.weight_bytes is None else round(layer.weight_bytes * vocab_size / old),
        )

    return msgspec.structs.replace(spec, vocab_size=vocab_size, layers=tuple(resized(x) for x in spec.layers))


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


def usable_bytes(device: Device) -> float:
    """The part of a device's memory that a model may take."""
    return device.mem_bytes * USABLE.get(device.kind, USABLE_ELSEWHERE)


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
        kv = kv_cache_bytes(spec, n, shape.batch, shape.kv_dtype)
        return fixed.weights_bytes + fixed.activations_bytes + kv + _workspace(spec, _with(stored, n_context=n))

    return _largest(limit, lambda n: needs(n) <= room_bytes - runtime_bytes)


def largest_batch(spec: ModelSpec, shape: Shape, room_bytes: float, runtime_bytes: float = 0.0) -> int:
    """Most sequences of shape.n_context tokens that fit in `room_bytes`; 0 when not even one does.

    All but the weights grows in proportion to the batch.
    """
    return fit(spec, shape, [room_bytes], runtime_bytes)[0].largest_batch


def grown(
    spec: ModelSpec, shape: Shape, axis: Axis, values: Sequence[float | str], runtime_bytes: float | None = None
) -> list[Split]:
    """The split at each value of one quantity, all else as in `shape`."""
    return [split(*_at(spec, shape, axis, value), runtime_bytes) for value in values]


def _at(spec: ModelSpec, shape: Shape, axis: Axis, value: float | str) -> tuple[ModelSpec, Shape]:
    match axis:
        case "context":
            n = int(value)
            return spec, _with(shape, n_context=n, n_forward=min(shape.n_forward, n) if spec.causal else n)
        case "batch":
            return spec, _with(shape, batch=int(value))
        case "vocabulary":
            return with_vocabulary(spec, int(value)), shape
        case "precision":
            return spec, msgspec.structs.replace(shape, weight_dtype=str(value))


def reported(environment: Mapping[str, Any]) -> dict[str, int]:
    """Buffers that the library itself reports (llama.cpp does), by purpose; empty where it reports none."""
    found: dict[str, int] = {}
    for name, size in (environment.get("buffers_bytes") or {}).items():
        if not isinstance(size, int | float):
            continue
        words = str(name).lower()
        part = "KV cache" if "kv" in words else "weights" if "model" in words else "workspace"
        found[part] = found.get(part, 0) + int(size)
    return found


def shape_of_run(result: Result, environment: Mapping[str, Any]) -> Shape:
    """What a run asked of the memory, from its result and the library's settings.

    A library that reserves its whole context (n_ctx) needs it whether it is filled or not; one that
    runs a prompt in pieces (n_batch) has no larger forward than a piece.
    """
    used = max(1, (result.n_prompt_tokens or 0) + result.n_new_tokens)
    forward = max(1, result.n_prompt_tokens or 1)
    activation = str(environment.get("activation_dtype") or "fp32")
    return Shape(
        n_context=int(environment.get("n_ctx") or used),
        n_forward=min(forward, int(environment.get("n_batch") or forward)),
        batch=result.batch,
        activation_dtype=activation,
        kv_dtype=canonical_dtype(str(environment.get("kv_dtype") or environment.get("type_k") or activation)),
    )


def measured(events: Sequence[object]) -> Measured:
    """What a run's events tell. The last Loaded counts, and the memory seen after it."""
    loaded = next((e for e in reversed(events) if isinstance(e, Loaded)), None)
    start = loaded.t_s if loaded else 0.0
    seen = [e for e in events if isinstance(e, Memory) and e.t_s >= start]
    true = [m for m in seen if m.peak_bytes is not None]
    peaks: dict[str, int] = {}
    for m in seen:
        highest = max(m.rss_bytes, m.peak_bytes or 0)
        peaks[m.phase] = max(peaks.get(m.phase, 0), highest)
    peak = max(peaks.values(), default=None)
    before = loaded.rss_before_bytes if loaded else None
    after = loaded.rss_after_bytes if loaded else None
    cold = loaded is not None and not loaded.warm
    return Measured(
        runtime_bytes=before if cold else None,
        loading_bytes=after - before if cold and after is not None and before is not None else None,
        growth_bytes=max(0, peak - after) if peak is not None and after is not None else None,
        peak_bytes=peak,
        peaks=peaks,
        true_peaks=bool(true),
    )


def _read(layer: Layer) -> Sequence[str]:
    """Layers whose output it reads; the table of a tied head is a weight, not an output."""
    tied = layer.op.tied_to if isinstance(layer.op, Linear) else None
    return [name for name in layer.inputs if name != tied]


def _output_bytes(layer: Layer, spec: ModelSpec, shape: Shape, size: float) -> float:
    if layer.kind == "head":
        kept = min(shape.n_logits, shape.n_forward) if spec.causal else shape.n_forward
        width = LOGIT_BYTES if isinstance(layer.op, Linear) and layer.op.d_out == spec.vocab_size else size
        return shape.batch * kept * _width(layer) * width
    return shape.batch * shape.n_forward * _width(layer) * size


def _width(layer: Layer) -> int:
    """Output elements per token."""
    match layer.op:
        case Embedding(d=d) | Rope(d=d) | Elementwise(d=d):
            return d
        case Linear():
            return layer.op.n_active * layer.op.d_out
        case Norm(d=d, n_groups=n):
            return d * n
        case Attention(n_heads=n, v_dim=d):
            return n * d
        case Conv(channels=channels):
            return channels
        case Scan(d_inner=d):
            return d


def _workspace(spec: ModelSpec, shape: Shape) -> float:
    """Scores and weights of one attention layer where the kernel writes them out; else nothing."""
    if shape.fused_attention:
        return 0.0
    heads = [x.op for x in spec.layers if isinstance(x.op, Attention)]
    span = shape.n_context if spec.causal else shape.n_forward
    pairs = max((op.n_heads * shape.n_forward * min(span, op.window or span) for op in heads), default=0)
    return 2.0 * shape.batch * pairs * bytes_per_element(shape.activation_dtype)


def _with(shape: Shape, **changes: int) -> Shape:
    return msgspec.structs.replace(shape, **changes)


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
