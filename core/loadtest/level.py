"""One level's requests and what they say: latency, throughput, goodput, each with how many it stands on.

In closed loop the requests that ended inside the window count; in open loop those that were due inside it, for there
the answers that come late are the ones that matter. Throughput is what was completed inside the window, over it.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from core.loadtest.events import OURS, Outcome
from core.loadtest.objectives import Objectives, judged
from core.loadtest.plan import Mode
from core.stats.intervals import Interval, wilson
from core.stats.quantiles import LEVEL, Quantile, median, quantile
from core.types import Record

SHARES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
FEWEST = {name: math.ceil(math.log(1 - LEVEL) / math.log(share) - 1e-9) for name, share in SHARES.items()}
POOLED = "the gaps of one request are not independent of each other, so there is no interval"


class Level(Record):
    """What was measured at one load once. open_s, close_s: its window; close_s is None while it goes on."""

    load: float
    repeat: int
    mode: Mode
    open_s: float | None
    close_s: float | None
    outcomes: tuple[Outcome, ...]
    cpu_s: float | None = None
    why: str = ""
    waiting: int = 0

    @property
    def under_way(self) -> bool:
        """Whether its end has not been written."""
        return not self.why

    @property
    def window_s(self) -> float:
        return 0.0 if self.open_s is None or self.close_s is None else max(0.0, self.close_s - self.open_s)


class Spread(Record):
    """A latency over the requests of a level. None where the sample is too small, and then its reason says so."""

    n: int
    mean: float | None
    p50: Quantile
    p90: Quantile
    p95: Quantile
    p99: Quantile


class Point(Record):
    """A load and all that was measured at it, of all its repeats together.

    ttft, e2e: in open loop from the scheduled time; ttft_sent: from the sending. itl: gaps where every chunk was one
    token; icl: gaps between chunks. counted: requests that count; of them good, bad and undetermined. attainment: the
    share of good ones among those that could be judged, with Wilson's interval. *_per_s: inside the window; goodput:
    good requests over the window. in_flight: on average. n_cut: requests that we ended.
    """

    load: float
    mode: Mode
    repeats: int
    window_s: float
    counted: int
    good: int
    bad: int
    undetermined: int
    failures: dict[str, int]
    reasons: tuple[str, ...]
    n_cut: int
    ttft: Spread
    ttft_sent: Spread
    tpot: Spread
    itl: Spread
    icl: Spread
    e2e: Spread
    connect: Spread
    requests_per_s: float | None
    tokens_per_s: float | None
    goodput: float | None
    attainment: Interval | None
    in_flight: float | None
    prompt_tokens: float | None
    answer_tokens: float | None
    cached_tokens: int | None
    counted_by: tuple[str, ...]


def counts(level: Level) -> list[Outcome]:
    """The requests of a level by which it is judged."""
    if level.open_s is None or level.close_s is None:
        return []
    low, high = level.open_s, level.close_s
    if level.mode == "open":
        return [o for o in level.outcomes if o.scheduled_s is not None and low <= o.scheduled_s < high]
    return [o for o in level.outcomes if low <= o.ended_s < high and o.failure != OURS]


def point(levels: Sequence[Level], limits: Objectives) -> Point:
    """All repeats of one load, at least one."""
    counted = [o for level in levels for o in counts(level)]
    verdicts = Counter(verdict(o, limits) for o in counted)
    window_s = sum(level.window_s for level in levels)
    done = [o for level in levels for o in completed(level)]
    tokens = [o.n_tokens for o in done]
    failures = Counter(o.failure for o in counted if o.failure and o.failure != OURS)
    whole = [o for o in counted if not o.failure]

    def per_s(total: float | None) -> float | None:
        return total / window_s if window_s > 0 and total is not None else None

    n_judged = verdicts["good"] + verdicts["bad"]
    return Point(
        load=levels[0].load,
        mode=levels[0].mode,
        repeats=len(levels),
        window_s=window_s,
        counted=len(counted),
        good=verdicts["good"],
        bad=verdicts["bad"],
        undetermined=verdicts["undetermined"],
        failures=dict(failures),
        reasons=tuple(dict.fromkeys(o.reason for o in counted if o.reason and o.failure != OURS))[:5],
        n_cut=sum(o.failure == OURS for level in levels for o in level.outcomes),
        ttft=spread(o.ttft_s for o in whole),
        ttft_sent=spread(_since(o.first_s, o.sent_s) for o in whole),
        tpot=spread(o.tpot_s for o in whole),
        itl=_pooled([o.gaps_s for o in whole if o.single]),
        icl=_pooled([o.gaps_s for o in whole]),
        e2e=spread(o.e2e_s for o in whole),
        connect=spread(o.connect_s for o in counted),
        requests_per_s=per_s(len(done)),
        tokens_per_s=None if not done or None in tokens else per_s(sum(n for n in tokens if n is not None)),
        goodput=per_s(verdicts["good"]) if limits.stated else None,
        attainment=wilson(verdicts["good"], n_judged) if n_judged and limits.stated else None,
        in_flight=_mean_over(levels, in_flight),
        prompt_tokens=median(o.prompt_tokens for o in whole),
        answer_tokens=median(o.n_tokens for o in whole),
        cached_tokens=_sum(o.cached_tokens for o in whole),
        counted_by=tuple(sorted({o.counted_by for o in whole if o.counted_by})),
    )


def completed(level: Level) -> list[Outcome]:
    """Whole answers that ended inside the window, whenever they were asked for."""
    if level.open_s is None or level.close_s is None:
        return []
    return [o for o in level.outcomes if not o.failure and level.open_s <= o.ended_s < level.close_s]


def verdict(outcome: Outcome, limits: Objectives) -> str:
    """Good, bad or undetermined. One that we cut is bad if it was late already by what is known of it."""
    if outcome.failure != OURS:
        return judged(limits, outcome.ttft_s, outcome.tpot_s, outcome.e2e_s, bool(outcome.failure))
    origin = outcome.origin_s if outcome.origin_s is not None else outcome.begun_s
    age_s = outcome.ended_s - origin
    late = judged(limits, outcome.ttft_s if outcome.first_s is not None else age_s, None, age_s, False)
    return "bad" if late == "bad" else "undetermined"


def in_flight(level: Level) -> float | None:
    """Requests under way, on average over the window."""
    if level.open_s is None or level.close_s is None or level.window_s <= 0:
        return None
    return under_way(level.outcomes, level.open_s, level.close_s)


def under_way(outcomes: Iterable[Outcome], low_s: float, high_s: float) -> float:
    """Requests under way, on average between two moments."""
    inside = (min(o.ended_s, high_s) - max(o.begun_s, low_s) for o in outcomes)
    return sum(s for s in inside if s > 0) / (high_s - low_s)


def spread(values: Iterable[float | None]) -> Spread:
    """Quantiles by order statistics, each with its interval or the reason why there is none."""
    known = [v for v in values if v is not None]
    found = {name: quantile(known, share) for name, share in SHARES.items()}
    return Spread(n=len(known), mean=statistics.fmean(known) if known else None, **found)


def _pooled(gaps: Sequence[Sequence[float]]) -> Spread:
    """Of all gaps together: quantiles without intervals."""
    found = spread(g for several in gaps for g in several)

    def bare(q: Quantile) -> Quantile:
        return q if q.value is None else Quantile(value=q.value, low=None, high=None, n=q.n, reason=POOLED)

    return Spread(n=found.n, mean=found.mean, **{name: bare(getattr(found, name)) for name in SHARES})


def _mean_over(levels: Sequence[Level], of: Callable[[Level], float | None]) -> float | None:
    found = [(value, level.window_s) for level in levels if (value := of(level)) is not None]
    whole_s = sum(s for _, s in found)
    return sum(v * s for v, s in found) / whole_s if whole_s > 0 else None


def _since(moment: float | None, origin: float | None) -> float | None:
    return None if moment is None or origin is None else moment - origin


def _sum(values: Iterable[int | None]) -> int | None:
    known = [v for v in values if v is not None]
    return sum(known) if known else None
