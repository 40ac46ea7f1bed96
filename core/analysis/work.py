"""The work of a forward: FLOPs and bytes of every layer, from the architecture alone.

Counts 2 FLOPs per multiply-add. Bytes are compulsory traffic: each weight read once per forward, each
activation written once and read once by every layer that uses it, the KV cache read once; caches inside
the processor and re-reads by a kernel are not known here, nor is time.

Useful and executed FLOPs differ in causal attention: a token needs the scores of the tokens up to its
own, while a kernel that does not skip the masked half computes all of them.

Sources: attention and linear layers, Kaplan et al. 2020 section 2.1 and Pope et al. 2022 section 2;
roofline traffic, Williams et al. 2009; experts touched, the expectation of E(1 - (1 - k/E)^T) for T
tokens that each choose k of E experts; selective scan, Gu and Dao 2023 section 3.2.
"""

from __future__ import annotations

import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from core.dtypes import bytes_per_element, retype
from core.types import (
    Attention,
    Conv,
    Elementwise,
    Embedding,
    Forwards,
    Layer,
    LayerKind,
    Linear,
    ModelSpec,
    Norm,
    Op,
    Record,
    Rope,
    Scan,
)
from hardware.errors import ExplorerError

HEADS, EXITS = "medusa_heads", "exit_heads"
ENCODER, _FINAL_NORM = "encoder.", "final_norm"
_SUMMED = ("flops", "flops_executed", "weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes")
_FILLS = frozenset({"attn_norm", "k_proj", "v_proj", "k_norm", "core"})  # what makes the keys and values of a block
_STATE_BYTES = 4  # llama.cpp and Mamba's kernels keep convolution and scan states in fp32


class LayerWork(Record, frozen=True, omit_defaults=False):
    """One layer's share of one forward over the whole batch.

    flops: useful (causal). flops_executed: by kernels that compute masked scores too.
    activation_bytes: read and written. kv_read_bytes, kv_write_bytes: KV cache or recurrent state.
    """

    name: str
    kind: LayerKind
    flops: float
    flops_executed: float
    weight_bytes: float
    activation_bytes: float
    kv_read_bytes: float = 0.0
    kv_write_bytes: float = 0.0

    @property
    def bytes(self) -> float:
        """All compulsory traffic."""
        return self.weight_bytes + self.activation_bytes + self.kv_read_bytes + self.kv_write_bytes

    @property
    def intensity(self) -> float | None:
        """Useful FLOPs per byte; None for a layer that moves nothing."""
        return self.flops / self.bytes if self.bytes else None


def work(
    spec: ModelSpec,
    n_new: int,
    n_past: int = 0,
    batch: int = 1,
    *,
    weight_dtype: str | None = None,
    activation_dtype: str = "fp32",
    kv_dtype: str = "fp16",
    n_logits: int = 1,
    fused_attention: bool = True,
    prunes_last_block: bool = False,
) -> tuple[LayerWork, ...]:
    """Work of one forward over `n_new` tokens per sequence after `n_past` cached ones.

    weight_dtype: as if the weights were stored so; None: as they are (spec.dtype where unknown).
    n_logits: positions per sequence whose logits are computed (transformers' forward computes all).
    fused_attention: False adds writing and reading the score matrix before and after the softmax.
    prunes_last_block: what comes behind the last block's attention is computed for those n_logits positions alone.
    Raises ExplorerError for a number of tokens or sequences that makes no sense, and for an unknown dtype.
    """
    for what, n, least in (("new tokens", n_new, 1), ("past tokens", n_past, 0), ("sequences", batch, 1)):
        if n < least:
            raise ExplorerError(f"The number of {what} is {n}, but must be at least {least}.", "Choose a larger one.")
    if weight_dtype is not None or spec.weight_bytes is None:
        spec = retype(spec, weight_dtype or spec.dtype)
    forward = _Forward(
        n_new=n_new,
        n_past=n_past if spec.causal else 0,
        batch=batch,
        n_logits=min(max(n_logits, 0), n_new) if spec.causal else n_new,
        activation_bytes=bytes_per_element(activation_dtype),
        kv_bytes=bytes_per_element(kv_dtype),
        fused_attention=fused_attention,
        stored_bytes={layer.name: layer.weight_bytes or 0 for layer in spec.layers},
        wanted_only=_behind_attention(spec) if prunes_last_block else frozenset(),
    )
    if any(layer.name.startswith(ENCODER) for layer in spec.layers):
        return tuple(_two_sided(layer, forward) for layer in spec.layers)
    forward = replace(forward, given=_given(spec))
    return tuple(_layer_work(layer, forward) for layer in spec.layers)


