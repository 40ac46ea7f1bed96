"""Carry out a study: many runs under one plan, and one report."""

from __future__ import annotations

import click

from core.cli.group import cli, json_flag
from core.errors import ExplorerError
from core.studies import benchmark_report, report
from core.studies.benchmark import hold
from core.studies.conduct import conduct
from core.studies.findings import findings
from core.studies.known import KINDS
from core.studies.plan import Benchmark
from core.studies.standings import standings
from core.types import to_json


@cli.command()
@click.argument("name", type=click.Choice(sorted(KINDS)))
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(min=1), help="Time for all of it: 50 for the ladder, 150 for decoding."
)
@click.option("--again", is_flag=True, help="Begin anew instead of going on with what is there.")
@json_flag
def study(name: str, model: str, minutes: float | None, again: bool, as_json: bool) -> None:
    """Carry out a study and write its report. The same command goes on where a stopped one left off."""
    kind = KINDS[name]
    plan, budget = kind.plan(model), minutes or kind.minutes

    def say(words: str) -> None:
        click.echo(words, err=True)

    if isinstance(plan, Benchmark):
        held = hold(plan, budget, say, again)
        stand = standings(held)
        data, page, table = to_json(stand), benchmark_report.html(stand), benchmark_report.markdown(stand)
        folder = held.folder
    else:
        ledger = conduct(plan, budget, say, again)
        found = findings(ledger)
        data, page, table, folder = to_json(found), report.html(found), report.markdown(found), ledger.folder
    for file, content in {"findings.json": data, "report.html": page.encode(), "table.md": table.encode()}.items():
        try:
            (folder / file).write_bytes(content)
        except OSError as error:
            raise ExplorerError(
                f"The report could not be written: {error.strerror}.", f"Free some space in {folder}."
            ) from error
    if as_json:
        click.echo(data)
        return
    click.echo(table)
    click.echo(f"report      {folder / 'report.html'}")
