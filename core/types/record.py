"""What every noun is: a frozen struct that survives JSON."""

from __future__ import annotations

from typing import Annotated, Any, Literal, TypeVar, dataclass_transform

import msgspec

from hardware.files import UNREADABLE

Scalar = str | int | float | bool | None
Provenance = Literal["measured", "computed", "stated", "estimated"]
T = TypeVar("T")
Words = Annotated[str, msgspec.Meta(max_length=4096)]  # a name or a path; no file system has longer ones


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(msgspec.field,))
class Record(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A frozen struct. Equality by value, JSON by `to_json` and `from_json`."""


def to_json(record: object) -> bytes:
    """JSON of a record, its keys in order. Equal records may differ by what is written of defaults: see `normal`."""
    try:
        return msgspec.json.encode(record, order="sorted")
    except TypeError:  # it sorts keys that are words only, and those of a sketch are numbers
        return msgspec.json.encode(msgspec.to_builtins(record, str_keys=True, order="sorted"))


def normal(value: object) -> Any:
    """A record as plain values, the same for all that are equal: without defaults, 1.0 as 1, tuples as lists."""
    if isinstance(value, msgspec.Struct):
        tag = value.__struct_config__.tag
        found = {} if tag is None else {"type": tag}
        for known in msgspec.structs.fields(value):
            given = getattr(value, known.name)
            usual = known.default if known.default_factory is msgspec.NODEFAULT else known.default_factory()
            if usual is msgspec.NODEFAULT or given != usual:
                found[known.encode_name] = normal(given)
        return found
    if isinstance(value, dict):
        return {str(key): normal(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return [normal(part) for part in value]
    if isinstance(value, float) and value.is_integer() and abs(value) < 2**53:
        return int(value)
    return value


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Read a record; raises msgspec.ValidationError, which names the field at fault."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        if isinstance(error, msgspec.DecodeError):
            raise
        why = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is no UTF-8 ({error.reason})"
        raise msgspec.ValidationError(why) from None
