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
    match kind:
        case msgspec.inspect.UnionType(types=types):
            inner = next(t for t in types if not isinstance(t, msgspec.inspect.NoneType))
            return _widget(name, inner, default, key, help_of)
        case msgspec.inspect.BoolType():
            return st.toggle(label, value=bool(default), **common)
        case msgspec.inspect.IntType():
            bounds = _bounds(kind, int)
            return st.number_input(label, value=default, step=1, **bounds, **common)
        case msgspec.inspect.FloatType():
            bounds = _bounds(kind, float)
            return st.number_input(label, value=default, format="%g", **bounds, **common)
        case msgspec.inspect.LiteralType(values=values):
            return st.selectbox(
                label, list(values), index=list(values).index(default) if default in values else 0, **common
            )
        case msgspec.inspect.StrType():
            return st.text_input(label, value=default or "", **common) or default
    raise AssertionError(f"no widget for {kind} of {name}")


def _bounds(kind: Any, number: type) -> dict[str, Any]:
    low = kind.ge if kind.ge is not None else kind.gt
    high = kind.le if kind.le is not None else kind.lt
    return {"min_value": None if low is None else number(low), "max_value": None if high is None else number(high)}


def _help(kind: type[Record]) -> dict[str, str]:
    """`field: words` lines of the docstring, continued on indented or plain following lines."""
    found: dict[str, str] = {}
    names = {f.name for f in msgspec.structs.fields(kind)}
    current = None
    for line in (kind.__doc__ or "").splitlines():
        match = re.match(r"\s*(\w+): (.+)", line)
        if match and match[1] in names:
            current = match[1]
            found[current] = match[2].strip()
        elif current and line.strip():
            found[current] += " " + line.strip()
        else:
            current = None
    return found
