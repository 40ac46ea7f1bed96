"""The trial of an advice while it goes on: one per process, in a thread of its own, with its progress and a stop."""

from __future__ import annotations

from dataclasses import dataclass

import streamlit as st

from core.advice.book import Book
from core.advice.record import Case
from core.advice.rules import LABELS
from core.advice.trial import attempt
from core.runs.runner import Runner
from pages.ui import text
from pages.ui.background import Background
from pages.ui.live import moving
from pages.ui.page import fault
from pages.ui.state import runner


@dataclass
class Trial(Background):
    """One trial as it goes: `done` of the `wanted` runs."""

    case: Case
    done: int = 0
    wanted: int = 0

    def start(self, runs: Runner, book: Book, pairs: int) -> None:
        def say(note: str, done: int, wanted: int) -> None:
            self.note, self.done, self.wanted = note, done, wanted

        def work() -> None:
            self.case = attempt(self.case, runs, book, pairs, say, self.stop.is_set)

        self.begin(work, "The trial")


@st.cache_resource(show_spinner=False)
def trials() -> dict[str, Trial]:
    """The trial that goes on or went last, under "trial"; one per process."""
    return {}


def going() -> Trial | None:
    found = trials().get("trial")
    return found if found is not None and found.active else None


def begin(case: Case, book: Book, pairs: int) -> None:
    """Start a trial, unless one goes on already."""
    if going() is None:
        trial = Trial(case)
        trials()["trial"] = trial
        trial.start(runner(), book, pairs)


def trial_panel() -> None:
    """Progress of the trial that goes on, with a way to stop it; the error of one that ended."""
    last = trials().get("trial")
    if last is not None and last.error is not None:
        fault(last.error)
    if going() is not None:
        moving("trial", _panel_going, "curves")


def _panel_going() -> bool:
    """Draws the panel; whether the trial still goes on."""
    trial = going()
    if trial is None:
        st.rerun()  # the whole page: the verdict stands there
        return False
    label = LABELS[trial.case.advice.rule]
    share = trial.done / trial.wanted if trial.wanted else 0.0
    with st.container(border=True):
        st.markdown(
            f"**Trying: {text.escape(label)}** · {trial.done} of {trial.wanted} runs · now {text.escape(trial.note)}"
        )
        st.progress(share)
        if st.button("Stop", icon=":material/stop_circle:", key="advice-stop", disabled=trial.stop.is_set()):
            trial.stop.set()
            if active := runner().active():
                runner().cancel(active)
    return True
