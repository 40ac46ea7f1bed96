"""Why a request failed, each kind with one sentence and the next step.

Knows what sockets, TLS, status codes and the servers' error bodies mean. Knows no connection.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import re
import socket
import ssl
import time
from collections.abc import Mapping
from typing import Any, Literal

from core.endpoints.address import Address
from core.endpoints.framing import value_of
from hardware.errors import ExplorerError

Kind = Literal[
    "refused",  # nobody listens
    "host",  # no such name
    "down",  # the network does not reach it
    "timeout",  # no answer in time
    "tls",  # a certificate that does not fit, or no TLS at all
    "cut",  # the answer ended in the middle
    "html",  # a web page
    "malformed",  # neither events nor JSON
    "stream_error",  # an error inside an answer that had begun
    "context",  # the prompt and the answer do not fit into the context
    "request",  # refused for something else that was asked
    "key",  # 401, 403
    "model",  # no such model
    "path",  # 404 without a model
    "busy",  # 429, or 503 because of too many requests
    "loading",  # 503 while the model is being read
    "server",  # 5xx
    "redirect",  # it sends elsewhere
    "empty",  # an answer without text
    "stopped",  # closed by us
]
WORDS = 300  # of a server's own sentence
_PATH = "Look at the address: the API often lies at another port, or below /v1."


class Failure(ExplorerError):  # noqa: N818 - of a request, which is what it reports
    """A request that failed. at_s: when, on the client's clock. retry_after_s: as the server asks."""

    def __init__(
        self,
        kind: Kind,
        message: str,
        hint: str = "",
        *,
        at_s: float | None = None,
        status: int | None = None,
        retry_after_s: float | None = None,
        said: str = "",
    ) -> None:
        super().__init__(message, hint)
        self.kind: Kind = kind
        self.at_s = at_s
        self.status = status
        self.retry_after_s = retry_after_s
        self.said = said

    def __reduce__(self) -> tuple[Any, ...]:
        return _again, (self.kind, self.message, self.hint, self.at_s, self.status, self.retry_after_s, self.said)


def _again(
    kind: Kind, message: str, hint: str, at_s: float | None, status: int | None, retry: float | None, said: str
) -> Failure:
    return Failure(kind, message, hint, at_s=at_s, status=status, retry_after_s=retry, said=said)


def unreachable(error: Exception, address: Address, at_s: float, timeout_s: float) -> Failure:
    """What a failed connection means."""
    where = f"{address.host}:{address.port}"
    match error:
        case ssl.SSLCertVerificationError():
            reason = address.without_key(str(error.verify_message or error))
            return Failure(
                "tls",
                f"The certificate of {where} does not fit: {reason}.",
                "Use the name for which it was issued, or let this machine trust its issuer (SSL_CERT_FILE).",
                at_s=at_s,
            )
        case ssl.SSLError():
            hint = "Try http:// if the server has no TLS."
            return Failure("tls", f"{where} does not speak TLS as expected ({error.reason}).", hint, at_s=at_s)
        case TimeoutError():
            hint = "Look whether the server still runs, and whether a firewall stands between."
            return Failure("timeout", f"{where} did not answer within {timeout_s:g} s.", hint, at_s=at_s)
        case ConnectionRefusedError():
            return Failure("refused", f"No server listens at {where}.", "Start it, or correct the address.", at_s=at_s)
        case socket.gaierror():
            return Failure("host", f"There is no host {address.host}.", "Look at the spelling of its name.", at_s=at_s)
        case _:
            reason = address.without_key(getattr(error, "strerror", None) or str(error) or type(error).__name__)
            return Failure("down", f"{where} cannot be reached: {reason}.", "Look at the network.", at_s=at_s)


def interrupted(error: Exception, address: Address, at_s: float, timeout_s: float, began: bool) -> Failure:
    """What a connection that broke after it stood means. began: a part of the answer had come."""
    where = f"{address.host}:{address.port}"
    if isinstance(error, TimeoutError):
        what = "went silent in the middle of its answer" if began else "took the request and did not answer"
        hint = "It may be busy, or the model slow: allow more time, or ask for less."
        return Failure("timeout", f"{where} {what} for {timeout_s:g} s.", hint, at_s=at_s)
    if isinstance(error, ssl.SSLError):
        return unreachable(error, address, at_s, timeout_s)
    if not began and isinstance(error, http.client.BadStatusLine) and not isinstance(error, ConnectionError):
        hint = "Look at the port, and whether it wants https://."
        return Failure("malformed", f"What answers at {where} does not speak HTTP.", hint, at_s=at_s)
    return cut(address, at_s, began)


def cut(address: Address, at_s: float, began: bool = True) -> Failure:
    """An answer that ended before its end."""
    where = f"{address.host}:{address.port}"
    what = "ended its answer in the middle" if began else "closed the connection without an answer"
    return Failure("cut", f"{where} {what}.", "Look into the server's log; it may have died.", at_s=at_s)


def html(address: Address, at_s: float, status: int) -> Failure:
    """A web page where an answer should be."""
    return Failure("html", f"{address.root} answers with a web page.", _PATH, at_s=at_s, status=status)


def malformed(address: Address, at_s: float, what: str) -> Failure:
    """An answer that cannot be read."""
    said = address.without_key(what)[:WORDS]
    hint = "Look whether this address is that of a model server."
    return Failure("malformed", f"The answer of {address.root} cannot be read: “{said}”.", hint, at_s=at_s, said=said)


