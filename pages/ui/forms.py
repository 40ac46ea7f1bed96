"""Widgets out of a Params struct: one per field, by its type, with the docstring's words as help."""

from __future__ import annotations

import re
from typing import Any

import msgspec
import streamlit as st

from core.types import Record, Scalar


def params_form(kind: type[Record], key: str) -> dict[str, Scalar]:
    """Draw a widget for every field and return the values that differ from the defaults.

    key: prefix of the widget keys, which are also names in the address. A docstring line
    `field: words` becomes the field's help.
    """
    help_of = _help(kind)
    chosen: dict[str, Scalar] = {}
    for field in msgspec.structs.fields(kind):
        default = None if field.default is msgspec.NODEFAULT else field.default
        value = _widget(field.name, msgspec.inspect.type_info(field.type), default, f"{key}-{field.name}", help_of)
        if value != default:
            chosen[field.name] = value
    return chosen


def _widget(name: str, kind: Any, default: Any, key: str, help_of: dict[str, str]) -> Scalar:
    label = name.replace("_", " ").capitalize()
    common: dict[str, Any] = {"key": key, "help": help_of.get(name), "bind": "query-params"}
    optional = False
    if isinstance(kind, msgspec.inspect.UnionType):
        optional = any(isinstance(t, msgspec.inspect.NoneType) for t in kind.types)
        kind = next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
    match kind:
        case msgspec.inspect.BoolType() if not optional:
            return st.toggle(label, value=bool(default), **common)
        case msgspec.inspect.BoolType():
            return _choice(label, [None, True, False], default, common)
        case msgspec.inspect.LiteralType(values=values):
            return _choice(label, [None, *values] if optional else list(values), default, common)
        case msgspec.inspect.IntType():
            return st.number_input(label, value=default, step=1, placeholder="default", **_bounds(kind, int), **common)
        case msgspec.inspect.FloatType():
            return st.number_input(label, value=default, format="%g", **_bounds(kind, float), **common)
        case msgspec.inspect.StrType():
            return st.text_input(label, value=default or "", **common) or default
    raise AssertionError(f"no widget for {kind} of {name}")


def _choice(label: str, values: list[Any], default: Any, common: dict[str, Any]) -> Scalar:
    words = {None: "default", True: "on", False: "off"}
    chosen: Scalar = st.selectbox(
        label,
        values,
        index=values.index(default) if default in values else 0,
        format_func=lambda v: words[v] if v is None or isinstance(v, bool) else str(v),
        **common,
    )
    return chosen


def _bounds(kind: Any, number: type) -> dict[str, Any]:
    low = kind.ge if kind.ge is not None else kind.gt
    high = kind.le if kind.le is not None else kind.lt
    return {"min_value": None if low is None else number(low), "max_value": None if high is None else number(high)}


def _help(kind: type[Record]) -> dict[str, str]:
    """What the docstring says of each field: `field: words`, or `one, other: words`, until the next one."""
    fields = {f.name for f in msgspec.structs.fields(kind)}
    words = " ".join((kind.__doc__ or "").split())
    starts = [m for m in re.finditer(r"((?:\w+, )*\w+): ", words) if set(m[1].split(", ")) <= fields]
    ends = [*(m.start() for m in starts[1:]), len(words)]
    return {
        name: words[m.end() : end].strip() for m, end in zip(starts, ends, strict=True) for name in m[1].split(", ")
    }
