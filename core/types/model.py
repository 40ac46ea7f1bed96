"""A model before and after it is opened: its architecture as a flat list of primitive layers."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from core.types.record import Record


class Embedding(Record, tag="embedding"):
    """A table of `rows` vectors of width `d`; a forward reads one row per token."""

    rows: int
    d: int


class Linear(Record, tag="linear"):
    """y = x W (+ b), W of shape (d_in, d_out).

    With `n_experts` > 1 the layer holds that many such matrices and each token uses `n_active`.
    `tied_to` names the embedding whose table it shares (it then owns no parameters of its own).
    """

    d_in: int
    d_out: int
    bias: bool = False
    n_experts: int = 1
    n_active: int = 1
    tied_to: str | None = None


class Norm(Record, tag="norm"):
    """Normalisation over groups of width `d`, `n_groups` of them per token (per-head norms: the heads).

    rms: no mean is subtracted. bias: a shift is added. The weight has `d` elements.
    """

    d: int
    n_groups: int = 1
    rms: bool = True
    bias: bool = False


class Rope(Record, tag="rope"):
    """Rotary position embedding of `d` elements per token (query and key heads together)."""

    d: int


class Attention(Record, tag="attention"):
    """The weightless core: scores, softmax, weighted sum; reads and writes the KV cache.

    qk_dim, v_dim: widths per head. kv_width: cached elements per token in this layer; None means
    n_kv_heads * (qk_dim + v_dim); multi-head latent attention caches its latent instead.
    window: sliding window in tokens, None for full attention. causal False: an encoder, no cache.
    borrows: it reads the keys and values of an earlier layer, and keeps none. cross: those of an encoder's answer,
    which is `source` tokens long whatever the prompt is, unless that is 0. index_width: elements per token that it
    keeps beside keys and values, by which an indexer chooses among them.
    """

    n_heads: int
    n_kv_heads: int
    qk_dim: int
    v_dim: int
    window: int | None = None
    causal: bool = True
    kv_width: int | None = None
    borrows: bool = False
    cross: bool = False
    source: int = 0
    index_width: int = 0


class Conv(Record, tag="conv"):
    """Depthwise causal convolution over time; its state is channels * (kernel - 1) elements."""

    channels: int
    kernel: int
    bias: bool = True


class Scan(Record, tag="scan"):
    """Selective state-space recurrence; its state is d_inner * d_state elements, whatever the length.

    n_params: A, D and the like, as the architecture stores them.
    """

    d_inner: int
    d_state: int
    n_params: int


class Elementwise(Record, tag="elementwise"):
    """An activation, a product or a residual sum over `d` elements per token with `n_inputs` operands."""

    d: int
    n_inputs: int = 1
    flops_per_element: int = 1


Op = Embedding | Linear | Norm | Rope | Attention | Conv | Scan | Elementwise
LayerKind = Literal["embedding", "attention", "mlp", "norm", "head", "ssm", "router", "other"]


def output_width(op: Op) -> int:
    """Elements of what an operation makes of one token."""
    match op:
        case Embedding(d=d) | Rope(d=d) | Elementwise(d=d):
            return d
        case Linear():
            return op.n_active * op.d_out
        case Norm(d=d, n_groups=n):
            return d * n
        case Attention(n_heads=n, v_dim=d):
            return n * d
        case Conv(channels=channels):
            return channels
        case Scan(d_inner=d):
            return d


class Layer(Record):
    """One primitive of the network under its canonical name, e.g. `blocks.7.attn.q_proj`.

    The same name is used by every backend's profiler, so that a layer lines up across backends.
    inputs: names of the layers whose output it reads; they are the edges of the network graph.
    weight_dtype, weight_bytes: what the file stores (block scales included); None when the
    weights are not at hand and their size follows from the number of parameters and a dtype.
    """

    name: str
    kind: LayerKind
    op: Op
    inputs: tuple[str, ...] = ()
    n_params: int = 0
    weight_dtype: str | None = None
    weight_bytes: int | None = None


class Aside(Record):
    """Stored weights that no text token touches. name: what they are for: vision, audio, mtp (foretelling tokens)."""

    name: str
    n_params: int
    weight_bytes: int


class ModelSpec(Record):
    """A model's architecture, layer by layer, in the order in which it runs."""

    name: str
    architecture: str  # config.json's model_type, or GGUF's general.architecture
    d_model: int
    n_blocks: int
    vocab_size: int
    max_context: int | None
    layers: tuple[Layer, ...]
    causal: bool = True  # False: an encoder, which cannot generate
    dtype: str = "fp32"  # main dtype of the stored weights: fp32, bf16, fp16, q4_1, ...
    random_weights: bool = False  # speed and memory are real, text is noise
    source: str = ""  # one sentence: where the weights or numbers come from
    doubts: str = ""  # one sentence: what its layers leave open, where they were built for a family without a file
    aside: tuple[Aside, ...] = ()  # in the file and not in `layers`

    @property
    def n_params(self) -> int:
        """Parameters of all layers; those that lie aside and tied ones are not counted again."""
        return sum(layer.n_params for layer in self.layers)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of all weights as stored, or None when they are not at hand."""
        known = [layer.weight_bytes for layer in self.layers if layer.n_params]
        return None if any(b is None for b in known) else sum(b or 0 for b in known)


Family = Literal["embedded", "local", "hub", "preset", "derived", "served"]


class ModelEntry(Record):
    """One line of the catalogue: a model that can be chosen, before it is opened.

    files: format ("hf", "gguf", "onnx", "config") -> path. A backend opens the first format it
    lists in `formats`; a missing one is converted by core.models.artifacts when that is possible.
    """

    id: str
    label: str
    family: Family
    files: dict[str, str]
    size_bytes: int | None = None
    note: str = ""  # what a reader of results must know ("dequantized Q4_1", "random weights")
    random_weights: bool = False
    lineage: dict[str, Any] = msgspec.field(default_factory=dict)
