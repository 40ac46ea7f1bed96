"""The application: the routes, who may ask, and how errors are told. Starting a server is core.cli.serving's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from functools import cache
from typing import Any

from fastapi import FastAPI
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as Asked
from starlette.responses import HTMLResponse, JSONResponse, Response

from core.runs.runner import Runner
from core.runs.store import Store
from core.service import openai_routes, problems, run_routes
from core.service.desk import Desk
from core.service.document import document, page
from core.service.guard import LOOPBACK, Guard
from core.service.offer import Offer, requests
from core.service.openai_routes import GONE
from core.service.problems import ProblemError, problem_of
from core.types import Record
from hardware.errors import ExplorerError

ABOUT = (
    "Where a local language model's time, memory and energy go. /api is Roofscope's own; /v1 answers as OpenAI's API "
    "does, with the strategy in the model's id: smollm2-135m:jacobi."
)


class Manner(Record):
    """How the service answers. hosts: names it answers to. key: that a bearer must know. most_bytes: of a body.

    depth: how many questions may wait beside the one that is being answered.
    """

    hosts: tuple[str, ...] = LOOPBACK
    key: str | None = None
    most_bytes: int = 16_000_000
    depth: int = 16


def build(store: Store, manner: Manner, offer: Offer = Offer()) -> FastAPI:  # noqa: B008 - a frozen record
    """The application over a data folder. Its processes end with it. Raises ExplorerError for an offer of nothing."""
    runner, desk = Runner(store), Desk(store.root, manner.depth)

    @asynccontextmanager
    async def living(_: FastAPI) -> AsyncIterator[None]:
        desk.start()
        try:
            yield
        finally:
            await desk.close()
            runner.close()

    app = FastAPI(
        title="Roofscope",
        version="1",
        description=ABOUT,
        docs_url=None,
        redoc_url=None,
        openapi_url=None,
        lifespan=living,
    )
    app.add_middleware(Guard, hosts=manner.hosts, key=manner.key, most_bytes=manner.most_bytes)
    app.add_exception_handler(ExplorerError, _told)
    app.add_exception_handler(HTTPException, _no_route)
    app.add_exception_handler(ClientDisconnect, _gone)
    app.add_exception_handler(Exception, _failed)
    app.include_router(run_routes.routes(runner))
    app.include_router(openai_routes.routes(requests(offer), desk))

    @cache
    def told() -> dict[str, Any]:
        return document(app)

    @app.get("/openapi.json", include_in_schema=False)
    def described() -> Response:
        return JSONResponse(told())

    @app.get("/docs", include_in_schema=False)
    def shown() -> Response:
        return HTMLResponse(page(told()))

    @app.get("/health", summary="Whether it answers", response_model=None)
    async def health() -> Response:
        return JSONResponse({"status": "ok"})

    return app


def _told(asked: Asked, error: Exception) -> Response:
    assert isinstance(error, ExplorerError)
    return problems.response(problem_of(error), asked.url.path)


def _no_route(asked: Asked, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    known = "GET /docs shows what there is."
    message = f"There is no {asked.method} {asked.url.path[:200]} here."
    return problems.response(ProblemError(error.status_code, message, known), asked.url.path)


def _gone(asked: Asked, error: Exception) -> Response:
    """The client went in the middle of its body: nobody reads this, and nothing has failed."""
    return Response(status_code=GONE)


def _failed(asked: Asked, error: Exception) -> Response:
    said: Any = (str(error).strip().splitlines() or ["no message"])[0][:300].rstrip(".")
    problem = ProblemError(
        500, f"The service failed: {type(error).__name__}: {said}.", "Its own output has the details."
    )
    return problems.response(problem, asked.url.path)
