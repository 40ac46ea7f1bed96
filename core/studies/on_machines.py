"""One study on several machines at once: each has the whole of it and a ledger of its own; their runs come home."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import TypeVar

import msgspec

from core.runs.other_machine import OtherMachine
from core.studies.ledger import Ledger, Say
from core.studies.plan import Benchmark, Plan, Sweep
from hardware.errors import ExplorerError

P = TypeVar("P", Plan, Benchmark, Sweep)
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
    reasons: dict[str, str] = {}

    def one(machine: OtherMachine) -> None:
        own = msgspec.structs.replace(plan, name=f"{plan.name}-{machine.name}", title=f"{plan.title}, {machine.name}")
        try:
            machine.hello()
            ledgers[machine.name] = carry_out(own, machine, lambda words: say(f"{machine.name}: {words}"))
        except ExplorerError as error:
            reasons[machine.name] = str(error)
            say(f"{machine.name}: {error}")
        except KeyboardInterrupt:
            reasons[machine.name] = "It was stopped."

    threads = [threading.Thread(target=one, args=(machine,), daemon=True) for machine in machines]
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
    return ledgers, reasons
