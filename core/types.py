"""The nouns: immutable records that survive JSON.

SI units are in the names; None means "not measured". This module knows nothing of libraries,
files or screens. Records are msgspec structs: frozen, typed, and validated when they are read.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from typing import Any, Literal, Protocol, TypeVar, dataclass_transform

import msgspec
import numpy as np
from numpy.typing import NDArray

Scalar = str | int | float | bool | None
Provenance = Literal["measured", "computed", "stated", "estimated"]
T = TypeVar("T")


@dataclass_transform(frozen_default=True, kw_only_default=True)
class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A frozen struct. Equality by value, JSON by `to_json` and `from_json`."""


def to_json(record: object) -> bytes:
    """Canonical JSON of a record: equal records give equal bytes."""
    return msgspec.json.encode(record, order="sorted")


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Read a record; raises msgspec.ValidationError, which names the field at fault."""
    return msgspec.json.decode(data, type=kind)


# ---------------------------------------------------------------- the model as a list of layers


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
    """

    n_heads: int
    n_kv_heads: int
    qk_dim: int
    v_dim: int
    window: int | None = None
    causal: bool = True
    kv_width: int | None = None


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

    @property
    def n_params(self) -> int:
        return sum(layer.n_params for layer in self.layers)

    @property
    def weight_bytes(self) -> int | None:
        """Bytes of all weights as stored, or None when they are not at hand."""
        known = [layer.weight_bytes for layer in self.layers if layer.n_params]
        return None if any(b is None for b in known) else sum(b or 0 for b in known)


class ModelEntry(Record):
    """One line of the catalogue: a model that can be chosen, before it is opened.

    files: format ("hf", "gguf", "onnx", "config") -> path. A backend opens the first format it
    lists in `formats`; a missing one is derived by core.models.artifacts when that is possible.
    """

    id: str
    label: str
    family: Literal["embedded", "local", "hub", "preset", "derived"]
    files: dict[str, str]
    size_bytes: int | None = None
    note: str = ""  # what a reader of results must know ("dequantized Q4_1", "random weights")
    random_weights: bool = False
    lineage: dict[str, Any] = {}


# ---------------------------------------------------------------- a request


class Sampling(Record):
    """temperature 0 is greedy. Seeded by the request's seed."""

    temperature: float = 0.0
    top_k: int | None = None
    top_p: float | None = None


class Generate(Record, tag="generate"):
    """Generate from a prompt. Either `prompt` (text) or `prompt_tokens` (that many random ids).

    chat: wrap the prompt with the model's chat template when it has one.
    system: the system message; empty for none, None for the template's own default (a hidden
    persona that can change the answer more than a quantization does).
    ignore_eos: always produce max_new_tokens (benchmarks; implied by prompt_tokens).
    """

    prompt: str | None = None
    prompt_tokens: int | None = None
    max_new_tokens: int = 64
    chat: bool = True
    system: str | None = ""
    ignore_eos: bool = False
    sampling: Sampling = Sampling()


Task = Generate  # Evaluate, Transform ... join here as a tagged union


class Request(Record):
    """All that determines a run. `options` go to the backend, `params` to the strategy."""

    model: str
    backend: str
    task: Task = Generate()
    strategy: str = "autoregressive"
    dtype: str | None = None  # None: the backend's default for this model
    threads: int | None = None  # None: all physical cores
    batch: int = 1
    profilers: tuple[str, ...] = ("memory", "layers")
    warmup: int = 1
    repeats: int = 1
    seed: int = 0
    fresh_process: bool = False
    allow_oversize: bool = False  # "run anyway" when the model may not fit in memory
    options: dict[str, Scalar] = {}
    params: dict[str, Scalar] = {}

    def key(self) -> str:
        """Hash of everything that determines the outcome."""
        return hashlib.sha256(to_json(self)).hexdigest()[:16]

    def session_key(self) -> str:
        """Hash of what determines the opened session: equal keys may share a warm worker."""
        parts = [self.model, self.backend, self.dtype, self.threads, self.batch, self.options]
        return hashlib.sha256(to_json(parts)).hexdigest()[:16]


