"""Reads the header of a GGUF file: metadata and where each tensor lies. Standard library only.

It knows nothing of what the numbers mean: no dequantization, no architectures. It exists beside the
`gguf` package because the app's process must not import a model library, and because that package
takes many seconds for a large vocabulary where this takes a fraction of one.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md (versions 2 and 3, little endian).
"""

from __future__ import annotations

import math
import mmap
import os
import re
import struct
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

from hardware.errors import ExplorerError

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

# formats of 2023 and 2024 that llama.cpp no longer reads
GONE = {
    4: "Q4_2",
    5: "Q4_3",
    31: "Q4_0_4_4",
    32: "Q4_0_4_8",
    33: "Q4_0_8_8",
    36: "IQ4_NL_4_4",
    37: "IQ4_NL_4_8",
    38: "IQ4_NL_8_8",
}

_I2_S = 36  # bitnet.cpp's, under a number that llama.cpp had given to one of the above
_OF_IK = range(97, 400)  # ik_llama.cpp's

# general.type of files that are no model by themselves
NO_MODEL = {
    "adapter": "an adapter (LoRA)",
    "imatrix": "an importance matrix",
    "mmproj": "a projector (vision or audio)",
}
# general.architecture of such files where they do not say it so, and of files of other programs
NO_LANGUAGE = {
    "clip": NO_MODEL["mmproj"],
    "controlvector": "a control vector",
    **dict.fromkeys(
        ("aura", "chroma", "cosmos", "flux", "hidream", "hyvid", "ltxv", "lumina2", "pig", "qwen_image", "sd1", "sd3",
         "sdxl", "wan"),
        "an image or video model",
    ),
}  # fmt: skip
_FIRST = 4096  # bytes in which the file's own kind stands, which writers put among the first entries
_MOST_ENTRIES = 64 << 20  # bytes of entries among which a part's number is looked for; writers may put it last

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_MAX_AXES = 4
_LEAST_ENTRY, _LEAST_TENSOR = 13, 24  # bytes of the shortest entry: name, type, value; name, axes, type, place
_SPLIT = re.compile(r"^(?P<stem>.+)-(?P<part>\d{5})(?P<of>-of-)(?P<n>\d{5})$", re.IGNORECASE)
_LEFT = re.compile(r"-\d{5}-of-\d{5}|\s*\(\d+\)$", re.IGNORECASE)  # what a part's name has beside the model's
_PIECE = re.compile(r"^(?P<whole>.+\.gguf)[-.](split-?[a-z]{1,2}|part-?([a-z]|\d+(of\d+)?))$", re.IGNORECASE)
_LFS = b"version https://"
_TAR = (257, b"ustar")  # where a tar archive says what it is
_MAGICS = {
    b"PK\3\4": "a ZIP archive",
    b"\x1f\x8b": "a gzip archive",
    b"BZh": "a bzip2 archive",
    b"\xfd7zXZ\0": "an XZ archive",
    b"\x28\xb5\x2f\xfd": "a Zstandard archive",
    b"7z\xbc\xaf\x27\x1c": "a 7-Zip archive",
    b"Rar!\x1a\x07": "a RAR archive",
    b"\x80": "a pickle",
    b'{"': "JSON",
}
_AGAIN = "Download or copy the file again."
_PARTS = "Put all parts into one folder, under the names that they were published with."


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


def other_kind(path: Path) -> str:
    """What lies in the place of a GGUF, by its first bytes: "a web page"; "" where they tell nothing."""
    with path.open("rb") as f:
        first = f.read(_TAR[0] + len(_TAR[1]))
    start = first[:16]
    if not start:
        return "an empty file"
    if start[:4] in (b"lmgg", b"fmgg", b"tjgg", b"algg"):
        return "a GGML file of 2023, from before GGUF, which llama.cpp no longer reads"
    if start == _LFS:
        return "a pointer of Git LFS, without the file"
    if start.lstrip()[:5].lower() in (b"<!doc", b"<html"):
        return "a web page, perhaps the message of a download that failed"
    if first[_TAR[0] :] == _TAR[1]:
        return "a tar archive"
    found = next((kind for magic, kind in _MAGICS.items() if start.startswith(magic)), "")
    return "a safetensors file" if start[8:10] == b'{"' else found


def is_named(name: str) -> bool:
    """Whether a file's name ends as a GGUF's does, in whatever case."""
    return name.lower().endswith(".gguf")


