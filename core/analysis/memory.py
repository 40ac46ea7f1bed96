"""Memory of a run: weights, KV cache, activations, workspace, runtime; computed, and taken from events.

Weights and KV cache follow exactly from the architecture. Activations are the largest set of layer
outputs alive at once when layers run one after the other and an output is freed after its last reader;
a library that works in place or reuses buffers needs less, one that copies needs more. Workspace is
the attention scores where they are written out. Runtime, the library itself, cannot be computed.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import msgspec

from core.analysis.work import kv_cache_bytes
from core.dtypes import bytes_per_element, retype
from core.types import Attention, Embedding, Layer, Linear, ModelSpec, Record, output_width

Axis = Literal["context", "batch", "vocabulary", "precision"]

LOGIT_BYTES = 4  # logits are fp32 whatever the model is


class Shape(Record, omit_defaults=False):
    """What is run. n_context: tokens in the cache at its fullest; n_forward: tokens of the largest forward.

    weight_dtype None: as stored. n_logits: positions whose logits are kept. windowed: a sliding window keeps no more
    than its width in the cache.
    """

    n_context: int
    n_forward: int
    batch: int = 1
    weight_dtype: str | None = None
    activation_dtype: str = "fp32"
    kv_dtype: str = "fp16"
    n_logits: int = 1
    fused_attention: bool = True
    windowed: bool = True


class Split(Record, omit_defaults=False):
    """Bytes by purpose. runtime_bytes None: not known. Where a backend tells them, activations are in its workspace."""

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


def split(spec: ModelSpec, shape: Shape, runtime_bytes: float | None = None) -> Split:
    """Memory of one run, computed."""
    spec = as_stored(spec, shape.weight_dtype)
    alive = live_sets(spec, shape)
    return Split(
        weights_bytes=float(spec.weight_bytes or 0),
        kv_bytes=kv_cache_bytes(spec, shape.n_context, shape.batch, shape.kv_dtype, shape.windowed)
        if spec.causal
        else 0.0,
        activations_bytes=max((x.live_bytes for x in alive), default=0.0),
        workspace_bytes=workspace_bytes(spec, shape),
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


def _read(layer: Layer) -> Sequence[str]:
    """Layers whose output it reads; the table of a tied head is a weight, not an output."""
    tied = layer.op.tied_to if isinstance(layer.op, Linear) else None
    return [name for name in layer.inputs if name != tied]


def _output_bytes(layer: Layer, spec: ModelSpec, shape: Shape, size: float) -> float:
    if layer.kind == "head":
        kept = min(shape.n_logits, shape.n_forward) if spec.causal else shape.n_forward
        width = LOGIT_BYTES if isinstance(layer.op, Linear) and layer.op.d_out == spec.vocab_size else size
        return shape.batch * kept * output_width(layer.op) * width
    return shape.batch * shape.n_forward * output_width(layer.op) * size


def workspace_bytes(spec: ModelSpec, shape: Shape) -> float:
    """Scores and weights of one attention layer where the kernel writes them out; else nothing."""
    if shape.fused_attention:
        return 0.0
    heads = [x.op for x in spec.layers if isinstance(x.op, Attention)]
    span = shape.n_context if spec.causal else shape.n_forward
    pairs = max((op.n_heads * shape.n_forward * min(span, op.window or span) for op in heads), default=0)
    return 2.0 * shape.batch * pairs * bytes_per_element(shape.activation_dtype)


def _with(shape: Shape, **changes: int) -> Shape:
    return msgspec.structs.replace(shape, **changes)
