"""The HTTP service: Roofscope's own API, and an OpenAI-compatible server over the strategies."""

from __future__ import annotations

import contextlib
import ipaddress
import os
import socket
from typing import Any

import click

from core.cli.group import cli, json_flag
from core.cli.options import BACKEND, DTYPE, OPTIONS, pairs
from core.paths import data_dir
from core.runs.other_machine import PORT
from core.runs.store import Store
from core.types import to_json
from hardware.errors import ExplorerError

GRACE_S = 3  # for streams that are open when the service ends
KEEP_ALIVE_S = 75  # longer than clients keep an idle connection, so that none is closed under a request
BACKLOG = 128  # connections that are taken at once; asyncio tells of each that there was no file for
MOST_FILES, SPARE_FILES = 65_536, 256  # spare: for the model's process, runs, and what is accepted anew


@cli.command()
@click.option("--host", default="127.0.0.1", show_default=True, help="Another address lets other machines in.")
@click.option("--port", type=click.IntRange(0, 65535), default=PORT, show_default=True, help="0 takes a free one.")
@click.option("--key-from", help="The environment variable with the key that clients must send.")
@click.option("--allow-host", "hosts", multiple=True, help="A further name to answer to; may be repeated.")
@click.option(
    "--model", "models", multiple=True, default=("smollm2-135m",), show_default=True, help="For /v1; repeatable."
)
@BACKEND
@DTYPE
@click.option("--threads", type=click.IntRange(1))
@OPTIONS
@click.option(
    "--param", "params", multiple=True, help="A strategy's parameter, strategy.key=value: jacobi.window=16; repeatable."
)
@click.option("--queue", type=click.IntRange(0), default=16, show_default=True, help="Questions that may wait.")
@click.option("--body-limit", type=click.FloatRange(min=0.001), default=16.0, show_default=True, help="In MB.")
@json_flag
def serve(as_json: bool, **given: Any) -> None:
    """Answer over HTTP, until Ctrl-C. /docs says what there is."""
    import uvicorn

    from core.service.app import Manner, build
    from core.service.guard import LOOPBACK
    from core.service.offer import Offer
    from core.service.patience import Patient

    key = _key(given["key_from"], given["host"])
    own = () if _any(given["host"]) else (given["host"].lower(),)
    manner = Manner(
        hosts=tuple(dict.fromkeys((*LOOPBACK, *own, *map(str.lower, given["hosts"])))),
        key=key,
        most_bytes=int(given["body_limit"] * 1e6),
        depth=given["queue"],
    )
    offer = Offer(
        models=given["models"],
        backend=given["backend"],
        dtype=given["dtype"],
        options=pairs(given["options"]),
        threads=given["threads"],
        params=by_strategy(given["params"]),
    )
    app = build(Store(data_dir()), manner, offer)
    with contextlib.closing(listening(given["host"], given["port"])) as at:
        shown = f"[{given['host']}]" if ":" in given["host"] else given["host"]
        url = f"http://{shown}:{at.getsockname()[1]}"
        click.echo(to_json({"url": url}) if as_json else f"Roofscope answers at {url}; {url}/docs says what there is.")
        config = uvicorn.Config(
            app,
            http=Patient,
            log_level="warning",
            access_log=False,
            server_header=False,
            ws="none",
            backlog=BACKLOG,
            limit_concurrency=most_connections(files()),  # above that: 503, and the connection is closed
            timeout_keep_alive=KEEP_ALIVE_S,
            timeout_graceful_shutdown=GRACE_S,
        )
        uvicorn.Server(config).run(sockets=[at])


def files() -> int:
    """How many files this process may have open, after it has asked for as many as it may: a connection is one."""
    try:
        import resource
    except ImportError:  # Windows has no such limit
        return MOST_FILES
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    endless = resource.RLIM_INFINITY
    wanted = MOST_FILES if hard == endless else min(hard, MOST_FILES)
    if soft != endless and soft < wanted:
        with contextlib.suppress(OSError, ValueError):  # some systems allow less than they say
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return MOST_FILES if soft == endless else soft


def most_connections(n_files: int) -> int:
    """Connections that may be open at once, so that files are left for everything else."""
    return max(n_files - SPARE_FILES, n_files // 2, 1)


def by_strategy(values: tuple[str, ...]) -> dict[str, dict[str, Any]]:
    """strategy.key=value arguments by strategy. Raises ExplorerError for one of another form."""
    found: dict[str, dict[str, Any]] = {}
    for name, value in pairs(values).items():
        strategy, dot, key = name.partition(".")
        if not dot:
            raise ExplorerError(
                f"'{name}' does not say whose parameter it is.", "Write for example --param jacobi.window=16."
            )
        found.setdefault(strategy, {})[key] = value
    return found


def listening(host: str, port: int) -> socket.socket:
    """A socket that listens there and nowhere else. Raises ExplorerError when it cannot."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        found = socket.socket(family, kind, protocol)
        try:
            found.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            found.bind(address)
            found.listen(BACKLOG)
        except BaseException:
            found.close()
            raise
    except (OSError, UnicodeError) as error:
        why = (getattr(error, "strerror", None) or str(error)).lower()
        raise ExplorerError(
            f"The service cannot listen on {host}:{port}: {why}.",
            "Choose another --port, or an address of this machine.",
        ) from None
    return found


def _key(name: str | None, host: str) -> str | None:
    """The key in the environment variable `name`. Raises ExplorerError where one is needed and there is none."""
    if name is not None:
        if not (key := os.environ.get(name, "").strip()):
            raise ExplorerError(f"The environment variable {name} holds no key.", f"Set it: export {name}=...")
        return key
    if not _loopback(host):
        raise ExplorerError(
            f"On {host} other machines can reach the service, so it needs a key.",
            "Put one into an environment variable and name it with --key-from.",
        )
    return None


def _loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() == "localhost"


def _any(host: str) -> bool:
    """Whether an address stands for all interfaces."""
    try:
        return ipaddress.ip_address(host).is_unspecified
    except ValueError:
        return not host
