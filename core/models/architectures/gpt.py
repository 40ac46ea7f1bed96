"""Decoders of the GPT line: LayerNorm with biases, a plain MLP, learned positions or partial rotation.

Sources: transformers' modeling files of the model_types below; Radford et al. 2019 (GPT-2), Zhang et al.
2022 (OPT), Black et al. 2022 (GPT-NeoX), Li et al. 2023 (Phi), Lozhkov et al. 2024 (StarCoder 2).
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, plain_mlp
from core.models.config import Config
from core.models.network import Network

DEFAULTS: dict[str, dict[str, Any]] = {
    "gpt2": {"tie_word_embeddings": True, "n_positions": 1024},
    "opt": {
        "tie_word_embeddings": True,
        "max_position_embeddings": 2048,
        "do_layer_norm_before": True,
        "enable_bias": True,
        "layer_norm_elementwise_affine": True,
    },
    "gpt_neox": {"use_parallel_residual": True, "attention_bias": True, "max_position_embeddings": 2048},
    "phi": {"max_position_embeddings": 2048},
    "starcoder2": {
        "num_key_value_heads": 2,
        "use_bias": True,
        "tie_word_embeddings": True,
        "max_position_embeddings": 4096,
    },
}


def build(c: Config) -> Network:
    families = {"gpt2": _gpt2, "opt": _opt, "gpt_neox": _gpt_neox, "phi": _phi, "starcoder2": _starcoder2}
    return families[c.model_type](c)


def _gpt2(c: Config) -> Network:
    d, vocab_size = c.size("n_embd"), c.size("vocab_size")
    n_heads, _, head_dim = c.heads(hidden="n_embd", heads="n_head")
    shape = AttentionShape(
        d=d,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        qkv_bias=True,
        o_bias=True,
        fused=True,
        rope=0.0,
    )
    net = Network()
    token = net.embedding("embed", vocab_size, d)
    position = net.embedding("embed.position", c.size("n_positions"), d)
    x = net.residual("embed.sum", d, token, position)
    for i in range(c.size("n_layer")):
        block = f"blocks.{i}"
        h = attention(net, block, _layer_norm(net, f"{block}.attn_norm", x, d), shape)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = _layer_norm(net, f"{block}.mlp_norm", x, d)
        h = plain_mlp(net, f"{block}.mlp", h, d, c.size("n_inner", default=4 * d))
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    x = _layer_norm(net, "final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _opt(c: Config) -> Network:
    d, vocab_size = c.size("hidden_size"), c.size("vocab_size")
    d_embed = c.size("word_embed_proj_dim", default=d)
    n_heads, _, head_dim = c.heads()
    bias, before = c.flag("enable_bias"), c.flag("do_layer_norm_before")
    shape = AttentionShape(
        d=d, n_heads=n_heads, n_kv_heads=n_heads, head_dim=head_dim, qkv_bias=bias, o_bias=bias, rope=0.0
    )
    net = Network()
    x = net.embedding("embed", vocab_size, d_embed)
    if d_embed != d:
        x = net.linear("embed.proj", x, d_embed, d)
    position = net.embedding("embed.position", c.size("max_position_embeddings") + 2, d)
    x = net.residual("embed.sum", d, x, position)
    for i in range(c.size("num_hidden_layers")):
        block = f"blocks.{i}"
        for part in ("attn", "mlp"):
            h = _layer_norm(net, f"{block}.{part}_norm", x, d) if before else x
            if part == "attn":
                h = attention(net, block, h, shape)
            else:
                h = plain_mlp(net, f"{block}.mlp", h, d, c.size("ffn_dim"), bias=bias)
            x = net.residual(f"{block}.{part}.residual", d, x, h)
            if not before:
                x = _layer_norm(net, f"{block}.{part}_norm", x, d)
    if before and not c.flag("_remove_final_layer_norm"):
        x = _layer_norm(net, "final_norm", x, d)
    if d_embed != d:
        x = net.linear("final_proj", x, d, d_embed)
    net.head(x, d_embed, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _gpt_neox(c: Config) -> Network:
    d, vocab_size = c.size("hidden_size"), c.size("vocab_size")
    n_heads, _, head_dim = c.heads()
    bias = c.flag("attention_bias")
    shape = AttentionShape(
        d=d,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        qkv_bias=bias,
        o_bias=bias,
        fused=True,
        rope=c.rotary_share(0.25),
    )
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(c.size("num_hidden_layers")):
        block = f"blocks.{i}"
        mixed = attention(net, block, _layer_norm(net, f"{block}.attn_norm", x, d), shape)
        parallel = c.flag("use_parallel_residual")
        y = x if parallel else net.residual(f"{block}.attn.residual", d, x, mixed)
        h = plain_mlp(net, f"{block}.mlp", _layer_norm(net, f"{block}.mlp_norm", y, d), d, c.size("intermediate_size"))
        x = net.residual(f"{block}.mlp.residual", d, *((x, mixed, h) if parallel else (y, h)))
    net.head(_layer_norm(net, "final_norm", x, d), d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _phi(c: Config) -> Network:
    d, vocab_size = c.size("hidden_size"), c.size("vocab_size")
    n_heads, n_kv_heads, head_dim = c.heads()
    shape = AttentionShape(
        d=d,
        n_heads=n_heads,
        n_kv_heads=n_kv_heads,
        head_dim=head_dim,
        qkv_bias=True,
        o_bias=True,
        fused=c.flag("fused_qkv"),
        qk_norm="head" if c.flag("qk_layernorm") else None,
        norm_rms=False,
        norm_bias=True,
        rope=c.rotary_share(0.5),
    )
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(c.size("num_hidden_layers")):
        block = f"blocks.{i}"
        h = _layer_norm(net, f"{block}.attn_norm", x, d)  # both parts read the one norm
        mixed = attention(net, block, h, shape)
        fed = plain_mlp(net, f"{block}.mlp", h, d, c.size("intermediate_size"))
        x = net.residual(f"{block}.mlp.residual", d, x, mixed, fed)
    net.head(_layer_norm(net, "final_norm", x, d), d, vocab_size, tied=c.flag("tie_word_embeddings"), bias=True)
    return net


def _starcoder2(c: Config) -> Network:
    d, n_blocks, vocab_size = c.size("hidden_size"), c.size("num_hidden_layers"), c.size("vocab_size")
    bias = c.flag("use_bias")
    windows = c.windows(n_blocks)
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(n_blocks):
        block = f"blocks.{i}"
        shape = AttentionShape.of(
            c,
            window=windows[i],
            qkv_bias=bias,
            o_bias=bias,
        )
        h = attention(net, block, _layer_norm(net, f"{block}.attn_norm", x, d), shape)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        h = _layer_norm(net, f"{block}.mlp_norm", x, d)
        h = plain_mlp(net, f"{block}.mlp", h, d, c.size("intermediate_size"), bias=bias)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
    net.head(_layer_norm(net, "final_norm", x, d), d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _layer_norm(net: Network, name: str, x: str, d: int) -> str:
    return net.norm(name, x, d, rms=False, bias=True)
