"""Carry out a study: many runs under one plan, and one report."""

from __future__ import annotations

from collections.abc import Callable

import click

from core.cli.group import cli, json_flag
from core.errors import ExplorerError
from core.studies.conduct import conduct, folder_of
from core.studies.findings import findings
from core.studies.ladder import ladder
from core.studies.plan import Plan
from core.studies.report import html, markdown
from core.types import to_json

STUDIES: dict[str, Callable[[str], Plan]] = {"ladder": ladder}


@cli.command()
@click.argument("name", type=click.Choice(sorted(STUDIES)))
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option("--minutes", type=click.FloatRange(min=1), default=50.0, show_default=True, help="Time for all of it.")
@click.option("--again", is_flag=True, help="Begin anew instead of going on with what is there.")
@json_flag
def study(name: str, model: str, minutes: float, again: bool, as_json: bool) -> None:
    """Carry out a study and write its report. The same command goes on where a stopped one left off."""
    plan = STUDIES[name](model)
    ledger = conduct(plan, minutes, lambda words: click.echo(words, err=True), again)
    found = findings(ledger)
    folder = folder_of(plan)
    files = {"findings.json": to_json(found), "report.html": html(found).encode(), "table.md": markdown(found).encode()}
    for file, data in files.items():
        try:
            (folder / file).write_bytes(data)
        except OSError as error:
            raise ExplorerError(
                f"The report could not be written: {error.strerror}.", f"Free some space in {folder}."
            ) from error
    if as_json:
        click.echo(to_json(found))
        return
    click.echo(markdown(found))
    click.echo(f"report      {folder / 'report.html'}")
