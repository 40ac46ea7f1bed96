"""One study on several machines at once; their runs come home.

Either each has the whole of it and a ledger of its own, which compares machines, or the cells of one sweep are divided
among machines of one kind, which is sooner done.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from core.runs.other_machine import OtherMachine
from core.studies.ledger import Ledger, Say
from core.studies.plan import Benchmark, Plan, Search, Sweep
from hardware.errors import ExplorerError

P = TypeVar("P", Plan, Benchmark, Sweep, Search)
STOP_S = 30.0  # for what a stopped machine measured to come home


def on_all(
    machines: Sequence[OtherMachine], plan: P, carry_out: Callable[[P, OtherMachine, Say], Ledger[P]], say: Say
) -> tuple[dict[str, Ledger[P]], dict[str, str]]:
    """Carry the plan out on every machine, all at the same time.

    Each machine has a study of its own, so that what stands beside each other was measured on one. Gives the ledgers
    by the machines' names, and of those that could not go on the reason; they go on with the next call. Ctrl-C stops
    all.
    """
    ledgers: dict[str, Ledger[P]] = {}

    def one(machine: OtherMachine, told: Say) -> None:
        own = msgspec.structs.replace(plan, name=f"{plan.name}-{machine.name}", title=f"{plan.title}, {machine.name}")
        machine.hello()
        ledgers[machine.name] = carry_out(own, machine, told)

    return ledgers, at_once(machines, one, say)


def at_once(machines: Sequence[OtherMachine], one: Callable[[OtherMachine, Say], None], say: Say) -> dict[str, str]:
    """Do something on every machine, all at the same time; gives of those that could not the reason.

    one: of a machine, told with its name before the words. Ctrl-C stops all.
    """
    reasons: dict[str, str] = {}

    def tried(machine: OtherMachine) -> None:
        try:
            one(machine, lambda words: say(f"{machine.name}: {words}"))
        except ExplorerError as error:
            reasons[machine.name] = str(error)
            say(f"{machine.name}: {error}")
        except KeyboardInterrupt:
            reasons[machine.name] = "It was stopped."

    threads = [threading.Thread(target=tried, args=(machine,), daemon=True) for machine in machines]
    for thread in threads:
        thread.start()
    try:
        for thread in threads:
            while thread.is_alive():
                thread.join(0.2)
    except KeyboardInterrupt:
        for machine in machines:
            machine.stop()
        for thread in threads:
            thread.join(STOP_S)
        raise
    return reasons
