"""The only timed loop: the steps of a strategy, each with the seconds it took."""

from __future__ import annotations

import time
from collections.abc import Iterator

from core.types import Advance, Session


def drive(steps: Iterator[Advance], session: Session) -> Iterator[tuple[Advance, float]]:
    """Each step and the time inside next(steps) plus the device's synchronisation, in seconds.

    What the caller does with a step happens between steps and is not timed.
    """
    while True:
        started = time.perf_counter()
        advance = next(steps, None)
        if advance is None:
            return
        session.sync()
        yield advance, time.perf_counter() - started
