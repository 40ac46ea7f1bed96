"""Decoders of Llama's shape: RMSNorm before each part, rotary attention, gated MLP or experts.

Sources: transformers' modeling files of the model_types below; Touvron et al. 2023 (Llama),
Jiang et al. 2023 (Mistral), Yang et al. 2024/2025 (Qwen2/3), Jiang et al. 2024 (Mixtral),
Muennighoff et al. 2024 (OLMoE).
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, experts, gated_mlp
from core.models.config import Config
from core.models.network import Network

_QWEN: dict[str, Any] = {"max_position_embeddings": 32768}

DEFAULTS: dict[str, dict[str, Any]] = {
    "llama": {"max_position_embeddings": 2048},
    "mistral": {"num_key_value_heads": 8, "sliding_window": 4096, "max_position_embeddings": 131072},
    "qwen2": {**_QWEN, "num_key_value_heads": 32},
    "qwen3": {**_QWEN, "num_key_value_heads": 32, "head_dim": 128},
    "granite": {"max_position_embeddings": 2048},
    "smollm3": {"num_key_value_heads": 4, "tie_word_embeddings": True, "max_position_embeddings": 32768},
    "phi3": {"max_position_embeddings": 4096},
    "mixtral": {
        "num_key_value_heads": 8,
        "num_local_experts": 8,
        "num_experts_per_tok": 2,
        "max_position_embeddings": 131072,
    },
    "qwen2_moe": {
        **_QWEN,
        "num_key_value_heads": 16,
        "decoder_sparse_step": 1,
        "num_experts": 60,
        "num_experts_per_tok": 4,
        "moe_intermediate_size": 1408,
        "shared_expert_intermediate_size": 5632,
        "qkv_bias": True,
    },
    "qwen3_moe": {
        **_QWEN,
        "num_key_value_heads": 4,
        "decoder_sparse_step": 1,
        "num_experts": 128,
        "num_experts_per_tok": 8,
        "moe_intermediate_size": 768,
    },
    "olmoe": {"num_experts": 64, "num_experts_per_tok": 8, "max_position_embeddings": 4096},
    "granitemoe": {"num_local_experts": 8, "num_experts_per_tok": 2, "max_position_embeddings": 2048},
}


def build(c: Config) -> Network:
    d, n_blocks = c.size("hidden_size"), c.size("num_hidden_layers")
    vocab_size = c.size("vocab_size")
    windows = _windows(c, n_blocks)
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(n_blocks):
        block = f"blocks.{i}"
        h = net.norm(f"{block}.attn_norm", x, d)
        h = attention(net, block, h, _attention_shape(c.at(i), i, windows[i]))
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = net.norm(f"{block}.mlp_norm", x, d)
        h = _feed_forward(net, c.at(i), i, f"{block}.mlp", h, d)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _windows(c: Config, n_blocks: int) -> list[int | None]:
    if c.model_type.startswith(("qwen", "smollm3")):
        if not c.flag("use_sliding_window"):
            return [None] * n_blocks
        first_local = c.whole("max_window_layers", 28)
        if c.get("layer_types") is None:
            window = c.optional("sliding_window")
            return [window if i >= first_local else None for i in range(n_blocks)]
    return c.windows(n_blocks)


def _attention_shape(c: Config, block: int, window: int | None) -> AttentionShape:
    qkv_bias = {"qwen2": True, "qwen2_moe": c.flag("qkv_bias")}.get(c.model_type, c.flag("attention_bias"))
    o_bias = c.flag("attention_bias") and not c.model_type.startswith("qwen2")
    qk_norm = {"qwen3": "head", "qwen3_moe": "head", "olmoe": "full"}.get(c.model_type)
    no_rope = c.model_type == "smollm3" and _without_rope(c, block)
    return AttentionShape.of(
        c,
        window=window,
        qkv_bias=qkv_bias,
        o_bias=o_bias,
        fused=c.model_type == "phi3",
        qk_norm=qk_norm,
        rope=0.0 if no_rope else c.rotary_share(1.0),
    )


def _without_rope(c: Config, block: int) -> bool:
    layers = c.sequence("no_rope_layers")
    if layers and block < len(layers):
        return not layers[block]
    return (block + 1) % c.size("no_rope_layer_interval", default=4) == 0


def _feed_forward(net: Network, c: Config, block: int, prefix: str, x: str, d: int) -> str:
    if not _is_sparse(c, block):
        bias = c.model_type in ("llama", "granite", "smollm3") and c.flag("mlp_bias")
        return gated_mlp(net, prefix, x, d, c.size("intermediate_size"), bias=bias, fused=c.model_type == "phi3")
    n_experts = c.size("num_local_experts" if c.get("num_local_experts") else "num_experts")
    d_ff = c.size("moe_intermediate_size" if c.model_type.startswith("qwen") else "intermediate_size")
    out, _ = experts(net, prefix, x, d, d_ff, n_experts, c.active_experts(n_experts))
    if c.model_type != "qwen2_moe":
        return out
    shared = gated_mlp(net, f"{prefix}.shared_expert", x, d, c.size("shared_expert_intermediate_size"))
    gate = net.linear(f"{prefix}.shared_expert.router", x, d, 1)
    return net.gated_sum(f"{prefix}.combine", d, out, shared, gate)


def _is_sparse(c: Config, block: int) -> bool:
    if c.model_type in ("mixtral", "olmoe", "granitemoe"):
        return True
    if c.model_type in ("qwen2_moe", "qwen3_moe"):
        dense = c.sequence("mlp_only_layers") or []
        return block not in dense and (block + 1) % c.size("decoder_sparse_step") == 0
    return False
