"""Reads the header of a GGUF file: metadata and where each tensor lies. Standard library only.

It knows nothing of what the numbers mean: no dequantization, no architectures. It exists beside the
`gguf` package because the app's process must not import a model library, and because that package
takes many seconds for a large vocabulary where this takes a fraction of one.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import math
import mmap
import re
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import ExplorerError

MAGIC = b"GGUF"

# ggml type id -> (name, elements per block, bytes per block)
TYPES: dict[int, tuple[str, int, int]] = {
    0: ("F32", 1, 4),
    1: ("F16", 1, 2),
    2: ("Q4_0", 32, 18),
    3: ("Q4_1", 32, 20),
    6: ("Q5_0", 32, 22),
    7: ("Q5_1", 32, 24),
    8: ("Q8_0", 32, 34),
    9: ("Q8_1", 32, 40),
    10: ("Q2_K", 256, 84),
    11: ("Q3_K", 256, 110),
    12: ("Q4_K", 256, 144),
    13: ("Q5_K", 256, 176),
    14: ("Q6_K", 256, 210),
    15: ("Q8_K", 256, 292),
    16: ("IQ2_XXS", 256, 66),
    17: ("IQ2_XS", 256, 74),
    18: ("IQ3_XXS", 256, 98),
    19: ("IQ1_S", 256, 50),
    20: ("IQ4_NL", 32, 18),
    21: ("IQ3_S", 256, 110),
    22: ("IQ2_S", 256, 82),
    23: ("IQ4_XS", 256, 136),
    24: ("I8", 1, 1),
    25: ("I16", 1, 2),
    26: ("I32", 1, 4),
    27: ("I64", 1, 8),
    28: ("F64", 1, 8),
    29: ("IQ1_M", 256, 56),
    30: ("BF16", 1, 2),
    34: ("TQ1_0", 256, 54),
    35: ("TQ2_0", 256, 66),
    39: ("MXFP4", 32, 17),
    40: ("NVFP4", 64, 36),
    41: ("Q1_0", 128, 18),
}

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_SPLIT = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})-of-(?P<n>\d{5})$")


@dataclass(frozen=True)
class Tensor:
    """One tensor. shape: as numpy has it, slowest axis first (the file stores it the other way round)."""

    name: str
    type_id: int
    shape: tuple[int, ...]
    path: Path
    offset: int  # from the start of the file
    n_bytes: int

    @property
    def type_name(self) -> str:
        return TYPES[self.type_id][0]

    @property
    def n_elements(self) -> int:
        return math.prod(self.shape)


@dataclass(frozen=True)
class GgufFile:
    """The header of a model, all its parts together when it is split."""

    paths: tuple[Path, ...]
    metadata: dict[str, Any]
    tensors: tuple[Tensor, ...]

    @property
    def architecture(self) -> str:
        return str(self.metadata.get("general.architecture", ""))


def has_magic(path: Path) -> bool:
    """Whether the file begins as a GGUF does. Raises OSError when it cannot be read."""
    with path.open("rb") as f:
        return f.read(4) == MAGIC


def parts(path: Path) -> tuple[Path, ...]:
    """The file alone, or all parts of a split model (name-00001-of-00003.gguf) in order."""
    match = _SPLIT.match(path.stem)
    if not match:
        return (path,)
    n = int(match["n"])
    return tuple(path.with_name(f"{match['stem']}-{i:05d}-of-{n:05d}.gguf") for i in range(1, n + 1))


def split_stem(stem: str) -> str:
    """The name without the part number."""
    match = _SPLIT.match(stem)
    return match["stem"] if match else stem


def read(path: Path) -> GgufFile:
    """Header of a model. Raises ExplorerError when it is no GGUF, cut off, or lacks a part."""
    files = parts(path)
    for file in files:
        if not file.is_file():
            raise ExplorerError(
                f"The file {file.name} is missing." if len(files) > 1 else f"There is no file {file}.",
                "Download all parts into one folder." if len(files) > 1 else "Check the path.",
            )
    headers = [_read_one(file) for file in files]
    return GgufFile(files, headers[0][0], tuple(t for _, tensors in headers for t in tensors))


def _read_one(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    size = path.stat().st_size
    if size < 24 or not has_magic(path):
        raise ExplorerError(f"{path.name} is not a GGUF file.", "Choose another file, or download it again.")
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        try:
            metadata, infos, data_start = _Cursor(data).header()
        except (struct.error, IndexError, KeyError, UnicodeDecodeError, OverflowError, ValueError) as error:
            raise _truncated(path, "in its header") from error
    tensors = []
    for name, shape, type_id, offset in infos:
        if type_id not in TYPES:
            raise ExplorerError(
                f"{path.name} stores '{name}' in an unknown number format ({type_id}).",
                "Choose a file with a common quantization such as Q4_K_M or Q8_0.",
            )
        _, block, block_bytes = TYPES[type_id]
        n_bytes = math.prod(shape) // block * block_bytes
        tensors.append(Tensor(name, type_id, shape, path, data_start + offset, n_bytes))
    end = max((t.offset + t.n_bytes for t in tensors), default=0)
    if end > size:
        raise _truncated(path, f"{end - size:,} bytes are missing of {end:,}")
    return metadata, tensors


def _truncated(path: Path, detail: str) -> ExplorerError:
    return ExplorerError(f"{path.name} is cut off or damaged ({detail}).", "Download or copy the file again.")


class _Cursor:
    """Walks the header from front to back."""

    def __init__(self, data: mmap.mmap) -> None:
        self._data = data
        self._at = 4

    def header(self) -> tuple[dict[str, Any], list[tuple[str, tuple[int, ...], int, int]], int]:
        version = self._scalar("I")
        if version not in (2, 3):
            raise ValueError(f"version {version}")
        n_tensors, n_kv = self._scalar("Q"), self._scalar("Q")
        metadata: dict[str, Any] = {}
        for _ in range(n_kv):
            key = self._string()
            metadata[key] = self._value(self._scalar("I"))
        infos = []
        for _ in range(n_tensors):
            name = self._string()
            shape = tuple(self._scalar("Q") for _ in range(self._scalar("I")))[::-1]
            infos.append((name, shape, self._scalar("I"), self._scalar("Q")))
        alignment = int(metadata.get("general.alignment", 32))
        return metadata, infos, -(-self._at // alignment) * alignment

    def _take(self, n: int) -> bytes:
        chunk = self._data[self._at : self._at + n]
        if len(chunk) != n:
            raise ValueError("the file ends here")
        self._at += n
        return chunk

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _string(self) -> str:
        # Token tables of some models hold bytes that are no UTF-8; keep them distinct.
        return self._take(self._scalar("Q")).decode("utf-8", errors="surrogateescape")

    def _value(self, kind: int) -> Any:
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._scalar(_SCALARS[kind])
        item, n = self._scalar("I"), self._scalar("Q")
        if item in _SCALARS:
            code = _SCALARS[item]
            return list(struct.unpack(f"<{n}{code}", self._take(n * struct.calcsize("<" + code))))
        return [self._value(item) for _ in range(n)]
