"""Whether a level's numbers can be believed: was it steady, did the load arrive as asked, was it our own client?

Each check gives a sentence where something is off, and says nothing where the sample is too small to tell. The sentence
stands beside the point, which is kept: what was measured was measured.
"""

from __future__ import annotations

import itertools
import statistics
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.loadtest.events import CLIENT, OURS
from core.loadtest.level import Level, completed, counts, in_flight, under_way
from core.stats.quantiles import student_t
from core.types import Record

BATCHES = 10  # of the window; batch means are nearly independent of each other, single requests are not
FEWEST_BATCHES = 6
FEWEST = 20  # requests below which Little's law says nothing
DRIFT = 0.2  # of the mean over the window
LITTLE = 0.1
LATE_S = 0.010  # median delay behind the schedule; inference-perf's limit
SHORT = 0.05  # of the requests that were due
BUSY = 0.5  # of a core: a Python process that is busier than that begins to time itself
SHARE = 0.1  # of all cores, where the server runs on this machine too


class Flag(Record):
    """Something that is off. name: of the check, for tables; words: one sentence with the numbers."""

    name: str
    words: str


class Drift(NamedTuple):
    """How much something changed over the window, relative to its mean, with a t-interval over batch means."""

    change: float
    low: float
    high: float

    @property
    def shown(self) -> bool:
        """Whether it drifted: by more than DRIFT, and not by chance."""
        return abs(self.change) > DRIFT and not self.low <= 0 <= self.high


def flags(level: Level, cores: int | None = None, local: bool = False) -> tuple[Flag, ...]:
    """What is off with one level. cores: of this machine; local: whether the server runs on it."""
    found: list[Flag] = []

    def flag(name: str, words: str) -> None:
        found.append(Flag(name=name, words=words))

    for what, drift in (("TTFT", ttft_drift(level)), ("the number of requests under way", in_flight_drift(level))):
        if drift is not None and drift.shown:
            way = "rose" if drift.change > 0 else "fell"
            flag(
                "unsteady",
                f"Not steady: {what} {way} by {abs(drift.change):.0%} over the window. Warm up or measure longer"
                + ("; or the server cannot keep up with this rate." if level.mode == "open" else "."),
            )
    waits_s = [o.ttft_s for o in counts(level) if o.ttft_s is not None]
    if not found and waits_s and (wait_s := statistics.median(waits_s)) > level.window_s > 0:
        flag(
            "unsteady",
            f"Not steady: the first token came after {wait_s:.3g} s, and the window lasted {level.window_s:.3g} s. "
            "Measure longer" + ("; or the server cannot keep up with this rate." if level.mode == "open" else "."),
        )
    if level.waiting:
        flag("warm-up", f"{level.waiting} users had not had an answer when the window opened: warm up longer.")
    ratio = little(level)
    if ratio is not None and abs(ratio - 1) > max(LITTLE, _edge(level)):
        held = "users" if level.mode == "closed" else "requests under way"
        flag(
            "Little's law",
            f"Throughput times mean latency is {ratio:.0%} of the {held}: "
            + ("the client lost time between answers." if ratio < 1 else "the window holds an unsteady part."),
        )
    delays = sorted(d for o in counts(level) if (d := o.delay_s) is not None)
    if delays and (median := statistics.median(delays)) > LATE_S:
        flag("schedule", f"Half of the requests were sent more than {median * 1e3:.0f} ms after they were due.")
    if (sent := sent_share(level)) is not None and sent < 1 - SHORT:
        flag("rate", f"Only {sent:.0%} of the requests that were due were sent.")
    busy = cpu_share(level)
    if busy is not None and (busy > BUSY or (local and cores and busy > SHARE * cores)):
        which = f", of {cores} on the machine that is measured" if local and cores else ""
        flag("client", f"This load generator used {busy:.2f} of a core{which}: part of the latency is its own.")
    whole = [o for o in counts(level) if not o.failure]
    short = sum(o.n_tokens is not None and o.asked_tokens is not None and o.n_tokens < o.asked_tokens for o in whole)
    if short:
        flag("lengths", f"{short} of {len(whole)} answers were shorter than asked for: the server stops by itself.")
    cached = sum(o.cached_tokens or 0 for o in whole)
    read = sum(o.prompt_tokens or 0 for o in whole)
    if read and cached > 0.1 * read:
        flag("cache", f"{cached / read:.0%} of the prompts' tokens came from the server's cache.")
    return tuple(found)


