"""The figures by which runs are compared: what each is called, which way is better, and how a result gives it.

None is "not measured". Joules come from a counter or not at all: an estimate says no more than the time does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from core.analysis.search import Constraint
from core.stats.intervals import Ratio, paired_ratio
from core.types import Provenance, Result
from hardware.errors import ExplorerError

Better = Literal["higher", "lower"]
OF_SHAPES = ("tok_per_s", "tpot_s", "ttft_s", "latency_s", "peak_memory_bytes", "n_params")


class Measure(NamedTuple):
    """unit: "s", "tok/s", "B", "FLOP", "J". of: from a result in that unit."""

    label: str
    unit: str
    better: Better
    of: Callable[[Result], float | None]
    provenance: Provenance = "measured"


def latency_s(result: Result) -> float | None:
    """Seconds of the whole answer; of an encoder, which generates nothing, of the forward."""
    if result.ttft_s is None or result.tpot_s is None:
        return result.ttft_s
    return result.ttft_s + result.tpot_s * max(0, result.n_new_tokens - 1)


def _flops(result: Result) -> float | None:
    return sum(p.flops for p in result.phases) if result.phases else None


def _bytes(result: Result) -> float | None:
    return sum(p.bytes for p in result.phases) if result.phases else None


def _weights(result: Result) -> float | None:
    first = [layer for layer in result.layers if layer.phase == "prefill"]
    return sum(layer.weight_bytes for layer in first) if first else None


def _params(result: Result) -> float | None:
    first = [layer for layer in result.layers if layer.phase == "prefill"]
    return float(sum(layer.n_params for layer in first)) if first else None


def _joules(result: Result) -> float | None:
    found = [e.joules for e in result.energy if e.comparable]
    return sum(found) if found else None


MEASURES: Mapping[str, Measure] = {
    "tok_per_s": Measure("Decode speed", "tok/s", "higher", lambda r: r.tok_per_s),
    "ttft_s": Measure("Time to first token", "s", "lower", lambda r: r.ttft_s),
    "tpot_s": Measure("Time per token", "s", "lower", lambda r: r.tpot_s),
    "latency_s": Measure("Whole answer", "s", "lower", latency_s),
    "prefill_tok_per_s": Measure("Prefill speed", "tok/s", "higher", lambda r: r.prefill_tok_per_s),
    "peak_memory_bytes": Measure("Peak memory", "B", "lower", lambda r: _float(r.peak_memory_bytes)),
    "load_s": Measure("Loading", "s", "lower", lambda r: r.load_s if not r.warm else None),
    "joules": Measure("Energy", "J", "lower", _joules),
    "flops": Measure("Computed work", "FLOP", "lower", _flops, "computed"),
    "moved_bytes": Measure("Bytes moved", "B", "lower", _bytes, "computed"),
    "weight_bytes": Measure("Weights", "B", "lower", _weights, "computed"),
    "n_params": Measure("Parameters", "", "lower", _params, "computed"),
}


def limits_of(at_most: Mapping[str, float], at_least: Mapping[str, float]) -> tuple[Constraint, ...]:
    """Limits of figures by their names; raises ExplorerError for one that is not above 0, as every figure is."""
    for name, limit in (*at_most.items(), *at_least.items()):
        if not limit > 0:
            raise ExplorerError(f"{name} cannot be limited to {limit:g}.", "Give a number above 0.")
    return (
        *(Constraint(measure=m, better="lower", limit=v) for m, v in at_most.items()),
        *(Constraint(measure=m, better="higher", limit=v) for m, v in at_least.items()),
    )


def shape_limits(at_most: Mapping[str, float], at_least: Mapping[str, float]) -> tuple[Constraint, ...]:
    """Limits of what is known of a shape before it is measured. Raises ExplorerError as `limits_of`, and for others."""
    if others := [name for name in (*at_most, *at_least) if name not in OF_SHAPES]:
        raise ExplorerError(f"A shape cannot be limited by '{others[0]}'.", f"Known: {', '.join(OF_SHAPES)}.")
    return limits_of(at_most, at_least)


def limit_words(constraints: Sequence[Constraint]) -> str:
    """Behind the title of a search: ", decode speed at least 60"."""
    return "".join(
        f", {MEASURES[c.measure].label.lower()} at {'most' if c.better == 'lower' else 'least'} {c.limit:g}"
        for c in constraints
    )


def _float(value: int | None) -> float | None:
    return None if value is None else float(value)


def values_of(result: Result) -> dict[str, float]:
    """Every measure that the result has."""
    return {name: value for name, m in MEASURES.items() if (value := m.of(result)) is not None}


def typical(values: Sequence[float]) -> Ratio | None:
    """The geometric mean of repeated runs with its 95 % interval, which needs five of them; None without any.

    One value is itself. A value of 0 has no logarithm: then the last value stands alone.
    """
    if not values:
        return None
    if len(values) == 1 or min(values) <= 0:
        return Ratio(value=values[-1], low=None, high=None, n=len(values))
    return paired_ratio(values, [1.0] * len(values))
