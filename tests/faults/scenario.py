"""A fault that needs whole processes, and what is wrong after it.

A scenario is done on a stage of its own and raises WrongError where something is not as it must be.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from tests.faults.stage import Stage, WrongError


class Scenario(NamedTuple):
    """done, seen, left: as in the table. group: of its rows. do: on its stage. unavailable: why it cannot be done."""

    group: str
    name: str
    done: str
    seen: str
    left: str
    do: Callable[[Stage], None]
    unavailable: Callable[[], str | None] = lambda: None


def performed(scenario: Scenario, home: Path) -> str:
    """What is wrong; empty where nothing is."""
    if reason := scenario.unavailable():
        return f"not tried: {reason}"
    try:
        with Stage(home) as stage:
            scenario.do(stage)
    except WrongError as wrong:
        return str(wrong)
    except Exception as error:  # whatever it is, it is no way to behave
        return f"{type(error).__name__}: {error}"[:300]
    return ""


def staged(
    group: str, *rows: tuple[Callable[[Stage], None], str, str, str], needs: Callable[[], str | None] = lambda: None
) -> tuple[Scenario, ...]:
    """Scenarios of a group: what is performed, done, seen, left."""
    return tuple(Scenario(group, do.__name__, done, seen, left, do, needs) for do, done, seen, left in rows)


def backends(*names: str) -> Callable[[], str | None]:
    """What says why one of these backends does not run here; None if all do."""

    def lacking() -> str | None:
        from core import plugins

        return next((why for name in names if (why := plugins.get("backend", name).unavailable())), None)

    return lacking