# ---------------------------------------------------------------- events, in the order they happen

PhaseName = Literal["queued", "preparing", "loading", "prefill", "decode", "profiling", "finished"]
PassKind = Literal["warmup", "timing", "profile"]


class Phase(Record, tag="phase"):
    """What the worker is doing now. done of total in whatever `unit` says (tokens, bytes, layers)."""

    t_s: float  # seconds since the run was requested
    name: PhaseName
    note: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""


class Loaded(Record, tag="loaded"):
    """The session is open. seconds: loading time, 0 when `warm` (it was open already)."""

    t_s: float
    seconds: float
    warm: bool
    spec: ModelSpec
    n_prompt_tokens: int
    prompt_text: str
    environment: dict[str, Any]
    capabilities: tuple[str, ...]
    rss_before_bytes: int | None = None
    rss_after_bytes: int | None = None


class Pass(Record, tag="pass"):
    """A pass begins. Only passes of kind "timing" make headline numbers."""

    t_s: float
    number: int
    kind: PassKind
    profiler: str | None = None


class Step(Record, tag="step"):
    """One step of the strategy. seconds: the time inside next(steps) plus sync.

    n_tokens: tokens accepted per sequence in the batch (0 in a prefill chunk but the last).
    n_forward: forwards run. n_context: tokens in the KV cache after the step.
    n_input: tokens fed to the forwards per sequence (prefill: the chunk; decode: 1 per forward ...).
    tokens: the accepted ids of the first sequence. guess: the ids it was fed beyond the known ones, to be verified;
    guess[i] stands where tokens[i] ended up. n_draft: forwards of a draft model, which n_forward leaves out.
    """

    t_s: float
    pass_no: int
    phase: Literal["prefill", "decode"]
    seconds: float
    n_tokens: int
    n_forward: int
    n_input: int
    n_context: int
    text: str = ""
    tokens: tuple[int, ...] = ()
    guess: tuple[int, ...] = ()
    n_draft: int = 0


class Memory(Record, tag="memory"):
    """The worker's resident memory. peak_bytes: the kernel's high-water mark since the phase began."""

    t_s: float
    pass_no: int | None
    phase: str
    rss_bytes: int
    anon_bytes: int | None = None
    file_bytes: int | None = None
    peak_bytes: int | None = None
    device_bytes: int | None = None  # accelerator memory, where there is one


class LayerTime(Record, array_like=True):
    """Cumulative over a phase of one pass: seconds and calls of a canonical layer."""

    name: str
    seconds: float
    calls: int
    op: str = ""  # the library's own operator ("MatMul", "MUL_MAT", "aten::linear")
    output_bytes: int | None = None  # bytes of its outputs in one call


class LayerTimes(Record, tag="layers"):
    """Cumulative layer times of a phase; a later event of the same pass and phase replaces it.

    seconds_total: wall time of the same instrumented steps, so that what the profiler does not
    attribute is visible.
    """

    t_s: float
    pass_no: int
    phase: Literal["prefill", "decode"]
    n_steps: int
    seconds_total: float
    rows: tuple[LayerTime, ...]


class OpCount(Record, array_like=True):
    """One operator of the library within one layer, as it would run in one forward.

    layer: canonical name, or "other". flops: of all its calls, 2 per multiply-add; None: uncounted.
    product: a matrix product, an attention or a convolution; of the rest one FLOP per element and step.
    """

    layer: str
    op: str
    calls: int
    flops: float | None
    product: bool = False


class Count(Record):
    """The FLOPs of one forward, counted by the library's own operators and shapes, not by the architecture.

    source: what was counted ("dispatch", "ONNX graph", "ggml graph"). note: what a reader of it must know.
    The forward ran n_new tokens per sequence after n_past cached ones, with the logits of the last position.
    """

    source: str
    n_new: int
    n_past: int
    batch: int
    ops: tuple[OpCount, ...]
    note: str = ""