def is_model(name: str) -> bool:
    """Whether a file's name is that of a GGUF model: not of a vision projector beside one, nor a hidden one, such as a
    Mac puts beside each file on another file system."""
    return is_named(name) and "mmproj" not in name.lower() and not name.startswith(".")


def check_kind(path: Path) -> None:
    """Raises ExplorerError for a file that says of itself that it is no model, or of a version that nothing here
    reads. Reads its first entries alone."""
    try:
        with path.open("rb") as f:
            start = f.read(_FIRST)
    except OSError:
        return  # told when it is read
    if (other := _other_version(int.from_bytes(start[4:8], "little"))) is not None:
        raise other.of(path)
    check_says(path, _says(start, "general.type"), _says(start, "general.architecture"))


def check_says(path: Path, kind: str, architecture: str) -> None:
    """Raises ExplorerError for a file that is no language model by its general.type or general.architecture."""
    if what := NO_MODEL.get(kind) or NO_LANGUAGE.get(architecture):
        raise ExplorerError(f"{path.name} holds {what} and no language model.", "Choose the file of a language model.")


def check_piece(path: Path) -> None:
    """Raises ExplorerError for a piece of a file that was cut by its bytes, by its name: model.gguf-split-a."""
    if match := _PIECE.match(path.name):
        whole = match["whole"]
        raise ExplorerError(
            f"{path.name} is a piece of a GGUF file that was cut up, and no model by itself.",
            f"Join all pieces in order into {whole} (cat, or copy /b on Windows) and choose that.",
        )


def _says(start: bytes, name: str) -> str:
    """The text of an entry in the first bytes of a file; "" where it does not stand there."""
    key = name.encode()
    at = start.find(struct.pack("<Q", len(key)) + key + struct.pack("<I", _STRING))
    if at < 0:
        return ""
    at += 8 + len(key) + 4
    n = int.from_bytes(start[at : at + 8], "little")
    return start[at + 8 : at + 8 + n].decode("utf-8", "replace") if n <= 100 else ""


def parts(path: Path) -> tuple[Path, ...]:
    """The file alone, or all parts of a split model (name-00001-of-00003.gguf) in order, as their names say."""
    match = _SPLIT.match(path.stem)
    n = int(match["n"]) if match else 0
    if match is None or not 1 <= int(match["part"]) <= n:
        return (path,)
    ends = f"{match['of']}{n:05d}{path.suffix}"
    return tuple(path.with_name(f"{match['stem']}-{i:05d}{ends}") for i in range(1, n + 1))


def split_stem(stem: str) -> str:
    """The name without the part number."""
    match = _SPLIT.match(stem)
    return match["stem"] if match else stem


def part_of(path: Path) -> tuple[int, int]:
    """Which part of a model a file is by its header, counted from 1, and of how many; (1, 1) for a whole model.

    Quick enough for listing: no other entry is read. (1, 1), too, for a file that cannot be read.
    """
    try:
        return _part(path, path.stat().st_mtime_ns)
    except (OSError, ValueError, struct.error):  # told when it is opened
        return 1, 1


@lru_cache(maxsize=512)
def _part(path: Path, changed_ns: int) -> tuple[int, int]:
    """changed_ns: when the file was, so that it is looked into once."""
    with path.open("rb") as f, mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
        first = data.find(b"\0blk.0.", 0, _MOST_ENTRIES)  # the name of a tensor: all entries are before it
        end = first if first >= 0 else _MOST_ENTRIES

        def number(key: bytes) -> int:
            entry = struct.pack("<Q", len(key)) + key
            at = data.find(entry, 0, end) + len(entry)
            code = _SCALARS.get(struct.unpack_from("<I", data, at)[0], "") if at >= len(entry) else ""
            return int(struct.unpack_from("<" + code, data, at + 4)[0]) if code in ("B", "H", "I", "Q") else 0

        count = number(b"split.count")
        return (number(b"split.no") + 1, count) if count > 1 else (1, 1)