def in_stream(error: object, address: Address, at_s: float) -> Failure:
    """An error inside an answer that had begun well."""
    said = _sentence(error, address)
    if _is_context(said, error):
        return _context(said, error, at_s, None)
    return Failure(
        "stream_error", f"The server broke off: “{said}”.", "Look into its log.", at_s=at_s, said=said, status=200
    )


def refused(status: int, headers: Mapping[str, str], body: bytes, address: Address, at_s: float) -> Failure:
    """What an answer with a status other than 200 means."""
    error = _error_of(body)
    said = _sentence(error, address)
    quoted = f": “{said}”" if said else ""
    retry = retry_after_s(_header(headers, "Retry-After"))

    def failure(kind: Kind, message: str, hint: str, retry: float | None = None) -> Failure:
        return Failure(kind, message, hint, at_s=at_s, status=status, said=said, retry_after_s=retry)

    if 300 <= status < 400:
        to = address.without_key(_header(headers, "Location") or "")[:WORDS]
        hint = f"Add the address to which it sends: {to}." if to else ""
        return Failure("redirect", f"{address.root} sends elsewhere ({status}).", hint, at_s=at_s, status=status)
    if status == 407:
        hint = "Put them into its address, http://USER:PASSWORD@HOST:PORT, or name this server in no_proxy."
        return failure("key", "The proxy of the environment wants a user and a password.", hint)
    if status in (401, 403):
        hint = "Name the environment variable that holds its key, and look whether the key is still good."
        what = "wants a key" if address.key is None else "refuses the key"
        return failure("key", f"{address.root} {what}{quoted}.", hint)
    if _is_context(said, error) or status == 413:
        return _context(said or "the request is too large", error, at_s, status)
    if _is_no_model(said, error, status):
        hint = "Choose one of the models that it lists."
        return failure("model", f"The server does not have this model{quoted}.", hint)
    if status == 503 and re.search(r"loading", said, re.I):
        hint = "Wait until it has, and try again."
        return failure("loading", "The server is still loading the model.", hint, retry)
    if status in (429, 503):
        wait = "Try again later" if retry is None else f"Try again in {retry:g} s"
        message = f"The server takes no more requests now ({status}){quoted}."
        return failure("busy", message, f"{wait}, or ask for fewer at once.", retry)
    if b"<html" in body[:1000].lower() or b"<!doctype html" in body[:1000].lower():
        return html(address, at_s, status)
    if status in (404, 405):
        return failure("path", f"{address.root} has no such path ({status}){quoted}.", _PATH)
    if status >= 500:
        return failure("server", f"The server failed ({status}){quoted}.", "Look into its log.")
    hint = "Change what it names, or leave it out."
    return failure("request", f"The server refused the request ({status}){quoted}.", hint)


def _header(headers: Mapping[str, str], name: str) -> str | None:
    return next((value for key, value in headers.items() if key.lower() == name.lower()), None)


def retry_after_s(value: str | None) -> float | None:
    """Seconds of a Retry-After header, which is a number or a date."""
    if value is None:
        return None
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return seconds if 0 <= seconds < 1e9 else None
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (TypeError, ValueError):
        return None


def _context(said: str, error: object, at_s: float, status: int | None) -> Failure:
    n = error.get("n_prompt_tokens") if isinstance(error, dict) else None
    n_ctx = error.get("n_ctx") if isinstance(error, dict) else None
    known = f"{n} tokens in a context of {n_ctx}" if n and n_ctx else said
    hint = "Use a shorter prompt or fewer tokens, or start the server with a longer context."
    return Failure(
        "context",
        f"Prompt and answer do not fit into the server's context: {known}.",
        hint,
        at_s=at_s,
        status=status,
        said=said,
    )


def _is_context(said: str, error: object) -> bool:
    names = {str(error.get(key, "")) for key in ("type", "code")} if isinstance(error, dict) else set()
    if names & {"exceed_context_size_error", "context_length_exceeded"}:
        return True
    long = r"exceed|longer|too long|too large|maximum|larger"
    return bool(re.search(r"context|max_model_len|input length", said, re.I) and re.search(long, said, re.I))


def _is_no_model(said: str, error: object, status: int) -> bool:
    if isinstance(error, dict) and error.get("code") == "model_not_found":
        return True
    absent = r"not found|not exist|unknown|no such|invalid"
    return status in (400, 404) and bool(re.search(r"\bmodel\b", said, re.I) and re.search(absent, said, re.I))


def _error_of(body: bytes) -> object:
    try:
        found = value_of(body)
    except ValueError:
        return body.decode("utf-8", "replace") if not body.lstrip().startswith(b"<") else ""
    return error_in(found) or found


def error_in(found: object) -> object | None:
    """The error inside a JSON answer: {"error": …}, or the older {"object": "error", "message": …}."""
    if isinstance(found, dict):
        if found.get("error"):
            return found["error"]  # type: ignore[no-any-return]
        if found.get("object") == "error":
            return found
    return None


def _sentence(error: object, address: Address) -> str:
    if isinstance(error, dict):
        found = error.get("message") or error.get("detail") or error.get("error") or error.get("type") or error
        error = found if isinstance(found, str) else json.dumps(found, ensure_ascii=False)
    text = " ".join(address.without_key(str(error)).split()).rstrip(".")
    return text if len(text) <= WORDS else f"{text[:WORDS]}…"
