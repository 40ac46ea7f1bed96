"""gpt-oss: experts with biases, local and global blocks, and one learned sink per head in the softmax.

Sources: OpenAI 2025 (gpt-oss model card, section 2); transformers' modeling_gpt_oss.py.
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, experts
from core.models.config import Config
from core.models.network import Network

DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt_oss": {
        "num_key_value_heads": 8,
        "head_dim": 64,
        "num_local_experts": 128,
        "num_experts_per_tok": 4,
        "sliding_window": 128,
        "attention_bias": True,
        "max_position_embeddings": 131072,
    }
}


def build(c: Config) -> Network:
    d, n_blocks, vocab_size = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("vocab_size")
    n_experts = c.size("num_local_experts")
    windows = c.windows(n_blocks, 2)
    bias = c.flag("attention_bias")
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(n_blocks):
        block = f"blocks.{i}"
        shape = AttentionShape.of(
            c.at(i),
            window=windows[i],
            qkv_bias=bias,
            o_bias=bias,
            core_params=c.at(i).heads()[0],
        )
        h = attention(net, block, net.norm(f"{block}.attn_norm", x, d), shape)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = net.norm(f"{block}.mlp_norm", x, d)
        n_active = c.active_experts(n_experts)
        h, _ = experts(net, f"{block}.mlp", h, d, c.size("intermediate_size"), n_experts, n_active, bias=True)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net
