"""The largest load that meets the objectives, by doubling and then bisection; and when a sweep has seen enough.

A probe counts as met or missed only where the interval of its share of good requests lies on one side of the share that
was asked for (GuideLLM's idea). One that cannot be told bounds the search from above like a miss, and is named.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

from core.loadtest.level import Point
from core.loadtest.plan import named
from core.types import Record

TOLERANCE = 0.1  # between the largest rate that met and the smallest that did not
MOST_PROBES = 12
GAIN = 1.05  # throughput by which a higher level must be better than the one before
Answer = Literal["met", "missed", "unclear"]


class Probe(NamedTuple):
    load: float
    answer: Answer


class Largest(Record):
    """What a search found. load: the largest that met the objectives, None if none did. above: the smallest that did
    not; None: the search's own limit was reached. sentence: all of it in words."""

    load: float | None
    above: float | None
    unclear: tuple[float, ...]
    sentence: str


def answer(point: Point, share: float) -> Answer:
    """Whether a level met the objectives for that share of its requests."""
    found = point.attainment
    if found is None or found.low is None or found.high is None:
        return "unclear"
    if found.low >= share:
        return "met"
    return "missed" if found.high < share else "unclear"


def following(tried: Sequence[Probe], low: float, high: float, whole: bool) -> float | None:
    """The next load to try; None: the search is over. whole: loads are users."""
    if not tried:
        return low
    if len(tried) >= MOST_PROBES:
        return None
    best, above = _bracket(tried)
    if best is None:
        return None
    if above is None:
        return min(high, 2 * best) if best < high else None
    if whole:
        middle = float((int(best) + int(above)) // 2)
        return middle if best < middle < above else None
    return math.sqrt(best * above) if above / best > 1 + TOLERANCE else None


def largest(tried: Sequence[Probe], unit: str, share: float) -> Largest:
    """What the probes of a search say."""
    best, above = _bracket(tried)
    unclear = tuple(sorted(p.load for p in tried if p.answer == "unclear"))
    if best is None:
        first = min((p.load for p in tried), default=None)
        words = "Nothing was measured."
        if first is not None:
            words = (
                f"Already {named(first, unit)} {'could not be shown to' if first in unclear else 'did not'} meet them."
            )
    elif above is None:
        words = f"{named(best, unit)} met the objectives, and more was not tried."
    else:
        words = f"{named(best, unit)} met the objectives for {share:.0%} of the requests; {above:g} "
        words += "could not be shown to: measure longer." if above in unclear else "did not."
    return Largest(load=best, above=above, unclear=unclear, sentence=words)


def saturated(before: Point, now: Point) -> bool:
    """Whether more load brought no more throughput, only waiting."""
    if not before.requests_per_s or now.requests_per_s is None:
        return False
    e2e = before.e2e.mean, now.e2e.mean
    slower = e2e[0] is not None and e2e[1] is not None and e2e[1] > e2e[0]
    return now.requests_per_s < GAIN * before.requests_per_s and (slower or e2e[1] is None)


def _bracket(tried: Sequence[Probe]) -> tuple[float | None, float | None]:
    """The largest load that met below the smallest that did not, and that one."""
    above = min((p.load for p in tried if p.answer != "met"), default=None)
    met = [p.load for p in tried if p.answer == "met" and (above is None or p.load < above)]
    return max(met, default=None), above
