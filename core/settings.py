"""What a user may set on a plugin: key=value pairs into the plugin's own struct, or one sentence."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeVar

import msgspec

from core.errors import ExplorerError

T = TypeVar("T", bound=msgspec.Struct)


def settings(kind: type[T], given: Mapping[str, Any], owner: str) -> T:
    """`given` as a `kind`; text becomes numbers and booleans where the field wants them.

    Raises ExplorerError, naming the setting, for an unknown name or a value of the wrong kind.
    owner: whose settings they are, for the message.
    """
    known = kind.__struct_fields__
    hint = f"It knows {', '.join(known)}." if known else "It has no settings."
    if unknown := sorted(set(given) - set(known)):
        raise ExplorerError(f"{owner} has no setting '{unknown[0]}'.", hint)
    try:
        return msgspec.convert(dict(given), kind, strict=False)
    except msgspec.ValidationError as error:
        raise ExplorerError(f"A setting of {owner} is wrong: {error}.", hint) from None
