"""Take runs and studies along, and import those of others."""

from __future__ import annotations

import sys
from pathlib import Path

import click

from core.cli.group import cli
from core.paths import data_dir
from core.report import many_runs as many_report
from core.report import studies
from core.report.run_forms import FORMATS, export_run
from core.report.runs import report
from core.report.study_bundle import load_any
from core.runs.store import Store
from core.studies import many_runs
from hardware.errors import ExplorerError
from hardware.files import read_given

MANY = "many.html"
FORMS = sorted({*FORMATS, *studies.FORMATS, MANY})


@cli.command()
@click.argument("names", nargs=-1, required=True, metavar="RUN_ID...|STUDY")
@click.option("--format", "fmt", type=click.Choice(FORMS), default="json", show_default=True)
@click.option("--output", type=click.Path(path_type=Path), help="A file; stdout without it (not for zip).")
def export(names: tuple[str, ...], fmt: str, output: Path | None) -> None:
    """A run, or a sweep, a search or another study by its name, as JSON, CSV, one HTML file or a zip bundle.

    Several runs become one HTML file: each beside the first (html), or many configurations in one view (many.html),
    where runs of one configuration stand together. What is called notexts holds no prompt and no answer.
    """
    if output is None and fmt.endswith("zip"):
        raise ExplorerError("A zip cannot go to the terminal.", "Name a file with --output.")
    data = _exported(names, fmt, Store(data_dir()))
    if output is None:
        sys.stdout.buffer.write(data)
        return
    try:
        output.write_bytes(data)
    except OSError as error:
        raise ExplorerError(f"{output} could not be written: {error.strerror}.", "Choose another place.") from error


def _exported(names: tuple[str, ...], fmt: str, store: Store) -> bytes:
    if len(names) == 1 and names[0] in studies.names():
        return studies.export_study(names[0], fmt, store)
    runs = [store.open(name) for name in names]
    if fmt == MANY:
        found = many_runs.entries(runs)
        taken = {run_id for entry in found for run_id in entry.runs}
        if left := [run.id for run in runs if run.id not in taken]:
            click.echo(f"Left out, not being finished: {', '.join(left)}.", err=True)
        return many_report.report(many_runs.view(found, predictions=many_runs.predictions(found, store)))
    if len(runs) > 1:
        if not fmt.endswith("html"):
            raise ExplorerError(f"Several runs cannot be one {fmt} file.", "Use html, or export one at a time.")
        return report(runs, texts="notexts" not in fmt)
    if fmt not in FORMATS:
        raise ExplorerError(f"A run cannot be exported as {fmt}.", f"Take one of {', '.join(sorted(FORMATS))}.")
    return export_run(runs[0], fmt)


@cli.command("import")
@click.argument("files", nargs=-1, required=True, metavar="FILE...", type=click.Path(path_type=Path))
def import_(files: tuple[Path, ...]) -> None:
    """Import bundles of runs and studies that were exported as zip; says what each is called here."""
    store = Store(data_dir())
    for file in files:
        try:
            data = read_given(file)
        except OSError as error:
            raise ExplorerError(f"{file} cannot be read: {error.strerror}.", "Name a bundle.") from None
        found = load_any(data, store)
        click.echo(found if isinstance(found, str) else found.id)
