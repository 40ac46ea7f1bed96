"""Who may ask the app's server: it answers under its own names alone, and its own questions to its own pages alone.

Streamlit asks for the host where a page connects, and nowhere else. A name that an attacker owns can be made to point
here (DNS rebinding), and a page of that name could then read what a run writes.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Receive, Scope, Send
from streamlit.web.server.starlette.starlette_websocket import is_host_allowed

OWN = "/roofscope/"


class Door:
    """ASGI middleware before every route. The names are those of Streamlit's setting server.allowedHosts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refused = refusal(Headers(scope=scope), scope["path"]) if scope["type"] == "http" else None
        if refused is None:
            await self._app(scope, receive, send)
        else:
            status, words = refused
            await PlainTextResponse(words, status)(scope, receive, send)


def refusal(headers: Headers, path: str) -> tuple[int, str] | None:
    """Why a request is none of ours to answer, with its HTTP status; None for one that is."""
    host = headers.get("host")
    if not is_host_allowed(host):
        return (
            421,
            f"Roofscope does not answer as '{(host or '')[:100]}'. Use localhost, or add it to server.allowedHosts.",
        )
    if path.startswith(OWN) and headers.get("sec-fetch-site", "same-origin") not in ("same-origin", "none"):
        return 403, "A page of another address may not ask this. Open Roofscope itself."
    return None