def check_parts(path: Path) -> None:
    """Raises ExplorerError when the file, or another part of its model, is not there."""
    files = parts(path)
    missing = [file for file in files if not os.path.isfile(file)]
    if not missing:
        return
    if len(files) == 1:
        raise ExplorerError(f"There is no file {path}.", "Check the path.")
    if os.path.isfile(path):
        with suppress(_HeaderError, OSError):  # a damaged part is told when it is read
            _check_place(path, files.index(path), len(files), _header(path)[0])
    there = os.listdir(path.parent) if path.parent.is_dir() else ()
    first = missing[0]
    if first.is_symlink():
        raise ExplorerError(
            f"{first.name} is a link that leads nowhere.", "Download the model again, or mend the link."
        )
    if other := next((name for name in there if name.lower() == first.name.lower()), None):
        raise ExplorerError(
            f"{first.name} is missing, one of the model's {len(files)} parts: it is there as {other}.",
            f"Rename {other} to {first.name}.",
        )
    if (renamed := _renamed(path.parent, files.index(first) + 1, len(files))) is not None:
        raise ExplorerError(
            f"{first.name} is missing, one of the model's {len(files)} parts: it is there as {renamed.name}.",
            f"Rename {renamed.name} to {first.name}.",
        )
    if len(missing) == 1:
        raise ExplorerError(f"{first.name} is missing, one of the model's {len(files)} parts.", _PARTS)
    names = ", ".join(file.name for file in missing[:4]) + (", ..." if len(missing) > 4 else "")
    raise ExplorerError(f"{len(missing)} of the model's {len(files)} parts are missing: {names}.", _PARTS)


def check_name(path: Path) -> None:
    """Raises ExplorerError for a part of a split model whose name does not say which; as quick as `part_of`."""
    i, n = part_of(path)
    files = parts(path)
    if n > 1 and (n, i - 1) != (len(files), files.index(path)):
        raise _misnamed(path, i, n)


def read(path: Path) -> GgufFile:
    """Header of a model, any part of it given. Raises ExplorerError when it is no GGUF, damaged, or lacks a part."""
    check_parts(path)
    files = parts(path)
    headers = [_read_one(file) for file in files]
    for i, (file, (metadata, _)) in enumerate(zip(files, headers, strict=True)):
        _check_place(file, i, len(files), metadata)
    tensors = tuple(t for _, tensors in headers for t in tensors)
    wanted = headers[0][0].get("split.tensors.count", 0) if len(files) > 1 else 0
    if len({t.name for t in tensors}) < len(tensors) or (wanted and wanted != len(tensors)):
        raise ExplorerError(f"The parts of {split_stem(path.stem)} are not those of one model.", _PARTS)
    return GgufFile(files, headers[0][0], tensors)


def _check_place(file: Path, i: int, n: int, metadata: dict[str, Any]) -> None:
    """Whether a file that is part `i` of `n` by its name is that by its header."""
    says_n, says_i = metadata.get("split.count", 0), metadata.get("split.no", 0)
    if says_n > 1 and (says_n, says_i) != (n, i):
        raise _misnamed(file, says_i + 1, says_n)
    if n > 1 and says_n <= 1:
        raise ExplorerError(
            f"{file.name} is named as part {i + 1} of {n}, but its header says that it is a whole model.",
            "Rename it without the part number.",
        )


def _parts_beside(folder: Path, n: int) -> dict[Path, int]:
    """The files in a folder that are parts of models of `n` parts by their headers, and which part each is."""
    try:
        files = sorted(file for file in folder.iterdir() if is_named(file.name))
    except OSError:
        return {}
    return {file: part for file in files for part, count in (part_of(file),) if count == n}


def _says_its_part(file: Path, i: int, n: int) -> bool:
    """Whether a file that is part `i` of `n` has a name that says so."""
    files = parts(file)
    return len(files) == n and files[i - 1] == file


def _renamed(folder: Path, i: int, n: int) -> Path | None:
    """The file in a folder that is part `i` of `n` by its header and not by its name; None unless it is one alone."""
    found = [f for f, part in _parts_beside(folder, n).items() if part == i and not _says_its_part(f, i, n)]
    return found[0] if len(found) == 1 else None


def _stem_for(file: Path, n: int) -> str:
    """The name that parts are to have before their numbers: of those that are named as parts, else of the first one;
    the file's own where the parts beside it are not of one model."""
    beside = _parts_beside(file.parent, n)
    named = {split_stem(other.stem) for other, i in beside.items() if _says_its_part(other, i, n)}
    if len(named) == 1:
        return named.pop()
    one_model = not named and len(set(beside.values())) == len(beside)
    first = next((other for other, i in beside.items() if i == 1), file) if one_model else file
    return _LEFT.sub("", first.stem)


