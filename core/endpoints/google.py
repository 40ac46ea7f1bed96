"""Google's side: where its services are, who we are there, and one question in plain REST.

Knows credentials and addresses; not what the services answer. A token lives an hour and is asked for before a request
goes out, never in its timed part. The addresses are settings, so that a proxy of one's own or a stand-in can be put in
their place: ROOFSCOPE_VERTEX_API and ROOFSCOPE_VERTEX_DEDICATED with {region} and {dns} in them,
ROOFSCOPE_MONITORING_API, ROOFSCOPE_PROJECTS_API.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import urlencode

import msgspec

from core.endpoints import client
from core.endpoints.address import Address
from core.endpoints.failures import Failure
from hardware.errors import ExplorerError

SCOPES = ("https://www.googleapis.com/auth/cloud-platform",)
AHEAD_S = 300.0  # a token that ends within this time is renewed
MOST_PAGES = 50
LOG_IN = "Run `gcloud auth application-default login`, or set GOOGLE_APPLICATION_CREDENTIALS to a key file."

_lock = threading.Lock()
_held: dict[str, Any] = {}  # credentials, by the file that the environment names


def vertex_api(region: str = "") -> str:
    """The address of Vertex AI in a region; without one, the global address."""
    root = os.environ.get("ROOFSCOPE_VERTEX_API", "https://{region}-aiplatform.googleapis.com")
    return root.replace("{region}-", f"{region}-" if region else "").replace("{region}", region).rstrip("/")


def dedicated_api(dns: str) -> str:
    """The address of an endpoint with a name of its own."""
    return os.environ.get("ROOFSCOPE_VERTEX_DEDICATED", "https://{dns}").replace("{dns}", dns).rstrip("/")


def monitoring_api() -> str:
    return os.environ.get("ROOFSCOPE_MONITORING_API", "https://monitoring.googleapis.com").rstrip("/")


def projects_api() -> str:
    return os.environ.get("ROOFSCOPE_PROJECTS_API", "https://cloudresourcemanager.googleapis.com").rstrip("/")


def token() -> str:
    """A token that is good for some minutes at least. Raises ExplorerError; a token is never written or shown."""
    import google.auth
    from google.auth import exceptions
    from google.auth.transport.requests import Request

    name = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    with _lock:
        try:
            found = _held.get(name)
            if found is None:
                found, _ = google.auth.default(scopes=list(SCOPES))
                _held[name] = found
            if not found.valid or _left_s(found) < AHEAD_S:
                found.refresh(Request())
        except exceptions.DefaultCredentialsError:
            raise ExplorerError("There are no Google credentials on this machine that can be used.", LOG_IN) from None
        except exceptions.RefreshError as error:
            _held.pop(name, None)
            why = str(error.args[0] if error.args else "")[:200].rstrip(".")
            raise ExplorerError(f"Google does not accept the credentials of this machine: {why}.", LOG_IN) from None
        except exceptions.GoogleAuthError as error:
            raise ExplorerError(
                f"Google's token service cannot be reached ({type(error).__name__}).", "Look at the network."
            ) from None
        except Exception as error:  # a key file or an answer that is none raises what its parts raise
            _held.pop(name, None)
            raise ExplorerError(
                f"Google's credentials of this machine, or what the token service answers, cannot be read "
                f"({type(error).__name__}).",
                LOG_IN,
            ) from None
        given = found.token
    if not isinstance(given, str) or not given:
        raise ExplorerError("Google's token service gave no token.", LOG_IN)
    return given


def _left_s(credentials: Any) -> float:
    """Seconds until the token ends; expiry is in UTC without a zone."""
    from datetime import UTC, datetime

    if credentials.expiry is None:
        return float("inf")
    left: float = (credentials.expiry.replace(tzinfo=UTC) - datetime.now(UTC)).total_seconds()
    return left


def ask(root: str, path: str, query: Mapping[str, str] | None = None, needs: str = "") -> dict[str, Any]:
    """What a service of Google answers to a GET. needs: the permission, for the sentence. Raises ExplorerError."""
    where = Address(root=root, api=root, key=token())
    try:
        found = client.ask(where, f"{path}?{urlencode(query)}" if query else path, read_s=30)
    except Failure as failure:
        if failure.kind != "key":
            raise
        said = f": “{failure.said}”" if failure.said else ""
        hint = f"Give them the permission {needs}, or use others." if needs and failure.status == 403 else LOG_IN
        raise ExplorerError(f"Google refuses these credentials ({failure.status}){said}.", hint) from None
    if not isinstance(found, dict):
        raise ExplorerError(f"The answer of {root} is none of a Google service.", "Look at the address that is set.")
    return found


def pages(root: str, path: str, field: str, query: Mapping[str, str] | None = None, needs: str = "") -> Iterator[Any]:
    """The entries of a listing over all of its pages. Raises ExplorerError."""
    asked = dict(query or {})
    for _ in range(MOST_PAGES):
        found = ask(root, path, asked, needs)
        listed = found.get(field)
        yield from (x for x in listed if isinstance(x, dict)) if isinstance(listed, list) else ()
        following = found.get("nextPageToken")
        if not isinstance(following, str) or not following:
            return
        asked["pageToken"] = following


def number(found: object) -> float | None:
    """A number of a REST answer: Google writes 64-bit integers as strings."""
    if isinstance(found, bool) or not isinstance(found, int | float | str):
        return None
    try:
        value = float(found)
    except ValueError:
        return None
    return value if msgspec.json.encode(value) != b"null" else None
