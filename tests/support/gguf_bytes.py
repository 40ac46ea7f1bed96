"""GGUF files written byte by byte, sound or not: the gguf package writes only sound ones."""

from __future__ import annotations

import struct
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any

STRING, ARRAY, U32, BOOL, F32 = 8, 9, 4, 7, 6
LLAMA = {
    "general.architecture": "llama",
    "llama.block_count": 1,
    "llama.context_length": 64,
    "llama.embedding_length": 8,
    "llama.feed_forward_length": 16,
    "llama.attention.head_count": 2,
    "llama.attention.head_count_kv": [1],
    "llama.attention.layer_norm_rms_epsilon": 1e-5,
    "tokenizer.ggml.tokens": ["a", "b", "c", "d"],
    "tokenizer.ggml.token_type": [1, 1, 3, 1],
}
SHAPES = {
    "token_embd.weight": (4, 8),
    "output_norm.weight": (8,),
    "blk.0.attn_norm.weight": (8,),
    "blk.0.attn_q.weight": (8, 8),
    "blk.0.attn_k.weight": (4, 8),
    "blk.0.attn_v.weight": (4, 8),
    "blk.0.attn_output.weight": (8, 8),
    "blk.0.ffn_norm.weight": (8,),
    "blk.0.ffn_gate.weight": (16, 8),
    "blk.0.ffn_up.weight": (16, 8),
    "blk.0.ffn_down.weight": (8, 16),
}


def text(value: str | bytes) -> bytes:
    data = value if isinstance(value, bytes) else value.encode()
    return struct.pack("<Q", len(data)) + data


def value_of(value: Any) -> bytes:
    """Type and value as the format has them; bytes are taken as they are."""
    if isinstance(value, bytes):
        return value
    if isinstance(value, str):
        return struct.pack("<I", STRING) + text(value)
    if isinstance(value, bool):
        return struct.pack("<I?", BOOL, value)
    if isinstance(value, float):
        return struct.pack("<If", F32, value)
    if isinstance(value, list):
        items = [value_of(v) for v in value]
        item = items[0][:4] if items else struct.pack("<I", U32)
        return struct.pack("<I", ARRAY) + item + struct.pack("<Q", len(items)) + b"".join(i[4:] for i in items)
    return struct.pack("<II", U32, value)


def header(
    entries: Mapping[str, Any] = LLAMA, shapes: Mapping[str, tuple[int, ...]] = SHAPES, places: Mapping[str, int] = {}
) -> bytes:
    """All of a file before its data. places: where a tensor is said to lie, if not where it belongs."""
    data = b"GGUF" + struct.pack("<IQQ", 3, len(shapes), len(entries))
    for key, value in entries.items():
        data += text(key) + value_of(value)
    at = 0
    for name, shape in shapes.items():
        data += text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape[::-1])
        data += struct.pack("<IQ", 0, places.get(name, at))
        at += -(-4 * prod(shape) // 32) * 32
    return data + bytes(-len(data) % 32)


def model(path: Path, entries: Mapping[str, Any], shapes: Mapping[str, tuple[int, ...]]) -> Path:
    """A whole model of zeros. entries: without the name of the architecture before them."""
    arch = entries["general.architecture"]
    named = {k if k.startswith("general.") else f"{arch}.{k}": v for k, v in entries.items()}
    return file(path, header(named, shapes), sum(4 * prod(s) + 32 for s in shapes.values()))


def file(path: Path, head: bytes, n_bytes: int = 4096) -> Path:
    path.write_bytes(head + bytes(n_bytes))
    return path


_WIDTHS = {0: 1, 1: 1, 2: 2, 3: 2, 4: 4, 5: 4, 6: 4, 7: 1, 10: 8, 11: 8, 12: 8}  # of a scalar, in bytes, by its type


def edited(whole: bytes, changes: Mapping[str, Any]) -> bytes:
    """A file with other entries and the same tensors. changes: as `value_of` takes them; None: without the entry."""
    n_tensors, n_entries = struct.unpack_from("<QQ", whole, 8)
    at, entries = 24, dict[str, Any]()
    for _ in range(n_entries):
        key, at = _text_at(whole, at)
        end = _end(whole, at + 4, struct.unpack_from("<I", whole, at)[0])
        entries[key], at = whole[at:end], end
    tensors = at
    for _ in range(n_tensors):
        _, at = _text_at(whole, at)
        at += 4 + 8 * struct.unpack_from("<I", whole, at)[0] + 12
    kept = {key: value for key, value in (entries | changes).items() if value is not None}
    data = b"GGUF" + struct.pack("<IQQ", 3, n_tensors, len(kept))
    data += b"".join(text(key) + value_of(value) for key, value in kept.items()) + whole[tensors:at]
    return data + bytes(-len(data) % 32) + whole[-(-at // 32) * 32 :]


def _text_at(data: bytes, at: int) -> tuple[str, int]:
    end = at + 8 + struct.unpack_from("<Q", data, at)[0]
    return data[at + 8 : end].decode(), end


def _end(data: bytes, at: int, kind: int) -> int:
    """Where a value of this type ends that begins at `at`."""
    if kind == STRING:
        return _text_at_end(data, at)
    if kind != ARRAY:
        return at + _WIDTHS[kind]
    item, n = struct.unpack_from("<IQ", data, at)
    at += 12
    if item != STRING:
        return at + n * _WIDTHS[item]
    for _ in range(n):
        at = _text_at_end(data, at)
    return at


def _text_at_end(data: bytes, at: int) -> int:
    return at + 8 + int(struct.unpack_from("<Q", data, at)[0])
