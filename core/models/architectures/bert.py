"""Encoders: BERT, RoBERTa and DistilBERT with their masked-word head. They cannot generate.

Sources: Devlin et al. 2019, Liu et al. 2019, Sanh et al. 2019; transformers' modeling files, whose
...ForMaskedLM is counted unless the configuration's `architectures` names the bare encoder.
"""

from __future__ import annotations

from typing import Any

from core.models.architectures.blocks import AttentionShape, attention, plain_mlp
from core.models.config import Config
from core.models.network import Network
from core.types import Elementwise

_COMMON: dict[str, Any] = {"tie_word_embeddings": True, "max_position_embeddings": 512}

DEFAULTS: dict[str, dict[str, Any]] = {
    "bert": {**_COMMON, "type_vocab_size": 2},
    "roberta": {**_COMMON, "type_vocab_size": 2},
    "distilbert": _COMMON,
}


def build(c: Config) -> Network:
    distil = c.model_type == "distilbert"
    hidden, heads = ("dim", "n_heads") if distil else ("hidden_size", "num_attention_heads")
    d, vocab_size = c.size(hidden), c.size("vocab_size")
    n_heads, _, head_dim = c.heads(hidden=hidden, heads=heads)
    d_ff = c.size("hidden_dim" if distil else "intermediate_size")
    net = Network()
    x = _embeddings(net, c, vocab_size, d)
    shape = AttentionShape(
        d=d,
        n_heads=n_heads,
        n_kv_heads=n_heads,
        head_dim=head_dim,
        causal=False,
        qkv_bias=True,
        o_bias=True,
        fused=c.flag("fused_qkv"),
        rope=0.0,
    )
    for i in range(c.size("n_layers" if distil else "num_hidden_layers")):
        block = f"blocks.{i}"
        h = attention(net, block, x, shape)
        x = net.residual(f"{block}.attn.residual", d, x, h)
        x = net.norm(f"{block}.attn_norm", x, d, rms=False, bias=True)
        h = plain_mlp(net, f"{block}.mlp", x, d, d_ff)
        x = net.residual(f"{block}.mlp.residual", d, x, h)
        x = net.norm(f"{block}.mlp_norm", x, d, rms=False, bias=True)
    add_head(net, c, x, d, d, vocab_size)
    return net


def _embeddings(net: Network, c: Config, vocab_size: int, d: int) -> str:
    parts = [
        net.embedding("embed", vocab_size, d),
        net.embedding("embed.position", c.size("max_position_embeddings"), d),
    ]
    if c.optional("type_vocab_size"):
        parts.append(net.embedding("embed.token_type", c.size("type_vocab_size"), d))
    x = net.residual("embed.sum", d, *parts)
    return net.norm("embed.norm", x, d, rms=False, bias=True)


def add_head(net: Network, c: Config, x: str, d: int, d_embed: int, vocab_size: int) -> None:
    """Masked-word head, or the pooler of a bare BERT encoder. d_embed: width of the tied table."""
    architecture = str((c.sequence("architectures") or ["MaskedLM"])[0])
    if architecture.endswith("Model"):
        if c.model_type != "distilbert":
            net.linear("pooler", x, d, d, bias=True)
        return
    if architecture.endswith("Encoder"):
        return
    h = net.linear("mlm.dense", x, d, d, bias=True)
    h = net.add("mlm.act", Elementwise(d=d), h)
    h = net.norm("mlm.norm", h, d, rms=False, bias=True)
    net.head(h, d_embed, vocab_size, tied=c.flag("tie_word_embeddings"), bias=True)
    if d_embed != d:  # MobileBERT: the table covers part of the width, a second matrix the rest
        net.linear("mlm.decoder", h, d - d_embed, vocab_size)
