"""Whether something else had so much of the machine that a measured time is not the machine's own.

Pure functions of what the system counted around a pass (core.types.Disturbance) and of the pass's equal steps.
"""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from typing import NamedTuple

from core.stats.quantiles import median
from core.types import Disturbance, Unrest

LOST = 0.03  # share of the wanted processor time
LEAST_S = 0.03  # lost in all: three of the ticks that the system counts others' time in
TAKEN, TAKEN_LEAST_S = 0.1, 0.1  # others' part of the wanted time, where the run queue shows nothing
BURST = 1.08  # mean over median of equal steps; about 1.01 on a quiet machine
FEWEST_STEPS = 16  # of which a median says something
SLOWER = 1.2  # than the same steps of a pass that was drawn meanwhile, which ought to be the slower one
FEWEST_PAIRS, SHORTEST_S = 4, 0.1  # of steps, and their time together, to compare two passes by
DRIFT = 0.1  # between the slowest and the fastest pass


class Verdict(NamedTuple):
    """One pass. reasons: in plain words, empty for a clean one. seconds: of the whole of it. None: not measured."""

    reasons: tuple[str, ...] = ()
    lost_share: float | None = None
    stolen_share: float | None = None
    others_cores: float | None = None
    burst: float | None = None
    per_step_s: float | None = None
    slower: float | None = None
    seconds: float | None = None

    @property
    def disturbed(self) -> bool:
        return bool(self.reasons)


def judge(reading: Disturbance | None, steps_s: Sequence[float], slower: float | None = None) -> Verdict:
    """What disturbed a pass. steps_s: its equal steps; without a reading nothing is judged.

    slower: how many times as long as in the watched pass its steps took (see times_as_long). What takes a processor's
    speed and not its time (a host's other guests on the same core, memory or cache; heat) is seen by nothing else.
    """
    per_step_s = statistics.fmean(steps_s) if steps_s else None
    if reading is None:
        return Verdict(per_step_s=per_step_s)
    taken_s, stolen_s = _taken_s(reading), reading.stolen_s or 0.0
    waited_s = reading.waited_s if reading.waited_s is not None else taken_s
    lost_s = (waited_s or 0.0) + stolen_s
    wanted_s = reading.cpu_s + lost_s
    share = lost_s / wanted_s if wanted_s > 0 and waited_s is not None else None
    burst = per_step_s / statistics.median(steps_s) if per_step_s and len(steps_s) >= FEWEST_STEPS else None
    reasons = []
    if reading.stops:
        reasons.append("it was stopped for a while, or the machine slept")
    if share is not None and share > LOST and lost_s > LEAST_S:
        reasons.append(f"other processes had {share:.0%} of the processor time that it wanted")
    elif taken_s is not None and taken_s > TAKEN_LEAST_S and taken_s > TAKEN * (reading.cpu_s + taken_s):
        reasons.append(f"other processes used {taken_s / reading.seconds:.1f} of the processors that it wanted")
    if burst is not None and burst > BURST:
        reasons.append(f"its steps came in bursts, on average {burst:.2f} times their median")
    if slower is not None and slower > SLOWER:
        reasons.append(f"its steps took {slower:.2f} times as long as in the pass that was watched before it")
    return Verdict(
        reasons=tuple(reasons),
        lost_share=share,
        stolen_share=stolen_s / wanted_s if wanted_s > 0 and reading.stolen_s is not None else None,
        others_cores=reading.others_s / reading.seconds if reading.others_s is not None and reading.seconds else None,
        burst=burst,
        per_step_s=per_step_s,
        slower=slower,
        seconds=reading.seconds,
    )


def times_as_long(pairs: Sequence[tuple[float, float]]) -> float | None:
    """Median ratio of equal steps' seconds in a pass and in another one; None where they are too few or too short."""
    ratios = [seconds / other for seconds, other in pairs if other > 0]
    enough = len(ratios) >= FEWEST_PAIRS and sum(seconds for seconds, _ in pairs) >= SHORTEST_S
    return statistics.median(ratios) if enough else None


def _taken_s(reading: Disturbance) -> float | None:
    """What other processes used beyond the processors that were left to them."""
    if reading.others_s is None:
        return None
    return max(0.0, reading.others_s - max(0, reading.n_cores - reading.n_threads) * reading.seconds)


def drift(per_step_s: Sequence[float | None]) -> float | None:
    """How much longer the slowest of several passes took than the fastest, as a share of that."""
    known = [s for s in per_step_s if s]
    return max(known) / min(known) - 1 if len(known) > 1 else None


def unrest(counted: Sequence[Verdict], drifted: float | None, n_passes: int, n_disturbed: int) -> Unrest | None:
    """What is told of the passes that count together; None where nothing was measured."""
    if not counted:
        return None
    reasons = list(dict.fromkeys(reason for verdict in counted for reason in verdict.reasons))[:1]
    if drifted is not None and drifted > DRIFT:
        reasons.append(f"its passes differ by {drifted:.0%}")
    return Unrest(
        disturbed=bool(reasons),
        sentence=f"Disturbed while it was timed: {' and '.join(reasons)}." if reasons else "",
        lost_share=median([v.lost_share for v in counted]),
        stolen_share=median([v.stolen_share for v in counted]),
        others_cores=median([v.others_cores for v in counted]),
        burst=median([v.burst for v in counted]),
        drift=drifted,
        n_passes=n_passes,
        n_disturbed=n_disturbed,
    )
