"""Where a server is, and what may be said to it. Knows URLs, loopback, proxies, and that a key is never shown."""

from __future__ import annotations

import ipaddress
from base64 import b64encode
from dataclasses import dataclass, field
from urllib.parse import unquote, urlsplit, urlunsplit
from urllib.request import getproxies, proxy_bypass

from hardware.errors import ExplorerError

EXAMPLE = "Type it like http://127.0.0.1:8080 or https://host/v1."


@dataclass(frozen=True)
class Address:
    """A server. Not a Record, because it holds the key, which is never written anywhere nor shown.

    root: scheme, host and path before the API. api: to what `/chat/completions` is appended.
    """

    root: str
    api: str
    key: str | None = field(default=None, repr=False)

    @property
    def host(self) -> str:
        return urlsplit(self.root).hostname or ""

    @property
    def port(self) -> int:
        parts = urlsplit(self.root)
        return parts.port or (443 if parts.scheme == "https" else 80)

    @property
    def secure(self) -> bool:
        return urlsplit(self.root).scheme == "https"

    @property
    def loopback(self) -> bool:
        return is_loopback(self.host)

    def target(self, path: str) -> str:
        """The path on the host: "/props" below the root, "chat/completions" below the API, ":predict" a verb of it."""
        base = self.root if path.startswith("/") else self.api if path.startswith(":") else f"{self.api}/"
        return (urlsplit(base).path + path) or "/"

    def headers(self) -> dict[str, str]:
        """What goes with every request. Whoever logs headers must leave these out."""
        return {} if self.key is None else {"Authorization": f"Bearer {self.key}"}

    def without_key(self, text: str) -> str:
        """A server's words, which may repeat the key that it refused."""
        return text.replace(self.key, "…") if self.key else text


def address(url: str, key: str | None = None) -> Address:
    """The server that a user means. Raises ExplorerError for what is not the address of one."""
    typed = url.strip()
    try:
        parts = urlsplit(typed if "://" in typed else f"http://{typed}")
        known = parts.scheme in ("http", "https") and parts.hostname and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    if not known or any(c.isspace() or not c.isprintable() for c in typed):
        raise ExplorerError(f"“{typed[:200]}” is not the address of a server.", EXAMPLE)
    if parts.username or parts.password:
        raise ExplorerError(
            "The address contains a user name or a password, which would be written down with it.",
            "Leave it out, and name the environment variable that holds the key.",
        )
    if parts.query or parts.fragment:
        raise ExplorerError(f"The address has more than a path: “{(parts.query or parts.fragment)[:100]}”.", EXAMPLE)
    if key is not None and (not key.strip() or not key.strip().isprintable() or not key.strip().isascii()):
        raise ExplorerError("The key is empty or has characters that no key has.", "Look at where it comes from.")
    path = parts.path.rstrip("/")
    for tail in ("/chat/completions", "/completions", "/models"):
        path = path.removesuffix(tail)
    base = urlunsplit((parts.scheme, parts.netloc.lower(), path, "", ""))
    root = base.removesuffix("/v1")
    return Address(root=root, api=base if path and root == base else f"{root}/v1", key=key and key.strip())


def is_loopback(host: str) -> bool:
    """Whether a host is this machine by its name alone."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


@dataclass(frozen=True)
class Proxy:
    """A proxy of the environment. authorization: of the proxy, never shown."""

    host: str
    port: int
    authorization: str | None = field(default=None, repr=False)


def proxy_of(address: Address) -> Proxy | None:
    """The environment's proxy for an address; never one for this machine."""
    if address.loopback or proxy_bypass(address.host):
        return None
    found = getproxies().get("https" if address.secure else "http")
    if not found:
        return None
    try:
        parts = urlsplit(found if "://" in found else f"http://{found}")
        port = parts.port or 80
    except ValueError:
        return None
    if not parts.hostname:
        return None
    who = f"{unquote(parts.username)}:{unquote(parts.password or '')}" if parts.username else None
    basic = None if who is None else f"Basic {b64encode(who.encode()).decode()}"
    return Proxy(host=parts.hostname, port=port, authorization=basic)
