"""What an optimization buys and costs in one number: defined composite metrics over the variants of a study.

A composite should be a ratio whose parts a reader can name, relative to nothing but the variant and a fixed baseline,
so that another variant beside it changes nothing. The candidates include some that are not; which of them deserve to be
shown is decided by core.studies.validate on the study's own data.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from core.stats.intervals import Floats, paired_ratio
from core.studies.tradeoff import Study, Totals, Variant
from core.types import Record


@dataclass(frozen=True)
class Composite:
    """A defined metric. of: from totals and weights to values of shape (draws, n_variants), NaN where undefined.

    weights: what it sets beside each other, where somebody has to choose that. refuses: why a variant has no value.
    last: whether a variant that was refused ranks behind all others; else it is left out of the ranking.
    """

    name: str
    label: str
    formula: str
    unit: str
    better: Literal["higher", "lower"]
    of: Callable[[Totals, Sequence[float]], Floats]
    refuses: Callable[[Variant, Totals, int], str]
    weights: tuple[float, ...] = ()
    last: bool = False


class Value(Record, omit_defaults=False):
    """A composite of one variant with its interval, or the reason why it has none."""

    composite: str
    variant: str
    value: float | None = None
    low: float | None = None
    high: float | None = None
    reason: str = ""


def _per_second(t: Totals, _: Sequence[float]) -> Floats:
    return np.asarray(t.above_chance / t.seconds)


def _per_joule(t: Totals, _: Sequence[float]) -> Floats:
    return np.asarray(t.above_chance / t.joules)


def _at_equal_quality(t: Totals, _: Sequence[float]) -> Floats:
    return np.where(np.isnan(t.worse), np.nan, np.where(t.worse < t.margin, t.speedup, 0.0))


def _price(t: Totals, _: Sequence[float]) -> Floats:
    lost = t.quality[:, t.baseline : t.baseline + 1] - t.quality
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(t.speedup > 1, lost / np.log2(t.speedup), np.nan)


def _per_bit(t: Totals, _: Sequence[float]) -> Floats:
    return np.asarray(t.quality / t.bits)


def _geometric(t: Totals, weights: Sequence[float]) -> Floats:
    base = t.above_chance[:, t.baseline : t.baseline + 1]
    with np.errstate(divide="ignore", invalid="ignore"):
        parts = [np.maximum(t.above_chance, 0.0) / base, t.speedup, 1 / t.memory]
        logs = sum(w * np.log(p) for w, p in zip(weights, parts, strict=True))
    return np.asarray(np.exp(logs / sum(weights)))


def _min_max(t: Totals, weights: Sequence[float]) -> Floats:
    def scaled(values: Floats) -> Floats:
        known = np.isfinite(values)
        low = np.where(known, values, np.inf).min(axis=1, keepdims=True)
        high = np.where(known, values, -np.inf).max(axis=1, keepdims=True)
        with np.errstate(invalid="ignore", divide="ignore"):
            return np.where(high > low, (values - low) / (high - low), 0.5)

    parts = [scaled(t.quality), scaled(t.speedup), scaled(-t.memory)]
    return np.asarray(sum(w * p for w, p in zip(weights, parts, strict=True)) / sum(weights))


def _needs_quality(v: Variant, t: Totals, column: int) -> str:
    return "" if np.isfinite(t.quality[0, column]) else "its answers were not judged"


def _needs_seconds(v: Variant, t: Totals, column: int) -> str:
    untimed = "" if np.isfinite(t.seconds[0, column]) else "its answers were not timed beside the baseline's"
    return _needs_quality(v, t, column) or untimed


def _needs_joules(v: Variant, t: Totals, column: int) -> str:
    if not v.energy:
        return "no energy was recorded"
    if v.joules is None:
        return "its energy is estimated from time and load, so it would count speed twice"
    return _needs_quality(v, t, column)


def _needs_speed(v: Variant, t: Totals, column: int) -> str:
    return "" if np.isfinite(t.speedup[0, column]) else "its speed was not measured beside the baseline's"


def _needs_equal(v: Variant, t: Totals, column: int) -> str:
    if reason := _needs_quality(v, t, column) or _needs_speed(v, t, column):
        return reason
    worse = t.worse[0, column]
    if np.isnan(worse):
        return "there are too few items to tell whether its quality is equal"
    if worse >= t.margin:
        return f"its quality is not shown to be equal: up to {worse:.3f} worse, margin {t.margin:g}"
    return ""


def _needs_faster(v: Variant, t: Totals, column: int) -> str:
    if column == t.baseline:
        return "it is the baseline"
    if reason := _needs_quality(v, t, column) or _needs_speed(v, t, column):
        return reason
    ratio = paired_ratio([a for a, _ in v.answers], [b for _, b in v.answers])
    return "" if ratio.low is not None and ratio.low > 1 else "it is not shown to be faster than the baseline"


def _needs_bits(v: Variant, t: Totals, column: int) -> str:
    return _needs_quality(v, t, column) or ("" if v.bits_per_weight else "its bits per weight are not known")


def _needs_all(v: Variant, t: Totals, column: int) -> str:
    missing = "" if np.isfinite(t.memory[0, column]) else "its memory was not measured"
    return _needs_quality(v, t, column) or _needs_speed(v, t, column) or missing


CANDIDATES = (
    Composite(
        name="correct_per_second",
        label="Correct answers per second",
        formula="mean of (correct − chance)/(1 − chance) over the seconds of a standard answer",
        unit="1/s",
        better="higher",
        of=_per_second,
        refuses=_needs_seconds,
    ),
    Composite(
        name="correct_per_joule",
        label="Correct answers per joule",
        formula="mean of (correct − chance)/(1 − chance) over the joules of a standard answer; measured energy only",
        unit="1/J",
        better="higher",
        of=_per_joule,
        refuses=_needs_joules,
    ),
    Composite(
        name="speedup_at_equal_quality",
        label="Speed-up at equal quality",
        formula="baseline's seconds over its own, if its quality is non-inferior by the study's margin; else refused",
        unit="×",
        better="higher",
        of=_at_equal_quality,
        refuses=_needs_equal,
        last=True,
    ),
    Composite(
        name="price_per_halving",
        label="Price of a halving of time",
        formula="(baseline's quality − quality) / log₂(speed-up), if it is shown to be faster; else refused",
        unit="quality per halving",
        better="lower",
        of=_price,
        refuses=_needs_faster,
    ),
    Composite(
        name="quality_per_bit",
        label="Quality per bit of a weight",
        formula="quality / bits per weight",
        unit="1/bit",
        better="higher",
        of=_per_bit,
        refuses=_needs_bits,
    ),
    Composite(
        name="geometric_mean",
        label="Weighted geometric mean of ratios",
        formula="(quality above chance)^a · speed^b · (1/memory)^c, each over the baseline's; weights 2 : 1 : 1",
        unit="",
        better="higher",
        of=_geometric,
        refuses=_needs_all,
        weights=(2.0, 1.0, 1.0),
    ),
    Composite(
        name="min_max_sum",
        label="Min-max weighted sum",
        formula="a·quality + b·speed − c·memory, each scaled to 0…1 over the variants shown; weights 2 : 1 : 1",
        unit="",
        better="higher",
        of=_min_max,
        refuses=_needs_all,
        weights=(2.0, 1.0, 1.0),
    ),
)


def values(composite: Composite, study: Study, seed: int = 0) -> tuple[Value, ...]:
    """The composite of every variant, with the 95 % interval of a bootstrap over clusters and pairs of runs."""
    whole = study.whole()
    point = composite.of(whole, composite.weights)[0]
    drawn = composite.of(study.bootstrap(seed=seed), composite.weights)
    found = []
    for column, variant in enumerate(study.variants):
        reason = composite.refuses(variant, whole, column)
        if not reason and not np.isfinite(point[column]):
            reason = "it is not defined for these figures"
        if reason:
            found.append(Value(composite=composite.name, variant=variant.id, reason=reason))
            continue
        kept = drawn[:, column][np.isfinite(drawn[:, column])]
        enough = len(kept) > len(drawn) / 2 and study.n_clusters > 1
        low, high = np.quantile(kept, (0.025, 0.975)) if enough else (None, None)
        found.append(
            Value(
                composite=composite.name,
                variant=variant.id,
                value=float(point[column]),
                low=None if low is None else float(low),
                high=None if high is None else float(high),
            )
        )
    return tuple(found)