class Counted(Record, tag="counted"):
    """One forward of a phase, counted: the whole prompt, or the first step of decoding."""

    t_s: float
    pass_no: int
    phase: Literal["prefill", "decode"]
    count: Count


class ForwardTime(Record, array_like=True):
    """Median seconds of one forward of n tokens of one sequence, with the quartiles of its repetitions."""

    n: int
    seconds: float
    low_s: float
    high_s: float


class ForwardCost(Record, tag="forward_cost"):
    """What a forward of n tokens costs after n_past cached ones: v(n) = seconds(n) / seconds(1)."""

    t_s: float
    pass_no: int
    n_past: int
    repeats: int
    times: tuple[ForwardTime, ...]


class EnergyReading(Record, tag="energy"):
    """What the machine's energy counters counted while a phase ran, and the processor time it used.

    seconds: from the phase's first moment to its last. counted_j: joules by counter; empty when none could be
    read, and `missing` then says why. idle_w: power of the same counters while nothing ran, just before.
    """

    t_s: float
    pass_no: int
    phase: Literal["prefill", "decode"]
    seconds: float
    cpu_s: float
    counted_j: dict[str, float] = {}
    idle_w: float | None = None
    missing: str = ""


class Warned(Record, tag="warning"):
    t_s: float
    message: str


class Done(Record, tag="done"):
    t_s: float
    cancelled: bool = False


class Failed(Record, tag="failed"):
    """The run ended early. log: the last lines of the worker's output."""

    t_s: float
    message: str
    hint: str = ""
    log: str = ""
    user_error: bool = False  # the request could not run at all (exit status 2)


Event = (
    Phase | Loaded | Pass | Step | Memory | LayerTimes | Counted | ForwardCost | EnergyReading | Warned | Done | Failed
)


# ---------------------------------------------------------------- a result


class LayerResult(Record):
    """One layer in one phase: measured time beside computed work.

    seconds: per decode forward, or for the whole prefill; measured (None: not measured).
    flops, bytes: of the same, computed (None: uncounted, never zero).
    """

    name: str
    kind: LayerKind
    phase: Literal["prefill", "decode"]
    seconds: float | None
    calls: int | None
    flops: float | None
    bytes: float | None
    weight_bytes: float
    n_params: int
    op: str = ""
    output_bytes: int | None = None


class PhaseResult(Record):
    """A phase of the timing passes: measured seconds (median over passes), computed work."""

    name: Literal["prefill", "decode"]
    seconds: float
    n_tokens: int
    n_forward: int
    tok_per_s: float | None
    flops: float
    bytes: float


class Energy(Record, omit_defaults=False):
    """Joules of one phase, in all and per token of all sequences together (None without tokens).

    measured: low = joules = high. estimated: low and high are its range, and it says no more than time and load
    do, so it never enters a significance test or a composite beside speed (see `comparable`) and never stands
    unlabelled beside a measured value. idle_j: the part that would have been used anyway; None: not known.
    missing: why there is only an estimate.
    """

    phase: Literal["prefill", "decode"]
    seconds: float
    n_tokens: int
    joules: float
    low_j: float
    high_j: float
    joules_per_token: float | None
    low_j_per_token: float | None
    high_j_per_token: float | None
    method: str  # "RAPL package-0, RAPL dram 0:0", "estimate: 2.5 W for a busy thread ..."
    provenance: Literal["measured", "estimated"]
    idle_j: float | None = None
    missing: str = ""

    @property
    def net_j(self) -> float | None:
        """Without the idle part; None when that is not known."""
        return None if self.idle_j is None else max(0.0, self.joules - self.idle_j)

    @property
    def comparable(self) -> bool:
        """Whether it may enter a test or a composite: only what was measured."""
        return self.provenance == "measured"


class ProfilerCost(Record):
    """How much slower the steps of an instrumented pass were than those of the timing passes."""

    profiler: str
    ratio: float
    seconds: float


