"""Blocks of the families that the fused step runs, in one form: which matrices, norms and rotations a block has.

A family that is not here may look alike and compute otherwise (another norm, a factor, a window), so each is named and
tested against transformers. Knows transformers' modules. Knows nothing of how a block is run.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

FAMILIES = ("llama", "mistral", "qwen2", "qwen3", "gemma", "phi3", "smollm3", "olmo", "olmo2")
ACTIVATIONS = {"silu": False, "gelu_pytorch_tanh": True}  # whether it is gelu in its tanh form

Linear = tuple[Any, Any]  # weight (out, in) and bias (out,) or None


@dataclass
class Common:
    """What all blocks of a model share. centred: norms take the mean off. per_head: queries and keys are normed so."""

    d: int
    n_q: int
    n_kv: int
    d_head: int
    d_ff: int
    eps: float
    scale: float
    gelu: bool
    centred: bool
    per_head: bool


@dataclass
class Parts:
    """One block. qkv and gate_up: matrices whose rows, one under the other, are those of q, k, v and of gate, up.

    norms: name -> fp32 weights; None: a norm without weights. Names as in core.backends.pytorch.native.NORMS.
    """

    qkv: Sequence[Linear]
    o: Linear
    gate_up: Sequence[Linear]
    down: Linear
    norms: dict[str, Any]
    rope: bool


def known(model: Any) -> bool:
    """Whether every block of the model is of a form that is here; its cache is not looked at."""
    config = model.config
    return (
        getattr(config, "model_type", None) in FAMILIES
        and getattr(config, "hidden_act", None) in ACTIVATIONS
        and getattr(config, "quantization_config", None) is None
        and getattr(config, "clip_qkv", None) is None
        and hasattr(model, "lm_head")
        and model.lm_head.bias is None
    )


def common(model: Any) -> Common:
    config, block = model.config, model.model.layers[0]
    attention, norm = block.self_attn, block.post_attention_layernorm
    down = block.mlp.down_proj.weight
    q_norm = getattr(attention, "q_norm", None)
    return Common(
        d=down.shape[0],
        n_q=config.num_attention_heads,
        n_kv=config.num_key_value_heads,
        d_head=attention.head_dim,
        d_ff=down.shape[1],
        eps=1e-5 if config.model_type == "olmo" else _eps(norm),
        scale=attention.scaling,
        gelu=ACTIVATIONS[config.hidden_act],
        centred=config.model_type == "olmo",
        per_head=q_norm is not None and q_norm.weight.shape[0] == attention.head_dim,
    )


def parts(model: Any) -> list[Parts]:
    return [_parts(block, model.config.model_type) for block in model.model.layers]


def _parts(block: Any, family: str) -> Parts:
    attention, mlp = block.self_attn, block.mlp
    if family == "olmo2":
        names = {"after_attention": block.post_attention_layernorm, "after_mlp": block.post_feedforward_layernorm}
    else:
        names = {"before": block.input_layernorm, "between": block.post_attention_layernorm}
    for name in ("q_norm", "k_norm"):
        if hasattr(attention, name):
            names[name] = getattr(attention, name)
    if family == "phi3":
        qkv, gate_up = [attention.qkv_proj], [mlp.gate_up_proj]
    else:
        qkv, gate_up = [attention.q_proj, attention.k_proj, attention.v_proj], [mlp.gate_proj, mlp.up_proj]
    return Parts(
        qkv=[_linear(x) for x in qkv],
        o=_linear(attention.o_proj),
        gate_up=[_linear(x) for x in gate_up],
        down=_linear(mlp.down_proj),
        norms={name: _weight(module, family) for name, module in names.items()},
        rope=bool(getattr(attention, "use_rope", True)),
    )


def _linear(module: Any) -> Linear:
    return module.weight.detach(), None if module.bias is None else module.bias.detach()


def _eps(norm: Any) -> float:
    return float(getattr(norm, "variance_epsilon", getattr(norm, "eps", 0.0)))


def _weight(norm: Any, family: str) -> Any:
    if getattr(norm, "weight", None) is None:
        return None
    weight = norm.weight.detach().float()
    return weight + 1.0 if family == "gemma" else weight.clone()
