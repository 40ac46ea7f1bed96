"""Converts a GGUF file into a Hugging Face folder: config, fp32 safetensors, tokenizer, chat template.

The weights are dequantized to fp32, which holds every GGUF number format without rounding, so all
backends run the same values as the file; they are no better than the file. A tensor is read,
dequantized and written one at a time: memory stays small whatever the size of the model.
Every tensor must find its place and its shape, otherwise the conversion is refused.
"""

from __future__ import annotations

import json
import math
import struct
from collections import Counter
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from core.models import gguf_file
from core.models.gguf import gguf_config, gguf_tensors, gguf_values
from core.tokenizers import from_gguf
from core.types import Progress
from hardware.errors import ExplorerError

VERSION = 7  # raise it when the output changes: cached folders are then made anew
_BYTES_PER_WEIGHT = 4
_THETA = 10000.0  # of the rotation, where no key says it

# general.architecture -> model_type. Only families whose logits were compared with llama.cpp's.
ARCHITECTURES = {
    "llama": "llama",
    "qwen2": "qwen2",
    "qwen3": "qwen3",
    "gemma2": "gemma2",
    "gemma3": "gemma3_text",
}


def unknown(architecture: str) -> ExplorerError:
    """What to say of a file of a family that is not converted."""
    return ExplorerError(
        f"A GGUF of architecture '{architecture}' cannot be converted for PyTorch or ONNX Runtime.",
        "Run it with llama.cpp, or use the model's safetensors.",
    )


def output_bytes(path: Path) -> int:
    """Size of the folder that `convert` would write, without reading any weights."""
    header = gguf_file.read(path)
    return sum(t.n_elements for t in header.tensors) * _BYTES_PER_WEIGHT + (32 << 20)


def convert(path: Path, folder: Path, progress: Progress) -> None:
    """Write the folder. Raises ExplorerError for a damaged file or an architecture that is not known."""
    header = gguf_file.read(path)
    if header.architecture not in ARCHITECTURES:
        raise unknown(header.architecture)
    progress("Importing PyTorch")
    config = _config(header)
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    progress("Converting the tokenizer")
    from_gguf.write(header.metadata, folder)
    _write_weights(header, config, folder / "model.safetensors", progress)


# ---------------------------------------------------------------- config.json


def _config(header: gguf_file.GgufFile) -> dict[str, Any]:
    arch, names, values = header.architecture, {t.name: t for t in header.tensors}, gguf_values(header)

    def get(key: str, default: Any = None) -> Any:
        value = values.get(key, default)
        if isinstance(value, list):
            raise ExplorerError(
                f"The file's '{arch}.{key}' differs from block to block, which PyTorch and ONNX Runtime cannot run.",
                "Run it with llama.cpp.",
            )
        return float(f"{value:.7g}") if isinstance(value, float) else value  # stored as float32

    def need(key: str) -> Any:
        if (value := get(key)) is None:
            raise ExplorerError(f"The file's header lacks '{arch}.{key}'.", "Download or copy the file again.")
        return value

    n_heads, d_model, n_blocks = need("attention.head_count"), need("embedding_length"), need("block_count")
    head_dim = get("attention.key_length") or d_model // n_heads
    config: dict[str, Any] = {
        "model_type": ARCHITECTURES[arch],
        "hidden_size": d_model,
        "intermediate_size": need("feed_forward_length"),
        "num_hidden_layers": n_blocks,
        "num_attention_heads": n_heads,
        "num_key_value_heads": get("attention.head_count_kv", n_heads),
        "head_dim": head_dim,
        "max_position_embeddings": need("context_length"),
        "rms_norm_eps": need("attention.layer_norm_rms_epsilon"),
        "vocab_size": names["token_embd.weight"].shape[0],
        "tie_word_embeddings": "output.weight" not in names,
        "dtype": "float32",
        "transformers_version": version("transformers"),
    }
    _check_usual(arch, get, head_dim)
    rope = _rope(header, get, names)
    if arch == "llama":
        config |= {"attention_bias": "blk.0.attn_q.bias" in names, "mlp_bias": "blk.0.ffn_gate.bias" in names}
    if arch == "qwen3":
        config["attention_bias"] = "blk.0.attn_q.bias" in names
    if arch in ("gemma2", "gemma3"):
        config |= _gemma(header, get, config)
    if arch == "gemma3":
        local = {"rope_type": "default", "rope_theta": get("rope.freq_base_swa", _THETA)}
        rope = {"full_attention": rope, "sliding_attention": local}
    config["rope_parameters"] = rope
    config["architectures"] = [_class_name(config["model_type"])]
    known = from_gguf.special_ids(header.metadata, config["vocab_size"])
    for name in ("bos", "eos", "pad"):
        config[f"{name}_token_id"] = known.get(name)
    return config