RunStatus = Literal["queued", "running", "done", "cancelled", "failed", "interrupted"]


class Result(Record, omit_defaults=False):
    """Everything a person sees of a run: a pure function of its request and its events."""

    run_id: str
    status: RunStatus
    model: str
    backend: str
    strategy: str
    dtype: str | None
    threads: int | None
    batch: int
    text: str
    n_prompt_tokens: int | None
    n_new_tokens: int
    n_forward: int
    ttft_s: float | None
    tpot_s: float | None
    tok_per_s: float | None
    prefill_tok_per_s: float | None
    itl_s: tuple[float, ...]
    load_s: float | None
    warm: bool | None
    total_s: float | None
    peak_memory_bytes: int | None
    memory: tuple[Memory, ...]
    phases: tuple[PhaseResult, ...]
    layers: tuple[LayerResult, ...]
    profiler_costs: tuple[ProfilerCost, ...]
    ttft_samples_s: tuple[float, ...]
    tpot_samples_s: tuple[float, ...]
    environment: dict[str, Any]
    warnings: tuple[str, ...]
    error: str | None = None
    hint: str | None = None
    counts: tuple[Counted, ...] = ()
    energy: tuple[Energy, ...] = ()
    tokens_per_forward: float | None = None  # accepted per decode forward of one sequence; drafts not counted
    forward_cost: ForwardCost | None = None


# ---------------------------------------------------------------- the verbs that plugins implement

Ids = NDArray[np.int64]  # token ids, always of shape (batch, n)


class Logits(Protocol):
    """A handle on the logits of one forward, shape (batch, n_kept, vocab); valid until the next forward."""

    def argmax(self) -> Ids:
        """Greedy next token at every kept position, shape (batch, n_kept)."""

    def numpy(self) -> NDArray[np.float32]:
        """All values, float32."""


class GenerationConfig(Record):
    """How to continue a prompt. limit: new tokens per sequence. stop: ids that end a sequence (kept)."""

    limit: int
    sampling: Sampling = Sampling()
    seed: int = 0
    stop: frozenset[int] = frozenset()


class Trace(Protocol):
    """Time per layer of the forwards run since it began, under canonical names."""

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        """What follows belongs to this phase."""

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        """Phase -> cumulative rows so far. Empty where the library tells only at the end."""

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        """Detach; final rows per phase. The session then is as before. Safe to call twice."""


class Session(Protocol):
    """An opened model with a KV cache of `n_committed` tokens.

    Capabilities (of session and backend alike):
      forward  one forward over n tokens gives n rows of logits
      cache    what was committed is remembered: forward(a), commit, forward(b) continues
      rollback commit may keep fewer than all pending tokens, and rejected ones leave no trace;
               a forward of n tokens equals n forwards of one
      rewind   committed tokens can be taken back
      stream   the library's own generate loop
      batch    more than one sequence (all of equal length)
      layers   the layers profiler can be attached
      count    the FLOPs of a forward can be counted
    """

    spec: ModelSpec
    capabilities: frozenset[str]
    max_context: int
    chat_template: str | None
    bos_token: str
    eos_token: str
    eos_ids: frozenset[int]
    environment: dict[str, Any]  # library versions, device, kernels, file
    warnings: tuple[str, ...]

    @property
    def n_committed(self) -> int: ...

    def encode(self, text: str) -> list[int]:
        """Text to ids; special tokens in the text are recognised, none are added."""

    def decode(self, ids: Sequence[int]) -> str:
        """Ids to text, special tokens left out."""

    def forward(self, ids: Ids, keep: int | None = None) -> Logits:
        """Run `ids` after what is committed. keep: logits of the last `keep` positions only (None: all).

        The tokens stay pending until `commit`. A second forward without a commit in between
        drops what was pending. Raises ExplorerError when the context is exceeded.
        """

    def commit(self, n: int) -> None:
        """Keep the first n pending tokens in the cache and drop the rest."""

    def rewind(self, n: int) -> None:
        """Take the last n committed tokens back, and drop what is pending (capability "rewind")."""

    def reset(self) -> None:
        """Forget all tokens; keep the weights and the warm kernels."""

    def sync(self) -> None:
        """Wait until the device has finished everything asked of it."""

    def stream(self, ids: Ids, config: GenerationConfig) -> Iterator[Ids]:
        """The library's own generate loop from an empty cache: yields (batch, 1) tokens, one step each."""

    def trace(self) -> Trace:
        """Start measuring time per layer (capability "layers"). Instruments the session until finish()."""

    def count(self, n_new: int, n_past: int = 0) -> Count:
        """Count the FLOPs of one forward (capability "count"). Committed tokens stay; a Logits handle does not."""

    def close(self) -> None:
        """Free the memory. The session cannot be used afterwards."""


