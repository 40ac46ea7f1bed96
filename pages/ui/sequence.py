"""Several runs one after another: two at once would spoil both, so the next begins when the last has ended."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field

import streamlit as st

from core.runs.store import Run
from core.types import Request
from hardware.errors import ExplorerError
from pages.ui.page import fault
from pages.ui.state import open_run, readable, runner

_beginning = threading.Lock()  # two tabs may look at one sequence, and both hear that its last run has ended


@dataclass
class Sequence:
    """runs: the ids of those begun, in order. total: how many there will be; what failed to start has no id."""

    total: int = 0
    runs: list[str] = field(default_factory=list)

    @property
    def going(self) -> bool:
        return len(self.runs) < self.total or runner().active() in self.runs

    def run(self, place: int) -> Run | None:
        """The run at this place; None while it is to come, or when it never began or was deleted."""
        known = place < len(self.runs) and self.runs[place] and readable(self.runs[place])
        return open_run(self.runs[place]) if known else None

    def go_on(self, request: Callable[[int], Request], keep: int = 1) -> None:
        """Begin the next run if none is going, and draw the page anew. Call it at the end of a page.

        A run that was stopped is the last one.
        """
        with _beginning:
            if len(self.runs) >= self.total or runner().active():
                return
            last = self.run(len(self.runs) - 1) if self.runs else None
            if last is not None and last.status() == "cancelled":
                self.total = len(self.runs)
            else:
                try:
                    self.runs.append(runner().start(request(len(self.runs)), keep=keep))
                except ExplorerError as error:
                    self.total = len(self.runs)
                    fault(error)
                    return
        st.rerun()

    def stop(self) -> None:
        """Stop what is going, and begin nothing more."""
        self.total = len(self.runs)
        going = runner().active()
        if going in self.runs:
            runner().cancel(going or "")
