"""Options that several commands have, and how their values are read."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from core.runs.runner import options_of
from hardware.errors import ExplorerError

MODEL = click.option(
    "--model", default="smollm2-135m", show_default=True, help="Catalogue id, or a path to a file or folder."
)
BACKEND = click.option("--backend", default="llama_cpp", show_default=True)
STRATEGY = click.option("--strategy", help="Default: autoregressive; native where a backend has no other.")
DTYPE = click.option("--dtype", help="fp32, bf16 ... where the backend can choose.")
OPTIONS = click.option("--option", "options", multiple=True, help="A backend option, key=value; may be repeated.")
PLAN = click.option(
    "--plan", "plan_file", type=click.Path(path_type=Path), help="A plan as JSON, in place of the options."
)
AGAIN = click.option("--again", is_flag=True, help="Begin anew instead of going on with what is there.")


def pairs(values: tuple[str, ...]) -> dict[str, Any]:
    """key=value arguments; raises ExplorerError for one without an equals sign.

    A value that names a file or folder from here on becomes its whole path: what reads it works in another folder.
    """
    for value in values:
        if "=" not in value:
            raise ExplorerError(
                f"'{value[:100]}' is not of the form key=value.", "Put an equals sign between a name and its value."
            )
    return options_of({key: _whole_path(text) for key, text in (value.split("=", 1) for value in values)})


def _whole_path(text: str) -> str:
    path = os.path.expanduser(text)
    return os.path.abspath(path) if ("." in path or "/" in path) and os.path.exists(path) else text


def listed(names: str) -> tuple[str, ...]:
    """The names in a comma-separated argument."""
    return tuple(name for name in names.split(",") if name)