def ttft_drift(level: Level) -> Drift | None:
    """Of the mean time to first token of the requests in each tenth of the window."""
    found = [(at, o.ttft_s) for o in counts(level) if o.ttft_s is not None and (at := o.origin_s) is not None]
    if level.open_s is None or level.close_s is None:
        return None
    low = min((at for at, _ in found), default=0.0) if level.mode == "closed" else level.open_s
    high = max((at for at, _ in found), default=0.0) if level.mode == "closed" else level.close_s
    return _drift(_batch_means(found, low, high))


def in_flight_drift(level: Level) -> Drift | None:
    """Of the mean number of requests under way in each tenth of the window. Closed loop holds it by itself."""
    if level.mode == "closed" or level.open_s is None or level.close_s is None or level.window_s <= 0:
        return None
    if len(counts(level)) < FEWEST:
        return None
    edges = np.linspace(level.open_s, level.close_s, BATCHES + 1)
    return _drift([under_way(level.outcomes, float(a), float(b)) for a, b in itertools.pairwise(edges)])


def little(level: Level) -> float | None:
    """Throughput times mean time in the system, over what should be in it: the users, or in open loop what was."""
    done = completed(level)
    if len(done) < FEWEST or level.window_s <= 0:
        return None
    held = level.load if level.mode == "closed" else in_flight(level)
    gone = [o for o in level.outcomes if o.failure != OURS and (level.open_s or 0) <= o.ended_s < (level.close_s or 0)]
    spent_s = statistics.fmean(o.ended_s - o.begun_s for o in gone)
    return len(gone) / level.window_s * spent_s / held if held else None


def sent_share(level: Level) -> float | None:
    """Of the requests that were due in the window, those that this client tried to send."""
    due = counts(level) if level.mode == "open" else []
    return sum(o.failure != CLIENT for o in due) / len(due) if due else None


def cpu_share(level: Level) -> float | None:
    """Processor time of the load generator over the window, in cores."""
    return level.cpu_s / level.window_s if level.cpu_s is not None and level.window_s > 0 else None


def _edge(level: Level) -> float:
    """How far Little's law may be off by the requests that stand across the window's ends."""
    done = completed(level)
    return statistics.fmean(o.ended_s - o.begun_s for o in done) / level.window_s if done else 0.0


def _batch_means(found: Sequence[tuple[float, float]], low: float, high: float) -> list[float]:
    if high <= low or len(found) < 2 * FEWEST_BATCHES:
        return []
    batches: list[list[float]] = [[] for _ in range(BATCHES)]
    for at, value in found:
        batches[min(BATCHES - 1, max(0, int((at - low) / (high - low) * BATCHES)))].append(value)
    return [statistics.fmean(b) for b in batches if b]


def _drift(means: Sequence[float]) -> Drift | None:
    """A straight line through batch means: its change from the first to the last one over their mean."""
    n = len(means)
    if n < FEWEST_BATCHES or (middle := statistics.fmean(means)) <= 0:
        return None
    x = np.arange(n) - (n - 1) / 2
    y = np.asarray(means)
    slope = float(x @ y / (x @ x))
    rest = y - middle - slope * x
    error = float(np.sqrt(rest @ rest / (n - 2) / (x @ x)))
    half = student_t(0.975, n - 2) * error
    return Drift(*((s * (n - 1) / middle) for s in (slope, slope - half, slope + half)))
