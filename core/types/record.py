"""What every noun is: a frozen struct that survives JSON."""

from __future__ import annotations

from typing import Annotated, Literal, TypeVar, dataclass_transform

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
    """Canonical JSON of a record: equal records give equal bytes."""
    try:
        return msgspec.json.encode(record, order="sorted")
    except TypeError:  # it sorts keys that are words only, and those of a sketch are numbers
        return msgspec.json.encode(msgspec.to_builtins(record, str_keys=True, order="sorted"))


def from_json(data: bytes | str, kind: type[T]) -> T:
    """Read a record; raises msgspec.ValidationError, which names the field at fault."""
    try:
        return msgspec.json.decode(data, type=kind)
    except UNREADABLE as error:
        if isinstance(error, msgspec.DecodeError):
            raise
        why = "it is nested too deeply" if isinstance(error, RecursionError) else f"it is no UTF-8 ({error.reason})"
        raise msgspec.ValidationError(why) from None