def ran_work(
    spec: ModelSpec,
    forwards: Iterable[Forwards],
    *,
    activation_dtype: str,
    kv_dtype: str,
    prunes_last_block: bool = False,
) -> tuple[LayerWork, ...]:
    """Work of all forwards that ran, together: every one reads the weights once, and a block that it left out adds
    nothing. Trained heads are rows of their own behind the layers, their share of the unembedding is the head's.

    prunes_last_block: as for `work`.
    """
    if spec.weight_bytes is None:
        spec = retype(spec, spec.dtype)
    stored = {layer.name: layer.weight_bytes or 0 for layer in spec.layers}
    element, kv_element = bytes_per_element(activation_dtype), bytes_per_element(kv_dtype)
    groups: defaultdict[tuple[Any, ...], list[Sequence[int]]] = defaultdict(list)
    for ran in forwards:
        groups[ran.n_new, ran.n_logits, ran.n_sequences, ran.of, ran.blocks].append(ran.pasts)
    sums = {layer.name: [0.0] * len(_SUMMED) for layer in spec.layers}
    behind = _behind_attention(spec) if prunes_last_block else frozenset[str]()
    trained = {name: [0.0] * len(_SUMMED) for name in (HEADS, EXITS)}
    weight = bytes_per_element(spec.dtype)
    for (n_new, asked, n_sequences, of, blocks), parts in groups.items():
        pasts = parts[0] if len(parts) == 1 else [past for part in parts for past in part]
        shape = Forwards(n_new=n_new, n_logits=asked, n_past=0, n_sequences=n_sequences, of=of, blocks=blocks)
        n_logits = shape.n_logits if spec.causal else shape.n_new
        # a forward through some of the blocks norms only what goes into the head
        wanted_only = behind | {_FINAL_NORM} if shape.blocks else behind
        f = _Forward(shape.n_new, 0, shape.n_sequences, n_logits, element, kv_element, True, stored, wanted_only)
        if shape.of == "heads":
            _add(trained[HEADS], _trained_heads(spec, shape.n_new, weight, element), len(pasts))
        elif shape.of == "exits":
            n_rows = n_logits * shape.n_sequences
            _add(trained[EXITS], _exit_head(spec, shape.n_new, n_rows, weight, element), len(pasts))
            continue
        attentions: dict[Attention, list[float]] = {}
        for layer in spec.layers:
            if not _takes_part(layer, shape):
                continue
            if isinstance(layer.op, Attention):
                if layer.op not in attentions:
                    attentions[layer.op] = _attended(layer, layer.op, f, pasts, spec.causal, shape.of == "fill")
                row = attentions[layer.op]
                sums[layer.name] = [a + b for a, b in zip(sums[layer.name], row, strict=True)]
            else:
                _add(sums[layer.name], _layer_work(layer, f), len(pasts))
    found = [LayerWork(name=x.name, kind=x.kind, **dict(zip(_SUMMED, sums[x.name], strict=True))) for x in spec.layers]
    found += [
        LayerWork(name=name, kind="head", **dict(zip(_SUMMED, values, strict=True)))
        for name, values in trained.items()
        if any(values)
    ]
    return tuple(found)


def share(rows: Sequence[LayerWork], n: int) -> tuple[LayerWork, ...]:
    """The n-th part of every row."""
    return tuple(msgspec.structs.replace(r, **{name: getattr(r, name) / n for name in _SUMMED}) for r in rows)


def _behind_attention(spec: ModelSpec) -> frozenset[str]:
    """The layers behind the attention of the last block, up to the head."""
    last = [layer.name for layer in spec.layers if layer.name.startswith(f"blocks.{spec.n_blocks - 1}.")]
    ends = [i for i, name in enumerate(last) if name.endswith(".attn.o_proj")]
    return frozenset((*last[ends[-1] + 1 :], _FINAL_NORM) if ends else (_FINAL_NORM,))


