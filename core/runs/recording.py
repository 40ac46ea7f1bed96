"""What a run's events say, read once: setup, attempt, passes, steps and the forwards that ran. The only reader.

After a crash and a retry only the last attempt counts: what follows the last Loaded. Knows no file and no clock.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, Literal, TypeVar

import msgspec

from core.runs.passes import Headline, chosen
from core.runs.stretch import Stretch
from core.types import Done, Event, Failed, Forwards, Host, Loaded, ModelSpec, Pass, Phase, Request, Setup, Step

PhaseKey = Literal["prefill", "decode"]
T = TypeVar("T")
OUTSIDE = ("queued", "preparing", "loading", "training", "evaluating")  # phases that are no part of a pass


class Sorted:
    """Events by their type, the steps of the last attempt by pass and phase; grows as the run goes on.

    older: of each type how many stand before the last Loaded; n_older: of the others than steps; begin: its place.
    """

    def __init__(self) -> None:
        self.kinds: defaultdict[type, list[Event]] = defaultdict(list)
        self.others: list[Event] = []
        self.steps: dict[int, list[Step]] = {}
        self.stretches: defaultdict[tuple[int, str], Stretch] = defaultdict(Stretch)
        self.older: dict[type, int] = {}
        self.n_older = self.begin = self.n = 0

    def add(self, events: Iterable[Event]) -> None:
        """In the order in which they came."""
        for event in events:
            kind = type(event)
            if isinstance(event, Step):
                self._step(event)
            else:
                if kind is Loaded:
                    self.older = {k: len(same) for k, same in self.kinds.items()}
                    self.n_older, self.begin = len(self.others), self.n
                    self.steps.clear()
                    self.stretches.clear()
                elif isinstance(event, Pass):
                    self.steps.setdefault(event.number, [])
                self.others.append(event)
            self.kinds[kind].append(event)
            self.n += 1

    def _step(self, step: Step) -> None:
        own = self.steps.get(step.pass_no)
        if own is None:
            own = self.steps[step.pass_no] = []
        own.append(step)
        self.stretches[step.pass_no, step.phase].add(step)


class Recording:
    """The events of one run, live or over. known: some of them sorted already, from the first one on."""

    def __init__(self, request: Request, events: Sequence[Event], known: Sorted | None = None) -> None:
        self.request, self.events = request, events
        self._known = Sorted() if known is None else known

    @property
    def _sorted(self) -> Sorted:
        if self._known.n < len(self.events):
            self._known.add(self.events[self._known.n :])
        return self._known

    @property
    def others(self) -> Sequence[Event]:
        """All events but the steps, of which a long run has very many."""
        return self._sorted.others

    @cached_property
    def attempt(self) -> Sequence[Event]:
        """The last one, from its Loaded on; empty before there is any."""
        return self.events[self._sorted.begin :] if self.loaded is not None else ()

    @property
    def loaded(self) -> Loaded | None:
        """The opening of the last attempt's model; None before there is one."""
        return self.last_of_all(Loaded)

    @property
    def spec(self) -> ModelSpec | None:
        """The opened model's architecture."""
        return self.loaded.spec if self.loaded else None

    @property
    def setup(self) -> Setup | None:
        """What the backend really ran on."""
        return self.loaded.setup if self.loaded else None

    @property
    def host(self) -> Host | None:
        """The machine below it; None, too, where an earlier version did not tell it."""
        return self.loaded.host if self.loaded else None

    def all(self, kind: type[T]) -> tuple[T, ...]:
        """Of the last attempt."""
        if self.loaded is None:
            return ()
        found: Any = self._sorted.kinds.get(kind, ())
        return tuple(found[self._sorted.older.get(kind, 0) :])

    def last(self, kind: type[T]) -> T | None:
        """Of the last attempt."""
        return next(reversed(self.all(kind)), None)

    def all_of_all(self, kind: type[T]) -> tuple[T, ...]:
        """Of the whole run, whatever attempt it was."""
        found: Any = self._sorted.kinds.get(kind, ())
        return tuple(found)

    def last_of_all(self, kind: type[T]) -> T | None:
        """Of the whole run, whatever attempt it was."""
        found: Any = self._sorted.kinds.get(kind, ())
        return found[-1] if found else None

    @cached_property
    def ended(self) -> Done | Failed | None:
        """The run's last word; None while it is going or was interrupted."""
        return next((e for e in reversed(self.others) if isinstance(e, Done | Failed)), None)

    @cached_property
    def outside(self) -> Phase | None:
        """What goes on outside of passes; None from Loaded until another such phase begins."""
        last = next(
            (e for e in reversed(self.others) if isinstance(e, Loaded) or (isinstance(e, Phase) and e.name in OUTSIDE)),
            None,
        )
        return last if isinstance(last, Phase) else None

    @cached_property
    def resting(self) -> str:
        """What the worker waits for before the next pass; empty while it does not wait."""
        marks = (*OUTSIDE, "resting")
        last = next(
            (e for e in reversed(self.others) if isinstance(e, Pass) or (isinstance(e, Phase) and e.name in marks)),
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
        """Of the last attempt, by number, in their order."""
        return {e.number: e for e in self.all(Pass)}

    @property
    def steps(self) -> dict[int, list[Step]]:
        """Of every pass."""
        return self._sorted.steps if self.loaded is not None else {}

    def stretch(self, pass_no: int, phase: PhaseKey) -> Stretch:
        """The steps of one phase of one pass, added up; of one that has none, nothing."""
        return self._sorted.stretches.get((pass_no, phase)) or Stretch()

    def length(self, pass_no: int) -> int:
        """Tokens of the longest sequence that a pass has made."""
        return round(self.stretch(pass_no, "prefill").n + self.stretch(pass_no, "decode").n)

    @cached_property
    def headline(self) -> Headline:
        """Which passes the numbers come from."""
        since = self.others[self._sorted.n_older :] if self.loaded is not None else ()
        equal_s = {n: self.stretch(n, "decode").equal_s for n in self.steps}
        return chosen(self.all(Pass), self.steps, equal_s, since)

    @cached_property
    def counted(self) -> list[int]:
        """The passes that count and have any steps."""
        return [n for n in self.headline.numbers if self.steps.get(n)]

    @cached_property
    def timing(self) -> list[list[Step]]:
        """The steps of every pass that counts and has any."""
        return [self.steps[n] for n in self.counted]

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

    def ran(self, pass_no: int, phase: PhaseKey) -> tuple[Forwards, ...]:
        """All forwards of a phase of a pass, equal ones with an evenly rising past as one."""
        return self._whole(self.stretch(pass_no, phase).ran)

    def forwards(self, steps: Iterable[Step]) -> tuple[Forwards, ...]:
        """All that ran in these steps."""
        return self._whole(ran for step in steps for ran in step.ran)

    def _whole(self, forwards: Iterable[Forwards]) -> tuple[Forwards, ...]:
        """With the number of sequences filled in where an earlier version left it out."""
        batch = self.request.batch
        return tuple(r if r.n_sequences else msgspec.structs.replace(r, n_sequences=batch) for r in forwards)


def length(steps: Iterable[Step]) -> int:
    """Tokens of the longest sequence that these steps made."""
    return round(sum(s.counts.per_sequence for s in steps))
