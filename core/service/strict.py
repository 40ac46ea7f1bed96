"""A body as a Record: bad JSON, a field that does not exist and a value of the wrong kind are refused by name.

msgspec passes unknown fields over, so that a misspelt option would run with its default. Records from elsewhere (run
folders of a later version) want that; a request of a person does not.
"""

from __future__ import annotations

import difflib
from collections.abc import Hashable, Mapping
from functools import cache
from typing import Any, TypeVar, cast

import msgspec
from msgspec import inspect

from core.service.problems import ProblemError

T = TypeVar("T")


def read(body: bytes, kind: type[T], strict: bool = True) -> T:
    """The record in a body. strict: refuse fields that it does not have. Raises ProblemError."""
    try:
        plain = msgspec.json.decode(body)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        said = str(error) if body else "it is empty"
        raise ProblemError(400, f"The body is no JSON: {said.rstrip('.')}.", "Send one JSON object.") from None
    if strict and (found := unknown(_known(cast(Hashable, kind)), plain)) is not None:
        where, name, names = found
        near = difflib.get_close_matches(name[:100], names, n=1)
        hint = f"Did you mean '{near[0]}'? " if near else ""
        raise ProblemError(
            422,
            f"There is no field '{name[:100]}'{f' in {where}' if where else ''}.",
            f"{hint}Known: {', '.join(names)}.",
            param=name[:100],
        )
    try:
        return msgspec.convert(plain, kind)
    except msgspec.ValidationError as error:
        said = str(error).replace("$.", "").replace("`", "'")
        raise ProblemError(422, f"A field is wrong: {said}.", "Correct it and send it again.") from None


def unknown(kind: inspect.Type, value: Any, at: str = "") -> tuple[str, str, tuple[str, ...]] | None:
    """The first field that a type does not have: where it stands, its name, and the names that are known there."""
    match kind:
        case inspect.StructType() if isinstance(value, Mapping):
            fields = {field.encode_name: field.type for field in kind.fields}
            known = (*((kind.tag_field,) if kind.tag_field else ()), *fields)
            for name, inner in value.items():
                if name not in known:
                    return at, str(name), known
                found = unknown(fields[name], inner, f"{at}.{name}" if at else name) if name in fields else None
                if found is not None:
                    return found
        case inspect.UnionType():
            chosen = _chosen(kind, value)
            return None if chosen is None else unknown(chosen, value, at)
        case inspect.VarTupleType() | inspect.ListType() if isinstance(value, list):
            for number, inner in enumerate(value):
                if (found := unknown(kind.item_type, inner, f"{at}[{number}]")) is not None:
                    return found
    return None


def _chosen(union: inspect.UnionType, value: Any) -> inspect.Type | None:
    """The member of a union that a value is meant to be: by its tag where there are several; None: a plain value."""
    structs = [member for member in union.types if isinstance(member, inspect.StructType)]
    if isinstance(value, Mapping):
        tagged = [s for s in structs if s.tag_field is None or value.get(s.tag_field) == s.tag]
        return tagged[0] if tagged else None  # a wrong tag is the conversion's to refuse
    if isinstance(value, list):
        rows = [m for m in union.types if isinstance(m, inspect.VarTupleType | inspect.ListType)]
        return rows[0] if rows else None
    return None


@cache
def _known(kind: Any) -> inspect.Type:
    return inspect.type_info(kind)
