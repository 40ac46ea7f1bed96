"""Who may ask the app's server: names that lead astray, and pages of other addresses."""

from __future__ import annotations

from pathlib import Path

import pytest
import streamlit as st
from starlette.applications import Starlette
from starlette.datastructures import Headers
from starlette.middleware import Middleware
from starlette.testclient import TestClient

from app import app
from pages.ui import watch
from pages.ui.door import Door, refusal


@pytest.mark.parametrize("host", ["evil.example:8501", "localhost.evil.example", "127.0.0.1:8501@evil.example", ""])
def test_a_name_that_is_not_ours_reaches_no_route(home: Path, host: str) -> None:
    assert st.get_option("server.allowedHosts") == ["localhost", "127.0.0.1"]
    ours = TestClient(Starlette(routes=watch.ROUTES, middleware=[Middleware(Door)]), base_url="http://localhost:8501")
    assert ours.get("/roofscope/watch?idle=1").json() == {"rest": None, "going": ""}
    answer = ours.get("/roofscope/watch?idle=1", headers={"host": host})
    assert answer.status_code == 421 and "server.allowedHosts" in answer.text
    assert Door in [one.cls for one in app._user_middleware]


@pytest.mark.parametrize(
    ("path", "site", "status"),
    [
        ("/roofscope/words", "cross-site", 403),
        ("/roofscope/watch", "same-site", 403),  # another port of this machine
        ("/roofscope/watch", "same-origin", None),
        ("/history", "cross-site", None),  # a link in a mail
    ],
)
def test_the_apps_own_questions_are_its_own_pages_alone(path: str, site: str, status: int | None) -> None:
    found = refusal(Headers({"host": "localhost:8501", "sec-fetch-site": site}), path)
    assert (found and found[0]) == status
