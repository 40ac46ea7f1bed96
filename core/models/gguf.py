"""GGUF files: their metadata as a configuration, their tensors with types and bytes.

Reads the header alone, without the gguf package: the app's own process looks at models, and a header is
read in a fraction of a second. Knows llama.cpp's metadata keys. Reads no weights and no vocabulary.

Source: the file format, ggml-org/ggml docs/gguf.md; keys, llama.cpp gguf-py/gguf/constants.py.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from math import prod
from pathlib import Path
from typing import Any

from core.analysis.dtypes import GGML_TYPES
from core.errors import ExplorerError
from core.models.tensors import Tensor
from core.names import canonical_gguf

# general.architecture -> model_type; those that are not listed have the same name in both
_MODEL_TYPES = {
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "granitemoe": "granitemoe",
    "gemma3": "gemma3_text",
    "deepseek2": "deepseek_v2",
}

# metadata key after the architecture -> field of config.json
_FIELDS = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    "attention.head_count": "num_attention_heads",
    "attention.head_count_kv": "num_key_value_heads",
    "attention.key_length": "head_dim",
    "attention.sliding_window": "sliding_window",
    "expert_count": "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
    "expert_shared_feed_forward_length": "shared_expert_intermediate_size",
    "expert_shared_count": "n_shared_experts",
    "leading_dense_block_count": "first_k_dense_replace",
    "attention.q_lora_rank": "q_lora_rank",
    "attention.kv_lora_rank": "kv_lora_rank",
    "rope.dimension_count": "rope_dimension_count",
    "ssm.conv_kernel": "conv_kernel",
    "ssm.inner_size": "intermediate_size",
    "ssm.state_size": "state_size",
    "ssm.time_step_rank": "time_step_rank",
    "ssm.group_count": "n_groups",
}


@dataclass(frozen=True)
class GGUFFile:
    """Metadata (scalars and short lists of numbers) and tensors: name -> (shape, type, bytes)."""

    metadata: dict[str, Any] = field(default_factory=dict)
    tensors: dict[str, tuple[tuple[int, ...], str, int]] = field(default_factory=dict)


def open_gguf(path: Path) -> GGUFFile:
    """The header of a GGUF file, of all its parts if it is split; ExplorerError for what is not a whole file."""
    first = _read_header(path)
    n_parts = int(first.metadata.get("split.count", 1))
    if n_parts <= 1:
        return first
    tensors: dict[str, tuple[tuple[int, ...], str, int]] = {}
    for part in range(1, n_parts + 1):
        name = re.sub(r"-\d{5}-of-", f"-{part:05d}-of-", path.name)
        tensors |= _read_header(path.with_name(name)).tensors
    return GGUFFile(first.metadata, tensors)


def gguf_config(file: GGUFFile) -> tuple[dict[str, Any], str]:
    """The metadata as config.json would say it, and the model's name ("" where the file has none)."""
    architecture = str(file.metadata.get("general.architecture", ""))
    config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(architecture, architecture)}
    for key, name in _FIELDS.items():
        if (value := file.metadata.get(f"{architecture}.{key}")) is not None:
            config[name] = value
    shapes = {name: shape for name, (shape, _, _) in file.tensors.items()}
    if "token_embd.weight" in shapes:
        config["vocab_size"] = shapes["token_embd.weight"][1]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes or "blk.0.attn_qkv.bias" in shapes
    refine = _REFINE.get(architecture)
    if refine:
        refine(config, shapes, file.metadata)
    return config, str(file.metadata.get("general.name", ""))


def gguf_tensors(file: GGUFFile) -> list[Tensor]:
    """Every tensor with its layer, type and exact bytes."""
    return [
        Tensor(layer=canonical_gguf(name) or name, dtype=dtype, n_elements=prod(shape), n_bytes=n_bytes)
        for name, (shape, dtype, n_bytes) in file.tensors.items()
    ]


# ---------------------------------------------------------------- what the metadata leave to be inferred