def _check_usual(arch: str, get: Any, head_dim: int) -> None:
    """Raise ExplorerError where a key has a value with which the libraries would compute something else."""
    usual = {
        "attention.causal": True,
        "attention.value_length": head_dim,
        "rope.dimension_count": head_dim,
        "rope.scaling.attn_factor": 1.0,
    }
    if arch == "gemma2":
        usual["rope.freq_base_swa"] = get("rope.freq_base", _THETA)
    for key, value in usual.items():
        if (found := get(key, value)) != value:
            raise ExplorerError(
                f"The file's '{arch}.{key}' is {found}, which PyTorch and ONNX Runtime do not compute.",
                "Run it with llama.cpp.",
            )


def _gemma(header: gguf_file.GgufFile, get: Any, config: dict[str, Any]) -> dict[str, Any]:
    """What Gemma 2 and 3 have beside the rest of their configuration: scale, windows and caps."""
    second, n_blocks = header.architecture == "gemma2", config["num_hidden_layers"]
    # llama.cpp knows the 27B models, whose scale differs, by their number of blocks
    large = n_blocks == (46 if second else 62)
    windows = gguf_config(header)[0]
    return {
        "query_pre_attn_scalar": (
            config["hidden_size"] // config["num_attention_heads"] if large else config["head_dim"]
        ),
        "layer_types": windows.get("layer_types", ["full_attention"] * n_blocks),
        "sliding_window": windows.get("sliding_window", config["max_position_embeddings"]),
        # Gemma 2 has llama.cpp's own values where the file has none
        "attn_logit_softcapping": get("attn_logit_softcapping", 50.0) if second else None,
        "final_logit_softcapping": get("final_logit_softcapping", 30.0 if second else None),
    }


def _class_name(model_type: str) -> str:
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    return str(MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[model_type])


def _rope(header: gguf_file.GgufFile, get: Any, names: dict[str, gguf_file.Tensor]) -> dict[str, Any]:
    theta = get("rope.freq_base", _THETA)
    kind, factor = get("rope.scaling.type", "linear"), get("rope.scaling.factor", get("rope.scale_linear", 1.0))
    original = get("rope.scaling.original_context_length")
    if "rope_freqs.weight" in names:
        return _llama3_rope(names["rope_freqs.weight"], theta, original or 8192)
    if kind == "none" or factor in (0.0, 1.0):
        return {"rope_type": "default", "rope_theta": theta}
    if kind == "linear":
        return {"rope_type": "linear", "rope_theta": theta, "factor": factor}
    if kind == "yarn":
        original = original or get("context_length")
        return {
            "rope_type": "yarn",
            "rope_theta": theta,
            "factor": factor,
            "original_max_position_embeddings": original,
        }
    raise ExplorerError(f"The file scales positions by '{kind}', which cannot be converted.", "Run it with llama.cpp.")


def _llama3_rope(tensor: gguf_file.Tensor, theta: float, original: int) -> dict[str, Any]:
    """Llama 3's frequency scaling, recovered from the divisors the file stores and checked against them."""
    divisors = _dequantized(tensor)
    factor, low, high = float(divisors.max()), 1.0, 4.0
    expected = []
    for i in range(len(divisors)):
        wavelength = 2 * math.pi * theta ** (i / len(divisors))
        smooth = min(1.0, max(0.0, (original / wavelength - low) / (high - low)))
        expected.append(1 / ((1 - smooth) / factor + smooth))
    if not all(math.isclose(a, b, rel_tol=1e-3) for a, b in zip(divisors, expected, strict=True)):
        raise ExplorerError("The file scales rotary frequencies in an unknown way.", "Run it with llama.cpp.")
    return {
        "rope_type": "llama3",
        "rope_theta": theta,
        "factor": factor,
        "low_freq_factor": low,
        "high_freq_factor": high,
        "original_max_position_embeddings": original,
    }


