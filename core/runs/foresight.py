"""What a cell will do, before it is run: its seconds, and its speed and memory as ranges.

Stands on this machine's measured ceilings and its own runs where they are there (core.runs.forecast). Without
ceilings there is no prediction of a figure, and the seconds come from a round number for bandwidth and arithmetic,
which only the finished runs of a plan make useful.
"""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from core.analysis.predict import Figure
from core.analysis.predict_here import PredictionHere
from core.analysis.search import Range
from core.analysis.work import total, work
from core.runs.check import check, estimate
from core.runs.forecast import Here, lengths
from core.runs.resolve import Resolved
from core.runs.stages import passes
from core.runs.store import Store
from core.types import Generate, Record, Request
from hardware.detect import usable_cores
from hardware.errors import ExplorerError

NOMINAL_BYTES_PER_S, NOMINAL_FLOP_PER_S = 10e9, 50e9
START_S = 3.0  # of a run: a process or a message to it, and the wait until the machine is quiet
LOAD_BYTES_PER_S = 0.5e9
ROUND, MEMORY_ROUND = 8.0, 1.5  # by so much a figure from round numbers may be wrong
# Tokens per forward that a strategy which guesses may reach, and times as long as its forward may take
GAIN, DEARER = 4.0, 8.0
PLAIN = ("autoregressive", "encode")  # one token per forward, by the step that is predicted


class Foreseen(Record, omit_defaults=False):
    """A request on one machine. reason: why it cannot run there, with the next step; "" where it can.

    seconds: of its run, a first estimate. ranges: its figures by the names of core.studies.measures.
    """

    reason: str = ""
    seconds: float = 0.0
    ranges: dict[str, Range] = msgspec.field(default_factory=dict)


class Foresight:
    """Predictions for one store; ceilings and overheads are read once for each number of threads."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: dict[int, Here | None] = {}

    def basis(self, threads: int | None) -> Here | None:
        """This machine's ceilings at these threads with what its runs tell; None where they are not measured."""
        n = threads or usable_cores()
        if n not in self._known:
            self._known[n] = Here.at(self._store, n)
        return self._known[n]

    def predict(self, wanted: Resolved) -> PredictionHere | None:
        """Speed and memory as ranges; None without ceilings. What a strategy gains by guessing widens the range."""
        basis = self.basis(wanted.request.threads)
        if basis is None or not isinstance(wanted.request.task, Generate):
            return None
        try:
            found = basis.predict_request(wanted)
        except ExplorerError:
            return None
        if wanted.request.strategy in PLAIN or found.tpot_s is None or found.decode_tok_per_s is None:
            return found
        gain = _gain(wanted.request.strategy)
        return msgspec.structs.replace(
            found,
            tpot_s=_times(found.tpot_s, DEARER, gain),
            decode_tok_per_s=_times(found.decode_tok_per_s, gain, DEARER),
        )

    def ranges(self, wanted: Resolved) -> dict[str, Range]:
        """Figures by the names of core.studies.measures; from round numbers, and wide, without measured ceilings."""
        predicted = self.predict(wanted)
        prompt, new = lengths(wanted.request)
        batch, encodes = wanted.request.batch, wanted.request.strategy == "encode" or not wanted.spec.causal
        if predicted is not None:
            found = {
                "ttft_s": _range(predicted.ttft_s),
                "prefill_tok_per_s": _range(predicted.prefill_tok_per_s),
                "peak_memory_bytes": _range(predicted.peak_memory_bytes),
                "latency_s": _range(predicted.ttft_s if encodes else latency(predicted, new)),
            }
            if predicted.tpot_s is not None and predicted.decode_tok_per_s is not None and not encodes:
                found |= {"tpot_s": _range(predicted.tpot_s), "tok_per_s": _range(predicted.decode_tok_per_s)}
            return found
        first, step = _forward_s(wanted, prompt), _forward_s(wanted, 1)
        wide = 1.0 if wanted.request.strategy in PLAIN else GAIN
        found = {
            "ttft_s": _about(first),
            "prefill_tok_per_s": _about(batch * prompt / first),
            "latency_s": _about(first if encodes else first + (new - 1) * step, wide),
            "peak_memory_bytes": _about(float(estimate(wanted).total_bytes), MEMORY_ROUND / ROUND),
        }
        return found if encodes else found | {"tpot_s": _about(step, wide), "tok_per_s": _about(batch / step, wide)}

    def seconds(self, wanted: Resolved, predicted: PredictionHere | None = None) -> float:
        """Of the whole run: start, loading, every pass; a warm-up is a few tokens of one."""
        request = wanted.request
        prompt, new = lengths(request)
        if predicted is not None:
            step = predicted.tpot_s.calibrated if predicted.tpot_s else 0.0
            once = predicted.ttft_s.calibrated + step * (new - 1)
        else:
            once = _forward_s(wanted, prompt) + (new - 1) * _forward_s(wanted, 1) * wanted.spec.causal
        load = (wanted.spec.weight_bytes or 0) / LOAD_BYTES_PER_S
        return START_S + load + passes(request) * once


def foreseen(requests: Sequence[Request], store: Store) -> tuple[Foreseen, ...]:
    """Which of the requests can run on this machine, and what they will do; nothing runs."""
    foresight, found = Foresight(store), list[Foreseen]()
    for request in requests:
        try:
            wanted = check(request)
            if not isinstance(request.task, Generate):
                found.append(Foreseen())
                continue
            predicted = foresight.predict(wanted)
            found.append(Foreseen(seconds=foresight.seconds(wanted, predicted), ranges=foresight.ranges(wanted)))
        except ExplorerError as error:
            found.append(Foreseen(reason=f"{error.message} {error.hint}".strip()))
    return tuple(found)


def latency(predicted: PredictionHere, new_tokens: int) -> Figure:
    """Of the whole answer."""
    first, step = predicted.ttft_s, predicted.tpot_s
    if step is None:
        return first
    n = max(0, new_tokens - 1)
    return Figure(
        ideal=first.ideal + n * step.ideal,
        calibrated=first.calibrated + n * step.calibrated,
        low=first.low + n * step.low,
        high=first.high + n * step.high,
    )


def _range(of: Figure) -> Range:
    return Range(low=of.low, likely=of.calibrated, high=of.high)


def _about(value: float, wide: float = 1.0) -> Range:
    """A round number that may be wrong by ROUND, times `wide`, to either side."""
    return Range(low=value / (ROUND * wide), likely=value, high=value * ROUND * wide)


def _gain(strategy: str) -> float:
    """Times as many tokens per forward as the predicted step makes; a library's own loop makes one, by its own step."""
    return 1.0 if strategy == "native" else GAIN


def _times(of: Figure, more: float, less: float) -> Figure:
    """A figure that may be up to `more` times as large and 1/`less` as large, and likely is in the middle of that."""
    middle = (more / less) ** 0.5
    return msgspec.structs.replace(of, low=of.low / less, calibrated=of.calibrated * middle, high=of.high * more)


def _forward_s(wanted: Resolved, n_new: int) -> float:
    done = total(work(wanted.spec, n_new, 0, wanted.request.batch))
    return done.weight_bytes / NOMINAL_BYTES_PER_S + (done.flops) / NOMINAL_FLOP_PER_S
