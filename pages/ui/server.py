"""The server's life: before the first visitor, and when it ends."""

from __future__ import annotations

import asyncio
import webbrowser
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import streamlit as st
from streamlit.runtime.pages_manager import PagesManager

from hardware.priority import give_way, spawn
from pages.ui.state import end_runners

_OPEN_AFTER_S = 0.3  # the socket listens already, and this lets the server answer


@asynccontextmanager
async def lifespan(app: Any) -> AsyncIterator[None]:
    """Give way to what is measured, open the browser as `streamlit run` does; at the end leave no process behind."""
    # A folder called pages/ makes Streamlit look for page files in it until st.navigation was called once,
    # and then the first deep link on a fresh server is answered with "Page not found".
    PagesManager.uses_pages_directory = False
    give_way()
    if not st.get_option("server.headless"):
        asyncio.get_running_loop().call_later(_OPEN_AFTER_S, _open_browser)
    yield
    end_runners()


def _open_browser() -> None:
    address, port = st.get_option("server.address") or "localhost", st.get_option("server.port")
    spawn(lambda: webbrowser.open(f"http://{address}:{port}"))  # a browser that starts here is no part of the server
