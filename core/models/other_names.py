"""Networks that transformers has, in configurations that call them and their sizes otherwise: those of repositories
that came with code of their own.

Knows names, and nothing of what they mean.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_CHATGLM = {  # the second and later ones; the first has other keys
    "num_layers": "num_hidden_layers",
    "ffn_hidden_size": "intermediate_size",
    "multi_query_group_num": "num_key_value_heads",
    "kv_channels": "head_dim",
    "padded_vocab_size": "vocab_size",
    "seq_length": "max_position_embeddings",
    "add_qkv_bias": "attention_bias",
}
# model_type -> that of transformers, and key -> the library's key
_OTHERS: dict[str, tuple[str, Mapping[str, str]]] = {
    "kimi_k2": ("deepseek_v3", {}),
    "chatglm": ("glm", _CHATGLM),
}


def usual(model_type: str) -> str:
    """transformers' name of an architecture; the same where it has no other."""
    return _OTHERS.get(model_type, (model_type, {}))[0]


def in_usual_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration as transformers would have it."""
    name, keys = _OTHERS.get(str(config.get("model_type")), ("", {}))
    if not name or any(key not in config for key in keys):
        return config
    return {**config, **{theirs: config[own] for own, theirs in keys.items()}, "model_type": name}
