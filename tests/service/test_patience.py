"""Connections that never ask, on a real server: they are closed, and nobody else notices."""

from __future__ import annotations

import asyncio
import http.client
import itertools
import json
import socket
import time
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI
from starlette.responses import Response, StreamingResponse

from core.runs.store import Store
from core.service.app import Manner, build
from core.service.offer import Offer
from core.service.patience import Patient
from tests.service.server import LONG_S, Server, rest

ASKED = b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
GET_MUCH = b"GET /much HTTP/1.1\r\nHost: 127.0.0.1\r\n"
HEAD = b"POST /api/runs HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"


class Hasty(Patient):
    """With a limit that a test can wait for."""

    most_s = untaken_s = 0.3


def answered(connection: socket.socket) -> bool:
    """Whether what was asked is answered, to the end of the answer."""
    said = b""
    while b"ok" not in said:
        piece = connection.recv(4096)
        assert piece, said
        said += piece
    return said.startswith(b"HTTP/1.1 200") and said.endswith(b'{"status":"ok"}')


def dripping(connection: socket.socket) -> bytes:
    """The same of a client that sends a byte whenever it has heard nothing for a moment."""
    end, said = time.monotonic() + LONG_S, b""
    connection.settimeout(0.02)
    with connection:
        while True:
            assert time.monotonic() < end, "it may go on for ever"
            try:
                connection.sendall(b"x")
                if not (piece := connection.recv(4096)):
                    return said
                said += piece
            except TimeoutError:
                continue
            except OSError:  # there is nobody any more
                return said


@pytest.fixture
def server(store: Store) -> Iterator[Server]:
    with Server(build(store, Manner()), http=Hasty) as found:
        yield found


@pytest.mark.parametrize(
    "sent",
    [
        b"",
        b"GET /hea",
        HEAD,
        HEAD + b"Content-Length: 100\r\n\r\n{",
        HEAD + b"Transfer-Encoding: chunked\r\n\r\n1\r\n{\r\n",
    ],
)
def test_connections_that_never_ask_are_closed(server: Server, sent: bytes) -> None:
    found = [server.opened(sent) for _ in range(20)]
    assert {rest(one) for one in found} == {b""}, "there is nothing to answer"
    with server.opened(ASKED.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n")) as good:
        assert rest(good).startswith(b"HTTP/1.1 200")
    end = time.monotonic() + LONG_S
    while server.n_connections:
        assert time.monotonic() < end, "they are still held"
        time.sleep(0.01)


def test_a_byte_now_and_then_does_not_keep_a_connection(server: Server) -> None:
    assert dripping(server.opened(b"GET /")) == b""
    assert dripping(server.opened(HEAD + b"Content-Length: 1000000\r\n\r\n")) == b""


def test_half_of_a_second_request_is_not_waited_for_either(server: Server) -> None:
    asked = server.opened(ASKED)
    assert answered(asked)
    assert dripping(asked) == b""


def test_a_connection_may_be_idle_between_two_requests(server: Server) -> None:
    """That is uvicorn's own matter, which lets it be for longer."""
    with server.opened(ASKED) as asked:
        assert answered(asked)
        assert rest(server.opened()) == b"", "the limit of a request is over"
        asked.sendall(ASKED)
        assert answered(asked)


def test_a_long_body_on_a_slow_line_is_read(server: Server) -> None:
    """What has come of it gives it more time."""
    half = b" " * 50_000
    with server.opened(HEAD + b"Connection: close\r\nContent-Length: 100000\r\n\r\n" + half) as slow:
        assert rest(server.opened()) == b"", "the limit of a small request is over"
        slow.sendall(half)
        assert rest(slow).startswith(b"HTTP/1.1 400"), "it was read, and is no JSON"


def much(pieces: int | None) -> tuple[FastAPI, list[bool]]:
    """An application with an answer of so many pieces of 64 kB, or without an end; and what is told when it is over."""
    app, over = FastAPI(), list[bool]()

    @app.get("/much")
    async def answer() -> Response:
        async def parts() -> AsyncIterator[bytes]:
            try:
                for _ in itertools.count() if pieces is None else range(pieces):
                    yield bytes(1 << 16)
                    await asyncio.sleep(0)
            finally:
                over.append(True)

        return StreamingResponse(parts())

    return app, over


@pytest.mark.parametrize("pieces", [None, 500])
@pytest.mark.parametrize("close", [b"", b"Connection: close\r\n"])
def test_a_client_that_never_reads_is_dropped(pieces: int | None, close: bytes) -> None:
    app, over = much(pieces)
    with Server(app, http=Hasty) as server, server.opened(GET_MUCH + close + b"\r\n"):
        end = time.monotonic() + LONG_S
        while server.n_connections or not over:
            assert time.monotonic() < end, "it is waited for"
            time.sleep(0.01)


def test_a_client_that_reads_now_and_then_gets_all_of_it() -> None:
    app, over = much(500)
    with Server(app, http=Hasty) as server, server.opened(GET_MUCH + b"Connection: close\r\n\r\n") as slow:
        n_bytes = 0
        while piece := slow.recv(1 << 20):
            n_bytes += len(piece)
            time.sleep(0.05)
        assert n_bytes > 500 << 16 and over


def test_answers_may_take_as_long_as_they_like(store: Store) -> None:
    """A stream, and an answer that is told at its end."""
    offer = Offer(backend="fake", threads=1, options={"delay_s": 0.05})
    with Server(build(store, Manner(), offer), store.root, Hasty) as server:
        for stream in (True, False):
            asked = http.client.HTTPConnection("127.0.0.1", server.port, timeout=LONG_S)
            body = {"prompt": "Hi", "max_tokens": 40, "ignore_eos": True, "stream": stream}
            began = time.monotonic()
            asked.request("POST", "/v1/completions", json.dumps(body), {"Content-Type": "application/json"})
            said = asked.getresponse().read().decode()
            asked.close()
            assert time.monotonic() - began > 3 * Hasty.most_s
            assert "[DONE]" in said if stream else json.loads(said)["usage"]["completion_tokens"] == 40
