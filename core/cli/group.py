"""The command group, its way to fail, and its way to print rows."""

from __future__ import annotations

import sys
from typing import Any, NoReturn

import click

from core.errors import ExplorerError, of_disk
from core.types import to_json

STOPPED = 130  # the exit status after Ctrl-C that shells expect: 128 and the number of SIGINT
json_flag = click.option("--json", "as_json", is_flag=True, help="One JSON value on stdout and nothing else.")


class Commands(click.Group):
    """Turns the user's errors into one sentence on stderr and exit status 2, those of the disk into status 1."""

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
    return f"{value:.4g}" if isinstance(value, float) else str(value)
