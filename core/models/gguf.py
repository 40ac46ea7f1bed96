"""A GGUF file's header as a configuration, and its tensors as layers with types and exact bytes.

Knows llama.cpp's metadata keys (gguf-py/gguf/constants.py). The format itself is gguf_file's.
"""

from __future__ import annotations

from typing import Any

from core.dtypes import canonical_dtype
from core.layer_names import canonical_gguf
from core.models.gguf_file import GgufFile
from core.models.tensors import Tensor

Shapes = dict[str, tuple[int, ...]]

# general.architecture -> model_type; those that are not listed have the same name in both
_MODEL_TYPES = {
    "gptneox": "gpt_neox",
    "phi2": "phi",
    "qwen2moe": "qwen2_moe",
    "qwen3moe": "qwen3_moe",
    "granitemoe": "granitemoe",
    "gemma3": "gemma3_text",
    "deepseek2": "deepseek_v2",
    "gpt-oss": "gpt_oss",
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


def gguf_config(file: GgufFile) -> tuple[dict[str, Any], str]:
    """The metadata as config.json would say it, and the model's name ("" where the file has none)."""
    architecture = file.architecture
    config: dict[str, Any] = {"model_type": _MODEL_TYPES.get(architecture, architecture)}
    for key, name in _FIELDS.items():
        if (value := file.metadata.get(f"{architecture}.{key}")) is not None:
            config[name] = value
    shapes = {t.name: t.shape for t in file.tensors}
    if "token_embd.weight" in shapes:
        config["vocab_size"] = shapes["token_embd.weight"][0]
    config["tie_word_embeddings"] = "output.weight" not in shapes
    config["attention_bias"] = "blk.0.attn_q.bias" in shapes or "blk.0.attn_qkv.bias" in shapes
    config["fused_qkv"] = "blk.0.attn_qkv.weight" in shapes  # of phi and bert, which transformers keeps apart
    config["mlp_bias"] = "blk.0.ffn_up.bias" in shapes
    refine = _REFINE.get(architecture)
    if refine:
        refine(config, shapes, file.metadata)
    return config, str(file.metadata.get("general.name", ""))


def gguf_tensors(file: GgufFile) -> list[Tensor]:
    """Every tensor with its layer, type and exact bytes."""
    return [
        Tensor(
            layer=canonical_gguf(t.name) or t.name,
            dtype=canonical_dtype(t.type_name),
            n_elements=t.n_elements,
            n_bytes=t.n_bytes,
        )
        for t in file.tensors
    ]


# ---------------------------------------------------------------- what the metadata leave to be inferred


def _llama(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    if config.get("num_experts"):
        config["model_type"] = "mixtral"
        config["num_local_experts"] = config["num_experts"]


def _granitemoe(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    config["num_local_experts"] = config.get("num_experts")


def _gpt_oss(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    config["num_local_experts"] = config.get("num_experts")
    config["intermediate_size"] = config.get("moe_intermediate_size")


def _starcoder2(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    config["use_bias"] = config["mlp_bias"]


def _gpt2(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    short = {
        "num_hidden_layers": "n_layer",
        "max_position_embeddings": "n_positions",
        "hidden_size": "n_embd",
        "intermediate_size": "n_inner",
        "num_attention_heads": "n_head",
    }
    config.update({short[key]: value for key, value in list(config.items()) if key in short})


def _partial_rotation(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    rotated = metadata.get(f"{metadata['general.architecture']}.rope.dimension_count")
    if rotated and config.get("hidden_size") and config.get("num_attention_heads"):
        config["partial_rotary_factor"] = rotated * config["num_attention_heads"] / config["hidden_size"]


def _bert(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    config["architectures"] = ["BertEncoder"]
    config["type_vocab_size"] = shapes.get("token_types.weight", (0,))[0]
    if "position_embd.weight" in shapes:
        config["max_position_embeddings"] = shapes["position_embd.weight"][0]


def _deepseek2(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    rope = metadata.get("deepseek2.rope.dimension_count", 64)
    # files made for absorbed attention describe the latent in key_length and the heads in key_length_mla
    key = metadata.get("deepseek2.attention.key_length_mla", metadata.get("deepseek2.attention.key_length", 192))
    value = metadata.get("deepseek2.attention.value_length_mla", metadata.get("deepseek2.attention.value_length", 128))
    config.update(qk_rope_head_dim=rope, qk_nope_head_dim=key - rope, v_head_dim=value)
    config["n_routed_experts"] = config.get("num_experts")
    config.setdefault("q_lora_rank", None)
    config.pop("head_dim", None)


def _mamba(config: dict[str, Any], shapes: Shapes, metadata: dict[str, Any]) -> None:
    inner = metadata.get(f"{metadata['general.architecture']}.ssm.inner_size", 0)
    config["expand"] = inner / config.get("hidden_size", 1)
    heads = config.get("time_step_rank")
    if config["model_type"] == "mamba2" and heads:
        config.update(num_heads=heads, head_dim=inner // heads)


_REFINE = {
    "llama": _llama,
    "granitemoe": _granitemoe,
    "gpt-oss": _gpt_oss,
    "starcoder2": _starcoder2,
    "gpt2": _gpt2,
    "gptneox": _partial_rotation,
    "phi2": _partial_rotation,
    "bert": _bert,
    "deepseek2": _deepseek2,
    "mamba": _mamba,
    "mamba2": _mamba,
}
