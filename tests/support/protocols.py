"""Holds an object against a typing.Protocol: every member is there, of its type, and takes what the verb gives it."""

from __future__ import annotations

import inspect
from collections.abc import Iterable, Iterator
from types import UnionType
from typing import Any, get_args, get_origin, get_type_hints

import msgspec

POSITIONAL = (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD)


def members(protocol: Any) -> Iterator[str]:
    """Attributes and verbs of a protocol, in its order."""
    yield from get_type_hints(protocol)
    yield from (name for name in vars(protocol) if not name.startswith("_") and name not in get_type_hints(protocol))


def faults(thing: Any, protocol: Any, without: Iterable[str] = (), extra: int = 0) -> list[str]:
    """What is wrong with `thing` as a `protocol`, in words.

    without: members that it need not have. extra: arguments of its verbs beyond the protocol's.
    """
    hints, found = get_type_hints(protocol), []
    for name in members(protocol):
        if name in without:
            continue
        if not hasattr(thing, name):
            found.append(f"{name} is missing")
        elif name in hints:
            found += _misfit(name, getattr(thing, name), hints[name])
        elif callable(declared := vars(protocol)[name]):
            found += _call(name, getattr(thing, name), declared, extra)
    return found


def _misfit(name: str, value: Any, hint: Any) -> list[str]:
    kind = hint if isinstance(hint, UnionType) else get_origin(hint) or hint
    if kind is type:
        fits = isinstance(value, type) and issubclass(value, get_args(hint)[0])
    else:
        try:
            msgspec.convert(msgspec.to_builtins(value), hint)
            fits = isinstance(value, kind)
        except msgspec.ValidationError:
            fits = False
        except TypeError:  # a class of our own, which is no plain value
            fits = isinstance(kind, type) and isinstance(value, kind)
    return [] if fits else [f"{name} is {value!r}, and not {hint}"]


def _call(name: str, verb: Any, declared: Any, extra: int) -> list[str]:
    """Whether it can be called in every way that the protocol allows."""
    if not callable(verb):
        return [f"{name} is no verb"]
    wanted = list(inspect.signature(declared).parameters.values())[1:]  # without self
    own = list(inspect.signature(verb).parameters.values())
    if any(p.kind is p.VAR_KEYWORD for p in own) and any(p.kind is p.VAR_POSITIONAL for p in own):
        return []
    found = []
    for want, have in zip([p for p in wanted if p.kind in POSITIONAL], own, strict=False):
        if have.kind not in POSITIONAL or have.name != want.name:
            found.append(f"{name} takes {have.name!r} where {want.name!r} is given")
        elif want.default is not want.empty and have.default is have.empty:
            found.append(f"{name} demands {want.name!r}, which may be left out")
    n = len([p for p in wanted if p.kind in POSITIONAL])
    if len([p for p in own if p.kind in POSITIONAL]) < n:
        found.append(f"{name} takes too few arguments")
    demanded = [p.name for p in own[n:] if p.default is p.empty and p.kind in (*POSITIONAL, p.KEYWORD_ONLY)]
    if len(demanded) > extra:
        found.append(f"{name} demands {', '.join(demanded)}, which nobody gives")
    return found
