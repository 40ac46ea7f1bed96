"""A blocking client that counts right: one request, one connection, chunks stamped by the read that carried them.

Knows sockets and when things happened. It never retries, never follows a redirect and never reuses a connection:
llama.cpp closes one after a streamed answer, and the next request on it may fail. Threads and `http.client` take the
least processor time of what was tried, which matters on the machine that is measured.
"""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from types import TracebackType
from typing import Any, cast

from core.endpoints import failures
from core.endpoints.address import Address, proxy_of
from core.endpoints.chunks import Chunk, Reader
from core.endpoints.failures import Failure
from core.endpoints.framing import EndlessEventError, Event, Framing, JsonLines, ServerSentEvents, value_of

CHAT, TEXT = "chat/completions", "completions"
CONNECT_S, READ_S = 5.0, 600.0  # limits: to connect, and of each wait for the next bytes
MOST = 32 * 2**20  # bytes of an answer that is no stream
Clock = Callable[[], float]


class Stream:
    """One request; iterate for its chunks. Times are of the clock; None means that it did not come to that.

    started_s: before connecting. sent_s: connected, the request goes out; TTFT counts from here. headers_s: the status
    line was there. ended_s: the answer was complete, or failed. Raises Failure, whose chunks so far have been given.
    """

    def __init__(
        self, address: Address, body: Mapping[str, Any], path: str, clock: Clock, connect_s: float, read_s: float
    ) -> None:
        self.started_s: float | None = None
        self.sent_s: float | None = None
        self.headers_s: float | None = None
        self.ended_s: float | None = None
        self.streamed = True  # False where the server answered with one piece, which has no times inside
        self._address, self._body, self._path = address, body, path
        self._clock, self._connect_s, self._read_s = clock, connect_s, read_s
        self._lock = threading.Lock()
        self._connection: http.client.HTTPConnection | None = None
        self._socket: socket.socket | None = None
        self._closed = False

    @property
    def connect_s(self) -> float | None:
        """Seconds that connecting took, name look-up and TLS included."""
        return None if self.started_s is None or self.sent_s is None else self.sent_s - self.started_s

    def __iter__(self) -> Iterator[Chunk]:
        try:
            yield from self._run()
        except Failure as failure:
            if self._closed and failure.kind != "stopped":
                raise self._stopped() from failure
            raise
        finally:
            self.ended_s = self._clock()
            self.close()

    def __enter__(self) -> Stream:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Drop the connection, from any thread: the server stops, and whoever iterates gets Failure("stopped")."""
        with self._lock:
            self._closed = True
            connection, wire = self._connection, self._socket
            self._connection = self._socket = None
        if wire is not None:
            with contextlib.suppress(OSError):  # it had ended
                wire.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
        if connection is not None:
            connection.close()
        if wire is not None:
            wire.close()

    def _run(self) -> Iterator[Chunk]:
        if self._closed:
            raise self._stopped()
        headers = {"Content-Type": "application/json", "Accept": "text/event-stream, application/x-ndjson, */*"}
        self.started_s = self._clock()
        connection, target = _connected(self._address, self._path, self._connect_s, self._clock)
        wire = connection.sock
        with self._lock:
            self._connection, self._socket = connection, wire
            closed = self._closed
        if closed:
            connection.close()
            raise self._stopped()
        began, reader = False, Reader()
        try:
            wire.settimeout(self._read_s)
            data = json.dumps(self._body).encode()
            self.sent_s = self._clock()
            connection.request("POST", target, data, headers | _headers(self._address))
            answer = cast(_Answer, connection.getresponse())
            self.headers_s = answer.at_s
            if answer.status != 200:
                raise failures.refused(
                    answer.status, dict(answer.headers.items()), _all(answer), self._address, self._clock()
                )
            kind = answer.headers.get_content_type()
            if kind == "text/html":
                raise failures.html(self._address, self._clock(), answer.status)
            frames: Framing
            if kind == "text/event-stream":
                frames = ServerSentEvents()
            elif kind == "application/x-ndjson":
                frames = JsonLines()
            else:
                yield from self._whole(answer)
                return
            while data := answer.read1(65536):
                began = True
                for event in frames.feed(data):
                    yield from self._event(event, reader, answer.at_s)
                    if event.data == "[DONE]":
                        return
                if reader.done and isinstance(frames, JsonLines):
                    return
            ended_s = answer.at_s
            for event in frames.finish():
                yield from self._event(event, reader, ended_s)
            if not reader.done or answer.length:
                raise failures.cut(self._address, ended_s, began)
        except EndlessEventError:
            raise failures.malformed(self._address, self._clock(), "an event without an end") from None
        except (OSError, http.client.HTTPException, ValueError) as error:
            if not reader.done or self._closed:
                raise failures.interrupted(error, self._address, self._clock(), self._read_s, began) from error

    def _event(self, event: Event, reader: Reader, at_s: float) -> Iterator[Chunk]:
        if event.data == "[DONE]":
            reader.done = True
            return
        try:
            found = value_of(event.data)
        except ValueError:
            raise failures.malformed(self._address, at_s, event.data) from None
        if not isinstance(found, dict):
            raise failures.malformed(self._address, at_s, event.data)
        error = failures.error_in(found)
        if error is not None or event.name == "error":
            raise failures.in_stream(error or found, self._address, at_s)
        yield from reader.read(found, event.name, at_s)

    def _whole(self, answer: _Answer) -> Iterator[Chunk]:
        """An answer in one piece: an error, a page, or all of the text at once."""
        body = _all(answer)
        if answer.length:
            raise failures.cut(self._address, answer.at_s)
        self.streamed = False
        try:
            found = value_of(body)
        except ValueError:
            if body.lstrip()[:1] == b"<":
                raise failures.html(self._address, answer.at_s, answer.status) from None
            raise failures.malformed(self._address, answer.at_s, body.decode("utf-8", "replace")) from None
        yield from self._event(Event(data=json.dumps(found)), Reader(), answer.at_s)

    def _stopped(self) -> Failure:
        return Failure("stopped", "The request was stopped.", at_s=self._clock())


def stream(
    address: Address,
    body: Mapping[str, Any],
    path: str = CHAT,
    *,
    clock: Clock = time.perf_counter,
    connect_s: float = CONNECT_S,
    read_s: float = READ_S,
) -> Stream:
    """A request for a streamed answer, which goes out when the result is iterated. body has `stream: true`.

    path: below the API ("chat/completions"), or from the root ("/api/chat"). Every iteration raises Failure at most
    once, and closing the result from another thread ends it.
    """
    return Stream(address, body, path, clock, connect_s, read_s)


def ask(
    address: Address,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    connect_s: float = CONNECT_S,
    read_s: float = 10,
) -> Any:
    """The JSON of a GET, or of a POST where there is a body. Raises Failure."""
    data = fetch(address, path, body, connect_s=connect_s, read_s=read_s)
    try:
        return value_of(data)
    except ValueError:
        now = time.perf_counter()
        if data.lstrip()[:1] == b"<":
            raise failures.html(address, now, 200) from None
        raise failures.malformed(address, now, data.decode("utf-8", "replace")) from None


def fetch(
    address: Address,
    path: str,
    body: Mapping[str, Any] | None = None,
    *,
    connect_s: float = CONNECT_S,
    read_s: float = 10,
) -> bytes:
    """What a path answers (`/metrics` is no JSON). Raises Failure for anything but 200."""
    clock = time.perf_counter
    connection, target = _connected(address, path, connect_s, clock)
    try:
        connection.sock.settimeout(read_s)
        headers = _headers(address) | {"Accept": "*/*"}
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        connection.request("GET" if data is None else "POST", target, data, headers)
        answer = cast(_Answer, connection.getresponse())
        found = _all(answer)
        if answer.status != 200:
            raise failures.refused(answer.status, dict(answer.headers.items()), found, address, clock())
        return found
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise failures.interrupted(error, address, clock(), read_s, began=False) from error
    finally:
        connection.close()


# ---------------------------------------------------------------- sockets


class _Stamped(io.RawIOBase):
    """A socket's bytes; notes when the last read returned."""

    def __init__(self, raw: io.RawIOBase, clock: Clock) -> None:
        self._raw, self._clock = raw, clock
        self.at_s = clock()

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int | None:
        n = cast(int | None, self._raw.readinto(buffer))
        self.at_s = self._clock()
        return n

    def close(self) -> None:
        self._raw.close()
        super().close()


