"""Two evaluations item by item: whether they may be compared at all, what is left out, and the verdicts.

Values mean the same only under equal settings, so runs that were asked otherwise are not compared. Which items count
as the same question is core.stats.pairing's, and the tests are core.stats.paired's. The margin of non-inferiority is
the one that the run stated before it began; none is taken afterwards.
"""

from __future__ import annotations

from typing import Any

import msgspec

from core import plugins
from core.plugins import settings
from core.stats.paired import ALPHA, Comparison, compare, holm, noninferiority
from core.stats.pairing import Pairing, pair
from core.types import Evaluate, Metric, Record, Request, Result
from hardware.errors import ExplorerError

NOT_VERIFIED = "Not verified: a run made before questions were fingerprinted is paired by the items' names alone."


class Line(Record, omit_defaults=False):
    """A metric of both. p: after Holm's correction over the metrics."""

    comparison: Comparison
    p: float
    verdict: str


class Compared(Record, omit_defaults=False):
    """A run against its baseline. reason: why they are not comparable. left_out: what is not compared, and why."""

    lines: tuple[Line, ...] = ()
    reason: str = ""
    left_out: tuple[str, ...] = ()
    margin: float | None = None


def compare_evaluations(base: Request, base_result: Result, request: Request, result: Result) -> Compared:
    """The run of `request` against that of `base`."""
    reason = obstacle(base, base_result, request, result)
    if reason:
        return Compared(reason=reason)
    assert base_result.asked is not None and result.asked is not None and isinstance(request.task, Evaluate)
    paired = pair(base_result.items, result.items)
    if not paired.pairs:
        return Compared(reason="The two runs have no question in common.", left_out=_left_out(paired))
    there = {m.name: m for m in base_result.asked.metrics}
    metrics = [m for m in result.asked.metrics if there.get(m.name) == m]
    said = [f"{m.label} is defined otherwise in the two runs." for m in result.asked.metrics if m not in metrics]
    said += [
        f"{m.label} is of all tokens together, so that there is nothing to pair." for m in metrics if m.kind == "p99"
    ]
    metrics = [m for m in metrics if m.kind != "p99"]
    comparable = [m for m in metrics if not _by_other_tokens(m, paired)]
    said += [
        f"{m.label} is per token, and the two models' tokenizers cut the texts differently."
        for m in metrics
        if m not in comparable
    ]
    found = []
    for metric in comparable:
        try:
            found.append(compare(metric, base_result.items, result.items))
        except ValueError:
            said.append(f"{metric.label} has no item in common.")
    margin = request.task.margin
    adjusted = holm([c.p for c in found])
    return Compared(
        lines=tuple(
            Line(comparison=c, p=p, verdict=verdict(c, p, margin)) for c, p in zip(found, adjusted, strict=True)
        ),
        left_out=(*_left_out(paired), *said),
        margin=margin,
    )


def obstacle(base: Request, base_result: Result, request: Request, result: Result) -> str:
    """Why the two cannot be compared item by item; empty when they can."""
    one, other = base.task, request.task
    if not isinstance(one, Evaluate) or not isinstance(other, Evaluate) or one.eval != other.eval:
        return "The two runs did not measure the same thing."
    if base_result.asked is None or result.asked is None:
        return "One of the runs asked nothing."
    left, right = (_matters(t.eval, r.asked.settings) for t, r in ((one, base_result), (other, result)) if r.asked)
    names = [name for name in {**left, **right} if left.get(name) != right.get(name)]
    if not names:
        return ""
    told = ", ".join(f"{n.replace('_', ' ')} {_plain(left.get(n))} and {_plain(right.get(n))}" for n in names)
    return f"The two runs were asked in different ways: {told}."


def verdict(comparison: Comparison, p: float, margin: float | None) -> str:
    """Better or worse where that is significant; else how a rate stands to the margin, if one was stated."""
    if p <= ALPHA:
        return "better" if comparison.gain > 0 else "worse"
    if comparison.metric.kind == "rate" and margin:
        return noninferiority(comparison, margin).verdict
    return "no difference shown"


def _matters(name: str, given: dict[str, Any]) -> dict[str, Any]:
    """The settings that change what values mean, with the defaults that a run of an older version left unsaid."""
    try:
        plugin = plugins.get("eval", name)
        known = {field: value for field, value in given.items() if field in plugin.Params.__struct_fields__}
        filled = msgspec.to_builtins(settings(plugin.Params, known, plugin.label))
    except ExplorerError:
        return given
    return {field: value for field, value in {**given, **filled}.items() if field not in plugin.selects}


def _by_other_tokens(metric: Metric, paired: Pairing) -> bool:
    counts = ((a.values.get("tokens"), b.values.get("tokens")) for a, b in paired.pairs)
    return metric.over == "tokens" and any(a != b for a, b in counts)


def _left_out(paired: Pairing) -> tuple[str, ...]:
    said = []
    if paired.alone:
        said.append(f"{_items(len(paired.alone))} in one of the runs only.")
    if paired.changed:
        said.append(f"{_items(len(paired.changed))} not the same question in both runs.")
    if paired.pairs and not paired.verified:
        said.append(NOT_VERIFIED)
    return tuple(said)


def _items(n: int) -> str:
    return "1 item was left out: it is" if n == 1 else f"{n} items were left out: they are"


def _plain(value: Any) -> str:
    if isinstance(value, bool):
        return "on" if value else "off"
    return "none" if value is None or value == "" else str(value)
