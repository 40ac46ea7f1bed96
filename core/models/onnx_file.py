"""Reads what an ONNX file stores: its tensors, and the layer that each belongs to. No model library.

It exists beside the `onnx` package because the app's process must not import a model library. Weights are not
read. Format: onnx.proto3 of the ONNX project, in protobuf's wire encoding.
"""

from __future__ import annotations

import ast
import mmap
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from core.dtypes import BITS_PER_WEIGHT
from core.layer_names import canonical_hf
from core.models.tensors import Tensor
from hardware.errors import ExplorerError

_SCOPES = b"pkg.torch.onnx.name_scopes"
# TensorProto.DataType -> our name; whole numbers of 16 bits and more are shapes and positions, not weights
_DTYPES = {1: "fp32", 10: "fp16", 11: "fp64", 16: "bf16", 2: "int8", 3: "int8", 21: "int4", 22: "int4"}


@dataclass
class _Node:
    operator: str = ""
    name: str = ""
    inputs: list[str] = field(default_factory=list)
    scopes: str = ""
    bits: int = 8


@dataclass
class _Stored:
    name: str = ""
    dims: list[int] = field(default_factory=list)
    data_type: int = 0


def tensors(path: Path, architecture: str) -> list[Tensor]:
    """The stored weights of a model.onnx, each under the canonical name of the layer that reads it first.

    Scales and zero points count to their layer. Equal tensors may be stored once: every further layer that reads
    one has a tensor of no bytes. Raises ExplorerError when the file is no ONNX.
    """
    try:
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            nodes, stored = _graph(data)
    except (OSError, ValueError, IndexError, UnicodeDecodeError) as error:
        raise ExplorerError(
            f"{path.name} is damaged or not an ONNX file.", "Export or download the model again."
        ) from error
    readers: dict[str, list[_Node]] = {}
    for node in nodes:
        for name in node.inputs:
            readers.setdefault(name, []).append(node)
    found = []
    for s in stored:
        if s.data_type not in _DTYPES:
            continue
        first, *others = [_tensor(s, node, architecture) for node in readers.get(s.name, ())] or [
            _tensor(s, None, architecture)
        ]
        found += [first, *(msgspec.structs.replace(t, n_elements=0, n_bytes=0) for t in others)]
    return found


def _tensor(stored: _Stored, node: _Node | None, architecture: str) -> Tensor:
    n = 1
    for size in stored.dims:
        n *= size
    dtype = _DTYPES[stored.data_type]
    n_bytes = -(-n // 2) if dtype == "int4" else n * int(BITS_PER_WEIGHT[dtype]) // 8
    if dtype == "int8" and node is not None and node.bits == 4 and node.operator.endswith("NBits"):
        dtype, n = "int4", 2 * n  # two in a byte
    layer = (canonical_hf(_module(node), architecture) if node else None) or canonical_hf(stored.name, architecture)
    return Tensor(layer=layer or stored.name, dtype=dtype, n_elements=n, n_bytes=n_bytes)


def _module(node: _Node) -> str:
    """The path of the module that made the node: from torch.onnx's metadata, or from the node's name."""
    if node.scopes:
        scopes = ast.literal_eval(node.scopes)  # ['', 'model', 'model.layers.0', ..., the operation]
        return scopes[-2] if len(scopes) > 1 else ""
    return ".".join(node.name.split("/")[1:-1])  # "/model/layers.0/self_attn/q_proj/MatMul"


# ---------------------------------------------------------------- protobuf


def _graph(data: mmap.mmap) -> tuple[list[_Node], list[_Stored]]:
    nodes, stored = [], []
    for number, at, end in _fields(data, 0, len(data)):
        if number != 7:  # ModelProto.graph
            continue
        for part, start, stop in _fields(data, at, end):
            if part == 1:
                nodes.append(_node(data, start, stop))
            elif part == 5:
                stored.append(_initializer(data, start, stop))
    if not nodes:
        raise ValueError("there is no graph in it")
    return nodes, stored


def _node(data: mmap.mmap, at: int, end: int) -> _Node:
    node = _Node()
    for number, start, stop in _fields(data, at, end):
        if number == 1:
            node.inputs.append(data[start:stop].decode())
        elif number == 3:
            node.name = data[start:stop].decode()
        elif number == 4:
            node.operator = data[start:stop].decode()
        elif number == 5 and b"bits" in data[start:stop]:
            fields = {n: (a, b) for n, a, b in _fields(data, start, stop)}
            if data[slice(*fields[1])] == b"bits":
                node.bits = _varint(data, fields[3][0])[0]
        elif number == 9 and _SCOPES in data[start:stop]:
            fields = {n: (a, b) for n, a, b in _fields(data, start, stop)}
            node.scopes = data[slice(*fields[2])].decode()
    return node


def _initializer(data: mmap.mmap, at: int, end: int) -> _Stored:
    stored = _Stored()
    for number, start, stop in _fields(data, at, end):
        if number == 1:  # one number, or several packed
            while start < stop:
                value, start = _varint(data, start)
                stored.dims.append(value)
        elif number == 2:
            stored.data_type = _varint(data, start)[0]
        elif number == 8:
            stored.name = data[start:stop].decode()
    return stored


def _fields(data: mmap.mmap, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """(field number, start, end) of a message's fields; of a number, where it stands."""
    while at < end:
        key, at = _varint(data, at)
        kind = key & 7
        if kind == 2:
            size, at = _varint(data, at)
            stop = at + size
        elif kind == 0:
            stop = _varint(data, at)[1]
        elif kind in (1, 5):
            stop = at + (8 if kind == 1 else 4)
        else:
            raise ValueError(f"wire type {kind}")
        if stop > end:
            raise ValueError("the file ends here")
        yield key >> 3, at, stop
        at = stop


def _varint(data: mmap.mmap, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
        shift += 7
        if shift > 63:
            raise ValueError("no number is that long")
