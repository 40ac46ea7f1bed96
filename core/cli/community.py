"""The community benchmark: rows of one's own runs and of others, judged, side by side, and sent only when asked."""

from __future__ import annotations

import datetime
import sys
from pathlib import Path

import click

from core.charts.labels import plain
from core.cli.group import cli, fail, json_flag, show
from core.community import hub
from core.community.board import board
from core.community.checks import doubts
from core.community.gather import row_of
from core.community.row_store import RowStore
from core.paths import data_dir
from core.runs.store import Store
from core.types import to_json
from hardware.errors import ExplorerError
from hardware.files import read_given


@cli.group()
def community() -> None:
    """Machines of many people beside one's own, each row with its machine's own ceilings. Nothing is sent by itself."""


@community.command()
@click.argument("run_ids", nargs=-1, required=True, metavar="RUN_ID...")
@json_flag
def row(run_ids: tuple[str, ...], as_json: bool) -> None:
    """Make a row of runs of one configuration, and keep it here. Says what speaks against it."""
    store, row_store = Store(data_dir()), RowStore(data_dir())
    made = row_of([store.open(run_id) for run_id in run_ids], store.root, row_store.contributor)
    path = row_store.keep(made)
    found = doubts(made, datetime.date.today())
    if as_json:
        click.echo(to_json({"row": made, "path": str(path), "doubts": found}))
        return
    click.echo(f"row         {made.id}\n{made.label}\n{made.machine.label}: {plain(made.tok_per_s)} tok/s")
    for doubt in found:
        click.echo(f"doubtful    {doubt.reason}")
    click.echo(f"kept        {path}")


@community.command()
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
def add(files: tuple[Path, ...]) -> None:
    """Import files of others' rows: JSON, or JSON line by line."""
    row_store, n_refused = RowStore(data_dir()), 0
    for file in files:
        try:
            data = read_given(file)
        except OSError as error:
            raise ExplorerError(f"{file} cannot be read: {error.strerror}.", "Name a file of rows.") from None
        taken = row_store.take_in(file.name, data)
        click.echo(f"{file.name}: {taken.n_new} new, {taken.n_known} here already, {len(taken.refused)} refused")
        for reason in taken.refused[:20]:
            click.echo(f"  {reason}", err=True)
        n_refused += len(taken.refused)
    if n_refused:
        fail("1 row was refused." if n_refused == 1 else f"{n_refused} rows were refused.", "The others are here.", 1)


@community.command("board")
@json_flag
def board_(as_json: bool) -> None:
    """Every row that is here: those that can be believed by configuration, and those set apart with their reasons."""
    found = board(*RowStore(data_dir()).rows(), datetime.date.today())
    if as_json:
        click.echo(to_json(found))
        return
    show(
        [
            {
                "configuration": s.label,
                "machine": s.machine,
                "mine": "yes" if s.own else "",
                "tok/s": s.tok_per_s,
                "TTFT s": s.ttft_s,
                "of roof": f"{s.of_roof:.0%}",
                "by": s.n,
                "hot": "~" if s.hot else "",
                "rows": " ".join(s.rows),
            }
            for s in found.standings
        ]
    )
    for apart in found.doubtful:
        r = apart.row
        click.echo(f"set apart   {r.id}  {r.label}, {r.machine.label}: {r.tok_per_s:,.1f} tok/s")
        for doubt in apart.doubts:
            click.echo(f"            {doubt.reason}")


@community.command()
@click.argument("row_id")
def forget(row_id: str) -> None:
    """Remove a row from this machine."""
    RowStore(data_dir()).forget(row_id)


@community.command()
@click.argument("row_ids", nargs=-1, required=True, metavar="ROW_ID...")
@click.option("--repo", required=True, help="A data set on the Hugging Face hub, OWNER/NAME.")
@click.option("--yes", is_flag=True, help="Send what is shown without asking.")
def send(row_ids: tuple[str, ...], repo: str, yes: bool) -> None:
    """Send rows of yours to a data set, as a pull request. Shows every byte first, and asks."""
    row_store, today = RowStore(data_dir()), datetime.date.today()
    rows = [row_store.own(row_id) for row_id in row_ids]
    hub.checked(repo)
    for own in rows:
        if found := doubts(own, today):
            raise ExplorerError(f"The row {own.id} is doubtful: {found[0].reason}", "Measure again; it stays here.")
    files = hub.payload(rows)
    for name, data in files.items():
        click.echo(f"{name}\n{data.decode()}")
    click.echo(f"This and nothing else goes to {repo}, beside the name of your account on the hub.", err=True)
    if not yes:
        if not sys.stdin.isatty():
            raise ExplorerError("Nothing was sent.", "Read it, and say --yes.")
        if not click.confirm("Send it?", err=True):
            click.echo("Nothing was sent.", err=True)
            return
    click.echo(hub.send(repo, files))
