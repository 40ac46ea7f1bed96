"""Carry out a study: many runs under one plan, and one report; here, or on other machines."""

from __future__ import annotations

from typing import Any

import click

from core.cli import machines
from core.cli.group import cli, json_flag, say
from core.cli.options import AGAIN
from core.report import benchmark, ladder
from core.runs.other_machine import OtherMachine
from core.studies.benchmark import hold
from core.studies.conduct import conduct
from core.studies.findings import findings
from core.studies.ledger import Ledger, Say
from core.studies.on_machines import on_all
from core.studies.plan import Benchmark, Plan
from core.studies.standings import standings
from core.studies.study_list import KINDS
from core.types import to_json
from hardware.errors import ExplorerError


@cli.command()
@click.argument("name", type=click.Choice(sorted(KINDS)))
@click.option("--model", default="smollm2-135m", show_default=True)
@click.option(
    "--minutes", type=click.FloatRange(min=1), help="Time for all of it: 50 for the ladder, 150 for decoding."
)
@AGAIN
@machines.on_others
@json_flag
def study(name: str, model: str, minutes: float | None, again: bool, as_json: bool, **on: Any) -> None:
    """Carry out a study and write its report. The same command goes on where a stopped one left off."""
    machines.need_on(on)
    kind = KINDS[name]
    plan: Any = kind.plan(model)
    budget = minutes or kind.minutes

    def carry_out(own: Any, machine: OtherMachine | None, told: Say) -> Any:
        if isinstance(own, Benchmark):
            return hold(own, budget, told, again, machine)
        return conduct(own, budget, told, again, machine)

    if on["machines"] is None:
        _tell(carry_out(plan, None, say), as_json)
        return
    with machines.reached(on) as found:
        say(machines.each(found, "carries out the whole study"))
        ledgers, reasons = on_all(found, plan, carry_out, say)
    if as_json:
        click.echo(to_json({"machines": {n: _found(ledger)[0] for n, ledger in ledgers.items()}, "reasons": reasons}))
    for ledger in ledgers.values():
        if as_json:
            _written(ledger)
        else:
            _tell(ledger, False)
    machines.missing(reasons)


def _found(ledger: Ledger[Any]) -> tuple[Any, bytes, str]:
    """What came of a study: findings, the report as a page, and as a table."""
    if isinstance(ledger.plan, Plan):
        found = findings(ledger)
        return found, ladder.html(found), ladder.markdown(found)
    stand = standings(ledger)
    return stand, benchmark.html(stand), benchmark.markdown(stand)


def _written(ledger: Ledger[Any]) -> tuple[bytes, str]:
    """Write the report beside the ledger; gives it as JSON and as a table. Raises ExplorerError (a full disk)."""
    found, page, table = _found(ledger)
    data = to_json(found)
    for file, content in {"findings.json": data, "report.html": page, "table.md": table.encode()}.items():
        try:
            (ledger.folder / file).write_bytes(content)
        except OSError as error:
            raise ExplorerError(
                f"The report could not be written: {error.strerror}.", f"Free some space in {ledger.folder}."
            ) from error
    return data, table


def _tell(ledger: Ledger[Any], as_json: bool) -> None:
    data, table = _written(ledger)
    if as_json:
        click.echo(data)
        return
    click.echo(table)
    click.echo(f"report      {ledger.folder / 'report.html'}")
