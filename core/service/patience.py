"""A client that never asks, or never reads, is not waited for: uvicorn waits for ever, and each connection is a file.

What is waited for is a request, from the moment at which a client may send it until all of it is there, and that the
client takes what waits for it. An answer may take as long as it likes, and a connection that is idle after one is
uvicorn's own matter (timeout_keep_alive).
"""

from __future__ import annotations

import asyncio
from typing import ClassVar

import h11
from uvicorn.protocols.http.h11_impl import H11Protocol

ASKING = (h11.IDLE, h11.SEND_BODY)


class Patient(H11Protocol):
    """A connection that is closed when its request is not whole after `most_s` seconds, or when of an answer that is
    stuck, or the last of which is on its way, not a byte was taken in `untaken_s`.

    With every byte that arrives it has 1 / bytes_per_s seconds more, so that a slow line may send a long body and a
    client that drips is closed all the same.
    """

    most_s: ClassVar[float] = 20.0
    bytes_per_s: ClassVar[float] = 500.0
    untaken_s: ClassVar[float] = 60.0  # a client that sleeps for a minute finds its answer

    _end_s = 0.0  # of the loop's time
    _look: asyncio.TimerHandle | None = None
    _taking: asyncio.TimerHandle | None = None
    _stuck: int | None = None  # bytes

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._wait()
        self._taking = self.loop.call_later(self.untaken_s, self._taken)

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
        if self._taking is not None:
            self._taking.cancel()
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

    def _taken(self) -> None:
        """Nothing is written meanwhile, so that what waits can only become less."""
        waits = self.flow.write_paused or self.transport.is_closing()
        n_bytes = self.transport.get_write_buffer_size() if waits else None
        if n_bytes and n_bytes == self._stuck:
            self.transport.abort()
            return
        self._stuck = n_bytes
        self._taking = self.loop.call_later(self.untaken_s, self._taken)
