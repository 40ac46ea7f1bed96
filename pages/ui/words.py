"""The text of a run while it comes: shown by the browser's own script, which asks for it from the press of Run on.

A part of a page would be drawn after the page was drawn anew and all parts before it; the text waits for nothing.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Collection
from pathlib import Path
from typing import Any

import streamlit as st
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core.paths import data_dir
from core.runs.screens import drew
from core.runs.store import Run
from hardware.errors import ExplorerError
from pages.ui import rest
from pages.ui.state import open_run
from pages.ui.text import natural

TAIL = 4000  # characters of a text that are shown while it comes
LATEST_S = 20.0  # a question is answered by then; the browser asks again
LOOK_S, REST_S = 0.03, 0.5  # between two looks, as usual and in a rest
AGAIN_S, SPARE = 0.3, 20.0  # until the browser asks again: this, and so many times what the answer took

_HERE = Path(__file__).parent
_component = st.components.v2.component(
    "roofscope-words", css=(_HERE / "words.css").read_text(), js=(_HERE / "words.js").read_text(), isolate_styles=False
)


def stream(run: str, text: str, going: bool) -> None:
    """The place for the text; nothing of it is seen while no text comes. Always in the same place of a page.

    run: its id, empty without one. text: as far as it has come. going: whether more may come.
    """
    _component(data={"run": run, "text": text if going else "", "going": going}, key="words", height="content")


async def words(request: Request) -> JSONResponse:
    """The end of a run's text, as soon as it is another one than the asker has, or is over.

    run: which; without it the run that begins after the question, and is not `but`. seen: characters that the asker
    has. resting: the rest in which it was answered; there is one answer in each, with what was shown before.
    """
    asked = request.query_params
    until = time.monotonic() + LATEST_S
    seen, heard = asked.get("seen", ""), -1
    others = () if asked.get("run") else (asked.get("but", ""), rest.going())  # of another tab or app
    while time.monotonic() < until and not await request.is_disconnected():
        note = rest.since(rest.resting())
        if note and note == asked.get("resting"):
            await asyncio.sleep(REST_S)
            continue
        run = _run(asked.get("run", ""), others)
        if run is not None and rest.heard(run) != heard:
            heard = rest.heard(run)
            told = _told(run)
            if told["over"] or told["length"] != (natural(seen, 10**12) or 0):
                drew(data_dir())
                return JSONResponse(told | {"resting": note})
        await asyncio.sleep(LOOK_S)
    return JSONResponse({})


def _run(run_id: str, others: Collection[str]) -> Run | None:
    run_id = run_id or rest.going()
    if not run_id or run_id in others:
        return None
    try:
        return open_run(run_id)
    except ExplorerError:
        return None


def _told(run: Run) -> dict[str, Any]:
    started = time.monotonic()
    try:
        recording = run.recording()
    except ExplorerError:  # damaged: no text will come
        return {"run": run.id, "text": "", "length": 0, "over": True, "again_s": AGAIN_S}
    text = "".join(step.text for step in recording.shown)
    over = recording.ended is not None
    again_s = max(AGAIN_S, SPARE * (time.monotonic() - started))
    return {"run": run.id, "text": tail(text), "length": len(text), "over": over, "again_s": again_s}


def tail(text: str) -> str:
    """The end of a text, with a sign where it was cut."""
    return ("… " if len(text) > TAIL else "") + text[-TAIL:]


ROUTES = [Route("/roofscope/words", words)]