def _misnamed(file: Path, i: int, n: int) -> ExplorerError:
    name = f"{_stem_for(file, n)}-{i:05d}-of-{n:05d}.gguf"
    return ExplorerError(
        f"{file.name} is part {i} of {n} of a split model, but its name does not say so.",
        f"Rename it to {name}: by these names the other parts are found.",
    )


class _HeaderError(Exception):
    """Why a header cannot be used, as the rest of a sentence that begins with the file's name."""

    def __init__(self, reason: str, hint: str = _AGAIN) -> None:
        super().__init__(reason)
        self.reason = reason
        self.hint = hint

    def of(self, path: Path) -> ExplorerError:
        return ExplorerError(f"{path.name} {self.reason}.", self.hint)


def _damaged(detail: str) -> _HeaderError:
    return _HeaderError(f"is cut off or damaged ({detail})")


def _other_version(version: int) -> _HeaderError | None:
    """What to say of a version that is not read here; None for those that are, and for what can be none."""
    if version in (1 << 24, 2 << 24, 3 << 24):
        return _HeaderError(
            "is a big-endian GGUF, made for another kind of processor",
            "Choose the little-endian file, or convert it with gguf-convert-endian of the gguf package.",
        )
    if version == 1:
        return _HeaderError(
            "is a GGUF of version 1 (2023), which llama.cpp no longer reads",
            "Choose a newer conversion of the model.",
        )
    if 3 < version < 1000:
        return _HeaderError(
            f"is a GGUF of version {version}, which is not known here (known are 2 and 3)",
            "Choose a file of version 3.",
        )
    return None


