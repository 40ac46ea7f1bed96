"""The steps of a strategy as the worker sees them: what was accepted, and what the sessions noted meanwhile."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from core.types import Advance, Counts, Forwards, Step, counted
from core.worker.drive import drive


class Taken(NamedTuple):
    phase: Any
    tokens: tuple[tuple[int, ...], ...]
    guess: tuple[int, ...]
    counts: Counts
    ran: tuple[Forwards, ...]


def taken(steps: Iterator[Advance], session: Any, *drafts: Any) -> list[Taken]:
    found = []
    for advance, _, ran in drive(steps, session, *drafts):
        n = sum(map(len, advance.tokens))
        counts = counted(ran, session.spec.n_blocks, n, len(advance.tokens) or 1)
        found.append(Taken(advance.phase, advance.tokens, advance.guess, counts, ran))
    return found


def as_step(step: Taken, seconds: float = 0.1) -> Step:
    return Step(
        t_s=0, pass_no=0, phase=step.phase, seconds=seconds, counts=step.counts, n_context=0, ran=step.ran,
        tokens=step.tokens[0] if step.tokens else (), guess=step.guess,
    )  # fmt: skip


def ran(n_new: int, n_past: int = 0, n_logits: int = 1) -> tuple[Forwards, ...]:
    """One forward of one sequence."""
    return (Forwards(n_new=n_new, n_logits=n_logits, n_past=n_past),)