# ---------------------------------------------------------------- model.safetensors


def _write_weights(header: gguf_file.GgufFile, config: dict[str, Any], path: Path, progress: Progress) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM
    from transformers.modeling_gguf_pytorch_utils import TENSOR_PROCESSORS, TensorProcessor

    hf_config = AutoConfig.for_model(**config)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(hf_config)
    model.tie_weights()
    shapes = {name: tuple(p.shape) for name, p in model.named_parameters()}  # a tied weight stands once
    shapes |= {n: tuple(b.shape) for n, b in model.named_buffers() if n in model.state_dict()}
    processor = TENSOR_PROCESSORS.get(header.architecture, TensorProcessor)(config=hf_config.to_dict())
    names = _library_names(model, processor)

    pairs = zip(header.tensors, gguf_tensors(header), strict=True)
    text_only = [tensor for tensor, laid in pairs if not laid.aside]  # vision and audio stay behind
    tensors = [t for t in text_only if t.name != "rope_freqs.weight"]  # it is in the config
    strange = [t.name for t in tensors if t.name not in names] or sorted(
        shapes.keys() - {names[t.name] for t in tensors}
    )
    if strange:
        raise ExplorerError(
            f"The file's tensors do not match the architecture '{header.architecture}' (for instance {strange[0]}).",
            "Run it with llama.cpp, or use the model's safetensors.",
        )

    index: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    for name, shape in shapes.items():
        begin, end = end, end + math.prod(shape) * _BYTES_PER_WEIGHT
        index[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [begin, end]}
    text = json.dumps(index).encode()
    text += b" " * (-len(text) % 8)

    note = "Converting weights to a Hugging Face folder"
    written = 0
    progress(note, 0, end, "bytes")
    with path.open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        sources = Counter(names[t.name] for t in tensors)
        merged: dict[str, dict[str, Any]] = {"tensors": {}}  # a processor joins a layer's experts here
        for tensor in tensors:
            result = processor.process(
                weights=_dequantized(tensor), name=tensor.name, tensor_key_mapping=names, parsed_parameters=merged
            )
            target = names[tensor.name]
            sources[target] -= 1
            if sources[target]:
                continue
            weights = merged["tensors"].pop(target).numpy() if result.name is None else result.weights
            if weights.shape != shapes[target]:
                raise ExplorerError(
                    f"The file's tensor {tensor.name} has shape {weights.shape} where {shapes[target]} was expected.",
                    "Run it with llama.cpp, or use the model's safetensors.",
                )
            file.seek(8 + len(text) + index[target]["data_offsets"][0])
            file.write(weights.astype("<f4").tobytes())
            written += weights.size * _BYTES_PER_WEIGHT
            progress(note, written, end, "bytes")


def _library_names(model: Any, processor: Any) -> dict[str, str]:
    """The file's name of a tensor -> transformers', which makes the same large table anew for every module."""
    import gguf
    from transformers.modeling_gguf_pytorch_utils import get_gguf_hf_weights_map

    make = gguf.get_tensor_name_map
    gguf.get_tensor_name_map = cache(make)
    try:
        return dict(get_gguf_hf_weights_map(model, processor))
    finally:
        gguf.get_tensor_name_map = make


def _dequantized(tensor: gguf_file.Tensor) -> Any:
    """The tensor's values as float32, in its numpy shape."""
    import numpy as np
    from gguf import GGMLQuantizationType, dequantize

    _, block, block_bytes = gguf_file.TYPES[tensor.type_id]
    raw = np.fromfile(tensor.path, dtype=np.uint8, count=tensor.n_bytes, offset=tensor.offset)
    rows = raw.reshape(*tensor.shape[:-1], tensor.shape[-1] // block * block_bytes)
    kind = GGMLQuantizationType(tensor.type_id)
    plain = {"F32": "<f4", "F16": "<f2", "F64": "<f8"}.get(tensor.type_name)
    try:
        values = rows.view(plain) if plain else dequantize(rows, kind)
    except NotImplementedError as error:
        raise ExplorerError(
            f"Weights stored as {tensor.type_name} cannot be dequantized here.", "Run it with llama.cpp."
        ) from error
    return np.ascontiguousarray(values, dtype=np.float32)
