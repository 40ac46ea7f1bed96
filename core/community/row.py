"""A row of the community benchmark: one configuration on one machine, with what that machine can do beside it.

It holds what others need to compare it with theirs and to doubt it: rounds and not a mean, ceilings, computed work.
It holds nothing of who measured: no prompt, answer, path, name of user or host; memory only to a tier, the system
without its release, the day without the time. The contributor is a random name of an installation.
"""

from __future__ import annotations

import hashlib
from statistics import median
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from core import plugins
from core.types import Record, Scalar

SCHEMA: Literal["roofscope-community-1"] = "roofscope-community-1"
MOST_BYTES = 65_536  # of a row as JSON

Short = Annotated[str, Meta(max_length=200)]
Hex = Annotated[str, Meta(pattern="^[0-9a-f]{12,64}$")]
Day = Annotated[str, Meta(pattern=r"^20\d\d-(0[1-9]|1[0-2])-(0[1-9]|[12]\d|3[01])$")]
Count = Annotated[int, Meta(ge=1, le=10**9)]
Seconds = Annotated[float, Meta(gt=0, le=1e7)]
Bytes = Annotated[float, Meta(gt=0, le=1e16)]
Rate = Annotated[float, Meta(gt=0, le=1e20)]


class Model(Record, forbid_unknown_fields=True, omit_defaults=False):
    """sha256: the first 12 digits of its file's; None where that is not known. n_active: parameters a token uses."""

    name: Short
    architecture: Short
    n_params: Annotated[int, Meta(ge=1, le=10**14)]
    n_active: Annotated[int, Meta(ge=1, le=10**14)]
    weight_bytes: Bytes
    weight_dtype: Short
    file_type: Short
    sha256: Hex | None
    random_weights: bool

    @property
    def bits_per_weight(self) -> float:
        return 8 * self.weight_bytes / self.n_params


class Engine(Record, forbid_unknown_fields=True, omit_defaults=False):
    """versions: of the libraries that computed. kernels: what the library says of its own build."""

    name: Short
    versions: dict[Short, Short]
    kernels: Annotated[str, Meta(max_length=2000)]
    device: Short


class Workload(Record, forbid_unknown_fields=True, omit_defaults=False):
    """What was computed: `prompt_tokens` in, `new_tokens` out of each of `batch` sequences.

    random_prompt: of random tokens by the seed, the same for everybody with this model.
    """

    strategy: Short
    params: dict[Short, Scalar]
    options: dict[Short, Scalar]
    threads: Count
    batch: Count
    prompt_tokens: Count
    new_tokens: Count
    random_prompt: bool
    greedy: bool
    seed: Annotated[int, Meta(ge=0, le=2**32 - 1)]
    activation_dtype: Short
    kv_dtype: Short


class Work(Record, forbid_unknown_fields=True, omit_defaults=False):
    """Computed, of one decode forward and of the prompt: what physics is asked with."""

    bytes_per_forward: Bytes
    flops_per_forward: Rate
    prompt_flops: Rate
    tokens_per_forward: Annotated[float, Meta(ge=1, le=1000)]  # of one sequence


class Machine(Record, forbid_unknown_fields=True, omit_defaults=False):
    """The class of machine. cores: that the process was given. memory_gib: rounded up to a usual size."""

    cpu: Short
    cores: Count
    memory_gib: Count
    cache_bytes: Bytes | None
    accelerator: Short
    system: Short
    virtual: bool

    @property
    def label(self) -> str:
        """`AMD EPYC 7543, 2 cores, 24 GiB`; an accelerator comes first."""
        return ", ".join(filter(None, (self.accelerator, self.cpu, f"{self.cores} cores", f"{self.memory_gib} GiB")))


