"""Clients of the service that hold on: they ask nothing, or never read."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

import psutil

from tests.faults.scenario import staged
from tests.faults.stage import LIMIT_S, Stage, check
from tests.faults.subjects import closed, service, stream


def silent_clients(stage: Stage) -> None:
    """They are closed after twenty seconds, in the middle of an answer that takes longer."""
    serving, url = service(stage)
    at = urlsplit(url)
    with contextlib.ExitStack() as held, stream(url, tokens=1500) as answer:
        address = (str(at.hostname), int(at.port or 0))
        silent = [held.enter_context(socket.create_connection(address, timeout=LIMIT_S)) for _ in range(50)]
        silent[0].sendall(b"GET /hea")
        check(not any(one.recv(1) for one in silent), "a client that asks nothing is answered")
        check(b"[DONE]" in answer.read(), "the answer was cut")
    closed(stage, serving)
    stage.left()


def n_connections(process: psutil.Process) -> int:
    """That others have with it."""
    return sum(c.status == psutil.CONN_ESTABLISHED for c in process.net_connections("tcp"))


def deaf_clients(stage: Stage) -> None:
    """Each asks for more than lies in the system's buffers, and reads nothing: it is dropped, its file is free."""
    serving, url = service(stage)
    at = urlsplit(url)
    process = psutil.Process(serving.pid)
    asked = f"GET /openapi.json HTTP/1.1\r\nHost: {at.netloc}\r\n\r\n".encode() * 2000
    with contextlib.ExitStack() as held:
        for _ in range(20):
            one = held.enter_context(socket.create_connection((str(at.hostname), int(at.port or 0)), timeout=LIMIT_S))
            one.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                one.send(asked)
        stage.until(lambda: n_connections(process) >= 20, "their connections")
        with stream(url, tokens=40) as answer:
            check(b"[DONE]" in answer.read(), "nobody else is answered")
        stage.until(lambda: not n_connections(process), "their end", 200.0)
    closed(stage, serving)
    stage.left()


ROWS = staged(
    "stopped",
    (
        silent_clients,
        "fifty connections that never ask, beside a stream of `serve`",
        "each closed, the whole answer",
        "the service",
    ),
    (
        deaf_clients,
        "twenty clients of `serve` that ask two thousand times and read nothing",
        "each dropped, the whole answer of others",
        "the service",
    ),
)
