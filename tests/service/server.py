"""The application behind a real socket, in a thread of this process; ends with the test."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from types import TracebackType

import uvicorn
from fastapi import FastAPI

from core.cli.serving import listening
from core.service.patience import Patient

LONG_S = 60.0


class Server:
    """with Server(app) as s: ... s.port, s.url. root: the data folder that it serves. http: what holds a connection."""

    def __init__(self, app: FastAPI, root: Path | None = None, http: type[Patient] = Patient) -> None:
        self.root = root
        self._socket = listening("127.0.0.1", 0)
        self.port: int = self._socket.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        config = uvicorn.Config(
            app, http=http, log_level="warning", access_log=False, timeout_graceful_shutdown=1, ws="none"
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self._socket]}, daemon=True)

    def __enter__(self) -> Server:
        self._thread.start()
        end = time.monotonic() + LONG_S
        while not self._server.started:
            assert time.monotonic() < end and self._thread.is_alive(), "the server did not start"
            time.sleep(0.01)
        return self

    def opened(self, sent: bytes = b"") -> socket.socket:
        """A connection on which this was sent."""
        made = socket.create_connection(("127.0.0.1", self.port), timeout=LONG_S)
        made.sendall(sent)
        return made

    @property
    def n_connections(self) -> int:
        """That are open."""
        return len(self._server.server_state.connections)

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._server.should_exit = True
        self._thread.join(LONG_S)
        self._socket.close()
        assert not self._thread.is_alive(), "the server did not end"


def rest(connection: socket.socket) -> bytes:
    """What is said until the server hangs up. Raises TimeoutError when it does not."""
    said = b""
    with connection:
        try:
            while piece := connection.recv(4096):
                said += piece
        except ConnectionResetError:  # it had bytes that the server has not read
            pass
    return said
