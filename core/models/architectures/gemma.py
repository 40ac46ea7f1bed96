"""Gemma 1 to 3: scaled embeddings, wide heads, norms on both sides of each part, local and global blocks.

Sources: transformers' modeling_gemma*.py; Gemma Team 2024 (Gemma 2), 2025 (Gemma 3).
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, gated_mlp
from core.models.config import Config
from core.models.network import Network
from core.types import Elementwise

_COMMON: dict[str, Any] = {"tie_word_embeddings": True, "head_dim": 256, "max_position_embeddings": 8192}
_GEMMA3 = {
    **_COMMON,
    "vocab_size": 262208,
    "num_attention_heads": 8,
    "num_key_value_heads": 4,
    "sliding_window": 4096,
    "sliding_window_pattern": 6,
    "max_position_embeddings": 131072,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "gemma": {**_COMMON, "num_key_value_heads": 16},
    "gemma2": {**_COMMON, "num_key_value_heads": 4, "sliding_window": 4096, "final_logit_softcapping": 30.0},
    "gemma3_text": _GEMMA3,
}


def build(c: Config) -> Network:
    d, n_blocks, vocab_size = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("vocab_size")
    windows = _windows(c, n_blocks)
    bias = c.flag("attention_bias")
    embeds = c.get("use_bidirectional_attention") in (True, "all")  # EmbeddingGemma, which has no head
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    x = net.add("embed.scale", Elementwise(d=d), x)
    for i in range(n_blocks):
        block = f"blocks.{i}"
        shape = AttentionShape.of(
            c.at(i),
            window=windows[i],
            causal=not embeds,
            qkv_bias=bias,
            o_bias=bias,
            qk_norm="head" if c.model_type == "gemma3_text" else None,
        )
        h = attention(net, block, net.norm(f"{block}.attn_norm", x, d), shape)
        if c.model_type != "gemma":
            h = net.norm(f"{block}.attn_post_norm", h, d)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = net.norm(f"{block}.mlp_norm", x, d)
        h = gated_mlp(net, f"{block}.mlp", h, d, c.at(i).size("intermediate_size"))
        if c.model_type != "gemma":
            h = net.norm(f"{block}.mlp_post_norm", h, d)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    if embeds:
        return net
    logits = net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    if c.get("final_logit_softcapping"):
        net.add("lm_head.softcap", Elementwise(d=vocab_size, flops_per_element=3), logits)
    return net


def _windows(c: Config, n_blocks: int) -> list[int | None]:
    if c.model_type == "gemma":
        return [None] * n_blocks
    return c.windows(n_blocks, 2 if c.model_type == "gemma2" else c.size("sliding_window_pattern"))