def _llama(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    if config.get("num_experts"):
        config["model_type"] = "mixtral"
        config["num_local_experts"] = config["num_experts"]


def _granitemoe(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    config["num_local_experts"] = config.get("num_experts")


def _gpt2(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    short = {
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
    }
    config.update({short[key]: value for key, value in list(config.items()) if key in short})


def _partial_rotation(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    rotated = metadata.get(f"{metadata['general.architecture']}.rope.dimension_count")
    if rotated and config.get("hidden_size") and config.get("num_attention_heads"):
        config["partial_rotary_factor"] = rotated * config["num_attention_heads"] / config["hidden_size"]


def _bert(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    config["architectures"] = ["BertEncoder"]
    config["type_vocab_size"] = shapes.get("token_types.weight", (0, 0))[1]
    if "position_embd.weight" in shapes:
        config["max_position_embeddings"] = shapes["position_embd.weight"][1]


def _deepseek2(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    rope = metadata.get("deepseek2.rope.dimension_count", 64)
    # files made for absorbed attention describe the latent in key_length and the heads in key_length_mla
    key = metadata.get("deepseek2.attention.key_length_mla", metadata.get("deepseek2.attention.key_length", 192))
    value = metadata.get("deepseek2.attention.value_length_mla", metadata.get("deepseek2.attention.value_length", 128))
    config.update(qk_rope_head_dim=rope, qk_nope_head_dim=key - rope, v_head_dim=value)
    config["n_routed_experts"] = config.get("num_experts")
    config.setdefault("q_lora_rank", None)
    config.pop("head_dim", None)


def _mamba(config: dict[str, Any], shapes: dict[str, tuple[int, ...]], metadata: dict[str, Any]) -> None:
    inner = metadata.get(f"{metadata['general.architecture']}.ssm.inner_size", 0)
    config["expand"] = inner / config.get("hidden_size", 1)
    heads = config.get("time_step_rank")
    if config["model_type"] == "mamba2" and heads:
        config.update(num_heads=heads, head_dim=inner // heads)


_REFINE = {
    "llama": _llama,
    "granitemoe": _granitemoe,
    "gpt2": _gpt2,
    "gptneox": _partial_rotation,
    "phi2": _partial_rotation,
    "bert": _bert,
    "deepseek2": _deepseek2,
    "mamba": _mamba,
    "mamba2": _mamba,
}


# ---------------------------------------------------------------- the format

_SCALARS = dict(enumerate("BbHhIif?")) | {10: "Q", 11: "q", 12: "d"}  # value type -> struct code
_STRING, _ARRAY = 8, 9
_LONGEST_LIST = 4096  # per-block numbers are kept, vocabularies are passed over


def _read_header(path: Path) -> GGUFFile:
    try:
        with path.open("rb") as f:
            if f.read(4) != b"GGUF":
                raise ExplorerError(f"{path.name} is not a GGUF file.", "Choose a file made by llama.cpp's converter.")
            with mmap.mmap(f.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _Cursor(data, path.name).header()
    except FileNotFoundError:
        raise ExplorerError(f"There is no file {path.name}.", "Check the path.") from None
    except OSError as error:
        raise ExplorerError(f"{path.name} could not be read: {error.strerror}.", "Choose another file.") from None
    except (struct.error, UnicodeDecodeError, OverflowError, MemoryError):
        raise ExplorerError(f"{path.name} is truncated or damaged.", "Copy or download it again.") from None


class _Cursor:
    """A position in the file's bytes. Reading past the end raises struct.error."""

    def __init__(self, data: mmap.mmap, name: str) -> None:
        self._data, self._name, self._at = data, name, 4

    def header(self) -> GGUFFile:
        version = self._number("I")
        if version not in (2, 3):
            raise ExplorerError(
                f"{self._name} has GGUF version {version}; versions 2 and 3 (little-endian) are read.",
                "Convert the model again with a current llama.cpp.",
            )
        n_tensors, n_values = self._number("Q"), self._number("Q")
        metadata: dict[str, Any] = {}
        for _ in range(n_values):
            key = self._string()
            value = self._value(self._number("I"))
            if value is not None:
                metadata[key] = value
        entries = [self._entry() for _ in range(n_tensors)]
        alignment = int(metadata.get("general.alignment", 32))
        start = -(-self._at // alignment) * alignment
        if any(start + offset + n_bytes > len(self._data) for *_, n_bytes, offset in entries):
            raise ExplorerError(f"{self._name} ends before its last tensor.", "Copy or download it again.")
        return GGUFFile(metadata, {name: (shape, dtype, size) for name, shape, dtype, size, _ in entries})

    def _number(self, code: str) -> Any:
        (value,) = struct.unpack_from(f"<{code}", self._data, self._at)
        self._at += struct.calcsize(code)
        return value

    def _string(self) -> str:
        n = self._number("Q")
        if self._at + n > len(self._data):
            raise struct.error("the string ends behind the file")
        self._at += n
        return self._data[self._at - n : self._at].decode("utf-8", errors="replace")

    def _value(self, kind: int) -> Any:
        """One value; None for a long list, which is passed over."""
        if kind == _STRING:
            return self._string()
        if kind != _ARRAY:
            return self._number(self._code(kind))
        kind, n = self._number("I"), self._number("Q")
        if kind == _ARRAY:
            for _ in range(n):
                self._value(_ARRAY)
            return None
        if kind == _STRING:
            for _ in range(n):
                length = self._number("Q")
                self._at += length
            return None
        code = self._code(kind)
        if n > _LONGEST_LIST:
            self._at += n * struct.calcsize(code)
            return None
        return [self._number(code) for _ in range(n)]

    def _code(self, kind: int) -> str:
        if kind not in _SCALARS:
            raise struct.error(f"no value type {kind}")
        return _SCALARS[kind]

    def _entry(self) -> tuple[str, tuple[int, ...], str, int, int]:
        """(name, shape, type, bytes, offset) of one tensor."""
        name = self._string()
        shape = tuple(self._number("Q") for _ in range(self._number("I")))
        kind, offset = self._number("I"), self._number("Q")
        if kind not in GGML_TYPES:
            raise ExplorerError(
                f"{self._name} stores '{name}' in tensor type {kind}, which is not known here.",
                "Use a file quantized to one of the usual types (Q4_0 to Q8_0, K-quants, IQ).",
            )
        dtype, per_block, block_bytes = GGML_TYPES[kind]
        return name, shape, dtype, prod(shape) // per_block * block_bytes, offset
