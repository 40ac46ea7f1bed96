"""The server's life: before the first visitor, and when it ends."""

from __future__ import annotations

import asyncio
import gc
import sys
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import streamlit as st
from streamlit.runtime import get_instance
from streamlit.runtime.pages_manager import PagesManager

from hardware.heap import few_arenas, give_back
from hardware.priority import give_way, spawn
from pages.ui import rest
from pages.ui.state import end_runners

_TIDY_S = 30.0  # between two looks at what was freed
_SWITCH_S = 1e-3  # between threads that want Python: answers to the browser do not wait for a page that is being drawn
_OPEN_AFTER_S = 0.3  # the socket listens already, and this lets the server answer


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Give way to what is measured, open the browser as `streamlit run` does; at the end leave no process behind."""
    # A folder called pages/ makes Streamlit look for page files in it until st.navigation was called once,
    # and then the first deep link on a fresh server is answered with "Page not found".
    PagesManager.uses_pages_directory = False
    give_way()
    sys.setswitchinterval(_SWITCH_S)
    few_arenas()
    tidying = asyncio.create_task(_tidy())
    if not st.get_option("server.headless"):
        asyncio.get_running_loop().call_later(_OPEN_AFTER_S, _open_browser)
    yield
    tidying.cancel()
    end_runners()


async def _tidy() -> None:
    """Now and then, while nothing is timed, let go what closed tabs and drawn pages have left."""
    while True:
        await asyncio.sleep(_TIDY_S)
        if rest.resting() is None:
            end_left(get_instance()._session_mgr._session_storage)
            gc.collect()
            give_back()


def end_left(sessions: Any) -> None:
    """End the tabs that were closed and have not come back in time. Streamlit does so when another one is closed: of an
    app that is left alone it would keep the last ones for ever."""
    sessions._cache.expire()


def _open_browser() -> None:
    address, port = st.get_option("server.address") or "localhost", st.get_option("server.port")
    spawn(lambda: webbrowser.open(f"http://{address}:{port}"))  # a browser that starts here is no part of the server
