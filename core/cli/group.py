"""The command group, its way to fail, and its way to print rows."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any, NoReturn

import click

from core.charts.labels import plain
from core.interrupt import STOPPED, as_exception
from core.labels import one_line
from core.types import to_json
from hardware.errors import ExplorerError, of_disk

json_flag = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout and nothing else.")


# command -> the module of core.cli that adds it: importing all of them takes longer than most commands
MODULES: Mapping[str, str] = {
    name: module
    for module, names in {
        "advising": ("advice",),
        "analysis": ("work", "predict", "ceilings"),
        "architectures": ("architectures",),
        "checking": ("check",),
        "community": ("community",),
        "endpoints": ("endpoints",),
        "listings": ("models", "backends", "strategies", "devices", "runs"),
        "loading": ("load", "loads"),
        "making": ("transform", "transforms", "eval", "evals", "forget"),
        "planning": ("what-if",),
        "running": ("run",),
        "serving": ("serve",),
        "sharing": ("export", "import"),
        "storing": ("storage",),
        "studying": ("study",),
        "sweeping": ("sweep", "search"),
        "window": ("app",),
    }.items()
    for name in names
}


class Commands(click.Group):
    """Imports a command when it is asked for; all of them for the help that lists them.

    Turns the user's errors into one sentence on stderr and exit status 2, those of the disk into status 1.
    """

    def list_commands(self, ctx: click.Context) -> list[str]:
        return sorted(MODULES)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in MODULES:
            importlib.import_module(f"core.cli.{MODULES[cmd_name]}")
        return super().get_command(ctx, cmd_name)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        found = super().resolve_command(ctx, args)
        as_exception()  # whatever the command needs is imported
        return found

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ExplorerError as error:
            fail(error.message, error.hint, 2)
        except KeyboardInterrupt:
            fail("Stopped.", "", STOPPED)
        except OSError as error:
            if (told := of_disk(error)) is None:
                raise
            fail(told.message, told.hint, 1)


@click.group(cls=Commands, context_settings={"help_option_names": ["-h", "--help"]})
def cli() -> None:
    """See where a local language model's time and memory go."""


def say(words: str) -> None:
    """A line of progress, on stderr."""
    click.echo(words, err=True)


def fail(message: str, hint: str, status: int) -> NoReturn:
    """Leave with a message and its next step on stderr."""
    click.echo(message, err=True)
    if hint:
        click.echo(hint, err=True)
    sys.exit(status)


def show(rows: list[dict[str, Any]], as_json: bool = False) -> None:
    """Flat rows as JSON or as aligned columns."""
    if as_json:
        click.echo(to_json(rows))
        return
    if not rows:
        click.echo("Nothing here yet.")
        return
    columns = list(rows[0])
    table = [columns, *[[_cell(r[c]) for c in columns] for r in rows]]
    widths = [min(60, max(len(line[i]) for line in table)) for i in range(len(columns))]
    for line in table:
        click.echo("  ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)).rstrip())


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return plain(value) if isinstance(value, float) else one_line(str(value))
