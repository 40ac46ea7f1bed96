"""Who may ask: before any route sees a request, its Host, its Origin, its key and its length are looked at.

A page of any web site can make a browser send requests to an address of this machine, and a name that an attacker owns
can be made to point there (DNS rebinding). So the Host header must be one of ours, a request that a page of another
address has sent is refused, and what is posted must call itself JSON, which no page may send without asking first.
"""

from __future__ import annotations

import hmac
from collections.abc import Collection
from urllib.parse import urlsplit

from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from core.service import problems
from core.service.problems import ProblemError

LOOPBACK = ("localhost", "127.0.0.1", "::1")
MOST_DIGITS = 18  # of a length
OPEN = "/health"  # says nothing, and is asked before a key is at hand


class Guard:
    """ASGI middleware. hosts: names under which we are asked. key: what a bearer must know. most_bytes: of a body."""

    def __init__(self, app: ASGIApp, hosts: Collection[str], key: str | None, most_bytes: int) -> None:
        self._app, self._hosts, self._key, self._most = app, frozenset(hosts), key, most_bytes

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        read = 0

        async def counted() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            if read > self._most:
                raise self._too_large()
            return message

        try:
            self._check(Headers(scope=scope), scope["method"], scope["path"])
        except ProblemError as problem:
            await problems.response(problem, scope["path"])(scope, receive, send)
            return
        await self._app(scope, counted, send)

    def _check(self, headers: Headers, method: str, path: str) -> None:
        """Raises ProblemError for a request that is none of ours to answer."""
        host = host_of(headers.get("host", ""))
        if host not in self._hosts:
            raise ProblemError(
                421,
                f"This service does not answer as '{host[:100]}'.",
                f"Ask {LOOPBACK[1]}, or start it with --allow-host and the name that you use.",
            )
        origin = headers.get("origin")
        if origin is not None and not self._ours(origin):
            raise ProblemError(
                403, f"A page of {origin[:100]} may not ask this service.", "Ask it from a program instead."
            )
        if self._key is not None and path != OPEN and not self._knows(headers.get("authorization", "")):
            raise ProblemError(
                401,
                "The key is missing or wrong.",
                "Send 'Authorization: Bearer KEY' with the key that the service was started with.",
                code="invalid_api_key",
            )
        length = headers.get("content-length", "0").lstrip("0") or "0"
        if method == "POST" and headers.get("content-type", "").split(";")[0].strip().lower() != "application/json":
            raise ProblemError(415, "The body does not call itself JSON.", "Send 'Content-Type: application/json'.")
        if not length.isdecimal() or len(length) > MOST_DIGITS or int(length) > self._most:
            raise self._too_large()

    def _ours(self, origin: str) -> bool:
        """Whether a page was loaded from one of our names, as its browser says it."""
        scheme, _, host = origin.partition("://")
        return scheme.lower() in ("http", "https") and host_of(host) in self._hosts

    def _knows(self, authorization: str) -> bool:
        scheme, _, given = authorization.partition(" ")
        assert self._key is not None
        sent = given.strip(" \t").encode("latin-1")  # the bytes of the header
        return scheme.lower() == "bearer" and hmac.compare_digest(sent, self._key.encode())

    def _too_large(self) -> ProblemError:
        return ProblemError(
            413,
            f"The body is larger than {self._most / 1e6:g} MB.",
            "Send less, or start it with a higher --body-limit.",
        )


def host_of(header: str) -> str:
    """The name in a Host header, without its port and without the brackets of an IPv6 address; "" for none."""
    try:
        return urlsplit(f"//{header.strip()}").hostname or ""
    except ValueError:
        return header.strip()
