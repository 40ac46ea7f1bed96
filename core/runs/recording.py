"""What a run's events say, read once: setup, attempt, passes, steps and the forwards that ran. The only reader.

After a crash and a retry only the last attempt counts: what follows the last Loaded. Knows no file and no clock.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Literal, TypeVar

import msgspec

from core.runs.passes import Headline, headline
from core.types import Done, Event, Failed, Forwards, Host, Loaded, ModelSpec, Pass, Phase, Request, Setup, Step

PhaseKey = Literal["prefill", "decode"]
T = TypeVar("T")
OUTSIDE = ("queued", "preparing", "loading", "training", "evaluating")  # phases that are no part of a pass


class Recording:
    """The events of one run, live or over."""

    def __init__(self, request: Request, events: Sequence[Event]) -> None:
        self.request, self.events = request, events

    @cached_property
    def attempt(self) -> Sequence[Event]:
        """The last one, from its Loaded on; empty before there is any."""
        last = next((i for i in range(len(self.events) - 1, -1, -1) if isinstance(self.events[i], Loaded)), None)
        return () if last is None else self.events[last:]

    @property
    def loaded(self) -> Loaded | None:
        first = self.attempt[0] if self.attempt else None
        return first if isinstance(first, Loaded) else None

    @property
    def spec(self) -> ModelSpec | None:
        return self.loaded.spec if self.loaded else None

    @property
    def setup(self) -> Setup | None:
        return self.loaded.setup if self.loaded else None

    @property
    def host(self) -> Host | None:
        return self.loaded.host if self.loaded else None

    def all(self, kind: type[T]) -> tuple[T, ...]:
        """Of the last attempt."""
        return tuple(e for e in self.attempt if isinstance(e, kind))

    def last(self, kind: type[T]) -> T | None:
        """Of the last attempt."""
        return next((e for e in reversed(self.attempt) if isinstance(e, kind)), None)

    def last_of_all(self, kind: type[T]) -> T | None:
        """Of the whole run, whatever attempt it was."""
        return next((e for e in reversed(self.events) if isinstance(e, kind)), None)

    @cached_property
    def ended(self) -> Done | Failed | None:
        return next((e for e in reversed(self.events) if isinstance(e, Done | Failed)), None)

    @cached_property
    def outside(self) -> Phase | None:
        """What goes on outside of passes; None from Loaded until another such phase begins."""
        last = next(
            (e for e in reversed(self.events) if isinstance(e, Loaded) or (isinstance(e, Phase) and e.name in OUTSIDE)),
            None,
        )
        return last if isinstance(last, Phase) else None

    @cached_property
    def resting(self) -> str:
        """What the worker waits for before the next pass; empty while it does not wait."""
        marks = (*OUTSIDE, "resting")
        last = next(
            (e for e in reversed(self.events) if isinstance(e, Pass) or (isinstance(e, Phase) and e.name in marks)),
            None,
        )
        return last.note if isinstance(last, Phase) and last.name == "resting" else ""

    @cached_property
    def beside(self) -> Phase | None:
        """What the profiler of the last pass does outside of its steps; None while there are steps."""
        last = next((e for e in reversed(self.attempt) if isinstance(e, Pass | Step | Phase)), None)
        return last if isinstance(last, Phase) and last.name == "profiling" else None

    @cached_property
    def passes(self) -> dict[int, Pass]:
        return {e.number: e for e in self.attempt if isinstance(e, Pass)}

    @cached_property
    def steps(self) -> dict[int, list[Step]]:
        """Of every pass."""
        found: dict[int, list[Step]] = {n: [] for n in self.passes}
        for e in self.attempt:
            if isinstance(e, Step):
                found.setdefault(e.pass_no, []).append(e)
        return found

    @cached_property
    def headline(self) -> Headline:
        """Which passes the numbers come from."""
        return headline(self.attempt)

    @cached_property
    def timing(self) -> list[list[Step]]:
        """The steps of every pass that counts and has any."""
        return [self.steps[n] for n in self.headline.numbers if self.steps.get(n)]

    @property
    def shown(self) -> list[Step]:
        """Whose text is shown: the last pass that counts; until the first timing pass begins, whatever there is."""
        if self.timing:
            return self.timing[-1]
        begun = any(p.kind in ("live", "timing") for p in self.passes.values())
        return [] if begun else [s for steps in self.steps.values() for s in steps]

    def of_phase(self, phase: PhaseKey, profiler: str | None = None) -> list[Step]:
        """A phase's steps: of that profiler's last pass where there is one, else of the last pass that counts."""
        own = [p.number for p in self.passes.values() if profiler and p.profiler == profiler]
        steps = self.steps.get(own[-1], []) if own else self.timing[-1] if self.timing else []
        return [s for s in steps if s.phase == phase]

    def forwards(self, steps: Iterable[Step]) -> tuple[Forwards, ...]:
        """All that ran in these steps, the number of sequences filled in where an earlier version left it out."""
        batch = self.request.batch
        return tuple(
            ran if ran.n_sequences else msgspec.structs.replace(ran, n_sequences=batch)
            for step in steps
            for ran in step.ran
        )


def length(steps: Iterable[Step]) -> int:
    """Tokens of the longest sequence that these steps made."""
    return round(sum(s.counts.per_sequence for s in steps))
