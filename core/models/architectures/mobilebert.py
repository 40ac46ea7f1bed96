"""MobileBERT: a narrow BERT inside bottlenecks, with several feed-forward networks in each block.

Source: Sun et al. 2020 (MobileBERT, section 3); transformers' modeling_mobilebert.py.
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.bert import add_head
from core.models.architectures.blocks import plain_mlp
from core.models.config import Config
from core.models.network import Network
from core.types import Attention, Elementwise
from hardware.errors import ExplorerError

DEFAULTS: dict[str, dict[str, Any]] = {
    "mobilebert": {
        "hidden_size": 512,
        "num_hidden_layers": 24,
        "num_attention_heads": 4,
        "intermediate_size": 512,
        "embedding_size": 128,
        "intra_bottleneck_size": 128,
        "num_feedforward_networks": 4,
        "max_position_embeddings": 512,
        "type_vocab_size": 2,
        "trigram_input": True,
        "use_bottleneck": True,
        "use_bottleneck_attention": False,
        "key_query_shared_bottleneck": True,
        "normalization_type": "no_norm",
        "tie_word_embeddings": True,
    }
}


def build(c: Config) -> Network:
    if not c.flag("use_bottleneck"):
        raise ExplorerError(
            "A MobileBERT without bottlenecks ('use_bottleneck' false) is not known here.",
            "Set 'use_bottleneck' to true, or describe the model as a 'bert'.",
        )
    d, narrow, vocab_size = c.size("hidden_size"), c.size("intra_bottleneck_size"), c.size("vocab_size")
    net = Network()
    x = _embeddings(net, c, vocab_size, d)
    for i in range(c.size("num_hidden_layers")):
        x = _block(net, c, f"blocks.{i}", x, d, narrow)
    add_head(net, c, x, d, c.size("embedding_size"), vocab_size)
    return net


def _embeddings(net: Network, c: Config, vocab_size: int, d: int) -> str:
    d_embed = c.size("embedding_size")
    x = net.embedding("embed", vocab_size, d_embed)
    # each token's vector beside its two neighbours': a convolution of width 3
    x = net.linear("embed.proj", x, d_embed * (3 if c.flag("trigram_input") else 1), d, bias=True)
    position = net.embedding("embed.position", c.size("max_position_embeddings"), d)
    token_type = net.embedding("embed.token_type", c.size("type_vocab_size"), d)
    x = net.residual("embed.sum", d, x, position, token_type)
    return _norm(net, c, "embed.norm", x, d)


def _block(net: Network, c: Config, block: str, x: str, d: int, narrow: int) -> str:
    inner = _bottleneck(net, c, f"{block}.bottleneck.in", x, d, narrow)
    q_in = v_in = inner
    if not c.flag("use_bottleneck_attention"):
        q_in = v_in = x
        if c.flag("key_query_shared_bottleneck"):
            q_in = _bottleneck(net, c, f"{block}.bottleneck.qk", x, d, narrow)
    h = _attention(net, c, block, q_in, v_in, d, narrow)
    y = net.residual(f"{block}.attn.residual", narrow, inner, h)
    y = _norm(net, c, f"{block}.attn_norm", y, narrow)
    d_ff = c.size("intermediate_size")
    for j in range(c.size("num_feedforward_networks") - 1):
        h = plain_mlp(net, f"{block}.mlp.{j}", y, narrow, d_ff)
        y = net.residual(f"{block}.mlp.{j}.residual", narrow, y, h)
        y = _norm(net, c, f"{block}.mlp.{j}.norm", y, narrow)
    h = plain_mlp(net, f"{block}.mlp", y, narrow, d_ff)
    y = net.residual(f"{block}.mlp.residual", narrow, y, h)
    y = _norm(net, c, f"{block}.mlp_norm", y, narrow)
    y = net.linear(f"{block}.bottleneck.out_proj", y, narrow, d, bias=True)
    x = net.residual(f"{block}.bottleneck.residual", d, x, y)
    return _norm(net, c, f"{block}.bottleneck.out_norm", x, d)


def _bottleneck(net: Network, c: Config, prefix: str, x: str, d: int, narrow: int) -> str:
    return _norm(net, c, f"{prefix}_norm", net.linear(f"{prefix}_proj", x, d, narrow, bias=True), narrow)


def _attention(net: Network, c: Config, block: str, q_in: str, v_in: str, d: int, narrow: int) -> str:
    n_heads = c.size("num_attention_heads")
    head_dim = narrow // n_heads
    wide = {True: narrow, False: d}
    d_qk = wide[c.flag("use_bottleneck_attention") or c.flag("key_query_shared_bottleneck")]
    at = f"{block}.attn"
    q = net.linear(f"{at}.q_proj", q_in, d_qk, n_heads * head_dim, bias=True)
    k = net.linear(f"{at}.k_proj", q_in, d_qk, n_heads * head_dim, bias=True)
    v = net.linear(f"{at}.v_proj", v_in, wide[c.flag("use_bottleneck_attention")], n_heads * head_dim, bias=True)
    core = Attention(n_heads=n_heads, n_kv_heads=n_heads, qk_dim=head_dim, v_dim=head_dim, causal=False)
    return net.linear(f"{at}.o_proj", net.add(f"{at}.core", core, q, k, v), narrow, narrow, bias=True)


def _norm(net: Network, c: Config, name: str, x: str, d: int) -> str:
    if c.get("normalization_type") == "layer_norm":
        return net.norm(name, x, d, rms=False, bias=True)
    # "no_norm" keeps LayerNorm's weight and bias without its statistics
    return net.add(name, Elementwise(d=d, flops_per_element=2), x, n_params=2 * d)
