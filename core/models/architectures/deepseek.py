"""DeepSeek V2 and V3: latent attention, or plain where `use_mla` is false (the language model of DeepSeek-VL2-Tiny);
dense first blocks, then shared and routed experts.

The cache holds the latent of kv_lora_rank + qk_rope_head_dim elements per token. The attention core is
counted over expanded keys and values; an implementation that absorbs `kv_b_proj` into the query scores
over the latent instead, with more FLOPs and fewer bytes.

Sources: DeepSeek-AI 2024 (V2, section 2.1; V3, section 2.1); transformers' modeling_deepseek_v2/v3.py.
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, experts, gated_mlp
from core.models.config import Config
from core.models.network import Network
from core.types import Attention, Rope

_MLA: dict[str, Any] = {
    "kv_lora_rank": 512,
    "q_lora_rank": 1536,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
}

DEFAULTS: dict[str, dict[str, Any]] = {
    "deepseek_v2": {
        **_MLA,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "first_k_dense_replace": 0,
        "moe_intermediate_size": 1407,
        "max_position_embeddings": 2048,
    },
    "deepseek_v3": {
        **_MLA,
        "n_routed_experts": 256,
        "n_shared_experts": 1,
        "num_experts_per_tok": 8,
        "first_k_dense_replace": 3,
        "moe_intermediate_size": 2048,
        "max_position_embeddings": 4096,
    },
}


def build(c: Config) -> Network:
    d, vocab_size = c.size("hidden_size"), c.size("vocab_size")
    n_dense = c.whole("first_k_dense_replace")
    plain = AttentionShape.of(c) if c.get("use_mla") is False else None
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(c.size("num_hidden_layers")):
        block = f"blocks.{i}"
        h = net.norm(f"{block}.attn_norm", x, d)
        h = attention(net, block, h, plain) if plain else _attention(net, c, block, h, d)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = net.norm(f"{block}.mlp_norm", x, d)
        if i < n_dense:
            h = gated_mlp(net, f"{block}.mlp", h, d, c.size("intermediate_size"))
        else:
            h = _sparse(net, c, f"{block}.mlp", h, d)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _attention(net: Network, c: Config, block: str, x: str, d: int) -> str:
    at = f"{block}.attn"
    n_heads, rank, rope = c.size("num_attention_heads"), c.size("kv_lora_rank"), c.size("qk_rope_head_dim")
    nope, d_v = c.size("qk_nope_head_dim"), c.size("v_head_dim")
    bias = c.flag("attention_bias")
    q_rank = c.optional("q_lora_rank")
    q = x
    if q_rank:
        q = net.linear(f"{at}.q_a_proj", x, d, q_rank, bias=bias)
        q = net.norm(f"{at}.q_a_norm", q, q_rank)
    q = net.linear(f"{at}.q_proj", q, q_rank or d, n_heads * (nope + rope))
    latent = net.linear(f"{at}.kv_a_proj", x, d, rank + rope, bias=bias)
    normed = net.norm(f"{at}.kv_a_norm", latent, rank)
    kv = net.linear(f"{at}.kv_b_proj", normed, rank, n_heads * (nope + d_v))
    rotated = net.add(f"{at}.rope", Rope(d=(n_heads + 1) * rope), q, latent)  # one rotated key for all heads
    width = None if c.flag("keeps_heads") else rank + rope
    core = Attention(n_heads=n_heads, n_kv_heads=n_heads, qk_dim=nope + rope, v_dim=d_v, kv_width=width)
    mixed = net.add(f"{at}.core", core, rotated, kv)
    return net.linear(f"{at}.o_proj", mixed, n_heads * d_v, d, bias=bias)


def _sparse(net: Network, c: Config, prefix: str, x: str, d: int) -> str:
    n_experts, d_ff = c.size("n_routed_experts"), c.size("moe_intermediate_size")
    out, _ = experts(net, prefix, x, d, d_ff, n_experts, c.active_experts(n_experts))
    n_shared = c.optional("n_shared_experts")
    if not n_shared:
        return out
    shared = gated_mlp(net, f"{prefix}.shared_expert", x, d, d_ff * n_shared)
    return net.residual(f"{prefix}.combine", d, out, shared)
