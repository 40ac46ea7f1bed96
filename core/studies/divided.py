"""A sweep whose cells are divided among machines of one kind: each takes the next one as soon as it is free.

It is one study with one ledger. All rounds of a cell are measured on the machine that began it, and every machine
measures the reference cell, so that what differs between the machines is seen. A cell that a lost machine had begun
has failed, and is taken by another machine only where failures are to be tried again; cells that nobody had begun are
everybody's.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence

import msgspec

from core.models import catalogue
from core.runs.other_machine import LostMachineError, OtherMachine, kind_of
from core.studies.grid import Cell, cells, load_key, ordered
from core.studies.ledger import Ledger, Say, folder_of
from core.studies.on_machines import at_once
from core.studies.plan import Sweep
from core.studies.sweep import REFERENCE, Sweeping, foretold, n_measured, ready_of
from hardware.errors import ExplorerError

SUFFIX = "-divided"


def divided(plan: Sweep) -> Sweep:
    """The same sweep as a study of its own: what this machine measured is no part of it."""
    if plan.name.endswith(SUFFIX):
        return plan
    return msgspec.structs.replace(plan, name=f"{plan.name}{SUFFIX}", title=f"{plan.title}, divided")


def carry_out_divided(
    machines: Sequence[OtherMachine], plan: Sweep, minutes: float, say: Say, again: bool = False, retry: bool = False
) -> tuple[Ledger[Sweep], dict[str, str]]:
    """Measure whatever of the sweep is not measured yet, each cell on one of the machines, all at the same time.

    Gives the ledger, and the reason of every machine that could not go on; the next call goes on. retry: what failed,
    too, and what a machine had begun that is lost meanwhile. Raises ExplorerError when no machine can be reached, when
    they are not of one kind, and when no cell can run.
    """
    plan = divided(plan)
    every = cells(plan)
    catalogue.entries(refresh=True)
    kinds: dict[str, str] = {}
    able: dict[str, dict[str, float]] = {}
    refused: dict[str, dict[str, str]] = {}

    def asked(machine: OtherMachine, told: Say) -> None:
        machine.hello()
        kinds[machine.name] = kind_of(machine.machine())
        refused[machine.name], able[machine.name] = foretold(every, machine.foresee([cell.request for cell in every]))

    try:
        reasons = at_once(machines, asked, say)
        there = [machine for machine in machines if machine.name in able]
        if not there:
            raise ExplorerError("None of the machines can take part.", " ".join(reasons.values()))
        ledger = Ledger(folder_of(plan), plan, minutes, there[0], say, again)
        try:
            _same_kind(ledger.state.kinds | kinds)
            ledger.state.kinds = kinds
            nobody = set.intersection(*(set(found) for found in refused.values()))
            ledger.state.refused = {cell: why for cell, why in refused[there[0].name].items() if cell in nobody}
            ready = ready_of(ledger.state, every)
            if retry:
                ledger.state.failures.clear()
            expected = {cell: seconds for found in able.values() for cell, seconds in found.items()}
            ledger.state.expected_s = expected | ledger.state.expected_s
            ledger.save()
            work = _Work(ledger, ready, {name: frozenset(found) for name, found in able.items()}, retry)

            def measured(machine: OtherMachine, told: Say) -> None:
                work.of(machine, told)

            reasons |= at_once(there, measured, say)
            work.say_what_is_left(reasons)
        finally:
            ledger.save()
    finally:
        for machine in machines:
            machine.close()
    return ledger, reasons


def _same_kind(kinds: dict[str, str]) -> None:
    if len(set(kinds.values())) > 1:
        told = "; ".join(f"{name} is {kind}" for name, kind in kinds.items())
        raise ExplorerError(
            f"Cells are divided among machines of one kind, and these are not: {told}.",
            "Choose machines of one kind (--where), or let each measure all cells.",
        )


class _Work:
    """The cells that nobody has taken yet, and who has which. able: machine -> the cells that can run there."""

    def __init__(
        self, ledger: Ledger[Sweep], ready: Sequence[Cell], able: dict[str, frozenset[str]], retry: bool
    ) -> None:
        self._ledger, self._ready, self._able, self._retry = ledger, tuple(ready), able, retry
        self._changed = threading.Condition()
        state = ledger.state
        self._of = {k.partition("/")[0]: m for k, m in state.machines.items() if k in state.took_s}  # cell -> whose
        self._over = False
        self._taken: set[tuple[str, int]] = set()  # cells in rounds
        self._going: dict[str, tuple[Cell, int]] = {}  # machine -> what it measures
        self._open: dict[str, object] = {}  # machine -> what it has loaded

    def of(self, machine: OtherMachine, told: Say) -> None:
        """Measure on a machine for as long as there is something for it. Raises LostMachineError."""
        refers = self._ready[0].id in self._able[machine.name]
        try:
            _Part(self._ledger.at(machine, told), self._ready, self, machine.name, refers).go()
        except LostMachineError as error:
            self._lost(machine.name, str(error))
            raise
        except BaseException:
            self._over = True
            raise
        finally:
            with self._changed:
                self._going.pop(machine.name, None)
                self._changed.notify_all()

    def next(self, name: str, number: int, waits: Callable[[str], bool]) -> Cell | None:
        """The next cell of a round for a machine; waits while another one has a cell that may come back."""
        with self._changed:
            self._going.pop(name, None)
            self._changed.notify_all()
            while (cell := self._choice(name, number, waits)) is None and self._may_come_back(number):
                self._changed.wait()
            if cell is not None:
                self._taken.add((cell.id, number))
                self._of.setdefault(cell.id, name)
                self._going[name], self._open[name] = (cell, number), load_key(cell)
            return cell

    def _may_come_back(self, number: int) -> bool:
        """Whether another machine has a cell of this round, which is anybody's if that machine is lost."""
        return self._retry and not self._over and any(n <= number for _, n in self._going.values())

    def _choice(self, name: str, number: int, waits: Callable[[str], bool]) -> Cell | None:
        """Of its own load, else of one that no other machine has open, else whatever is there."""
        most = self._ledger.plan.limits.cells
        begun = sum(n == 0 for _, n in self._going.values())
        if self._over or (number == 0 and most is not None and n_measured(self._ledger.state) + begun >= most):
            return None
        whose = (name, *(self._gone() if self._retry else ()))
        free = [
            cell
            for cell in ordered(self._ready, self._ledger.plan.seed, number)
            if (cell.id, number) not in self._taken
            and cell.id in self._able[name]
            and self._of.get(cell.id, name) in whose
            and not waits(cell.request.backend)
        ]
        others = [load for machine, load in self._open.items() if machine != name]
        own = self._open.get(name)
        return min(free, key=lambda cell: (load_key(cell) != own, load_key(cell) in others), default=None)

    def _gone(self) -> tuple[str, ...]:
        """Machines that began cells and are not here."""
        return tuple(name for name in self._of.values() if name not in self._able)

    def _lost(self, name: str, why: str) -> None:
        with self._changed:
            self._able.pop(name, None)
            self._open.pop(name, None)
            cell, number = self._going.pop(name, (None, 0))
            if cell is None:
                return
            key, state = f"{cell.id}/{number}", self._ledger.state
            begun = state.machines.get(key) == name and key not in state.took_s
            if begun and not self._retry:
                self._ledger.fail(key, why, cell.label)
            else:
                self._taken.discard((cell.id, number))
            if not any(f"{cell.id}/{n}" in state.took_s for n in range(number)):
                self._of.pop(cell.id, None)
            self._changed.notify_all()

    def say_what_is_left(self, reasons: dict[str, str]) -> None:
        """One sentence on the cells that no machine is there for."""
        state, rounds = self._ledger.state, self._ledger.plan.rounds
        over = {key.partition("/")[0] for key in state.failures}
        left = [c for c in self._ready if c.id not in over and f"{c.id}/{rounds - 1}" not in state.took_s]
        alone = [c for c in left if not any(c.id in able for able in self._able.values())]
        waiting = [c for c in left if c not in alone and self._of.get(c.id) in reasons]
        if n := len(alone) + len(waiting):
            self._ledger.say(
                f"{'1 cell is' if n == 1 else f'{n} cells are'} left for machines that are gone: the same command "
                "goes on when they are back, and with --retry the other machines take what they can."
            )


class _Part(Sweeping):
    """One machine's part of a divided sweep."""

    def __init__(self, ledger: Ledger[Sweep], ready: Sequence[Cell], work: _Work, name: str, refers: bool) -> None:
        super().__init__(ledger, ready)
        self._work, self._name, self._refers = work, name, refers

    def turn(self, number: int) -> Iterator[tuple[Cell, str]]:
        """The cells of a round that are this machine's, taken one by one."""
        while (cell := self._work.next(self._name, number, self.waits)) is not None:
            state = self.ledger.state
            place = sum(m == self._name and not k.startswith(REFERENCE) for k, m in list(state.machines.items()))
            yield cell, self.reference(f"{self._name}-", place) if self._refers else ""