def _read_one(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    try:
        return _header(path)
    except _HeaderError as why:
        raise why.of(path) from None
    except OSError as error:
        raise ExplorerError(f"{path.name} cannot be read ({error.strerror}).", "Check its permissions.") from None


def _header(path: Path) -> tuple[dict[str, Any], list[Tensor]]:
    with path.open("rb") as f:
        if f.read(4) != MAGIC or path.stat().st_size < 24:
            kind = other_kind(path)
            but = f" but {kind}" if kind else ""
            raise _HeaderError(f"is not a GGUF file{but}", "Choose another file, or download it again.")
        with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return _Header(path, data).read()


class _Header:
    """Walks the header from front to back and trusts no value of it."""

    def __init__(self, path: Path, data: mmap.mmap) -> None:
        self._path = path
        self._data = data
        self._size = len(data)
        self._at = 4

    def read(self) -> tuple[dict[str, Any], list[Tensor]]:
        self._check_version()
        n_tensors, n_entries = self._scalar("Q"), self._scalar("Q")
        if n_tensors * _LEAST_TENSOR + n_entries * _LEAST_ENTRY > self._size:
            raise _damaged(f"it promises {n_entries:,} entries and {n_tensors:,} tensors, more than fit into it")
        metadata: dict[str, Any] = {}
        for _ in range(n_entries):
            key = self._name("an entry")
            if key in metadata:
                raise _damaged(f"'{key}' is there twice")
            metadata[key] = self._value(key, self._scalar("I"))
        _check_types(metadata)
        infos = [self._info() for _ in range(n_tensors)]
        if len({name for name, _, _, _ in infos}) < n_tensors:
            raise _damaged("two tensors have one name")
        architecture = str(metadata.get("general.architecture", ""))
        return metadata, self._placed(infos, _alignment(metadata), architecture)

    def _check_version(self) -> None:
        version = self._scalar("I")
        if (other := _other_version(version)) is not None:
            raise other
        if version not in (2, 3):
            raise _damaged(f"its version is {version}")

    def _info(self) -> tuple[str, tuple[int, ...], int, int]:
        name, n_axes = self._name("a tensor"), self._scalar("I")
        if n_axes > _MAX_AXES:
            raise _damaged(f"'{name}' has {n_axes:,} axes")
        shape = tuple(self._scalar("Q") for _ in range(n_axes))[::-1] or (1,)  # one number, as llama.cpp has it
        return name, shape, self._scalar("I"), self._scalar("Q")

    def _placed(
        self, infos: list[tuple[str, tuple[int, ...], int, int]], alignment: int, architecture: str
    ) -> list[Tensor]:
        """The tensors with their places: one after the other, each at the next multiple of the alignment."""
        start = -(-self._at // alignment) * alignment
        tensors, expected = [], 0
        for name, shape, type_id, offset in infos:
            whose = "bitnet.cpp" if type_id == _I2_S and architecture.startswith("bitnet") else ""
            if whose or type_id in _OF_IK:
                raise _HeaderError(
                    f"stores '{name}' in a number format ({type_id}) of {whose or 'ik_llama.cpp'}, which llama.cpp "
                    "does not read",
                    "Choose a file with a common quantization such as Q4_K_M, Q8_0 or TQ2_0.",
                )
            if type_id in GONE:
                raise _HeaderError(
                    f"stores '{name}' as {GONE[type_id]}, which llama.cpp no longer reads",
                    "Choose the Q4_0 file of the model: it is laid out for the processor when it is opened.",
                )
            if type_id not in TYPES:
                raise _HeaderError(
                    f"stores '{name}' in an unknown number format ({type_id})",
                    "Choose a file with a common quantization such as Q4_K_M or Q8_0.",
                )
            type_name, block, block_bytes = TYPES[type_id]
            if not all(shape) or shape[-1] % block:
                raise _damaged(f"'{name}' of shape {list(shape)} cannot be stored as {type_name}")
            if offset != expected:
                raise _damaged(f"'{name}' lies at {offset:,} of the data, where {expected:,} is its place")
            n_bytes = math.prod(shape) // block * block_bytes
            tensors.append(Tensor(name, type_id, shape, self._path, start + offset, n_bytes))
            expected = -(-(offset + n_bytes) // alignment) * alignment
        end = max((t.offset + t.n_bytes for t in tensors), default=0)
        if end > self._size:
            raise _damaged(f"{end - self._size:,} bytes are missing of {end:,}")
        return tensors

    def _take(self, n: int) -> bytes:
        if n > self._size - self._at:
            raise _damaged("it ends in its header")
        self._at += n
        return self._data[self._at - n : self._at]

    def _scalar(self, code: str) -> Any:
        return struct.unpack("<" + code, self._take(struct.calcsize("<" + code)))[0]

    def _name(self, what: str) -> str:
        try:
            return self._take(self._scalar("Q")).decode("utf-8")
        except UnicodeDecodeError:
            raise _damaged(f"the name of {what} is not text") from None

    def _value(self, key: str, kind: int) -> Any:
        if kind == _STRING:
            return self._take(self._scalar("Q")).decode("utf-8", errors="replace")
        if kind != _ARRAY:
            if kind not in _SCALARS:
                raise _damaged(f"'{key}' is of an unknown type, {kind}")
            return self._scalar(_SCALARS[kind])
        item, n = self._scalar("I"), self._scalar("Q")
        if item == _STRING:
            return self._strings(n)
        if item not in _SCALARS:
            raise _damaged(
                f"'{key}' is a list of lists" if item == _ARRAY else f"'{key}' lists an unknown type, {item}"
            )
        code = _SCALARS[item]
        return list(struct.unpack(f"<{n}{code}", self._take(n * struct.calcsize("<" + code))))

    def _strings(self, n: int) -> list[str]:
        """Token tables of some models hold bytes that are no UTF-8; they are kept distinct."""
        data, size, at = self._data, self._size, self._at
        if n * 8 > size - at:
            raise _damaged("it ends in its header")
        found = []
        for _ in range(n):
            start = at + 8
            if start > size:
                raise _damaged("it ends in its header")
            at = start + struct.unpack_from("<Q", data, at)[0]
            if at > size:
                raise _damaged("it ends in its header")
            found.append(data[start:at].decode("utf-8", errors="surrogateescape"))
        self._at = at
        return found


# ---------------------------------------------------------------- what an entry may be


def _alignment(metadata: dict[str, Any]) -> int:
    value = metadata.get("general.alignment", 32)
    if not _is_whole(value) or not 1 <= value < 1 << 32 or value & (value - 1):
        shown = "a list" if isinstance(value, list) else repr(value)[:40]
        raise _HeaderError(f"has an alignment ('general.alignment') that is {shown}, not a power of two", _AGAIN)
    return int(value)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _is_number(value: Any) -> bool:
    return _is_whole(value) or (isinstance(value, float) and math.isfinite(value))


def _is_text(value: Any) -> bool:
    return isinstance(value, str)


def _is_flag(value: Any) -> bool:
    return isinstance(value, bool)


def _is_size(value: Any) -> bool:
    return _is_whole(value) and value >= 0


def _is_scaling(value: Any) -> bool:
    return value in _SCALINGS


def _each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """A list of such; its first value tells, since the format stores one type per list."""
    return lambda value: isinstance(value, list) and all(map(fits, value[:1]))


def _one_or_each(fits: Callable[[Any], bool]) -> Callable[[Any], bool]:
    return lambda value: all(map(fits, value)) if isinstance(value, list) else fits(value)


_WHOLE = (_is_whole, "a whole number")
_TEXT = (_is_text, "a text")
_TEXTS = (_each(_is_text), "a list of texts")
_FLAG = (_is_flag, "true or false")
_SIZE = (_one_or_each(_is_size), "a whole number that is not negative, or a list of such")
_NUMBER = (_one_or_each(_is_number), "a number or a list of numbers")
_SCALINGS = ("none", "linear", "yarn", "longrope")  # llama.cpp aborts at any other

_KEYS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "general.architecture": _TEXT,
    "general.name": _TEXT,
    "general.type": _TEXT,
    "split.no": _WHOLE,
    "split.count": _WHOLE,
    "split.tensors.count": _WHOLE,
    "tokenizer.ggml.model": _TEXT,
    "tokenizer.ggml.pre": _TEXT,
    "tokenizer.ggml.tokens": _TEXTS,
    "tokenizer.ggml.merges": _TEXTS,
    "tokenizer.ggml.scores": (_each(_is_number), "a list of numbers"),
    "tokenizer.ggml.token_type": (_each(_is_whole), "a list of whole numbers"),
    "tokenizer.ggml.add_bos_token": _FLAG,
    "tokenizer.ggml.add_eos_token": _FLAG,
    "tokenizer.ggml.add_sep_token": _FLAG,
    "tokenizer.ggml.add_space_prefix": _FLAG,
    "tokenizer.ggml.remove_extra_whitespaces": _FLAG,
    "tokenizer.chat_template": _TEXT,
    "tokenizer.chat_templates": _TEXTS,
}

# how the keys end that hold sizes and numbers, of the architecture and of the tokenizer
_ENDINGS: dict[str, tuple[Callable[[Any], bool], str]] = {
    "_token_id": _WHOLE,
    "_count": _SIZE,
    "_count_kv": _SIZE,
    "_length": _SIZE,
    "_length_mla": _SIZE,
    "_rank": _SIZE,
    "_size": _SIZE,
    ".conv_kernel": _SIZE,
    ".sliding_window": _SIZE,
    ".nextn_predict_layers": _SIZE,
    "_epsilon": (_one_or_each(lambda value: _is_number(value) and value >= 0), "a number that is not negative"),
    ".freq_base": _NUMBER,
    "_base_swa": _NUMBER,
    ".scaling.factor": _NUMBER,
    ".scaling.type": (_is_scaling, f"one of {', '.join(_SCALINGS)}"),
    "_softcapping": _NUMBER,
    "_scale": _NUMBER,
}


def _check_types(metadata: dict[str, Any]) -> None:
    for key, value in metadata.items():
        rule = _KEYS.get(key) or next((r for end, r in _ENDINGS.items() if key.endswith(end)), None)
        if rule is not None and not rule[0](value):
            raise _damaged(f"'{key}' must be {rule[1]}")
    tokens = metadata.get("tokenizer.ggml.tokens")
    for key in ("tokenizer.ggml.scores", "tokenizer.ggml.token_type"):
        if tokens is not None and key in metadata and len(metadata[key]) != len(tokens):
            raise _damaged(f"'{key}' has {len(metadata[key]):,} values for {len(tokens):,} tokens")
    if (first := _repeated(tokens or ())) is not None:
        raise _damaged(f"'tokenizer.ggml.tokens' has two tokens that are {first[:40]!r}")
    part, count = metadata.get("split.no", 0), metadata.get("split.count", 0)
    if part < 0 or count < 0:
        raise _damaged("its part has a negative number")
    if count > 1 and part >= count:
        raise _damaged(f"it says that it is part {part + 1} of {count}")


def _repeated(tokens: Sequence[str]) -> str | None:
    """The first token that stands there again, at which llama.cpp aborts; empty ones are none."""
    if len(set(tokens)) == len(tokens):
        return None
    seen: set[str] = set()
    for token in filter(None, tokens):
        if token in seen:
            return token
        seen.add(token)
    return None