class Progress(Protocol):
    def __call__(self, note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None: ...


class Backend(Protocol):
    """A library that runs models. A module in core/backends exposes one as `plugin`."""

    name: str
    label: str
    distributions: tuple[str, ...]  # PyPI distributions whose versions go into the environment
    formats: tuple[str, ...]  # model file formats it opens, preferred first
    dtypes: tuple[str, ...]  # weight dtypes a user may ask for; empty: as the file has them
    capabilities: frozenset[str]  # what its sessions can do at most
    runtime_bytes: int  # resident memory of the imported library itself, as seen on one machine
    Options: type[Record]  # what a request may set in `options`
    signal_advice: dict[int, tuple[str, str, dict[str, Scalar]]]  # signal -> message, hint, options for one retry

    def unavailable(self) -> str | None:
        """None, or one sentence that says what is missing and how to install it. Must be cheap: no import."""

    def open(self, path: str, spec: ModelSpec, request: Request, progress: Progress) -> Session:
        """Open the file or folder `path`, which is in a format of `formats`.

        spec: the model's architecture with the dtype it will have here; becomes session.spec.
        """


class Emit(Protocol):
    def __call__(self, event: Any) -> None: ...


class Attachment(Protocol):
    """A profiler at work on one pass. Used as: with profiler.attach(...) as a: a.phase(...); steps; a.step(...)"""

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        """A phase begins."""

    def step(self, step: Step) -> None:
        """A step of the current phase ended; called between steps, never timed."""

    def events(self) -> list[Any]:
        """New events since the last call, t_s being time.perf_counter() (the worker turns it into run time)."""

    def close(self) -> None:
        """Detach: the session is as before."""


class Profiler(Protocol):
    """Something attached to a pass of its own. A module in core/profilers exposes one as `plugin`."""

    name: str
    label: str
    needs: frozenset[str]
    single: bool  # measures one sequence only
    limit: int | None  # new tokens that its pass needs; None: as many as the request wants

    def unavailable(self) -> str | None: ...

    def attach(self, session: Session, pass_no: int) -> Attachment: ...


class Advance(Record):
    """What a strategy yields: a prefill chunk (no tokens yet) or accepted tokens.

    tokens: accepted by each sequence, shape (batch, n) as nested tuples; empty in a prefill chunk.
    guess, n_draft: as in Step.
    """

    phase: Literal["prefill", "decode"]
    tokens: tuple[tuple[int, ...], ...] = ()
    n_forward: int = 1
    n_input: int = 1
    guess: tuple[int, ...] = ()
    n_draft: int = 0


class Strategy(Protocol):
    """A way to decode. A module in core/decoding exposes one as `plugin`.

    A strategy whose Params have a field `draft` (a model's id) gets that model's session, opened in the
    same backend and proven to have the same tokenizer, as decode's last argument.
    """

    name: str
    label: str
    needs: frozenset[str]
    single: bool  # decodes one sequence only
    Params: type[Record]

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Any) -> Iterator[Advance]:
        """Generate after `prompt` (batch, n) from an empty cache."""
