"""GGUF files: their metadata as a configuration, their tensors with types and bytes.

Knows llama.cpp's metadata keys (ggml-org/ggml, docs/gguf.md; gguf-py/gguf/constants.py). Reads no weights.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from core.analysis.dtypes import canonical_dtype
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

_GPT2 = {
    "num_hidden_layers": "n_layer",
    "max_position_embeddings": "n_positions",
    "hidden_size": "n_embd",
    "intermediate_size": "n_inner",
    "num_attention_heads": "n_head",
}


def open_gguf(path: Path) -> Any:
    """A reader over the file's header; raises ExplorerError for what is not a whole GGUF file."""
    from gguf import GGUFReader

    try:
        with path.open("rb") as f:
            magic = f.read(4)
    except OSError as error:
        raise ExplorerError(f"{path.name} could not be read: {error.strerror}.", "Choose another file.") from None
    if magic != b"GGUF":
        raise ExplorerError(f"{path.name} is not a GGUF file.", "Choose a file made by llama.cpp's converter.")
    try:
        reader = GGUFReader(path)
    except Exception as error:  # the reader fails in many ways on a cut file: ValueError, IndexError, KeyError ...
        raise ExplorerError(
            f"{path.name} is truncated or damaged ({type(error).__name__}).", "Copy or download it again."
        ) from None
    end = max((t.data_offset + t.n_bytes for t in reader.tensors), default=0)
    if end == 0 or end > path.stat().st_size:
        raise ExplorerError(f"{path.name} ends before its last tensor.", "Copy or download it again.")
    return reader


def gguf_config(reader: Any) -> tuple[dict[str, Any], str]:
    """The metadata as config.json would say it, and the model's name ("" where the file has none)."""
    architecture = str(_value(reader, "general.architecture", ""))
    model_type = _MODEL_TYPES.get(architecture, architecture)
    config: dict[str, Any] = {"model_type": model_type, "torch_dtype": None}
    for key, field in _FIELDS.items():
        value = _value(reader, f"{architecture}.{key}")
        if value is not None:
            config[field] = value
    shapes = {t.name: [int(n) for n in t.shape] for t in reader.tensors}
    if "token_embd.weight" in shapes:
        config["vocab_size"] = shapes["token_embd.weight"][1]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    _refine(config, shapes, reader, architecture)
    return config, str(_value(reader, "general.name", ""))


def _refine(config: dict[str, Any], shapes: dict[str, list[int]], reader: Any, architecture: str) -> None:
    """What the metadata leave to the tensors."""
    if architecture == "llama" and config.get("num_experts"):
        config["model_type"] = "mixtral"
        config["num_local_experts"] = config["num_experts"]
    elif architecture == "granitemoe":
        config["num_local_experts"] = config.get("num_experts")
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes
    if architecture == "gpt2":
        config.update({short: config[long] for long, short in _GPT2.items() if long in config})


def gguf_tensors(reader: Any) -> list[Tensor]:
    """Every tensor with its layer, type and exact bytes."""
    return [
        Tensor(
            layer=canonical_gguf(t.name) or t.name,
            dtype=canonical_dtype(t.tensor_type.name),
            n_elements=int(t.n_elements),
            n_bytes=int(t.n_bytes),
        )
        for t in reader.tensors
    ]


def _value(reader: Any, key: str, default: Any = None) -> Any:
    field = reader.get_field(key)
    return default if field is None else field.contents()
