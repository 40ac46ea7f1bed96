"""Plugins by file name: core/<kind>/<name>.py exposes `plugin`; it is imported on first use."""

from __future__ import annotations

import importlib
import pkgutil
from functools import cache
from pathlib import Path
from typing import Any

from core.errors import ExplorerError

KINDS = {
    "backend": "backends",
    "strategy": "decoding",
    "profiler": "profilers",
    "transform": "transforms",
    "eval": "evals",
}


@cache
def names(kind: str) -> tuple[str, ...]:
    """The names of all plugins of a kind, sorted. Imports nothing. A leading underscore hides a file."""
    folder = Path(__file__).parent / KINDS[kind]
    return tuple(
        sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_") and not m.ispkg)
    )


def get(kind: str, name: str) -> Any:
    """The plugin; raises ExplorerError with the known names."""
    if name not in names(kind):
        raise ExplorerError(f"There is no {kind} called '{name}'.", f"Known: {', '.join(names(kind))}.")
    return _module(kind, name).plugin


def about(kind: str, name: str) -> str:
    """What the plugin is, in a sentence or two: the first paragraph of its file."""
    return " ".join((_module(kind, name).__doc__ or "").split("\n\n")[0].split())


def _module(kind: str, name: str) -> Any:
    return importlib.import_module(f"core.{KINDS[kind]}.{name}")