def _takes_part(layer: Layer, shape: Forwards) -> bool:
    """Whether a layer ran in forwards of this shape."""
    if shape.of == "heads":
        return layer.kind == "head"
    if not shape.blocks:
        return True
    block = int(layer.name.split(".")[1]) if layer.name.startswith("blocks.") else None
    if block is None:
        return shape.of != "fill"
    inside = any(first <= block < end for first, end in shape.blocks)
    return inside and (shape.of != "fill" or layer.name.rpartition(".")[2] in _FILLS)


def _attended(
    layer: Layer, op: Attention, f: _Forward, pasts: Sequence[int], causal: bool, only_writes: bool
) -> list[float]:
    """Attention over the pasts of several forwards.

    All of it grows in proportion to the past until a window is full, and then no more: of tens of thousands of
    forwards two tell the rest.
    """

    def row(past: int) -> list[float]:
        of = _attention_work(layer, op, replace(f, n_past=past))
        if only_writes:
            of = LayerWork(
                name=layer.name, kind=layer.kind, flops=0, flops_executed=0, weight_bytes=0, activation_bytes=0,
                kv_write_bytes=of.kv_write_bytes,
            )  # fmt: skip
        return [getattr(of, name) for name in _SUMMED]

    if not causal:
        return [len(pasts) * x for x in row(0)]
    full = op.window or math.inf
    growing = [past for past in pasts if past + f.n_new <= full] if op.window else pasts
    first, second, total = row(0), row(1), sum(growing)
    found = [len(growing) * a + total * (b - a) for a, b in zip(first, second, strict=True)]
    late = Counter(min(past, op.window) for past in pasts if past + f.n_new > full) if op.window else {}
    for past, times in late.items():
        found = [a + times * b for a, b in zip(found, row(past), strict=True)]
    return found


def _trained_heads(spec: ModelSpec, n_heads: int, weight: float, activation: float) -> LayerWork:
    """Medusa's x_k = h + SiLU(W_k h), W_k of (d, d) in the model's dtype (2401.10774, section 2.1.1)."""
    d = spec.d_model
    return LayerWork(
        name=HEADS,
        kind="head",
        flops=2.0 * n_heads * d * d,
        flops_executed=2.0 * n_heads * d * d,
        weight_bytes=n_heads * d * d * weight,
        activation_bytes=(1 + n_heads) * d * activation,
    )


def _exit_head(spec: ModelSpec, rank: int, n_rows: int, weight: float, activation: float) -> LayerWork:
    """The products of y + B A y, A of (rank, d) and B of (d, rank) in the model's dtype. y is the state behind a norm
    of the head's own, which counts as the final norm, in whose place it stands."""
    d = spec.d_model
    flops = 4.0 * n_rows * d * rank
    return LayerWork(
        name=EXITS,
        kind="head",
        flops=flops,
        flops_executed=flops,
        weight_bytes=2 * d * rank * weight if n_rows else 0.0,
        activation_bytes=n_rows * 2 * (d + rank) * activation,
    )


def _add(to: list[float], row: LayerWork, times: int) -> None:
    for i, name in enumerate(_SUMMED):
        to[i] += times * getattr(row, name)


def total(rows: Sequence[LayerWork], name: str = "total") -> LayerWork:
    """The sum of `rows` as one row."""
    return LayerWork(
        name=name,
        kind="other",
        flops=sum(r.flops for r in rows),
        flops_executed=sum(r.flops_executed for r in rows),
        weight_bytes=sum(r.weight_bytes for r in rows),
        activation_bytes=sum(r.activation_bytes for r in rows),
        kv_read_bytes=sum(r.kv_read_bytes for r in rows),
        kv_write_bytes=sum(r.kv_write_bytes for r in rows),
    )


def kv_bytes_per_token(spec: ModelSpec, kv_dtype: str = "fp16") -> float:
    """Bytes that one more token adds to the KV cache of one sequence while no sliding window is full."""
    return sum(_kv_width(op) for op in _cached(spec) if not op.source) * bytes_per_element(kv_dtype)


def kept_tokens(op: Attention, n_tokens: int, windowed: bool) -> int:
    """Tokens in the cache of one layer after `n_tokens`."""
    if op.source:
        return op.source
    return min(n_tokens, op.window or n_tokens) if windowed else n_tokens


