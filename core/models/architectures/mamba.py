"""Mamba and Mamba-2: no attention; a convolution and a selective recurrence with a state of fixed size.

Sources: Gu and Dao 2023 (Mamba, section 3), Dao and Gu 2024 (Mamba-2, section 7); transformers'
modeling_mamba.py and modeling_mamba2.py.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

from core.models.config import Config
from core.models.network import Network
from core.types import Conv, Elementwise, Scan
from hardware.errors import ExplorerError

_COMMON: dict[str, Any] = {"conv_kernel": 4, "expand": 2, "use_conv_bias": True, "use_bias": False}

DEFAULTS: dict[str, dict[str, Any]] = {
    "mamba": {**_COMMON, "state_size": 16, "tie_word_embeddings": True},
    "mamba2": {**_COMMON, "state_size": 128, "n_groups": 8, "num_heads": 128, "head_dim": 64},
}


@dataclass(frozen=True)
class MixerShape:
    """Sizes of a Mamba mixer. inner_norms: Jamba normalises the step and the two projections of the state."""

    d: int
    d_inner: int
    d_state: int
    dt_rank: int
    kernel: int
    conv_bias: bool = True
    bias: bool = False
    inner_norms: bool = False


def build(c: Config) -> Network:
    d, vocab_size = c.size("hidden_size"), c.size("vocab_size")
    net = Network()
    x = net.embedding("embed", vocab_size, d)
    for i in range(c.size("num_hidden_layers")):
        block = f"blocks.{i}"
        h = net.norm(f"{block}.attn_norm", x, d)
        h = mixer(net, block, h, _shape(c, d)) if c.model_type == "mamba" else _mixer2(net, c, block, h, d)
        x = net.residual(f"{block}.ssm.residual", d, x, h)
    x = net.norm("final_norm", x, d)
    net.head(x, d, vocab_size, tied=c.flag("tie_word_embeddings"))
    return net


def _shape(c: Config, d: int) -> MixerShape:
    rank = c.get("time_step_rank", "auto")
    return MixerShape(
        d=d,
        d_inner=c.size("intermediate_size", default=int(c.number("expand") * d)),
        d_state=c.size("state_size"),
        dt_rank=ceil(d / 16) if rank == "auto" else c.size("time_step_rank"),
        kernel=c.size("conv_kernel"),
        conv_bias=c.flag("use_conv_bias"),
        bias=c.flag("use_bias"),
    )


def mixer(net: Network, block: str, x: str, m: MixerShape) -> str:
    """A Mamba mixer: projection, convolution, input-dependent recurrence, gate, projection."""
    at = f"{block}.ssm"
    both = net.linear(f"{at}.in_proj", x, m.d, 2 * m.d_inner, bias=m.bias)
    u = net.add(f"{at}.conv", Conv(channels=m.d_inner, kernel=m.kernel, bias=m.conv_bias), both)
    u = net.add(f"{at}.act", Elementwise(d=m.d_inner), u)
    selection = net.linear(f"{at}.x_proj", u, m.d_inner, m.dt_rank + 2 * m.d_state)
    dt = selection
    states = [selection]
    if m.inner_norms:
        dt = net.norm(f"{at}.dt_norm", selection, m.dt_rank)
        states = [net.norm(f"{at}.{s}_norm", selection, m.d_state) for s in "bc"]
    dt = net.linear(f"{at}.dt_proj", dt, m.dt_rank, m.d_inner, bias=True)
    scan = Scan(d_inner=m.d_inner, d_state=m.d_state, n_params=m.d_inner * (m.d_state + 1))
    y = net.add(f"{at}.scan", scan, u, dt, *states)
    y = net.add(f"{at}.gate", Elementwise(d=m.d_inner, n_inputs=2, flops_per_element=2), y, both)
    return net.linear(f"{at}.out_proj", y, m.d_inner, m.d, bias=m.bias)


def _mixer2(net: Network, c: Config, block: str, x: str, d: int) -> str:
    at = f"{block}.ssm"
    n_heads, n_state = c.size("num_heads"), c.size("state_size")
    d_inner = int(c.number("expand") * d)
    if n_heads * c.size("head_dim") != d_inner:
        raise ExplorerError(
            f"'num_heads' times 'head_dim' is {n_heads * c.size('head_dim')}, but 'expand' times 'hidden_size' is "
            f"{d_inner}.",
            "Correct one of the four.",
        )
    d_conv = d_inner + 2 * c.size("n_groups") * n_state
    bias = c.flag("use_bias")
    both = net.linear(f"{at}.in_proj", x, d, d_inner + d_conv + n_heads, bias=bias)
    u = net.add(f"{at}.conv", Conv(channels=d_conv, kernel=c.size("conv_kernel"), bias=c.flag("use_conv_bias")), both)
    u = net.add(f"{at}.act", Elementwise(d=d_conv), u)
    # per head: the decay, the skip and the bias of the step
    y = net.add(f"{at}.scan", Scan(d_inner=d_inner, d_state=n_state, n_params=3 * n_heads), u, both)
    y = net.add(f"{at}.gate", Elementwise(d=d_inner, n_inputs=2, flops_per_element=2), y, both)
    y = net.norm(f"{at}.norm", y, d_inner)
    return net.linear(f"{at}.out_proj", y, d_inner, d, bias=bias)
