"""Whether what was given is what a type allows: kinds of values, bounds, choices. The one place that checks it.

Types declare their bounds as `msgspec.Meta`. What is wrong becomes one sentence that names the field, what it may be
and what it was; NaN and the infinities lie outside every bound. Knows nothing of plugins or requests.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec
from msgspec import inspect

from hardware.errors import ExplorerError

T = TypeVar("T", bound=msgspec.Struct)
_SHOWN = 60  # characters of a wrong value


def held(kind: type[T], given: Mapping[str, Any], owner: str, hint: str, strict: bool = False) -> T:
    """`given` as a `kind`; without `strict`, text becomes numbers and booleans where the field wants them.

    Raises ExplorerError with this hint. owner: whose values they are, for the sentence.
    """
    try:
        return msgspec.convert(dict(given), kind, strict=strict)
    except msgspec.ValidationError as error:
        raise ExplorerError(_sentence(kind, given, owner, str(error)), hint) from None
    except (RecursionError, OverflowError, UnicodeEncodeError):
        raise ExplorerError(f"What {owner} was given is nested too deeply, too large or no text.", hint) from None


def checked(record: T, owner: str, hint: str) -> T:
    """The same record; raises ExplorerError where a value is not what its type allows: Python does not ask."""
    try:
        plain = msgspec.to_builtins(record)
    except (RecursionError, OverflowError, UnicodeEncodeError, TypeError):
        raise ExplorerError(f"{owner} holds something that is nested too deeply or no plain value.", hint) from None
    held(type(record), plain, owner, hint, strict=True)
    return record


def limits(kind: type[msgspec.Struct], name: str) -> tuple[float | None, float | None]:
    """The least and the largest value of a number, as its field declares them; exclusive ones count, too."""
    found = _plain(next(field.type for field in inspect.type_info(kind).fields if field.name == name))  # type: ignore[attr-defined]
    low = found.ge if found.ge is not None else found.gt
    return low, found.le if found.le is not None else found.lt


def allowed(kind: inspect.Type) -> str:
    """What a field may be, in words that complete "it must be"."""
    match kind:
        case inspect.Metadata():
            return allowed(kind.type)
        case inspect.UnionType():
            others = [one for one in kind.types if not isinstance(one, inspect.NoneType)]
            return " or ".join(allowed(one) for one in others)
        case inspect.BoolType():
            return "true or false"
        case inspect.IntType():
            return f"a whole number{_range(kind)}"
        case inspect.FloatType():
            return f"a number{_range(kind)}"
        case inspect.StrType():
            return "text" if kind.max_length is None else f"text of at most {kind.max_length} characters"
        case inspect.LiteralType():
            return f"one of {', '.join(map(str, kind.values))}"
    return "something else"


def _range(kind: inspect.IntType | inspect.FloatType) -> str:
    low = f" above {kind.gt:g}" if kind.gt is not None else f" from {kind.ge}" if kind.ge is not None else ""
    high = f" below {kind.lt}" if kind.lt is not None else f" to {kind.le}" if kind.le is not None else ""
    if kind.gt is not None and kind.le is not None:
        high = f" and at most {kind.le}"
    return low + high + (f" that {kind.multiple_of} divides" if kind.multiple_of is not None else "")


def _sentence(kind: type[msgspec.Struct], given: Any, owner: str, said: str) -> str:
    """From msgspec's own words, which name the place: "Expected `int` >= 1 - at `$.task.max_new_tokens`"."""
    found = re.search(r" - at `\$\.([\w.]+)`$", said)
    shape: Any = inspect.type_info(kind)
    value, names = given, found[1].split(".") if found else []
    for name in names:
        if isinstance(shape, inspect.UnionType):
            tag = value.get("type") if isinstance(value, Mapping) else None
            shape = next((one for one in shape.types if getattr(one, "tag", None) == tag), None)
        field = next((field for field in getattr(shape, "fields", ()) if field.name == name), None)
        if field is None or not isinstance(value, Mapping) or name not in value:
            names = []
            break
        shape, value = field.type, value[name]
    if not names:
        return f"A setting of {owner} is wrong: {said.replace('$.', '').replace('`', '')}."
    shown = repr(value) if not isinstance(value, int) or abs(value) < 2**200 else "a number of many digits"
    shown = shown if len(shown) <= _SHOWN else f"{shown[:_SHOWN]}..."
    return f"A setting of {owner} is wrong: {names[-1]} must be {allowed(shape)}, not {shown}."


def _plain(kind: Any) -> Any:
    """A field's type without None and what is said about it."""
    while isinstance(kind, inspect.UnionType | inspect.Metadata):
        if isinstance(kind, inspect.Metadata):
            kind = kind.type
        else:
            kind = next(one for one in kind.types if not isinstance(one, inspect.NoneType))
    return kind