def kv_cache_bytes(
    spec: ModelSpec, n_tokens: int, batch: int = 1, kv_dtype: str = "fp16", windowed: bool = True
) -> float:
    """Bytes of the KV cache with `n_tokens` per sequence, recurrent states included.

    windowed: a sliding window keeps no more than its width.
    """
    elements = sum(_kv_width(op) * kept_tokens(op, n_tokens, windowed) for op in _cached(spec))
    return batch * (elements * bytes_per_element(kv_dtype) + state_bytes(spec))


def state_bytes(spec: ModelSpec) -> int:
    """Bytes of the convolution and scan states of one sequence, whatever its length."""
    return sum(_state_elements(layer.op) for layer in spec.layers) * _STATE_BYTES


def n_active_params(spec: ModelSpec) -> int:
    """Parameters that one token uses: all but the experts it is not sent to."""
    return sum(
        layer.n_params * layer.op.n_active // layer.op.n_experts if isinstance(layer.op, Linear) else layer.n_params
        for layer in spec.layers
    )


def experts_touched(n_experts: int, n_active: int, n_tokens: int) -> float:
    """Expected distinct experts that `n_tokens` tokens use when each chooses `n_active` at random."""
    return n_experts * (1 - (1 - n_active / n_experts) ** n_tokens)


def causal_pairs(n_new: int, n_past: int, window: int | None) -> int:
    """Query-key pairs of `n_new` causal tokens: the sum over i = 1..n_new of min(n_past + i, window)."""
    unlimited = n_new if window is None else min(max(window - n_past, 0), n_new)
    pairs = unlimited * n_past + unlimited * (unlimited + 1) // 2
    return pairs + (n_new - unlimited) * (window or 0)


# ---------------------------------------------------------------- one layer


def _two_sided(layer: Layer, f: _Forward) -> LayerWork:
    """A layer of an encoder-decoder: the prompt goes through the encoder while the decoder takes its first token; each
    later token goes through the decoder alone, which reads the encoder's answer from its cache.

    The decoder's own past is not known apart from the prompt: past tokens are counted for both.
    """
    prompt = not f.n_past or f.n_new > 1
    encodes = layer.name.startswith(ENCODER) or (".cross." in layer.name and layer.name.endswith(("k_proj", "v_proj")))
    if encodes and not prompt:
        return LayerWork(
            name=layer.name, kind=layer.kind, flops=0, flops_executed=0, weight_bytes=0, activation_bytes=0
        )
    source = f.n_past + (f.n_new if prompt else 0)
    if prompt and not encodes:
        f = replace(f, n_new=1, n_past=0, n_logits=min(f.n_logits, 1))
    if not (isinstance(layer.op, Attention) and layer.op.cross):
        return _layer_work(layer, f)
    row = _attention_work(layer, layer.op, replace(f, n_past=source - f.n_new))
    written = row.kv_read_bytes if prompt else 0.0
    return msgspec.structs.replace(row, flops=row.flops_executed, kv_write_bytes=written)


@dataclass(frozen=True)
class _Forward:
    """A forward's shape. *_bytes: per element; stored_bytes: of each layer's weights. wanted_only: layers that compute
    only the positions whose logits are wanted. given: layers that work on what a cross-attention is given, a picture,
    with the tokens of that."""

    n_new: int
    n_past: int
    batch: int
    n_logits: int
    activation_bytes: float
    kv_bytes: float
    fused_attention: bool
    stored_bytes: dict[str, int]
    wanted_only: frozenset[str] = frozenset()
    given: Mapping[str, int] = field(default_factory=dict)

    def tokens(self, layer: Layer) -> int:
        """Rows that the layer works on."""
        if layer.name in self.given:
            return 0 if self.n_past else self.batch * self.given[layer.name]
        if layer.name == "pooler":
            return self.batch
        few = layer.kind == "head" or layer.name in self.wanted_only
        return self.batch * (self.n_logits if few else self.n_new)


def _given(spec: ModelSpec) -> dict[str, int]:
    """The layers that make keys and values of what a cross-attention is given, once, and the tokens of that."""
    cores = {x.name.removesuffix("core"): x.op.source for x in spec.layers if isinstance(x.op, Attention)}
    return {f"{at}{part}": n for at, n in cores.items() if n for part in ("k_proj", "v_proj", "k_norm", "v_norm")}


