"""Other machines on a command line: --on host1,host2, which of them, and where their key comes from."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import click

from core.cli.group import fail, say
from core.paths import data_dir
from core.runs import ray_cluster
from core.runs.other_machine import OtherMachine, ServiceRunner
from core.runs.store import Store
from hardware.errors import ExplorerError

OPTIONS = (
    click.option(
        "--on",
        "machines",
        help="Addresses of `roofscope serve` on other machines: host1,host2:8765. Or the nodes of a Ray cluster: ray, "
        "ray:HEAD:6379 or ray://HEAD:10001. Each does all of it, which compares them.",
    ),
    click.option(
        "--where",
        multiple=True,
        help="Only machines with this label: host=one,two, or of a Ray node another one, as it was started with "
        "(gpu=a100); may be repeated.",
    ),
    click.option("--key-from", help="The environment variable with the key of those machines."),
)


def on_others(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that name other machines."""
    for option in reversed(OPTIONS):
        command = option(command)
    return command


@contextlib.contextmanager
def reached(given: Mapping[str, Any]) -> Iterator[list[OtherMachine]]:
    """The machines of --on with the labels of --where, each once, for as long as they are needed. given: the options.

    Nothing is written to stdout meanwhile, where answers stand: of a node that is lost Ray prints the log there.
    Raises ExplorerError for no machine, for a label that none has, and for a variable without a key.
    """
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        try:
            yield chosen(_named(given["machines"], given["key_from"]), given["where"])
        finally:
            ray_cluster.leave()


def _named(machines: str, key_from: str | None) -> list[OtherMachine]:
    key, store = None, Store(data_dir())
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


def chosen(machines: Sequence[OtherMachine], where: Sequence[str]) -> list[OtherMachine]:
    """Those with one of the values of every label: `host=one,two`, `gpu=a100`.

    Raises ExplorerError for another form, for a value that no machine has, and when none has them all.
    """
    found = list(machines)
    for words in where:
        label, equals, listed = words.partition("=")
        label, values = label.strip(), [value.strip() for value in listed.split(",")]
        if not equals or not label or not all(values):
            raise ExplorerError(f"'{words}' is not a label.", "Write for example --where host=one,two.")
        for value in values:
            if not any(machine.labels.get(label) == value for machine in machines):
                raise ExplorerError(f"No machine has {label}={value}.", f"There are: {_listed(machines)}.")
        found = [machine for machine in found if machine.labels.get(label) in values]
    if not found:
        raise ExplorerError(f"No machine has all of {' and '.join(where)}.", f"There are: {_listed(machines)}.")
    return found


def _listed(machines: Sequence[OtherMachine]) -> str:
    """Each with what it can be chosen by; Ray's own ids say nothing to a reader."""
    told = []
    for machine in machines:
        labels = {k: v for k, v in machine.labels.items() if k not in ("machine", "ray.io/node-id")}
        told.append(f"{machine.name} ({', '.join(f'{k}={v}' for k, v in sorted(labels.items()))})")
    return "; ".join(told)


def names_of(machines: Sequence[OtherMachine]) -> str:
    """`2 machines (one, two)`; of one its name."""
    names = ", ".join(machine.name for machine in machines)
    return names if len(machines) == 1 else f"{len(machines)} machines ({names})"


def each(machines: Sequence[OtherMachine], does: str) -> str:
    """Who does what before it starts: `2 machines (one, two): each measures all 4 cells, to compare them`."""
    if len(machines) == 1:
        return f"{names_of(machines)} {does}"
    return f"{names_of(machines)}: each {does}, to compare them"


def missing(reasons: Mapping[str, str]) -> None:
    """Leave with 1 when a machine could not go on. reasons: by its name."""
    if reasons:
        fail("; ".join(f"{name}: {reason}" for name, reason in reasons.items()), "The same command goes on there.", 1)


def need_on(given: Mapping[str, Any]) -> None:
    """Raises ExplorerError for options about other machines without the machines."""
    if given["machines"] is None and (alone := next((n for n in ("where", "key_from") if given[n]), None)):
        raise ExplorerError(
            f"--{alone.replace('_', '-')} is about other machines.", "Name them, too: --on host1,host2."
        )
