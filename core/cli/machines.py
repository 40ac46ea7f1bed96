"""Other machines on a command line: --on host1,host2, and where their key comes from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import click

from core.runs import ray_cluster
from core.runs.other_machine import OtherMachine, ServiceRunner
from core.runs.store import Store
from core.studies.ledger import Say
from hardware.errors import ExplorerError

OPTIONS = (
    click.option(
        "--on",
        "machines",
        help="Addresses of `roofscope serve` on other machines: host1,host2:8765; on all. Or the nodes of a Ray "
        "cluster: ray, ray:HEAD:6379 or ray://HEAD:10001.",
    ),
    click.option("--key-from", help="The environment variable with the key of those machines."),
)


def on_others(command: Callable[..., Any]) -> Callable[..., Any]:
    """The two options that name other machines."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def reached(machines: str, key_from: str | None, store: Store, say: Say) -> Iterator[list[OtherMachine]]:
    """The machines of --on, each once, for as long as they are needed.

    Nothing is written to stdout meanwhile, where answers stand: of a node that is lost Ray prints the log there.
    Raises ExplorerError for no machine, and for a variable without a key.
    """
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield _named(machines, key_from, store, say)
        finally:
            ray_cluster.leave()


def _named(machines: str, key_from: str | None, store: Store, say: Say) -> list[OtherMachine]:
    key = None
    if key_from is not None and not (key := os.environ.get(key_from, "").strip()):
        raise ExplorerError(f"The environment variable {key_from} holds no key.", "Set it, or leave it out.")
    names = dict.fromkeys(name.strip() for name in machines.split(",") if name.strip())
    if not names:
        raise ExplorerError("No machine is named.", "Write for example --on host1,host2.")
    found: list[OtherMachine] = []
    for name in names:
        if ray_cluster.is_ray(name):
            found += ray_cluster.machines(name, store, say)
        else:
            found.append(ServiceRunner(store, name, key, say))
    return found
