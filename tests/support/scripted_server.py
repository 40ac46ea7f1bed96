"""A server that sends bytes at set times, as ground truth for clients: pings, CRLF, split characters, cut streams.

It knows HTTP just far enough, and no model. What it did is kept: every request, and when each piece really went out.
"""

from __future__ import annotations

import contextlib
import json
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Literal

from core.endpoints.address import Address, address

LIMIT_S = 60.0


@dataclass
class Piece:
    """Bytes that go out in one send, at_s after the request was read, and not before the gate is open."""

    data: bytes
    at_s: float = 0.0
    gate: threading.Event | None = None


@dataclass
class Answer:
    """end: "close" properly, "cut" without the last chunk of the encoding, "reset" the connection, or "hang"."""

    pieces: Sequence[Piece] = ()
    status: int = 200
    content_type: str = "text/event-stream"
    headers: Mapping[str, str] = field(default_factory=dict)
    end: Literal["close", "cut", "reset", "hang"] = "close"
    chunked: bool = True


@dataclass
class Seen:
    """A request, and when it was read and its pieces went out, on the clock of time.perf_counter.

    body: None without one, and of a client that hung up before all of it had come.
    """

    method: str
    path: str
    headers: dict[str, str]
    body: Any
    read_s: float
    sent_s: list[float] = field(default_factory=list)
    dropped: threading.Event = field(default_factory=threading.Event)


Respond = Callable[[Seen], Answer]


def json_answer(found: object, status: int = 200, **headers: str) -> Answer:
    """A whole answer in JSON."""
    return Answer([Piece(json.dumps(found).encode())], status, "application/json", headers, chunked=False)


def event(found: object, newline: str = "\n") -> bytes:
    """One server-sent event."""
    text = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    return f"data: {text}{newline}{newline}".encode()


def delta(text: str, field_name: str = "content", **more: Any) -> dict[str, Any]:
    """A chunk of OpenAI's chat completions."""
    choice = {"index": 0, "delta": {field_name: text}, "finish_reason": None}
    return {"id": "x", "object": "chat.completion.chunk", "model": "m", "choices": [choice], **more}


def end_of_chat(finish: str = "stop", usage: Mapping[str, Any] | None = None, newline: str = "\n") -> bytes:
    """What comes behind the text: the reason, the usage if there is one, and [DONE]."""
    choice = {"index": 0, "delta": {}, "finish_reason": finish}
    events = [{"object": "chat.completion.chunk", "choices": [choice]}]
    if usage is not None:
        events.append({"object": "chat.completion.chunk", "choices": [], "usage": dict(usage)})
    return b"".join(event(e, newline) for e in events) + event("[DONE]", newline)


def chat(
    texts: Iterable[str],
    first_s: float = 0.0,
    gap_s: float = 0.0,
    *,
    tokens_each: int | None = None,
    newline: str = "\n",
    ping: bool = False,
    usage: Mapping[str, Any] | None = None,
) -> Answer:
    """A streamed chat: a chunk with the role alone at once, the first text at first_s, the others gap_s apart.

    tokens_each: every chunk says by continuous usage that it held so many. The end goes out with the last text.
    """
    role = {"choices": [{"index": 0, "delta": {"role": "assistant", "content": ""}, "finish_reason": None}]}
    pieces = [Piece((f": ping{newline}{newline}".encode() if ping else b"") + event(role, newline))]
    texts = list(texts)
    for i, text in enumerate(texts):
        more = {} if tokens_each is None else {"usage": {"completion_tokens": tokens_each * (i + 1)}}
        data = event(delta(text, **more), newline)
        if i == len(texts) - 1:
            data += end_of_chat("length", usage, newline)
        pieces.append(Piece(data, first_s + i * gap_s))
    return Answer(pieces)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 512

    def handle_error(self, request: Any, client_address: Any) -> None:
        """A client that has gone is no error."""


class ScriptedServer:
    """Answers every request as `respond` says, each connection in a thread. Use as a context manager."""

    def __init__(self, respond: Respond | Answer | Mapping[str, Answer]) -> None:
        if isinstance(respond, Answer):
            fixed = respond
            self._respond: Respond = lambda seen: fixed
        elif isinstance(respond, Mapping):
            paths = respond
            self._respond = lambda seen: paths.get(
                seen.path.partition("?")[0], json_answer({"detail": "Not Found"}, 404)
            )
        else:
            self._respond = respond
        self.seen: list[Seen] = []
        self.open = self.most_open = 0
        self.ending = threading.Event()
        self._lock = threading.Lock()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                outer._serve(self)

            do_POST = do_DELETE = do_GET  # noqa: N815

            def log_message(self, *given: Any) -> None:
                """Quiet."""

        self._server = _Server(("127.0.0.1", 0), Handler)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def address(self, key: str | None = None) -> Address:
        return address(self.url, key)

    def __enter__(self) -> ScriptedServer:
        self._thread.start()
        return self

    def __exit__(self, *given: object) -> None:
        self.ending.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(LIMIT_S)

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        length = int(handler.headers.get("Content-Length") or 0)
        data = handler.rfile.read(length)
        form = handler.headers.get_content_type() == "application/x-www-form-urlencoded"
        whole = data if len(data) == length else b""
        body = whole.decode() if form else json.loads(whole) if whole else None
        seen = Seen(handler.command, handler.path, dict(handler.headers.items()), body, time.perf_counter())
        with self._lock:
            self.seen.append(seen)
            self.open += 1
            self.most_open = max(self.most_open, self.open)
        try:
            self._answer(handler, seen, self._respond(seen))
        except OSError:
            seen.dropped.set()
        finally:
            handler.close_connection = True
            with self._lock:
                self.open -= 1

    def _answer(self, handler: BaseHTTPRequestHandler, seen: Seen, answer: Answer) -> None:
        wire: socket.socket = handler.connection
        lines = [f"HTTP/1.1 {answer.status} As told", f"Content-Type: {answer.content_type}"]
        lines += [f"{name.replace('_', '-')}: {value}" for name, value in answer.headers.items()]
        if answer.chunked:
            lines.append("Transfer-Encoding: chunked")
        else:
            lines.append(f"Content-Length: {sum(len(p.data) for p in answer.pieces)}")
        head = ("\r\n".join([*lines, "Connection: close"]) + "\r\n\r\n").encode()
        if answer.end == "hang" and not answer.pieces:
            self._until_gone(wire, seen)
            return
        wire.sendall(head)
        for piece in answer.pieces:
            if piece.gate is not None and not piece.gate.wait(LIMIT_S):
                return
            left = seen.read_s + piece.at_s - time.perf_counter()
            if left > 0 and self.ending.wait(left):
                return
            data = f"{len(piece.data):x}\r\n".encode() + piece.data + b"\r\n" if answer.chunked else piece.data
            seen.sent_s.append(time.perf_counter())
            wire.sendall(data)
        if answer.end == "hang":
            self._until_gone(wire, seen)
        elif answer.end == "reset":
            wire.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            wire.close()
        elif answer.end == "close" and answer.chunked:
            wire.sendall(b"0\r\n\r\n")

    def _until_gone(self, wire: socket.socket, seen: Seen) -> None:
        """Say nothing until the client leaves or the test ends."""
        wire.settimeout(0.05)
        while not self.ending.is_set():
            with contextlib.suppress(TimeoutError):
                if not wire.recv(1):
                    seen.dropped.set()
                    return
