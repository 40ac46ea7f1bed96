"""What happens in a run, in the order in which it happens."""

from __future__ import annotations

from typing import Any, Literal

import msgspec

from core.types.counts import Counts, Forwards
from core.types.model import ModelSpec
from core.types.record import Record, Scalar
from core.types.setup import Host, Setup
from core.types.sketch import Sketch

PhaseName = Literal[
    "queued", "preparing", "loading", "prefill", "decode", "resting", "profiling", "training", "evaluating", "finished"
]
PassKind = Literal["warmup", "live", "timing", "profile"]
EVENTS_FORMAT = 1  # of the events of a run; rises where an older reader would take what is new for something else


class Phase(Record, tag="phase"):
    """What the worker is doing now. done of total in whatever `unit` says (tokens, bytes, layers)."""

    t_s: float  # seconds since the run was requested
    name: PhaseName
    note: str = ""
    done: float | None = None
    total: float | None = None
    unit: str = ""


class Loaded(Record, tag="loaded"):
    """The session is open. seconds: loading time, 0 when `warm` (it was open already).

    options: of the backend, as it was opened: those of the request, and over them those of a retry.
    draft, draft_setup: of the draft model, where one is open beside it. format: of the run's events; 0 where an earlier
    version did not tell it.
    """

    t_s: float
    seconds: float
    warm: bool
    spec: ModelSpec
    n_prompt_tokens: int
    prompt_text: str
    setup: Setup
    capabilities: tuple[str, ...]
    host: Host | None = None
    draft: ModelSpec | None = None
    draft_setup: Setup | None = None
    rss_before_bytes: int | None = None
    rss_after_bytes: int | None = None
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)
    format: int = 0


class Pass(Record, tag="pass"):
    """A pass begins. Only passes of kind "timing" make headline numbers.

    A pass of kind "live" is there to be looked at: its numbers are shown while there are no others.
    """

    t_s: float
    number: int
    kind: PassKind
    profiler: str | None = None


class Step(Record, tag="step", gc=False):
    """One step of the strategy. seconds: the time inside next(steps) plus sync.

    counts: of the step (no tokens in a prefill chunk but the last). ran: the shapes of its forwards, as the sessions
    noted them. n_context: tokens in the KV cache after the step.
    tokens: the accepted ids of the first sequence, up to its end. guess: the ids it was fed beyond the known ones, to
    be verified; guess[i] stands where tokens[i] ended up.
    pieces, guessed: the texts of tokens and guess, one by one, where the strategy guesses.
    """

    t_s: float
    pass_no: int
    phase: Literal["prefill", "decode"]
    seconds: float
    counts: Counts
    n_context: int
    ran: tuple[Forwards, ...] = ()
    text: str = ""
    tokens: tuple[int, ...] = ()
    guess: tuple[int, ...] = ()
    pieces: tuple[str, ...] = ()
    guessed: tuple[str, ...] = ()


class Disturbance(Record, tag="disturbance"):
    """How a timing pass, or an evaluation (pass_no None), shared the machine, from its first step to after its last.

    n_cores: processors that the system counts. n_threads: that computed. cpu_s: processor time of the worker. waited_s:
    how long its threads were ready to run and had no core, beyond waking, all threads together. others_s: processor
    time of all other processes; stolen_s: what the hypervisor took from this machine. None where the system does not
    tell. stops: how often the worker was stopped by a signal, or the machine slept.
    """

    t_s: float
    pass_no: int | None
    seconds: float
    n_cores: int
    n_threads: int
    cpu_s: float
    waited_s: float | None = None
    others_s: float | None = None
    stolen_s: float | None = None
    stops: int = 0


class ServerMemory(Record):
    """What a server says of its own memory, at `source`; None: it does not say. kv_share: of its cache that is used.
    n_context: tokens of one request. slots, slots_busy: requests at once, and now."""

    source: str
    total_bytes: int | None = None
    device_bytes: int | None = None
    weights_bytes: int | None = None
    kv_bytes: int | None = None
    kv_share: float | None = None
    n_context: int | None = None
    slots: int | None = None
    slots_busy: int | None = None


