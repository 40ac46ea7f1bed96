"""The nouns of advice: what is advised and why, what is promised, and what came of it.

A gain is a factor of improvement, whatever the metric: 1.5 is one and a half times as fast, or a memory of two
thirds; below 1 the change makes it worse, which is what an advice against something promises.
"""

from __future__ import annotations

import hashlib
from typing import Literal

import msgspec

from core.stats.intervals import Ratio, ends
from core.types import Record, Request, Result, Score, to_json

Metric = Literal["tpot_s", "ttft_s", "tok_per_s", "peak_memory_bytes"]
Outcome = Literal["kept", "less than promised", "none", "harmful", "could not run", "undecided"]

METRICS: dict[Metric, str] = {
    "tpot_s": "time per token",
    "ttft_s": "time to first token",
    "tok_per_s": "tokens per second",
    "peak_memory_bytes": "peak memory",
}
HIGHER: frozenset[Metric] = frozenset({"tok_per_s"})


class Bottleneck(Record, omit_defaults=False):
    """What stands in the way. share: of the phase's time or bytes; of_roof: of what the ceilings allow."""

    phase: Literal["prefill", "decode", "memory"]
    group: str
    share: float | None = None
    bound: Literal["memory", "compute"] | None = None
    of_roof: float | None = None


class Gain(Record, omit_defaults=False):
    """What is promised: low and high hold nine in ten.

    basis: where the numbers come from, in a sentence. n_runs, models: behind the fitted equation, if it was used.
    """

    likely: float
    low: float
    high: float
    basis: str
    n_runs: int = 0
    models: tuple[str, ...] = ()


class Loss(Record, omit_defaults=False):
    """What a change does to a model's predictions, as an evaluation on this machine measured it before.

    reference: the model that it was compared with. score: its metric with interval.
    """

    run_id: str
    reference: str
    score: Score

    @property
    def words(self) -> str:
        """`KL divergence 0.061 [0.055, 0.068] nat/token from smollm2-135m`."""
        of = self.score
        return f"{of.label} {of.value:.3g}{ends(of.low, of.high, '.3g')} {of.unit}".strip() + f" from {self.reference}"


Quality = Literal["unknown", "unchanged"] | Loss  # unchanged: the change computes the same


class Advice(Record, omit_defaults=False):
    """One advice. baseline, changed: the two requests that a trial runs, alike but for the change.

    id: of the rule and the two configurations, so that the same advice after another run is the same one.
    evidence: run ids. finding, change: a sentence each.
    against: it says what not to do; then `changed` does it, and the gain is below 1.
    """

    id: str
    rule: str
    evidence: tuple[str, ...]
    bottleneck: Bottleneck
    finding: str
    change: str
    baseline: Request
    changed: Request
    metric: Metric
    gain: Gain
    quality: Quality
    against: bool
    made_at: float


Lack = Literal["ceilings", "forward_cost", "memory"]  # measured by themselves, or by the profiler of that name


class Silence(Record, omit_defaults=False):
    """Why a rule says nothing. short: of evidence; else its sign is not there. lacks: what a measurement would give."""

    rule: str
    reason: str
    short: bool
    lacks: Lack | None = None


class Verdict(Record, omit_defaults=False):
    """What came of an advice. ratio: the measured gain over the pairs that count; None when nothing could be compared.

    n_disturbed: pairs that do not count. same_text: whether both wrote the same; None where nothing was written.
    """

    outcome: Outcome
    sentence: str
    ratio: Ratio | None
    n_disturbed: int
    same_text: bool | None
    at: float


class Case(Record, omit_defaults=False):
    """An advice with its trials so far. Runs of equal places in the two lists make a pair."""

    advice: Advice
    baseline_runs: tuple[str, ...] = ()
    changed_runs: tuple[str, ...] = ()
    verdict: Verdict | None = None


def as_trial(request: Request, metric: Metric) -> Request:
    """The request as a trial runs it: silent, once, nothing attached that the metric does not need."""
    profilers = ("memory",) if metric == "peak_memory_bytes" else ()
    return msgspec.structs.replace(
        request, profilers=profilers, repeats=1, warmup=max(1, request.warmup), live=False, fresh_process=False
    )


def advice_id(rule: str, baseline: Request, changed: Request) -> str:
    return hashlib.sha256(to_json([rule, baseline.key(), changed.key()])).hexdigest()[:12]


def gain_of(metric: Metric, baseline: Result, changed: Result) -> tuple[float, float] | None:
    """(better when larger: of the changed run, of the baseline), so that their ratio is the gain; None unmeasured."""
    before, after = getattr(baseline, metric), getattr(changed, metric)
    if not before or not after:
        return None
    return (after, before) if metric in HIGHER else (before, after)
