"""What a reader of a finished run should be told of its number formats: judged when it is read, never written down.

So a run of last month is judged by today's rules, and by the ceilings that are kept now. Pure functions.
"""

from __future__ import annotations

import re

import msgspec

from core.analysis import fallback
from core.types import ModelSpec, Result
from hardware.ceilings import Ceilings

BELIEVABLE = 1.5  # traced layers over the untouched phase, at most

MOST_WRITTEN = 1000  # characters: the search takes the square of them
# Runs of before wrote these sentences into their events, as their worker judged then.
_WRITTEN = re.compile(
    r"In (prefill|decode) the \d+ matrix layers in .* times slower than fp32|The file calls itself "
    r"|\S.* (was|were) left in .* while the rest is "
)


def with_verdicts(result: Result, model: ModelSpec | None, ceilings: Ceilings | None) -> Result:
    """The result with the verdicts among its warnings, in place of any that were written into the run."""
    others = tuple(words for words in result.warnings if not _WRITTEN.match(words[:MOST_WRITTEN]))
    found = (
        ()
        if model is None or not model.layers or result.task != "generate"
        else slow_precisions(result, model, ceilings)
    )
    return msgspec.structs.replace(result, warnings=tuple(dict.fromkeys((*others, *found))))


def slow_precisions(result: Result, model: ModelSpec, ceilings: Ceilings | None) -> tuple[str, ...]:
    """Why a lower precision did not pay, as far as the run's layers and the ceilings tell.

    A phase whose layers took much longer under the profiler than the whole phase took without it is left
    out: a first forward in a fresh context says nothing about kernels.
    """
    plain = {p.name: p.seconds / (p.n_forward if p.name == "decode" else 1) for p in result.phases}
    traced = {phase: sum(x.seconds or 0.0 for x in result.layers if x.phase == phase) for phase in plain}
    layers = tuple(x for x in result.layers if traced.get(x.phase, 0.0) <= BELIEVABLE * plain.get(x.phase, 0.0))
    return fallback.warnings(model, layers, ceilings, result.setup, result.host)
