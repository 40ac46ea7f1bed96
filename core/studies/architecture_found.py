"""What a search for architectures found, as its file holds it: shapes, proxies, the answer. Records only."""

from __future__ import annotations

from typing import Literal

import msgspec

from core.analysis.search import Range
from core.stats.intervals import Interval, Ratio
from core.stats.rank import Regret
from core.studies.plan import Architectures
from core.types import Record, from_json
from hardware.detect import Machine
from hardware.errors import ExplorerError

FILE = "architectures.json"
Role = Literal["whole", "chosen", "random", "masked"]


class Speed(Record, omit_defaults=False):
    """A shape in one engine. ratio: its decode speed over the whole model's in the same rounds.

    predicted: tokens per second before any trained shape ran. disturbed: how many of its rounds something disturbed.
    """

    engine: str
    tok_per_s: float | None
    ratio: Ratio | None
    peak_memory_bytes: float | None
    predicted: Range | None
    disturbed: int
    on_front: bool = False
    reason: str = ""

    @property
    def gain(self) -> float:
        """Times the whole model's speed; asked of measured shapes only."""
        assert self.ratio is not None, "asked of measured shapes only"
        return self.ratio.value


class Shaped(Record, omit_defaults=False):
    """One shape. estimate, masked: KL to the whole model in nats per token, untrained, on the texts of the search.

    kl, perplexity: after training, on other texts: KL and the ratio of perplexities, with intervals over texts.
    agreement: share of tokens at which both prefer the same one.
    """

    id: str
    label: str
    role: Role
    n_params: float
    body_params: float
    weight_bytes: float
    estimate: float | None
    masked: float | None
    kl: Interval | None
    perplexity: Interval | None
    agreement: float | None
    speeds: tuple[Speed, ...]
    predicted: dict[str, dict[str, Range]]
    model: str = ""
    reason: str = ""

    @property
    def finished(self) -> bool:
        """Whether it was cut, trained and judged."""
        return self.kl is not None and self.role != "whole"

    @property
    def lost(self) -> float:
        """KL after training, in nats per token; asked of judged shapes only."""
        assert self.kl is not None, "asked of judged shapes only"
        return self.kl.value


class Proxy(Record, omit_defaults=False):
    """How well a figure that is cheap ranks the finished models. of: what is ranked.

    tau: Kendall's tau-b with its interval. partial: the same given the logarithm of the number of parameters. over:
    tau minus that of the parameters. regret: what its favourite loses. counts: a baseline, which only counts. verdict:
    in words.
    """

    of: str
    name: str
    label: str
    counts: bool
    tau: Interval | None
    partial: Interval | None
    over: Interval | None
    regret: Regret | None
    p: float | None
    verdict: str


class Quantized(Record, omit_defaults=False):
    """The answer's shape in another number format, in llama.cpp; its speed over the whole model's there, which is not
    quantized."""

    type: str
    model: str
    kl: Interval | None
    perplexity: Interval | None
    ratio: Ratio | None
    tok_per_s: float | None
    reason: str = ""


class Found(Record, omit_defaults=False):
    """A search as it stands. best: the id of its answer, "" without; words: the answer and what it rests on."""

    plan: Architectures
    date: str
    machine: Machine | None
    versions: dict[str, str]
    spent_s: float
    shapes: int
    possible: int
    masked: int
    rows: tuple[Shaped, ...]
    proxies: tuple[Proxy, ...]
    best: str
    words: tuple[str, ...]
    quantized: Quantized | None
    complete: bool

    @property
    def finished(self) -> tuple[Shaped, ...]:
        """The shapes that were trained and judged."""
        return tuple(row for row in self.rows if row.finished)


def read(data: bytes) -> Found:
    """Findings as they were written; raises ExplorerError when they cannot be read."""
    try:
        return from_json(data, Found)
    except msgspec.DecodeError as error:
        raise ExplorerError("These findings cannot be read.", "Carry the search out again: it goes on.") from error
