"""OLMo 2 and 3: Llama's parts, normalised after them instead of before, and whole-width query and key norms.

Sources: OLMo Team 2024 (OLMo 2, section 3.1); transformers' modeling_olmo2.py and modeling_olmo3.py.
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, gated_mlp
from core.models.config import Config
from core.models.network import Network

DEFAULTS: dict[str, dict[str, Any]] = {
    "olmo2": {"max_position_embeddings": 2048},
    "olmo3": {"max_position_embeddings": 2048, "sliding_window": 4096},
}


def build(c: Config) -> Network:
    d, n_blocks, vocab_size = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("vocab_size")
    windows = c.windows(n_blocks, 4) if c.model_type == "olmo3" else [None] * n_blocks
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
            qk_norm="full",
        )
        h = net.norm(f"{block}.attn_post_norm", attention(net, block, x, shape), d)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = gated_mlp(net, f"{block}.mlp", x, d, c.at(i).size("intermediate_size"))
        h = net.norm(f"{block}.mlp_post_norm", h, d)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net
