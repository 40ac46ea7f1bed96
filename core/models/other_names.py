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
_LLAVA = {"llama": "llama", "mistral": "mistral", "qwen": "qwen2", "qwen2": "qwen2"}  # the code of its makers
_MOST_BLOCKS = 10_000
# model_type -> that of transformers, and key -> the library's key
_OTHERS: dict[str, tuple[str, Mapping[str, str]]] = {
    "kimi_k2": ("deepseek_v3", {}),
    "chatglm": ("glm", _CHATGLM),
    "mimo": ("qwen2", {}),
    "phi4mm": ("phi3", {}),
    **{f"llava_{kind}": (theirs, {}) for kind, theirs in _LLAVA.items()},
}


def _with_pattern(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """EXAONE 4 as its first files have it: letters for local and global blocks, over and over, the last one global.

    Without a word none of them is local.
    """
    pattern, n = config.get("sliding_window_pattern"), config.get("num_hidden_layers")
    if config.get("layer_types") or not isinstance(n, int) or not 0 < n <= _MOST_BLOCKS:
        return config
    if isinstance(pattern, str) and pattern:
        local = [pattern[i % len(pattern)] == "L" and i < n - 1 for i in range(n)]
    elif pattern is None or config.get("sliding_window") is None:
        local = [False] * n
    else:
        return config
    return {**config, "layer_types": ["sliding_attention" if one else "full_attention" for one in local]}


def usual(model_type: str) -> str:
    """transformers' name of an architecture; the same where it has no other."""
    return _OTHERS.get(model_type, (model_type, {}))[0]


def in_usual_names(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The configuration as transformers would have it."""
    if config.get("model_type") == "exaone4":
        return _with_pattern(config)
    if config.get("model_type") == "llava" and "hidden_size" in config:  # as its makers had it
        return {**config, "model_type": "llama"}
    name, keys = _OTHERS.get(str(config.get("model_type")), ("", {}))
    if not name or any(key not in config for key in keys):
        return config
    return {**config, **{theirs: config[own] for own, theirs in keys.items()}, "model_type": name}
