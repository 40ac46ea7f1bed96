"""The frame of a page: title, and the one place where an error becomes a message."""

from __future__ import annotations

import logging
import traceback
from collections.abc import Iterator
from contextlib import contextmanager

import streamlit as st

from hardware.errors import ExplorerError, of_disk
from pages.ui import text
from pages.ui.links import link
from pages.ui.state import enter

_log = logging.getLogger(__name__)


@contextmanager
def page(title: str, about: str = "", icon: str | None = None) -> Iterator[None]:
    """A page's title and one sentence about it; errors in the body become messages.

    about: what the page answers, in one sentence.
    """
    enter(title)
    st.title(title, icon=icon, anchor=False)
    if about:
        st.caption(about)
    with guard():
        yield


@contextmanager
def guard() -> Iterator[None]:
    """Turn an error into a message. A fragment's body needs its own: its ticks run outside the page."""
    try:
        yield
    except ExplorerError as error:
        fault(error)
    except Exception as error:
        if isinstance(error, OSError) and (told := of_disk(error)) is not None:
            _log.warning("The disk: %s", error)
            fault(told)
            return
        _log.exception("A page failed")
        st.error(
            "The rest of the app still works. Reload the page; if it happens again, report the details.",
            title=f"Something went wrong here: {type(error).__name__}",
            icon=":material/error:",
        )
        with st.expander("Details for a report", icon=":material/bug_report:"):
            st.code(traceback.format_exc(), language=None)


def fault(error: ExplorerError, hindrance: bool = False) -> None:
    """One sentence with the cause, one with the next step. hindrance: nothing failed; something is to be put right."""
    say, icon = (st.warning, ":material/report:") if hindrance else (st.error, ":material/error:")
    title = text.prose(error.message) if error.hint else None
    say(text.prose(error.hint or error.message), title=title, icon=icon)


def nothing_yet(title: str, sentence: str, icon: str) -> None:
    """What stands where this page has made nothing yet: the next step is on the page itself."""
    with st.container(border=True, horizontal_alignment="center"):
        st.space("small")
        st.markdown(f"## {icon} {title}", text_alignment="center", width="content")
        st.caption(sentence, text_alignment="center", width="content")
        st.space("small")


def empty(title: str, sentence: str, icon: str = ":material/inbox:") -> None:
    """What stands where there is nothing yet: what is missing, and a way to get it."""
    with st.container(border=True, horizontal_alignment="center"):
        st.space("small")
        st.markdown(f"## {icon} {title}", text_alignment="center", width="content")
        st.caption(sentence, text_alignment="center", width="content")
        link("pages/measure/run.py", "Make a run", ":material/play_arrow:")
        st.space("small")
