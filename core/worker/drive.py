"""The only timed loop: the steps of a strategy, each with the seconds it took and the forwards that ran in it."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import NamedTuple

import msgspec

from core.types import Advance, Forwards, Session, remote


class Driven(NamedTuple):
    """A step. ran: of the session, then of the draft model, whose forwards are "draft"."""

    advance: Advance
    seconds: float
    ran: tuple[Forwards, ...]


def drive(steps: Iterator[Advance], session: Session, *drafts: Session) -> Iterator[Driven]:
    """Each step and the time inside next(steps) plus the device's synchronisation, in seconds.

    What the caller does with a step happens between steps and is not timed. A model behind a server does not wait for
    us: its steps are timed by the arrivals of its pieces.
    """
    far = remote(session)
    while True:
        for one in (session, *drafts):
            one.ran.clear()
        started = time.perf_counter()
        advance = next(steps, None)
        if advance is None:
            return
        session.sync()
        seconds = time.perf_counter() - started
        if far is not None and far.took_s is not None:
            seconds = far.took_s
        drafted = (msgspec.structs.replace(f, of="draft") for draft in drafts for f in draft.ran.take())
        yield Driven(advance, seconds, (*session.ran.take(), *drafted))