class Roofs(Record, forbid_unknown_fields=True, omit_defaults=False):
    """What the machine was measured to reach. reads: bytes of a working set and the bytes per second of reading it.

    cache_bytes: the largest set before memory's own rate; None where no such fall was seen.
    """

    day: Day
    threads: Count
    reads: Annotated[tuple[tuple[Bytes, Rate], ...], Meta(min_length=1, max_length=200)]
    cache_bytes: Bytes | None
    flop_per_s: dict[Short, Rate]

    @property
    def memory_bytes_per_s(self) -> float:
        """The best of the largest octave of working sets."""
        largest = max(size for size, _ in self.reads)
        return max(rate for size, rate in self.reads if size * 2 >= largest)

    @property
    def best_bytes_per_s(self) -> float:
        return max(rate for _, rate in self.reads)


class Round(Record, forbid_unknown_fields=True, omit_defaults=False):
    """One timing pass: to the first token, per token of a sequence after it, and of all of it."""

    ttft_s: Seconds
    tpot_s: Seconds
    seconds: Seconds


class Joules(Record, forbid_unknown_fields=True, omit_defaults=False):
    """Measured energy of decoding, per token of all sequences, and by which counter."""

    per_token: Rate
    method: Short


class Row(Record, forbid_unknown_fields=True, omit_defaults=False):
    """id: of everything but itself, the day and the contributor. n_tokens: that really came out of each sequence.

    text_sha256: of the text of a prompt that is the same for all; None for any other. warnings: load, drift, heat.
    """

    schema: Literal["roofscope-community-1"]
    id: Hex
    day: Day
    contributor: Hex
    tool: Short
    request_key: Hex
    model: Model
    engine: Engine
    workload: Workload
    work: Work
    machine: Machine
    roofs: Roofs
    rounds: Annotated[tuple[Round, ...], Meta(min_length=1, max_length=1000)]
    n_tokens: Count
    peak_memory_bytes: Bytes | None
    energy: Joules | None
    text_sha256: Hex | None
    warnings: Annotated[tuple[Annotated[str, Meta(max_length=500)], ...], Meta(max_length=20)]

    @property
    def tok_per_s(self) -> float:
        """Of all sequences, over the median round."""
        return self.workload.batch / self.tpot_s

    @property
    def tpot_s(self) -> float:
        return median(r.tpot_s for r in self.rounds)

    @property
    def ttft_s(self) -> float:
        return median(r.ttft_s for r in self.rounds)

    @property
    def configuration(self) -> str:
        """What two rows must share to stand beside each other: model, engine's name and workload, but for threads."""
        m, work = self.model, msgspec.structs.replace(self.workload, threads=1)
        model = (m.sha256 or m.name, m.weight_dtype, m.file_type)
        return hashlib.sha256(canonical((model, self.engine.name, self.engine.device, work))).hexdigest()[:12]

    @property
    def label(self) -> str:
        """`smollm2-135m · Q4_1 · llama.cpp · 64 in, 32 out`."""
        w = self.workload
        parts = (
            self.model.name,
            self.model.file_type or self.model.weight_dtype,
            plugins.label("backend", self.engine.name),
            "" if w.strategy == "autoregressive" else plugins.label("strategy", w.strategy),
            f"batch {w.batch}" if w.batch > 1 else "",
            f"{w.prompt_tokens} in, {w.new_tokens} out",
        )
        return " · ".join(filter(None, parts))


def canonical(value: object) -> bytes:
    """The one way in which a value is written for its hash."""
    return msgspec.json.encode(value, order="sorted")


def identified(row: Row) -> Row:
    """The row with the id that its content has."""
    bare = msgspec.structs.replace(row, id="0" * 16, day="2000-01-01", contributor="0" * 12)
    return msgspec.structs.replace(row, id=hashlib.sha256(canonical(bare)).hexdigest()[:16])


def encoded(row: Row) -> bytes:
    """The row as it is kept, shown and sent: the same bytes everywhere."""
    return msgspec.json.format(canonical(row), indent=1) + b"\n"
