"""Model servers: ask one who it is and keep what it says, list them, forget one; those of Vertex AI, too."""

from __future__ import annotations

import sys

import click

from core.cli.group import cli, json_flag, show
from core.endpoints import monitoring, store, vertex
from core.endpoints.flavours import LABELS
from core.paths import data_dir
from core.runs import platform
from core.runs.store import Store
from core.types import to_json


@cli.group()
def endpoints() -> None:
    """Model servers (llama.cpp, Ollama, LM Studio, vLLM, SGLang, TGI, OpenAI-compatible) whose models can be run."""


@endpoints.command("add")
@click.argument("url")
@click.option(
    "--key-from",
    default="",
    metavar="ENV",
    help="The environment variable that holds its key; google: this machine's credentials, for Vertex AI.",
)
@click.option("--key-to-keyring", is_flag=True, help="Read the key from standard input into the system's keyring.")
@json_flag
def add(url: str, key_from: str, key_to_keyring: bool, as_json: bool) -> None:
    """Ask the server at URL for its models and keep them; a known one is asked again. No key is written to a file."""
    if key_to_keyring:
        hidden = sys.stdin.isatty()
        key = click.prompt("Key", hide_input=True, err=True) if hidden else sys.stdin.readline().strip()
        found = store.add_with_key(url, key)
    else:
        found = store.add(url, key_from)
    if as_json:
        click.echo(to_json(found))
        return
    click.echo(f"{LABELS[found.flavour]} {found.version}".strip() + f" at {found.url}")
    show(_models(found))


@endpoints.command("list")
@json_flag
def listed(as_json: bool) -> None:
    """The endpoints that were added, with what they said of their models then."""
    known = store.endpoints()
    if as_json:
        click.echo(to_json(known))
        return
    show(
        [
            {"url": e.url, "server": LABELS[e.flavour], "key_from": e.key_from or None, **row}
            for e in known
            for row in _models(e)
        ]
    )


@endpoints.command("vertex")
@click.option("--project", default="", help="Without it: the projects that Google's credentials of this machine see.")
@click.option("--region", default="", help="Without it: the regions of the project.")
@click.option("--add", "number", default="", metavar="ENDPOINT", help="Keep this endpoint, as `endpoints add` does.")
@json_flag
def in_vertex(project: str, region: str, number: str, as_json: bool) -> None:
    """Projects, regions and endpoints of Vertex AI. They are listed and called, never deployed."""
    if number and not (project and region):
        raise click.UsageError("--add needs --project and --region.")
    if not project:
        show([{"project": name, "label": label} for name, label in vertex.projects()], as_json)
    elif not region:
        show([{"region": name} for name in vertex.regions(project)], as_json)
    elif number:
        found = store.add_cloud(vertex.endpoint(project, region, number))
        click.echo(to_json(found) if as_json else f"{LABELS[found.flavour]} at {found.url}")
    else:
        show([_cloud(found) for found in vertex.endpoints(project, region)], as_json)


@endpoints.command("platform")
@click.argument("run_id")
@json_flag
def of_platform(run_id: str, as_json: bool) -> None:
    """What Cloud Monitoring says of the time of a run over Vertex AI: one sample a minute, six minutes later."""
    run = Store(data_dir()).open(run_id)
    found = platform.kept(run) or platform.fetch(run)
    if as_json:
        click.echo(to_json(found))
        return
    show([_sampled(row) for row in monitoring.rows(found)])
    click.echo("\nplatform, 60 s samples of each replica: not of one request")
    if found.brief:
        click.echo("The run was shorter than three minutes, which is hardly a sample of its own.")
    if found.missing:
        click.echo(f"no samples: {', '.join(found.missing)}")


@endpoints.command("forget")
@click.argument("url")
def forget(url: str) -> None:
    """Remove an endpoint, and its key from the keyring. Its runs stay."""
    click.echo(f"Forgotten: {store.forget(url).url}")


def _models(endpoint: store.Endpoint) -> list[dict[str, object]]:
    return [
        {
            "model": store.catalogue_id(endpoint, model),
            "state": model.state or None,
            "parameters": model.n_params,
            "quantization": model.quantization or None,
            "bytes": model.size_bytes,
            "context": model.context or model.trained_context,
        }
        for _, model in store.files(endpoint)
    ]


def _cloud(found: vertex.Cloud) -> dict[str, object]:
    main = found.main
    accelerators = f"{main.n_accelerators or 1} x {main.accelerator}" if main and main.accelerator else None
    return {
        "endpoint": found.id,
        "label": found.label or None,
        "address": "dedicated" if found.dedicated else "shared",
        "model": (main.label or main.model or None) if main else None,
        "machine": (main.machine or None) if main else None,
        "accelerators": accelerators,
    }


def _sampled(row: monitoring.Row) -> dict[str, object]:
    found = {"what": row.what, "replica": row.replica or None, "unit": row.unit, "samples": row.n}
    return found | {"least": row.low, "middle": row.middle, "most": row.high}
