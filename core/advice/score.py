"""How good the advice was, rule by rule. Pure: cases come in, counts and intervals go out."""

from __future__ import annotations

import math
from collections.abc import Sequence

from core.advice.record import Case
from core.advice.rules import RULES
from core.stats.intervals import Interval, wilson
from core.stats.quantiles import median
from core.types import Record

FEW = 5  # tries below which there is no percentage
DEMOTE_AFTER, DEMOTE_BELOW = 10, 0.4


class Score(Record, omit_defaults=False):
    """One rule's record, or that of all rules together (rule "").

    tried: with an outcome, one that could not run included; undecided ones are not. n_kept: of them. kept: their share
    with Wilson's interval, None below FEW. elsewhere: measured gains with an interval, on models that the fitted
    equation had not seen, or where none was used: error and coverage are of these alone, for the others flatter, and
    a pair or two say little. error: the median of
    |ln(measured / promised)|. coverage: how often the measured gain lay in the promised interval, nominal 90 %.
    demoted: why the rule's advice comes last; empty when it does not.
    """

    rule: str
    offered: int
    tried: int
    n_kept: int
    kept: Interval | None
    elsewhere: int
    error: float | None
    coverage: Interval | None
    outcomes: dict[str, int]
    demoted: str


def scores(cases: Sequence[Case]) -> tuple[Score, ...]:
    """All rules that were ever offered, in their order, and all together first."""
    named = [rule for rule in RULES if any(c.advice.rule == rule for c in cases)]
    return (score("", cases), *(score(rule, [c for c in cases if c.advice.rule == rule]) for rule in named))


def score(rule: str, cases: Sequence[Case]) -> Score:
    outcomes: dict[str, int] = {}
    for case in cases:
        if case.verdict is not None:
            outcomes[case.verdict.outcome] = outcomes.get(case.verdict.outcome, 0) + 1
    tried = sum(n for outcome, n in outcomes.items() if outcome != "undecided")
    n_kept = outcomes.get("kept", 0)
    kept = wilson(n_kept, tried) if tried >= FEW else None
    known = [c for c in cases if c.verdict and c.verdict.ratio and c.verdict.ratio.low is not None]
    apart = [c for c in known if c.advice.baseline.model not in c.advice.gain.models]
    errors, inside = [], 0
    for case in apart:
        assert case.verdict is not None and case.verdict.ratio is not None
        measured, promised = case.verdict.ratio.value, case.advice.gain
        errors.append(abs(math.log(measured / promised.likely)))
        inside += promised.low <= measured <= promised.high
    demoted = ""
    if rule and tried >= DEMOTE_AFTER and n_kept / tried < DEMOTE_BELOW:
        demoted = f"It kept its word in {n_kept} of {tried} tries."
    return Score(
        rule=rule,
        offered=len(cases),
        tried=tried,
        n_kept=n_kept,
        kept=kept,
        elsewhere=len(apart),
        error=median(errors),
        coverage=wilson(inside, len(apart)) if len(apart) >= FEW else None,
        outcomes=outcomes,
        demoted=demoted,
    )


def ordered(cases: Sequence[Case], found: Sequence[Score]) -> tuple[Case, ...]:
    """Cases of demoted rules last; else as they come."""
    demoted = {s.rule for s in found if s.demoted}
    return tuple(sorted(cases, key=lambda c: c.advice.rule in demoted))
