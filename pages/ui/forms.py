"""Widgets out of a Params struct: one per field, by its type, with the docstring's words as help."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import msgspec
import streamlit as st

from core import domains, labels
from core.bounds import limits
from core.models import catalogue
from core.types import Record, Request, Scalar
from pages.ui.choices import select

_MODELS = ("draft", "reference", "teacher", "student")  # fields that name a model


def range_of(name: str) -> tuple[int, int]:
    """The least and the largest value of a request's number, for its widget."""
    low, high = limits(Request, name)
    assert low is not None and high is not None, name
    return int(low), int(high)


def params_form(
    kind: type[Record],
    key: str,
    columns: int = 1,
    advised: Mapping[str, Scalar] | None = None,
    shown: int | None = None,
) -> dict[str, Scalar]:
    """Draw a widget for every field and return the values that differ from the defaults.

    key: prefix of the widget keys, which are also names in the address. A field's description, or a
    docstring line `field: words`, becomes its help. A field that names a model gets the list of models.
    advised: what stands in a widget at first in place of the default. shown: so many fields; the others are folded.
    """
    advised = advised or {}
    help_of = _help(kind)
    chosen: dict[str, Scalar] = {}
    fields = msgspec.structs.fields(kind)
    folded = st.container()
    for row in range(0, len(fields), columns):
        if row == shown:
            folded = st.expander("More settings", icon=":material/tune:")
        places = folded.columns(columns, vertical_alignment="bottom") if columns > 1 else [folded.container()]
        for field, place in zip(fields[row : row + columns], places, strict=False):
            default = None if field.default is msgspec.NODEFAULT else field.default
            with place:
                shape = msgspec.inspect.type_info(field.type)
                first = advised.get(field.name, default)
                label = labels.setting(kind.__name__, field.name)
                value = _widget(field.name, label, shape, first, f"{key}-{field.name}", help_of)
            if value != default:
                chosen[field.name] = value
    return chosen


def params_values(kind: type[Record], key: str, given: Mapping[str, Scalar]) -> dict[str, Scalar]:
    """What the widgets of params_form must hold for these values, by their names; the others their defaults."""
    found: dict[str, Scalar] = {}
    for field in msgspec.structs.fields(kind):
        default = None if field.default is msgspec.NODEFAULT else field.default
        value = given.get(field.name, default)
        shape, _, _ = _plain(msgspec.inspect.type_info(field.type), None)
        if isinstance(shape, msgspec.inspect.FloatType) and isinstance(value, int) and not isinstance(value, bool):
            value = float(value)
        if isinstance(shape, msgspec.inspect.StrType) and value is None:
            value = ""
        found[f"{key}-{field.name}"] = value
    return found


def _plain(kind: Any, words: str | None) -> tuple[Any, bool, str | None]:
    """A field's type without what it is wrapped in, whether it may be None, and what is said of it."""
    optional = False
    while isinstance(kind, msgspec.inspect.UnionType | msgspec.inspect.Metadata):
        if isinstance(kind, msgspec.inspect.Metadata):
            words = (kind.extra_json_schema or {}).get("description", words)
            kind = kind.type
        else:
            optional = any(isinstance(t, msgspec.inspect.NoneType) for t in kind.types)
            kind = next(t for t in kind.types if not isinstance(t, msgspec.inspect.NoneType))
    return kind, optional, words


def _widget(name: str, label: str, kind: Any, default: Any, key: str, help_of: dict[str, str]) -> Scalar:
    kind, optional, words = _plain(kind, help_of.get(name))
    if name in _MODELS:
        return _model(label, default, key, words)
    if name == "domain":
        return _domain(label, str(default), key, words)
    common: dict[str, Any] = {"key": key, "help": words, "bind": "query-params"}
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
            return st.text_input(label, value=default or "", max_chars=kind.max_length, **common) or default
    raise AssertionError(f"no widget for {kind} of {name}")


def _model(label: str, default: Any, key: str, words: str | None) -> Scalar:
    """A model of the catalogue, or none."""
    names = ["", *(e.id for e in catalogue.entries())]
    chosen = select(label, names, lambda n: n or "none chosen", key, default or "", help=words)
    return chosen or default


def _domain(label: str, default: str, key: str, words: str | None) -> Scalar:
    """A domain of the project, or the path of one's own questions."""
    names = list(dict.fromkeys((default, *domains.NAMES)))
    chosen = select(
        label, names, str, key, default, help=words, accept_new_options=True, placeholder="or a .jsonl file"
    )
    return chosen or default


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
