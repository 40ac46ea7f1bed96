"""What a person sees of a run."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.types.events import Account, Asked, Counted, Curve, ForwardCost, Item, Made, Memory
from core.types.model import LayerKind
from core.types.record import Record, Scalar
from core.types.setup import Host, Setup


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


class PhasePart(Record):
    """What helped the model in a phase, computed: its first "blocks" or a "draft" model that drafted, trained "heads"
    that guessed, heads that stood at the "exits"."""

    of: Literal["blocks", "draft", "heads", "exits"]
    n_forward: int
    flops: float
    bytes: float


class PhaseResult(Record):
    """A phase of the timing passes: measured seconds (median over passes), computed work of all that ran.

    n_tokens: of all sequences, read in prefill and made in decode. n_forward: of the model. parts: what of flops and
    bytes is not the model's own, each apart.
    """

    name: Literal["prefill", "decode"]
    seconds: float
    n_tokens: int
    n_forward: int
    tok_per_s: float | None
    flops: float
    bytes: float
    parts: tuple[PhasePart, ...] = ()


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


class Score(Record, omit_defaults=False):
    """A metric of an evaluation over its items so far, measured. low, high: its 95 % interval.

    Wilson's for a rate, a bootstrap over clusters for others, Student's t with the jackknife's standard error below
    ten clusters; None with fewer than two.
    """

    name: str
    label: str
    value: float
    low: float | None
    high: float | None
    n: int
    better: Literal["higher", "lower"]
    unit: str = ""


class ProfilerCost(Record):
    """How much slower the steps of an instrumented pass were than those of the timing passes."""

    profiler: str
    ratio: float
    seconds: float


class Unrest(Record, omit_defaults=False):
    """What disturbed the passes that the headline numbers come from: their medians. None: not measured.

    disturbed: the numbers are not the machine's own; sentence then says in plain words why, else it is empty.
    lost_share: of the time that the worker wanted to compute, what others or the hypervisor had. burst: mean over
    median of equal steps. drift: how far the passes' speeds lie apart. others_cores: processors that other processes
    used. n_disturbed of n_passes timing passes were found disturbed; they do not count beside clean ones.
    """

    disturbed: bool
    sentence: str = ""
    lost_share: float | None = None
    stolen_share: float | None = None
    others_cores: float | None = None
    burst: float | None = None
    drift: float | None = None
    n_passes: int = 0
    n_disturbed: int = 0


RunStatus = Literal["queued", "running", "done", "cancelled", "failed", "interrupted"]
GOING = ("queued", "running")  # what has not ended yet


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
    setup: Setup | None  # None: nothing is open yet
    host: Host | None
    warnings: tuple[str, ...]
    error: str | None = None
    hint: str | None = None
    counts: tuple[Counted, ...] = ()
    energy: tuple[Energy, ...] = ()
    tokens_per_forward: float | None = None  # accepted per decode forward of one sequence; drafts not counted
    forward_cost: ForwardCost | None = None
    task: Literal["generate", "evaluate", "derive"] = "generate"
    curves: tuple[Curve, ...] = ()
    made: Made | None = None
    asked: Asked | None = None
    items: tuple[Item, ...] = ()
    scores: tuple[Score, ...] = ()
    options: dict[str, Scalar] = msgspec.field(default_factory=dict)  # of the backend, those of a retry included
    batch_filled: float | None = None  # mean share of the batch that had not ended; None for one sequence
    depth: float | None = None  # mean share of the blocks that ran in decoding; None: all of them
    provisional: bool = False  # speeds of a pass that was watched: no timing pass has ended yet
    disturbance: Unrest | None = None
    served: Account | None = None  # of a model behind a server: what the last answer that counts told beyond its text

    @property
    def disturbed(self) -> bool:
        """Whether something else took so much of the machine that the speeds are not its own."""
        return self.disturbance is not None and self.disturbance.disturbed