class Account(Record, tag="account"):
    """What an answer of a server told beyond its text, after each pass (pass_no None: an item of an evaluation).

    connect_s: before the request went out, no part of TTFT. ttft_s: to the first text of any channel; answer_s: to that
    of the answer behind its reasoning. gaps_s: between pieces of text; single: each piece was one token, so that they
    are the inter-token latency. counted_by: who counted n_tokens ("chunks", "ids", "usage", "tokenizer"); None: nobody,
    and pieces stand for tokens. cached: prompt tokens that were not read again; None: it does not say. server: its own
    account, by name, in seconds and tokens. memory: as it says.
    """

    t_s: float
    pass_no: int | None = None
    connect_s: float | None = None
    ttft_s: float | None = None
    answer_s: float | None = None
    tpot_s: float | None = None
    e2e_s: float | None = None
    gaps_s: tuple[float, ...] = ()
    single: bool = False
    n_chunks: int = 0
    n_tokens: int | None = None
    counted_by: str | None = None
    n_prompt: int | None = None
    cached: int | None = None
    finish_reason: str | None = None
    reasoning: str = ""
    streamed: bool = True
    server: dict[str, float] = msgspec.field(default_factory=dict)
    memory: ServerMemory | None = None


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
    cells: places of the KV cache that a layer's attention went over, where that is more than there are tokens because
    the library pads its cache. prunes_last_block: as in Setup.
    """

    source: str
    n_new: int
    n_past: int
    batch: int
    ops: tuple[OpCount, ...]
    note: str = ""
    cells: dict[str, int] = msgspec.field(default_factory=dict)
    prunes_last_block: bool = False


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
    counted_j: dict[str, float] = msgspec.field(default_factory=dict)
    idle_w: float | None = None
    missing: str = ""


class Curve(Record, tag="curve"):
    """A point of a training curve: every value after `step` of `total` steps (losses, accuracy, tokens per forward)."""

    t_s: float
    step: int
    total: int
    values: dict[str, float]


class Made(Record, tag="made"):
    """A transform's model is in the catalogue. facts: what the transform itself found out.

    size_bytes: of the weights as stored. bits_per_weight: 8 * size_bytes / parameters, scales and zeros included.
    """

    t_s: float
    model: str
    label: str
    note: str
    size_bytes: int
    n_params: int
    bits_per_weight: float
    facts: dict[str, Any] = msgspec.field(default_factory=dict)


class Metric(Record):
    """A number over items: the sum of `value` over the sum of `over` (None: over the number of items).

    kind: "rate" is a share of items that are each 0 or 1; "mean" any other ratio of sums; "exp" its exponential
    (perplexity from nats per token); "root" its square root (a root mean square from squares). "p99" is no ratio but
    the 99th percentile of the items' sketches of `value`, all put together. most: that it can be, where there is such
    a value; it is none below 0 then. A rate's is 1.
    """

    name: str
    label: str
    value: str
    over: str | None = None
    kind: Literal["rate", "mean", "exp", "root", "p99"] = "mean"
    better: Literal["higher", "lower"] = "higher"
    unit: str = ""
    most: float | None = None


class Asked(Record, tag="asked"):
    """An evaluation begins: how many items it has and which metrics its values make."""

    t_s: float
    n_items: int | None
    metrics: tuple[Metric, ...]
    settings: dict[str, Any] = msgspec.field(default_factory=dict)


class Item(Record, tag="item"):
    """One item of an evaluation. id: the same for every model. cluster: items that share a text or a table.

    fingerprint: of what was asked; empty in runs made before there was one.

    seconds, counts: of its answer's decoding after the first token, where it generates; ttft_s: the prefill.
    """

    t_s: float
    id: str
    cluster: str
    values: dict[str, float]
    prompt: str = ""
    output: str = ""
    expected: str = ""
    fingerprint: str = ""
    ttft_s: float | None = None
    seconds: float | None = None
    counts: Counts | None = None
    sketches: dict[str, Sketch] = msgspec.field(default_factory=dict)  # of values that an item has many of


class Warned(Record, tag="warning"):
    """What a reader should know of the result, in one sentence; the run goes on."""

    t_s: float
    message: str


class Done(Record, tag="done"):
    """The run's end. cancelled: somebody stopped it; what was measured stays."""

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
    Phase
    | Loaded
    | Pass
    | Step
    | Disturbance
    | Account
    | Memory
    | LayerTimes
    | Counted
    | ForwardCost
    | EnergyReading
    | Curve
    | Made
    | Asked
    | Item
    | Warned
    | Done
    | Failed
)
