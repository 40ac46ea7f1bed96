"""Reads the header of a safetensors file: where each tensor lies. Standard library only; trusts no value of it.

Format: 8 bytes with the header's length, little endian; JSON, tensor -> dtype, shape, begin and end behind the header;
the values, one tensor after the other (huggingface/safetensors, README).
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from hardware.errors import ExplorerError

LIMIT = 100_000_000  # bytes of a header, the format's own limit
_AGAIN = "Copy or download it again."
_MOST_AXES = 32
# bits of an element; a format that is not here keeps its tensors' sizes for itself
_BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "F8_E8M0": 8, "I16": 16, "U16": 16, "F16": 16, "BF16": 16,
    "I32": 32, "U32": 32, "F32": 32, "I64": 64, "U64": 64, "F64": 64, "C64": 64, "F4": 4, "F6_E2M3": 6, "F6_E3M2": 6,
}  # fmt: skip


class _FaultError(ValueError):
    """What is wrong, as the end of a sentence."""


def header(path: Path) -> dict[str, dict[str, Any]]:
    """Tensor -> {dtype, shape, data_offsets}, each checked. Raises ExplorerError for a file that is cut off or damaged,
    one sentence with its cause."""
    try:
        size = path.stat().st_size
        with path.open("rb") as f:
            length = int.from_bytes(f.read(8), "little")
            if size < 10 or not 2 <= length <= LIMIT:
                raise _FaultError("the length of its header makes no sense")
            if 8 + length > size:
                raise _FaultError("it ends in its header")
            found = _parsed(f.read(length))
    except OSError as error:
        raise ExplorerError(f"{path.name} cannot be read ({error.strerror}).", "Check its permissions.") from None
    except _FaultError as fault:
        raise ExplorerError(f"{path.name} is not a complete safetensors file: {fault}.", _AGAIN) from None
    end = 8 + length + max((entry["data_offsets"][1] for entry in found.values()), default=0)
    if end > size:
        raise ExplorerError(f"{path.name} is cut off ({end - size:,} bytes are missing).", _AGAIN)
    return found


def data_start(path: Path) -> int:
    """Bytes before the values of a file whose header is sound: offsets count from here."""
    with path.open("rb") as f:
        return 8 + int.from_bytes(f.read(8), "little")


def _parsed(content: bytes) -> dict[str, dict[str, Any]]:
    try:
        entries = json.loads(content.decode("utf-8"), object_pairs_hook=_once)
    except UnicodeDecodeError:
        raise _FaultError("its header is not text") from None
    except _FaultError:
        raise
    except (ValueError, RecursionError):
        raise _FaultError("its header is no JSON") from None
    if not isinstance(entries, dict):
        raise _FaultError("its header names no tensors")
    entries.pop("__metadata__", None)
    for name, entry in entries.items():
        _check(name, entry)
    return entries


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        name = next(name for i, (name, _) in enumerate(pairs) if name in dict(pairs[:i]))
        raise _FaultError(f"{_shown(name)} is there twice")
    return found


def _check(name: str, entry: Any) -> None:
    """Raises _FaultError for an entry that says where no tensor can lie."""
    shown = _shown(name)
    try:
        name.encode()
    except UnicodeEncodeError:
        raise _FaultError("the name of a tensor is not text") from None
    if not isinstance(entry, dict):
        raise _FaultError(f"{shown} is not a tensor")
    dtype, shape, place = entry.get("dtype"), entry.get("shape"), entry.get("data_offsets")
    if not isinstance(dtype, str) or not dtype.isprintable():
        raise _FaultError(f"{shown} names no number format")
    if not isinstance(shape, list) or len(shape) > _MOST_AXES or not all(_is_size(n) for n in shape):
        raise _FaultError(f"{shown} has no shape that a tensor can have")
    if not isinstance(place, list) or len(place) != 2 or not all(_is_size(n) for n in place) or place[0] > place[1]:
        raise _FaultError(f"{shown} has no place")
    n_bits = _BITS.get(dtype.upper(), 0) * math.prod(shape)
    if dtype.upper() in _BITS and -(-n_bits // 8) != place[1] - place[0]:
        raise _FaultError(f"{shown} of shape {shape} in {dtype} is said to take {place[1] - place[0]:,} bytes")


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**63


def _shown(name: str) -> str:
    """A tensor's name as it can be shown, however long or strange."""
    plain = name.encode("utf-8", "replace").decode()
    return f"'{plain if len(plain) <= 120 else plain[:120] + '...'}'"
