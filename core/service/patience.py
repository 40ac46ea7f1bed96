"""A client that never asks is not waited for: uvicorn waits for ever, and each connection is an open file.

What is waited for is a request, from the moment at which a client may send it until all of it is there. An answer may
take as long as it likes, and a connection that is idle after one is uvicorn's own matter (timeout_keep_alive).
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ASKING = (h11.IDLE, h11.SEND_BODY)


class Patient(H11Protocol):
    """A connection that is closed when its request is not whole after `most_s` seconds.

    With every byte that arrives it has 1 / bytes_per_s seconds more, so that a slow line may send a long body and a
    client that drips is closed all the same.
    """

    most_s: ClassVar[float] = 20.0
    bytes_per_s: ClassVar[float] = 500.0

    _end_s = 0.0  # of the loop's time
    _look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if self.conn.their_state not in ASKING:
            self._rest()
            return
        if self._look is None:
            self._wait()
        self._end_s += len(data) / self.bytes_per_s

    def connection_lost(self, exc: Exception | None) -> None:
        self._rest()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._end_s = self.loop.time() + self.most_s
        self._look = self.loop.call_at(self._end_s, self._due)

    def _rest(self) -> None:
        if self._look is not None:
            self._look.cancel()
            self._look = None

    def _due(self) -> None:
        if self.flow.read_paused:  # we do not read, so the client cannot go on
            self._wait()
        elif self.loop.time() < self._end_s:
            self._look = self.loop.call_at(self._end_s, self._due)
        else:
            self.transport.close()