def _layer_work(layer: Layer, f: _Forward) -> LayerWork:
    if isinstance(layer.op, Attention):
        return _attention_work(layer, layer.op, f)
    tokens = f.tokens(layer)
    flops, elements = _per_token(layer.op)
    state = _state_elements(layer.op) * _STATE_BYTES * f.batch
    return LayerWork(
        name=layer.name,
        kind=layer.kind,
        flops=flops * tokens,
        flops_executed=flops * tokens,
        weight_bytes=_weight_bytes(layer, tokens, f),
        activation_bytes=elements * tokens * f.activation_bytes,
        kv_read_bytes=state,
        kv_write_bytes=state,
    )


def _per_token(op: Op) -> tuple[float, float]:
    """(FLOPs, activation elements read and written) of one token."""
    match op:
        case Embedding(d=d):
            return 0, d
        case Linear():
            return 2 * op.n_active * op.d_in * op.d_out, op.n_active * (op.d_in + op.d_out)
        case Norm(d=d, n_groups=n, rms=rms, bias=bias):
            # square, sum, scale, weight; LayerNorm also sums, subtracts the mean
            return d * n * (4 + 2 * (not rms) + bias), 2 * d * n
        case Rope(d=d):
            return 3 * d, 2 * d  # 4 products and 2 sums turn a pair
        case Conv(channels=channels, kernel=kernel):
            return 2 * channels * kernel, 2 * channels
        case Scan(d_inner=d, d_state=n):
            # per state: dt*A, exp, (dt*x)*B, h*, +, C*h, sum; per channel: dt*x, D*x, sum
            return 7 * d * n + 3 * d, 3 * d + 2 * n
        case Elementwise(d=d, n_inputs=n_inputs, flops_per_element=per_element):
            return per_element * d, (n_inputs + 1) * d if d else 0
        case Attention():
            raise AssertionError("attention depends on the context, not on the token alone")


def _weight_bytes(layer: Layer, tokens: int, f: _Forward) -> float:
    own = f.stored_bytes[layer.name]
    if not tokens:
        return 0
    match layer.op:
        case Embedding(rows=rows):
            return own * min(tokens, rows) / rows
        case Linear(tied_to=str(table)):
            return own + f.stored_bytes[table]
        case Linear(n_experts=n, n_active=k) if n > 1:
            return own * experts_touched(n, k, tokens) / n
        case _:
            return own


def _attention_work(layer: Layer, op: Attention, f: _Forward) -> LayerWork:
    n_context = op.source or f.n_past + f.n_new
    # a window's cache holds what the first new token sees, and the new ones
    span = min(n_context, op.window + f.n_new - 1) if op.window else n_context
    executed_pairs = f.n_new * span
    useful_pairs = causal_pairs(f.n_new, f.n_past, op.window) if op.causal and not op.source else executed_pairs
    flops_per_pair = 2 * op.n_heads * (op.qk_dim + op.v_dim)
    # query in, output out, new keys and values in
    elements = f.n_new * (op.n_heads + op.n_kv_heads) * (op.qk_dim + op.v_dim)
    if not f.fused_attention:
        elements += 4 * op.n_heads * executed_pairs  # scores written, read, weights written, read
    cached = _kv_width(op) * f.kv_bytes * f.batch if op.causal else 0
    n_written = f.n_new if not op.source else 0 if f.n_past else op.source
    return LayerWork(
        name=layer.name,
        kind=layer.kind,
        flops=f.batch * flops_per_pair * useful_pairs,
        flops_executed=f.batch * flops_per_pair * executed_pairs,
        weight_bytes=f.stored_bytes[layer.name],
        activation_bytes=f.batch * elements * f.activation_bytes,
        kv_read_bytes=cached * span,
        kv_write_bytes=0.0 if op.borrows else cached * n_written,
    )


def _cached(spec: ModelSpec) -> list[Attention]:
    cores = [layer.op for layer in spec.layers if isinstance(layer.op, Attention)]
    return [op for op in cores if op.causal and not op.borrows]


def _kv_width(op: Attention) -> int:
    own = op.n_kv_heads * (op.qk_dim + op.v_dim) if op.kv_width is None else op.kv_width
    return own + op.index_width


def _state_elements(op: Op) -> int:
    match op:
        case Scan(d_inner=d, d_state=n):
            return d * n
        case Conv(channels=channels, kernel=kernel):
            return channels * (kernel - 1)
        case _:
            return 0
