"""Model servers: ask one who it is and keep what it says, list them, forget one."""

from __future__ import annotations

import sys

import click

from core.cli.group import cli, json_flag, show
from core.endpoints import store
from core.endpoints.flavours import LABELS
from core.types import to_json


@cli.group()
def endpoints() -> None:
    """Model servers (llama.cpp, Ollama, LM Studio, vLLM, SGLang, TGI, OpenAI-compatible) whose models can be run."""


@endpoints.command("add")
@click.argument("url")
@click.option("--key-from", default="", metavar="ENV", help="The environment variable that holds its key.")
@click.option("--key-to-keyring", is_flag=True, help="Read the key from standard input into the system's keyring.")
@json_flag
def add(url: str, key_from: str, key_to_keyring: bool, as_json: bool) -> None:
    """Ask the server at URL for its models and keep them; a known one is asked again. No key is written to a file."""
    if key_to_keyring:
        hidden = sys.stdin.isatty()
        key = click.prompt("Key", hide_input=True, err=True) if hidden else sys.stdin.readline().strip()
        store.keep_key(url, key)
        key_from = store.KEYRING
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
