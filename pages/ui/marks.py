"""What a number carries that is not the machine's own: seen while it was watched, or disturbed while it was timed.

Plain words, with the numbers in the help; nothing here measures.
"""

from __future__ import annotations

from collections.abc import Sequence

from core import plugins
from core.types import ProfilerCost, Result, Unrest
from pages.ui import text

PROVISIONAL = "provisional"
DISTURBED = "disturbed"
_FREE = 0.97  # of the plain pass's time per step: less is no accident
HINT = "Close what else is running, or leave this window alone, and run again."


def about(result: Result, going: bool) -> str:
    """The sign before a number that may still change, or that was never timed in silence."""
    return "~ " if going or result.provisional else ""


def mark(result: Result) -> str | None:
    """One word under a speed; None when nothing is to be said of it."""
    return PROVISIONAL if result.provisional else DISTURBED if result.disturbed else None


def badge(result: Result) -> str:
    """The same as Markdown, to stand beside a speed; empty when nothing is to be said."""
    word = mark(result)
    return f":orange-badge[:material/sensors: {word}]" if word else ""


def explained(result: Result) -> str:
    """For a tooltip: why, with numbers; empty when nothing is to be said."""
    if result.provisional:
        return "Of a pass that was shown while it ran, which costs time: the silent passes tell the real number."
    found = result.disturbance
    return f"{found.sentence} {HINT}\n\n{numbers(found)}" if found is not None and found.disturbed else ""


def numbers(found: Unrest) -> str:
    """What was counted around the timing passes, as a Markdown list; what was not measured is left out."""
    known = (
        ("Processor time that others had of what it wanted", text.percent(found.lost_share), found.lost_share),
        ("of it taken by the hypervisor", text.percent(found.stolen_share), found.stolen_share),
        ("Processors that other processes used", f"{found.others_cores or 0:.2f}", found.others_cores),
        ("Mean over median of its steps", text.ratio(found.burst), found.burst),
        ("Between its slowest and its fastest pass", text.percent(found.drift), found.drift),
        ("Passes found disturbed", f"{found.n_disturbed} of {found.n_passes}", found.n_passes),
    )
    return "\n".join(f"- {label}: {words}" for label, words, value in known if value is not None)


def profiler_line(costs: Sequence[ProfilerCost]) -> str:
    """What the instrumented passes cost; one that was faster than the plain one is a sign and not a number."""
    slower = [c for c in costs if c.ratio >= 1]
    parts = [f"{_listed([c])} ran {text.ratio(c.ratio)} as long per step" for c in slower]
    free = [c for c in costs if _FREE <= c.ratio < 1]
    faster = [c for c in costs if c.ratio < _FREE]
    if free:
        parts.append(f"{_listed(free)} cost nothing that shows")
    if faster:
        parts.append(f"{_listed(faster)} beat the plain pass: a sign that the timing was disturbed")
    return " · ".join(parts)


def _listed(costs: Sequence[ProfilerCost]) -> str:
    passes = "passes" if len(costs) > 1 else "pass"
    return f"the {passes} of {' and '.join(_quoted(c.profiler) for c in costs)}"


def _quoted(profiler: str) -> str:
    return f"“{plugins.label('profiler', profiler)}”"
