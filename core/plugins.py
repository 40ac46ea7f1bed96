"""Plugins by name: core/<room>/<name>.py, or a folder of that name, exposes `plugin`; it is imported on first use.

`get` is typed by kind, so that mypy holds every use against the kind's protocol. `settings` turns what a user
may set on a plugin (key=value pairs) into the plugin's own struct, or says what is wrong in one sentence.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping, Set
from functools import cache
from pathlib import Path
from typing import Any, Literal, TypeVar, overload

import msgspec

from core.bounds import held
from core.types import Backend, Eval, Profiler, Strategy, Transform
from hardware.errors import ExplorerError

Kind = Literal["backend", "strategy", "profiler", "transform", "eval"]

KINDS: Mapping[Kind, str] = {
    "backend": "backends",
    "strategy": "decoding",
    "profiler": "profilers",
    "transform": "transforms",
    "eval": "evals",
}

T = TypeVar("T", bound=msgspec.Struct)


@cache
def names(kind: Kind) -> tuple[str, ...]:
    """The names of all plugins of a kind, sorted. Imports nothing. A leading underscore hides a file or folder."""
    folder = Path(__file__).parent / KINDS[kind]
    return tuple(sorted(m.name for m in pkgutil.iter_modules([str(folder)]) if not m.name.startswith("_")))


@overload
def get(kind: Literal["backend"], name: str) -> Backend: ...
@overload
def get(kind: Literal["strategy"], name: str) -> Strategy: ...
@overload
def get(kind: Literal["profiler"], name: str) -> Profiler: ...
@overload
def get(kind: Literal["transform"], name: str) -> Transform: ...
@overload
def get(kind: Literal["eval"], name: str) -> Eval: ...
@overload
def get(kind: Kind, name: str) -> Any: ...
def get(kind: Kind, name: str) -> Any:
    """The plugin; raises ExplorerError with the known names."""
    if name not in names(kind):
        shown = name if len(name) <= 100 else f"{name[:100]}..."
        raise ExplorerError(f"There is no {kind} called '{shown}'.", f"Known: {', '.join(names(kind))}.")
    return _module(kind, name).plugin


def label(kind: Kind, name: str) -> str:
    """The plugin's label without the explanation in brackets; a name that is no plugin's here stays as it is."""
    return str(get(kind, name).label).split(" (")[0] if name in names(kind) else name


def served(backend: str) -> bool:
    """Whether its models run behind a server, so that nothing of this machine is theirs. False for an unknown name."""
    return backend in names("backend") and "remote" in get("backend", backend).capabilities


def about(kind: Kind, name: str) -> str:
    """What the plugin is, in a sentence or two: the first paragraph of its file."""
    return " ".join((_module(kind, name).__doc__ or "").split("\n\n")[0].split())


def require(plugin: Strategy | Eval, can: Set[str], who: str, hint: str) -> None:
    """Raises ExplorerError where the plugin needs capabilities that `who` lacks: the one sentence for all such cases.

    Said before a model is opened, and once more of the opened one, which may lack what its backend has.
    """
    if missing := plugin.needs - can:
        raise ExplorerError(f"{plugin.label} needs '{', '.join(sorted(missing))}', which {who} cannot do.", hint)


def settings(kind: type[T], given: Mapping[str, Any], owner: str) -> T:
    """`given` as a `kind`; text becomes numbers and booleans where the field wants them.

    Raises ExplorerError, naming the setting, for an unknown name or a value of the wrong kind.
    owner: whose settings they are, for the message.
    """
    known = kind.__struct_fields__
    hint = f"It knows {', '.join(known)}." if known else "It has no settings."
    if unknown := sorted(set(given) - set(known)):
        raise ExplorerError(f"{owner} has no setting '{str(unknown[0])[:100]}'.", hint)
    return held(kind, given, owner, hint)


def _module(kind: Kind, name: str) -> Any:
    return importlib.import_module(f"core.{KINDS[kind]}.{name}")
