"""Jamba: blocks of Mamba with an attention block now and then, every other feed-forward network sparse.

Source: Lieber et al. 2024 (Jamba, section 2); transformers' modeling_jamba.py.
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, experts, gated_mlp
from core.models.architectures.mamba import MixerShape, mixer
from core.models.config import Config
from core.models.network import Network

DEFAULTS: dict[str, dict[str, Any]] = {
    "jamba": {
        "num_key_value_heads": 8,
        "num_experts": 16,
        "num_experts_per_tok": 2,
        "expert_layer_period": 2,
        "expert_layer_offset": 1,
        "attn_layer_period": 8,
        "attn_layer_offset": 4,
        "mamba_d_state": 16,
        "mamba_d_conv": 4,
        "mamba_expand": 2,
        "mamba_conv_bias": True,
        "max_position_embeddings": 262144,
    }
}


def build(c: Config) -> Network:
    d, vocab_size = c.size("hidden_size"), c.size("vocab_size")
    kinds, sparse = c.for_each_block("layers_block_type"), c.for_each_block("mlp_layer_types")
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(c.size("num_hidden_layers")):
        block = f"blocks.{i}"
        h = net.norm(f"{block}.attn_norm", x, d)
        if (kinds[i] == "attention") if kinds else (i % c.size("attn_layer_period") == c.whole("attn_layer_offset")):
            shape = AttentionShape.of(c.at(i), rope=0.0)
            x = net.residual(f"{block}.attn.residual", d, x, attention(net, block, h, shape))
        else:
            x = net.residual(f"{block}.ssm.residual", d, x, mixer(net, block, h, _mixer_shape(c, d)))
        h = net.norm(f"{block}.mlp_norm", x, d)
        period, offset = c.size("expert_layer_period"), c.whole("expert_layer_offset")
        with_experts = (sparse[i] == "sparse") if sparse else (i % period == offset)
        h = _feed_forward(net, c.at(i), with_experts, f"{block}.mlp", h, d)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _feed_forward(net: Network, c: Config, with_experts: bool, prefix: str, x: str, d: int) -> str:
    d_ff, n_experts = c.size("intermediate_size"), c.size("num_experts")
    if n_experts == 1 or not with_experts:
        return gated_mlp(net, prefix, x, d, d_ff)
    return experts(net, prefix, x, d, d_ff, n_experts, c.active_experts(n_experts))[0]


def _mixer_shape(c: Config, d: int) -> MixerShape:
    rank = c.get("mamba_dt_rank", "auto")
    return MixerShape(
        d=d,
        d_inner=round(c.number("mamba_expand") * d),
        d_state=c.size("mamba_d_state"),
        dt_rank=-(-d // 16) if rank == "auto" else c.size("mamba_dt_rank"),
        kernel=c.size("mamba_d_conv"),
        conv_bias=c.flag("mamba_conv_bias"),
        bias=c.flag("mamba_proj_bias"),
        inner_norms=True,
    )