class _Answer(http.client.HTTPResponse):
    """A response that knows when the bytes it gave had arrived."""

    clock: Clock = time.perf_counter

    def __init__(self, wire: socket.socket, *given: Any, **named: Any) -> None:
        super().__init__(wire, *given, **named)
        self.fp.close()
        self._stamped = _Stamped(cast(io.RawIOBase, wire.makefile("rb", buffering=0)), type(self).clock)
        self.fp = io.BufferedReader(self._stamped, 65536)

    @property
    def at_s(self) -> float:
        return self._stamped.at_s


def _headers(address: Address) -> dict[str, str]:
    """What goes with every request: the key, and a proxy's own where the request itself goes to a proxy."""
    found = address.headers() | {"Connection": "close"}
    proxy = None if address.secure else proxy_of(address)  # with TLS it is said once, when the tunnel is made
    return found | {"Proxy-Authorization": proxy.authorization} if proxy and proxy.authorization else found


def _connected(address: Address, path: str, connect_s: float, clock: Clock) -> tuple[http.client.HTTPConnection, str]:
    """An open connection of its own, and what to ask on it. Raises Failure."""
    proxy, target = proxy_of(address), address.target(path)
    host, port = (address.host, address.port) if proxy is None else (proxy.host, proxy.port)
    connection: http.client.HTTPConnection
    if address.secure:
        connection = http.client.HTTPSConnection(host, port, timeout=connect_s)
    else:
        connection = http.client.HTTPConnection(host, port, timeout=connect_s)
    if proxy is not None:
        through = {"Proxy-Authorization": proxy.authorization} if proxy.authorization else {}
        if address.secure:
            connection.set_tunnel(address.host, address.port, through)
        else:
            target = f"http://{address.host}:{address.port}{target}"
    connection.auto_open = 0  # closed is closed
    connection.response_class = type("_Answer", (_Answer,), {"clock": staticmethod(clock)})
    try:
        connection.connect()
    except (OSError, http.client.HTTPException, ValueError) as error:
        connection.close()
        raise failures.unreachable(error, address, clock(), connect_s) from error
    return connection, target


def _all(answer: _Answer) -> bytes:
    data = answer.read(MOST + 1)
    if len(data) > MOST:
        raise ValueError("the answer has no end")
    return data
