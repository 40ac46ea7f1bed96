"""Roofscope's own API: what there is, what can be said without running, and runs from request to bundle.

The run's folder is the truth, and the routes read it: a service that was started again still knows every run. Starting
and stopping are the runner's, so that one measurement at a time holds across the app, the service and the commands.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from typing import Any

import msgspec
from fastapi import APIRouter
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request as Asked
from starlette.responses import Response, StreamingResponse

from core.models import catalogue
from core.paths import data_dir
from core.report.run_forms import export_run
from core.runs import screens
from core.runs.ceilings import kept
from core.runs.foresight import Foreseen
from core.runs.progress import Stage, elapsed_s, stage
from core.runs.runner import Runner
from core.runs.store import Run, Store, written_out
from core.service import strict
from core.service.analyses import Analysed, Analysis, analyse
from core.service.document import body, says
from core.service.problems import ProblemError
from core.types import GOING, Event, ModelEntry, Record, Request, Result, RunStatus, to_json
from hardware.catalogue import devices
from hardware.ceilings import Ceilings
from hardware.detect import Machine, machine, usable_cores
from hardware.device import Device
from hardware.errors import ExplorerError

POLL_S = 0.1
PING_S = 15.0
AGAIN_S = 1  # when to ask for the state of a run again
STREAM = {"Cache-Control": "no-cache", "X-Accel-Buffering": "no"}


class Models(Record, omit_defaults=False):
    """problems: what was found and cannot be used, one sentence each."""

    models: tuple[ModelEntry, ...]
    problems: tuple[str, ...]


class Devices(Record, omit_defaults=False):
    """The catalogue, each figure with its sources; this machine, as its system tells, and its ceilings (measured)."""

    devices: tuple[Device, ...]
    here: Machine
    ceilings: Ceilings | None


class RunState(Record, omit_defaults=False):
    """Where a run stands. n_events: written so far. error, hint: of a run that failed."""

    run_id: str
    status: RunStatus
    stage: Stage
    elapsed_s: float
    n_events: int
    error: str = ""
    hint: str = ""


class RunStarted(Record, omit_defaults=False):
    """A run that has begun; its state is at the address in Location."""

    run_id: str
    status: RunStatus


def routes(runner: Runner) -> APIRouter:
    """The routes under /api. runner: of this process, over the data folder."""
    router = APIRouter(prefix="/api", tags=["Roofscope"])
    _add_known(router, runner)
    _add_runs(router, runner)
    _add_one_run(router, runner)
    return router


def _add_known(router: APIRouter, runner: Runner) -> None:
    """What can be said without running."""

    @router.get("/models", summary="The models on this machine, and the architecture presets", **says(Models))
    def models() -> Response:
        return _json(Models(models=catalogue.entries(), problems=catalogue.problems()))

    @router.get("/devices", summary="The catalogue of devices, and this machine", **says(Devices))
    def known_devices() -> Response:
        measured = kept(data_dir(), usable_cores())
        return _json(Devices(devices=devices(data_dir() / "devices"), here=machine(), ceilings=measured))

    @router.post(
        "/analyses",
        summary="Work, memory and, for a device, time of a model: computed and estimated, nothing runs",
        **says(Analysed),
        **body(Analysis),
    )
    async def analyses(asked: Asked) -> Response:
        wanted = strict.read(await asked.body(), Analysis)
        return _json(await run_in_threadpool(analyse, wanted))

    @router.post(
        "/foresights",
        summary="Which of several requests can run here, and what each will do: estimated, nothing runs",
        **says(tuple[Foreseen, ...]),
        **body(tuple[Request, ...]),
    )
    async def foresights(asked: Asked) -> Response:
        wanted = strict.read(await asked.body(), tuple[Request, ...])
        return _json(await run_in_threadpool(runner.foresee, wanted))


def _add_runs(router: APIRouter, runner: Runner) -> None:
    """All runs, and one more."""

    @router.get("/runs", summary="The runs on this machine, newest first", **says(list[dict[str, Any]]))
    def runs() -> Response:
        return _json(written_out(runner.store.history()))

    @router.post(
        "/runs", status_code=202, summary="Begin a run; 409 while another measurement goes", **says(RunStarted, 202),
        **body(Request),
    )  # fmt: skip
    async def begin(asked: Asked) -> Response:
        wanted = strict.read(await asked.body(), Request)
        run_id = await run_in_threadpool(_begin, runner, wanted)
        headers = {"Location": f"/api/runs/{run_id}", "Retry-After": str(AGAIN_S)}
        return _json(RunStarted(run_id=run_id, status="queued"), 202, headers)


def _add_one_run(router: APIRouter, runner: Runner) -> None:
    """A run from its beginning to its bundle, and its end by request."""
    store = runner.store

    @router.get("/runs/{run_id}", summary="Where a run stands", **says(RunState))
    def state(run_id: str) -> Response:
        found = _state(_open(store, run_id))
        return _json(found, headers={"Retry-After": str(AGAIN_S)} if found.status in GOING else None)

    @router.get(
        "/runs/{run_id}/result",
        summary="What is known of a run, so far or in the end; its status says which",
        **says(Result),
    )
    def result(run_id: str) -> Response:
        return _json(_open(store, run_id).result())

    @router.get("/runs/{run_id}/request", summary="What was asked of a run", **says(Request))
    def request(run_id: str) -> Response:
        return _json(_open(store, run_id).request)

    @router.get(
        "/runs/{run_id}/bundle",
        summary="A run that has ended as a zip, which redraws every chart elsewhere",
        response_class=Response,
        responses={200: {"content": {"application/zip": {}}}},
    )
    def bundle(run_id: str) -> Response:
        run = _open(store, run_id)
        if run.status() in GOING:
            raise ProblemError(409, f"The run {run_id} is still going.", "Wait for its end.", retry_after_s=AGAIN_S)
        named = {"Content-Disposition": f'attachment; filename="{run_id}.zip"'}
        return Response(export_run(run, "zip"), headers=named, media_type="application/zip")

    @router.get(
        "/runs/{run_id}/events",
        summary="The events of a run as server-sent events, from after Last-Event-ID to its end",
        **says(Event, media="text/event-stream", note="Each event's id is its number, from 1."),
    )
    async def events(run_id: str, asked: Asked) -> Response:
        after = _last_id(asked.headers.get("last-event-id", "0"))
        run = await run_in_threadpool(_open, store, run_id)
        if after >= len(await run_in_threadpool(run.events)) and run.status() not in GOING:
            return Response(status_code=204)  # tells an EventSource not to come again
        return StreamingResponse(_events(run, after), headers=STREAM, media_type="text/event-stream")

    @router.delete(
        "/runs/{run_id}", status_code=202, summary="Stop a run; what was measured stays", **says(RunState, 202)
    )
    def cancel(run_id: str) -> Response:
        run = _open(store, run_id)
        if run.status() in GOING:
            runner.cancel(run_id)
        return _json(_state(run), 202)


def _begin(runner: Runner, wanted: Request) -> str:
    if runner.active():  # the runner says it of its own run without naming it
        raise ProblemError(
            409,
            f"The run {runner.active()} is going, and two at once would spoil both.",
            "Wait for its end, or stop it with DELETE.",
            retry_after_s=5,
        )
    return runner.start(wanted)


def _open(store: Store, run_id: str) -> Run:
    try:
        return store.open(run_id)
    except ExplorerError:
        raise ProblemError(404, f"There is no run '{run_id[:100]}'.", "GET /api/runs lists them.") from None


def _state(run: Run) -> RunState:
    events = run.events()
    failure = run.failure()
    return RunState(
        run_id=run.id,
        status=run.status(),
        stage=stage(run.recording()),
        elapsed_s=elapsed_s(events, time.time() - run.created_s),
        n_events=len(events),
        error=failure.message if failure else "",
        hint=failure.hint if failure else "",
    )


def _last_id(header: str) -> int:
    if not header.strip().isdecimal() or len(header) > 12:
        raise ProblemError(
            400, f"'{header[:40]}' is not the number of an event.", "Send the last id that you have seen, or none."
        )
    return int(header)


async def _events(run: Run, after: int) -> AsyncIterator[bytes]:
    """The events behind the first `after`, as they are written; ends with the run.

    Whoever reads along is a screen: it counts as one for the worker, and it rests while numbers are taken.
    """
    root, quiet_s = run.path.parents[1], 0.0
    while True:
        resting = screens.rest(root)
        if resting is not None and resting.run == run.id and run.status() in GOING:
            pause_s = POLL_S if resting.every_s is None else resting.every_s
        else:
            status = run.status()  # before the events: after an end there are no more
            found = run.events()
            if len(found) > after:
                screens.drew(root)
                yield b"".join(_framed(n, event) for n, event in enumerate(found[after:], after + 1))
                after, quiet_s = len(found), 0.0
            if status not in GOING:
                return
            pause_s = POLL_S
        await asyncio.sleep(pause_s)
        quiet_s += pause_s
        if quiet_s >= PING_S:
            quiet_s = 0.0
            yield b": still there\n\n"


def _framed(number: int, event: Event) -> bytes:
    kind = event.__struct_config__.tag
    return b"id: %d\nevent: %s\ndata: %s\n\n" % (number, str(kind).encode(), msgspec.json.encode(event))


def _json(value: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    return Response(to_json(value), status, headers, "application/json")
