"""Silence for what is timed: the screens rest, other processes come to rest, and the worker is warm again.

Only for runs that somebody watches; all waiting lies before the first timed step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager

from core.analysis.disturbance import judge
from core.runs import screens
from core.types import Request
from core.worker.journal import Journal
from core.worker.machine_share import disturbance, n_threads
from hardware import load

SCREENS_MOST_S = 10.0  # a screen that never rests does not stop the run
OTHERS_MOST_S = 4.0
OTHERS_CORES = 0.1  # what a resting machine may use
WINDOW_S = 0.25
CALM_MOST_S = 6.0  # of waiting for it
PROBE_S, BETWEEN_S = 0.3, 0.7  # of a look whether it is calm; between two of them
EVALUATION_EVERY_S = 10.0  # how often screens may draw while answers are timed
WATCHED_S = 3.0  # a screen with a run that goes on draws at least so often
SHOWN_MOST_S, PAINTED_S = 0.6, 0.15  # for a first character: until a screen has drawn, and then the browser
POLL_S = 0.05


@contextmanager
def silence(request: Request, journal: Journal, expected_s: float) -> Iterator[bool]:
    """While it lasts, the screens rest. Gives whether there was a wait, after which a worker is cold.

    Also for a run without a pass to look at, when a screen drew a short while ago: somebody watches it.
    Raises Cancelled while it waits; the note goes in any case.
    """
    if not request.live and screens.quiet_s(journal.root) > WATCHED_S:
        yield False
        return
    root = journal.root
    journal.phase("resting", "The screen rests while the numbers are taken")
    screens.begin(root, journal.run.id, expected_s + screens.PAUSE_S)
    try:
        _await_screens(journal)
        if request.live:
            _await_others(journal)
            await_calm(request, journal)
        yield True
    finally:
        screens.end(root)


@contextmanager
def rare_drawing(request: Request, journal: Journal) -> Iterator[None]:
    """While it lasts, the screens draw rarely: for an evaluation, which is too long to be left unseen."""
    if not request.live:
        yield
        return
    screens.begin(journal.root, journal.run.id, 0.0, EVALUATION_EVERY_S)
    try:
        yield
    finally:
        screens.end(journal.root)


def show_first(journal: Journal) -> None:
    """In a pass that is only looked at: leave the processor to the screen until it shows the first text.

    On few cores a worker that goes on at full speed keeps the first character from being seen for a second.
    """
    if screens.quiet_s(journal.root) > WATCHED_S:
        return
    written_s = time.monotonic()
    while screens.quiet_s(journal.root) > (spent_s := time.monotonic() - written_s) and spent_s < SHOWN_MOST_S:
        journal.stop_if_asked()
        time.sleep(POLL_S / 5)
    time.sleep(PAINTED_S)


def await_calm(request: Request, journal: Journal) -> None:
    """Until nobody takes from what this process wants to compute with: other guests of a host come in bursts."""
    give_up = time.monotonic() + CALM_MOST_S
    while time.monotonic() < give_up:
        journal.stop_if_asked()
        seen = load.probe(n_threads(request), PROBE_S)
        if not judge(disturbance(seen, request, journal), ()).disturbed:
            return
        time.sleep(BETWEEN_S)


def _await_screens(journal: Journal) -> None:
    """Until no screen has drawn for longer than screens pause, which is also the time they have to hear of the rest."""
    begun = time.monotonic()
    while (spent_s := time.monotonic() - begun) < SCREENS_MOST_S:
        if min(spent_s, screens.quiet_s(journal.root)) >= screens.PAUSE_S:
            return
        journal.stop_if_asked()
        time.sleep(POLL_S)


def _await_others(journal: Journal) -> None:
    """Until other processes use next to nothing."""
    give_up = time.monotonic() + OTHERS_MOST_S
    while time.monotonic() < give_up:
        journal.stop_if_asked()
        before = load.read()
        time.sleep(WINDOW_S)
        seen = load.between(before, load.read())
        if seen.others_s is None or seen.others_s < OTHERS_CORES * seen.seconds:
            return
