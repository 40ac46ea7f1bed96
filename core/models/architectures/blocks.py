"""The parts that transformer families share: attention, feed-forward networks, experts.

Each function adds the layers of one part under `blocks.I.` and returns the name of its last layer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from core.models.config import Config
from core.models.network import Network
from core.types import Attention, Elementwise, Rope


@dataclass(frozen=True)
class AttentionShape:
    """What distinguishes the attention of one family from another's.

    qk_norm: "head" normalises each head (one weight of head width), "full" the whole projection.
    fused: one matrix yields query, key and value. rope: the share of each head that is rotated.
    core_params: parameters of the core itself (gpt-oss: one sink per head).
    """

    d: int
    n_heads: int
    n_kv_heads: int
    head_dim: int
    window: int | None = None
    causal: bool = True
    qkv_bias: bool = False
    o_bias: bool = False
    fused: bool = False
    qk_norm: Literal["head", "full"] | None = None
    norm_rms: bool = True
    norm_bias: bool = False
    rope: float = 1.0
    core_params: int = 0

    @classmethod
    def of(cls, c: Config, **kind: Any) -> AttentionShape:
        """Widths and heads as the config names them; the rest is given."""
        n_heads, n_kv_heads, head_dim = c.heads()
        return cls(d=c.size("hidden_size"), n_heads=n_heads, n_kv_heads=n_kv_heads, head_dim=head_dim, **kind)


def attention(net: Network, block: str, x: str, a: AttentionShape, *, qk_input: str | None = None) -> str:
    """Projections, rotation, core and output projection. qk_input: queries and keys read this instead of x."""
    at = f"{block}.attn"
    d_q, d_kv = a.n_heads * a.head_dim, a.n_kv_heads * a.head_dim
    qk_input = qk_input or x
    if a.fused:
        q = k = v = net.linear(f"{at}.qkv_proj", x, a.d, d_q + 2 * d_kv, bias=a.qkv_bias)
    else:
        q = net.linear(f"{at}.q_proj", qk_input, a.d, d_q, bias=a.qkv_bias)
        k = net.linear(f"{at}.k_proj", qk_input, a.d, d_kv, bias=a.qkv_bias)
        v = net.linear(f"{at}.v_proj", x, a.d, d_kv, bias=a.qkv_bias)
    if a.qk_norm == "head":
        q = net.norm(f"{at}.q_norm", q, a.head_dim, n_groups=a.n_heads, rms=a.norm_rms, bias=a.norm_bias)
        k = net.norm(f"{at}.k_norm", k, a.head_dim, n_groups=a.n_kv_heads, rms=a.norm_rms, bias=a.norm_bias)
    elif a.qk_norm == "full":
        q = net.norm(f"{at}.q_norm", q, d_q, rms=a.norm_rms, bias=a.norm_bias)
        k = net.norm(f"{at}.k_norm", k, d_kv, rms=a.norm_rms, bias=a.norm_bias)
    if a.rope:
        rotated = Rope(d=int(a.rope * a.head_dim) * (a.n_heads + a.n_kv_heads))
        q = k = net.add(f"{at}.rope", rotated, *dict.fromkeys((q, k)))
    core = Attention(
        n_heads=a.n_heads,
        n_kv_heads=a.n_kv_heads,
        qk_dim=a.head_dim,
        v_dim=a.head_dim,
        window=a.window,
        causal=a.causal,
    )
    mixed = net.add(f"{at}.core", core, *dict.fromkeys((q, k, v)), n_params=a.core_params)
    return net.linear(f"{at}.o_proj", mixed, d_q, a.d, bias=a.o_bias)


def gated_mlp(net: Network, prefix: str, x: str, d: int, d_ff: int, *, bias: bool = False, fused: bool = False) -> str:
    """down(act(gate(x)) * up(x)) under `prefix` (`blocks.3.mlp`). fused: gate and up are one matrix."""
    product = Elementwise(d=d_ff, n_inputs=2, flops_per_element=2)
    if fused:
        both = net.linear(f"{prefix}.gate_up_proj", x, d, 2 * d_ff, bias=bias)
        hidden = net.add(f"{prefix}.act", product, both)
    else:
        gate = net.linear(f"{prefix}.gate_proj", x, d, d_ff, bias=bias)
        up = net.linear(f"{prefix}.up_proj", x, d, d_ff, bias=bias)
        hidden = net.add(f"{prefix}.act", product, gate, up)
    return net.linear(f"{prefix}.down_proj", hidden, d_ff, d, bias=bias)


def plain_mlp(net: Network, prefix: str, x: str, d: int, d_ff: int, *, bias: bool = True) -> str:
    """down(act(up(x)))."""
    up = net.linear(f"{prefix}.up_proj", x, d, d_ff, bias=bias)
    hidden = net.add(f"{prefix}.act", Elementwise(d=d_ff), up)
    return net.linear(f"{prefix}.down_proj", hidden, d_ff, d, bias=bias)


def experts(
    net: Network, prefix: str, x: str, d: int, d_ff: int, n_experts: int, n_active: int, *, bias: bool = False
) -> tuple[str, str]:
    """Router and gated experts, `n_active` of `n_experts` per token. Returns (combined output, router)."""
    router = net.linear(f"{prefix}.router", x, d, n_experts, bias=bias)

    def part(name: str, source: str, d_in: int, d_out: int) -> str:
        at = f"{prefix}.experts.{name}"
        return net.linear(at, source, d_in, d_out, bias=bias, n_experts=n_experts, n_active=n_active)

    gate, up = part("gate_proj", x, d, d_ff), part("up_proj", x, d, d_ff)
    product = Elementwise(d=n_active * d_ff, n_inputs=2, flops_per_element=2)
    down = part("down_proj", net.add(f"{prefix}.experts.act", product, gate, up), d_ff, d)
    # a weight and a sum for each active expert
    weighted = Elementwise(d=d, n_inputs=n_active, flops_per_element=2 * n_active - 1)
    return net.add(f"{prefix}.experts.combine", weighted, down, router), router
