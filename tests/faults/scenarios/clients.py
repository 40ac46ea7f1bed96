"""Clients of the service that hold on: they ask nothing."""

from __future__ import annotations

import contextlib
import socket
from urllib.parse import urlsplit

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


ROWS = staged(
    "stopped",
    (
        silent_clients,
        "fifty connections that never ask, beside a stream of `serve`",
        "each closed, the whole answer",
        "the service",
    ),
)
