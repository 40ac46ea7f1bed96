"""Headers of safetensors, their indexes and configurations, mutated: read, or refused in one sentence."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from typing import Any

import pytest

from core.models import formats, safetensors_file, spec
from hardware.errors import ExplorerError
from tests.models.test_gguf_file import mutated

CONFIG = {
    "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 2, "num_attention_heads": 2,
    "num_key_value_heads": 2, "vocab_size": 16, "max_position_embeddings": 64, "tie_word_embeddings": True,
    "head_dim": 4, "sliding_window": None, "torch_dtype": "bfloat16", "layer_types": ["full_attention"] * 2,
    "rope_scaling": {"type": "linear", "factor": 2.0},
}  # fmt: skip
BLOCK = {
    "self_attn.q_proj": [8, 8], "self_attn.k_proj": [8, 8], "self_attn.v_proj": [8, 8], "self_attn.o_proj": [8, 8],
    "mlp.gate_proj": [16, 8], "mlp.up_proj": [16, 8], "mlp.down_proj": [8, 16], "input_layernorm": [8],
    "post_attention_layernorm": [8],
}  # fmt: skip


def header() -> dict[str, Any]:
    shapes = {f"model.layers.{i}.{name}.weight": shape for i in range(2) for name, shape in BLOCK.items()}
    shapes |= {"model.embed_tokens.weight": [16, 8], "model.norm.weight": [8]}
    found: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    at = 0
    for name, shape in shapes.items():
        found[name] = {"dtype": "BF16", "shape": shape, "data_offsets": [at, at + 2 * prod(shape)]}
        at += 2 * prod(shape)
    return found


N_BYTES = max(entry["data_offsets"][1] for name, entry in header().items() if name != "__metadata__")


def as_bytes(value: Any) -> bytes:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return struct.pack("<Q", len(content)) + content


def folder(place: Path, **config: Any) -> Path:
    place.mkdir()
    (place / "config.json").write_text(json.dumps(CONFIG | config))
    return place


def written(place: Path, start: bytes, n_bytes: int = N_BYTES) -> Path:
    file = place / "model.safetensors"
    file.write_bytes(start + bytes(n_bytes))
    return file


def with_(name: str, **changes: Any) -> Callable[[], bytes]:
    def make() -> bytes:
        found = header()
        found[name] = {**found[name], **changes}
        return as_bytes(found)

    return make


Q = "model.layers.0.self_attn.q_proj.weight"
TWICE = b'{"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]}}'
FAULTS: dict[str, tuple[Callable[[], bytes], str]] = {
    "a length of nearly everything": (lambda: struct.pack("<Q", 2**63) + b"{}", "length of its header makes no sense"),
    "a length in the other order of bytes": (lambda: struct.pack(">Q", 900) + b"{}", "makes no sense"),
    "a header longer than the file": (lambda: struct.pack("<Q", 50_000) + b"{}", "it ends in its header"),
    "no UTF-8": (lambda: as_bytes(b'{"\xff": 1}'), "its header is not text"),
    "no JSON": (lambda: as_bytes(b'{"a": '), "its header is no JSON"),
    "nested without end": (lambda: as_bytes(b"[" * 100_000), "its header is no JSON"),
    "a list": (lambda: as_bytes([1]), "names no tensors"),
    "a name twice": (lambda: as_bytes(TWICE), "'a' is there twice"),
    "a name that is no text": (lambda: as_bytes({**header(), "\ud800": header()[Q]}), "name of a tensor is not text"),
    "no tensor": (lambda: as_bytes({**header(), "x": 3}), "'x' is not a tensor"),
    "a format that is a number": (with_(Q, dtype=4), "q_proj.weight' names no number format"),
    "no shape": (with_(Q, shape=None), "has no shape that a tensor can have"),
    "a shape below zero": (with_(Q, shape=[8, -8]), "has no shape"),
    "a shape of flags": (with_(Q, shape=[True, 64]), "has no shape"),
    "no place": (with_(Q, data_offsets=[0]), "has no place"),
    "a place that ends before it begins": (with_(Q, data_offsets=[128, 0]), "has no place"),
    "a shape that needs more": (with_(Q, shape=[2**40, 2**20]), "is said to take 128 bytes"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_with_its_cause(fault: str, tmp_path: Path) -> None:
    make, words = FAULTS[fault]
    place = folder(tmp_path / "m")
    file = written(place, make())
    for read in (lambda: safetensors_file.header(file), lambda: spec.from_hf_folder(place)):
        with pytest.raises(ExplorerError, match=words) as said:
            read()
        assert said.value.message.startswith("model.safetensors is not a complete") and said.value.message.endswith(".")


def test_a_sound_header_and_one_cut_off(tmp_path: Path) -> None:
    place = folder(tmp_path / "m")
    found = safetensors_file.header(written(place, as_bytes(header())))
    assert "__metadata__" not in found and found[Q] == {"dtype": "BF16", "shape": [8, 8], "data_offsets": [0, 128]}
    assert spec.from_hf_folder(place).weight_bytes == N_BYTES
    with pytest.raises(ExplorerError, match=r"model\.safetensors is cut off \(24 bytes are missing\)"):
        safetensors_file.header(written(place, as_bytes(header()), N_BYTES - 24))
    with pytest.raises(ExplorerError, match="is empty"):
        spec.from_hf_folder((written(place, b"", 0)).parent)


ODD: tuple[Any, ...] = (
    None, True, -1, 0, 1, 2**70, 1.5, float("nan"), float("inf"), "x", "", [], [1], [1, 2, 3], {}, {"a": 1}, [[8, 8]],
    "\ud800", -(2**63), "F64", "I8", [8, -8], [2**40, 2**40], [True, 8], ["8", 8], 10**9,
)  # fmt: skip
NAMES = ("", "a" * 5000, "model.layers.99.x", "model.layers.-1.q", "model.layers.1000000.self_attn.q_proj.weight")


def other_values(found: dict[str, Any], chance: random.Random) -> dict[str, Any]:
    """One value of a JSON object, or one within one of its objects, is another; or a key is gone or new."""
    found = json.loads(json.dumps(found))
    key = chance.choice(list(found))
    inner = found[key]
    match chance.randrange(5):
        case 0:
            found[key] = chance.choice(ODD)
        case 1 if isinstance(inner, dict) and inner:
            inner[chance.choice(list(inner))] = chance.choice(ODD)
        case 2 if isinstance(inner, dict) and inner:
            lists = [value for value in inner.values() if isinstance(value, list)]
            if lists:
                place = chance.choice(lists)
                place[chance.randrange(len(place))] = chance.choice(ODD)
        case 3:
            found[chance.choice(NAMES)] = chance.choice((inner, *ODD))
        case _:
            del found[key]
    return found


def refused(read: Callable[[], object]) -> bool:
    """Whether it is refused; any other fault than a sentence with its next step that can be shown fails."""
    try:
        read()
    except ExplorerError as error:
        assert error.message.endswith(".") and error.hint and error.message.encode() and len(error.message) < 700
        return True
    return False


@pytest.mark.parametrize(("seed", "model_type"), [(0, "llama"), (1, "llama"), (2, "nobody-knows-it")])
def test_a_mutated_safetensors_header_is_read_or_refused_in_a_sentence(
    seed: int, model_type: str, tmp_path: Path
) -> None:
    chance = random.Random(seed)
    place = folder(tmp_path / "m", model_type=model_type)
    whole = as_bytes(header())
    n = 0
    for i in range(400):
        start = as_bytes(other_values(header(), chance)) if i % 2 else mutated(b"head" + whole, chance)[4:]
        if chance.random() < 0.1:
            start = start[: chance.randrange(len(start))]
        written(place, start)
        n += refused(lambda: (formats.files_of(place), formats.size_bytes({"hf": str(place)})))
        n += refused(lambda: formats.check({"hf": str(place)}))
        n += refused(lambda: spec.from_hf_folder(place))
    assert 200 < n < 800


def test_a_mutated_index_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    chance = random.Random(3)
    place = folder(tmp_path / "m")
    shard = "model-00001-of-00001.safetensors"
    written(place, as_bytes(header())).rename(place / shard)
    index = {"metadata": {"total_size": N_BYTES}, "weight_map": {name: shard for name in header() if name[0] != "_"}}
    strange = ("../x", "/etc/passwd", ".", "..", "a\0b", "x" * 300, f"{shard}/", "é" * 200, *ODD)
    n = 0
    for i in range(500):
        found = other_values(index, chance)
        if i % 3 == 0 and isinstance(found.get("weight_map"), dict):
            found["weight_map"][Q] = chance.choice(strange)
        content = json.dumps(found).encode()
        (place / "model.safetensors.index.json").write_bytes(
            mutated(b"head" + content, chance)[4:] if i % 3 == 1 else content
        )
        n += refused(lambda: (formats.files_of(place), formats.check({"hf": str(place)}), spec.from_hf_folder(place)))
    assert 100 < n < 500


def test_a_mutated_configuration_is_read_or_refused_in_a_sentence(tmp_path: Path) -> None:
    chance = random.Random(4)
    file = tmp_path / "config.json"
    sound = CONFIG | {"quantization_config": {"quant_method": "gptq", "bits": 4, "group_size": 64}}
    n = 0
    for _ in range(500):
        found = other_values(sound, chance)
        if "model_type" in found and chance.random() < 0.9:
            found["model_type"] = "llama"
        file.write_text(json.dumps(found))
        n += refused(lambda: (formats.files_of(file), spec.read(file, "config")))
    assert 50 < n < 500


def test_a_byte_order_mark_is_no_fault(tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(b"\xef\xbb\xbf" + json.dumps(CONFIG).encode())
    assert formats.files_of(file) == {"config": str(file)} and spec.read(file, "config").n_blocks == 2
