"""The browser's one question, kept open until there is an answer: is there anything to draw, or is it time to rest?

A few looks at two files a second, and nothing that a page has to draw: it costs a timing pass nothing. A tab that has
not yet said that it rests may still draw: as long as there is one, the worker is told so and does not begin to time.
"""

from __future__ import annotations

import asyncio
import math
import time

from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from core.paths import data_dir
from core.runs.screens import drew
from core.runs.store import Run, Store
from hardware.errors import ExplorerError
from hardware.files import contents
from pages.ui import rest
from pages.ui.text import natural

LATEST_S = 20.0  # a question is answered by then; the browser asks again
_END_BYTES = 8192  # the last event, with the lines of a log that a failure tells
LOOK_S, SOON_S, REST_S = 0.1, 0.03, 0.5  # between two looks: as usual, for a first character, in a rest
DRAWS_S, GONE_S = 6.0, 2.0  # a tab that was answered asks again after its draw; one that hung up, at once or never

_restless: dict[str, float] = {}  # tabs that have not said that they rest: until when they count
_holder: asyncio.Task[None] | None = None


async def watch(request: Request) -> JSONResponse:
    """Answered when a rest begins or ends, when the run asked about has news ("new"), and when it is "late".

    resting: the rest that the browser knows, empty without one. seen: how long the run's events were when they were
    drawn last; what came since is no news before after_s. latest_s: when something is to be drawn in any case. idle:
    nothing moves in the tab, and the answer comes at once.
    """
    asked = request.query_params
    if "idle" in asked:
        return JSONResponse({"rest": rest.told(rest.resting()), "going": rest.going()})
    known, tab = asked.get("resting", ""), asked.get("tab", "")
    if known:
        _restless.pop(tab, None)
    else:
        _expect(tab, LATEST_S + DRAWS_S)
    answer = None
    try:
        answer = await _answer(request, known)
    finally:
        if not known:
            _expect(tab, GONE_S if answer is None else DRAWS_S)
    return answer or JSONResponse({})


async def _answer(request: Request, known: str) -> JSONResponse | None:
    """None when nobody waits for it any longer."""
    asked = request.query_params
    run, seen = _run(asked.get("run", "")), natural(asked.get("seen", ""), 10**12) or 0
    started = time.monotonic()
    after_s = _number(asked.get("after_s"), LATEST_S)
    latest_s = _number(asked.get("latest_s"), LATEST_S)
    look_s = REST_S if known else SOON_S if after_s < 2 * LOOK_S else LOOK_S
    while True:
        note = rest.resting()
        spent_s = time.monotonic() - started
        if rest.since(note) != known:
            return JSONResponse({"rest": rest.told(note), "news": ""})
        if not known and run is not None and _news(run, seen, spent_s >= after_s):
            return JSONResponse({"rest": None, "news": "new"})
        if not known and spent_s >= min(latest_s, LATEST_S):
            return JSONResponse({"rest": None, "news": "late"})
        if spent_s >= LATEST_S:
            return JSONResponse({"rest": rest.told(note), "news": ""})
        if await request.is_disconnected():
            return None
        await asyncio.sleep(look_s)


def _expect(tab: str, seconds: float) -> None:
    """Count the tab among those that may draw, for so long."""
    global _holder
    _restless[tab] = time.monotonic() + seconds
    if _holder is None or _holder.done():
        _holder = asyncio.get_running_loop().create_task(_hold())


async def _hold() -> None:
    """While a rest is asked for and a tab has not come to it, say that screens draw. Ends without such tabs."""
    while _restless:
        now = time.monotonic()
        for tab in [tab for tab, until in _restless.items() if until < now]:
            del _restless[tab]
        if _restless and rest.resting() is not None:
            drew(data_dir())
        await asyncio.sleep(LOOK_S)


def _run(run_id: str) -> Run | None:
    try:
        return Store(data_dir()).open(run_id)
    except ExplorerError:
        return None


def _news(run: Run, seen: int, due: bool) -> bool:
    """Whether the run has written more, and its pace allows to tell; its end is told at once."""
    size = rest.heard(run)
    return size != seen and (due or _ended(run, size))


def _ended(run: Run, size: int) -> bool:
    try:
        last = contents(run.path / "events.jsonl", max(0, size - _END_BYTES)).rstrip().rpartition(b"\n")[2]
    except OSError:  # deleted meanwhile
        return True
    return b'"type":"done"' in last or b'"type":"failed"' in last


def _number(words: str | None, default: float) -> float:
    """Seconds of an address; the default for what is none."""
    try:
        found = float(words) if words else default
    except ValueError:
        return default
    return found if math.isfinite(found) else default


ROUTES = [Route("/roofscope/watch", watch)]
