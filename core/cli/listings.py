"""What there is: models, backends, strategies, devices, runs."""

from __future__ import annotations

import click

from core import plugins
from core.cli.group import cli, json_flag, show
from core.paths import data_dir
from core.runs.history import matching
from core.runs.store import Store, written_out
from core.types import to_json
from hardware.errors import ExplorerError


@cli.command()
@json_flag
def models(as_json: bool) -> None:
    """The models on this machine, and the architecture presets."""
    from core.models import catalogue

    entries = catalogue.entries()
    for problem in catalogue.problems():
        click.echo(f"skipped: {problem}", err=True)
    if as_json:
        click.echo(to_json(entries))
        return
    show(
        [
            {"id": e.id, "family": e.family, "formats": ",".join(e.files), "bytes": e.size_bytes, "note": e.note}
            for e in entries
        ],
        False,
    )


@cli.command()
@json_flag
def backends(as_json: bool) -> None:
    """The libraries that run models, and whether they are installed."""
    known = [plugins.get("backend", name) for name in plugins.names("backend")]
    show(
        [
            {
                "name": p.name,
                "label": p.label,
                "available": p.unavailable() is None,
                "reason": p.unavailable(),
                "formats": ",".join(p.formats),
                "dtypes": ",".join(p.dtypes) or "as stored",
                "capabilities": ",".join(sorted(p.capabilities)),
            }
            for p in known
        ],
        as_json,
    )


@cli.command()
@json_flag
def strategies(as_json: bool) -> None:
    """The ways to decode, and what they need of a backend."""
    known = [plugins.get("strategy", name) for name in plugins.names("strategy")]
    show([{"name": p.name, "label": p.label, "needs": ",".join(sorted(p.needs))} for p in known], as_json)


@cli.command()
@json_flag
def devices(as_json: bool) -> None:
    """The catalogue of devices with their stated peaks."""
    from hardware.catalogue import devices as catalogue

    found = catalogue(data_dir() / "devices")
    if as_json:
        click.echo(to_json(found))
        return
    show(
        [
            {
                "name": d.name,
                "kind": d.kind,
                "memory_bytes": d.mem_bytes,
                "bandwidth_bytes_per_s": d.mem_bandwidth_bytes_per_s,
                "uncertain": ",".join(d.uncertain_fields),
            }
            for d in found
        ],
        False,
    )


@cli.group(invoke_without_command=True)
@click.option("--find", default="", help="Only those in which each of these words stands: model, name, note, text ...")
@json_flag
@click.pass_context
def runs(context: click.Context, find: str, as_json: bool) -> None:
    """The runs on this machine, newest first; one can be shown, deleted, and given a name and a note."""
    if context.invoked_subcommand is not None:
        return
    keep = ["run_id", "name", "status", "model", "backend", "strategy", "dtype", "tok_per_s", "ttft_s"]
    rows = matching(Store(data_dir()).history(), find)
    brief = [
        {
            **{k: r.get(k) or None for k in keep},
            "peak_memory_bytes": r.get("peak_memory_bytes"),
            "disturbed": "yes" if r.get("disturbed") else None,
        }
        for r in rows
    ]
    show(written_out(rows) if as_json else brief, as_json)


@runs.command("show")
@click.argument("run_id")
def show_run(run_id: str) -> None:
    """What the run RUN_ID wrote and measured, in a few lines; `export` gives all of it."""
    from core.cli.running import summary  # it brings the runner, which a listing does without

    run = Store(data_dir()).open(run_id)
    click.echo(f"{run.request.model} in {plugins.label('backend', run.request.backend)}\n\n{summary(run.result())}")


@runs.command("delete")
@click.argument("run_ids", nargs=-1, required=True)
@click.option("--yes", is_flag=True, help="Without it nothing is deleted: what was measured cannot be made again.")
def delete_runs(run_ids: tuple[str, ...], yes: bool) -> None:
    """Delete runs for good, damaged ones too."""
    store = Store(data_dir())
    if missing := [run_id for run_id in run_ids if run_id not in store.ids()]:
        raise ExplorerError(f"There is no run '{missing[0][:100]}'.", "'python -m core runs' lists them.")
    if not yes:
        raise ExplorerError("What was measured cannot be made again exactly.", "Say --yes to delete it for good.")
    if kept := store.delete_all(run_ids):
        raise kept[0]


@runs.command("name")
@click.argument("run_id")
@click.argument("words")
def name(run_id: str, words: str) -> None:
    """Call the run RUN_ID something; empty words take its name away."""
    Store(data_dir()).annotate(run_id, name=words)


@runs.command("note")
@click.argument("run_id")
@click.argument("words")
def note(run_id: str, words: str) -> None:
    """Remark something about the run RUN_ID; empty words take the note away."""
    Store(data_dir()).annotate(run_id, note=words)
