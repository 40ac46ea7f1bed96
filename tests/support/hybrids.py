"""Hybrid and recurrent families, small: a configuration as transformers has it, and the GGUF that llama.cpp reads.

The files have a byte-level vocabulary of 261 tokens and random weights, so that they can be run.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from core.tokenizers import from_gguf

Shapes = dict[str, tuple[int, ...]]

D, FF, HEADS, KV, HEAD, VOCAB = 64, 96, 4, 2, 16, 261
INNER, STATE, SSM_HEADS = 128, 8, 8
CHANNELS = INNER + 2 * STATE

_BASE = {"context_length": 128, "embedding_length": D, "attention.head_count": HEADS}
_HEADS = {"attention.key_length": HEAD, "attention.value_length": HEAD, "rope.dimension_count": HEAD}
_SSM = {
    "ssm.conv_kernel": 4, "ssm.inner_size": INNER, "ssm.state_size": STATE, "ssm.time_step_rank": SSM_HEADS,
    "ssm.group_count": 1,
}  # fmt: skip
_CONFIG = {
    "hidden_size": D, "intermediate_size": FF, "num_attention_heads": HEADS, "num_key_value_heads": KV,
    "vocab_size": VOCAB, "max_position_embeddings": 128,
}  # fmt: skip
_MAMBA_CONFIG = {
    "mamba_n_heads": SSM_HEADS, "mamba_d_head": INNER // SSM_HEADS, "mamba_n_groups": 1, "mamba_d_state": STATE,
    "mamba_d_conv": 4, "mamba_expand": 2,
}  # fmt: skip
_OUTER: Shapes = {"token_embd.weight": (VOCAB, D), "output_norm.weight": (D,)}
_HEAD: Shapes = {"output.weight": (VOCAB, D)}
_ATTENTION: Shapes = {
    "attn_q.weight": (HEADS * HEAD, D),
    "attn_k.weight": (KV * HEAD, D),
    "attn_v.weight": (KV * HEAD, D),
    "attn_output.weight": (D, HEADS * HEAD),
}
_MAMBA2: Shapes = {
    "ssm_in.weight": (INNER + CHANNELS + SSM_HEADS, D),
    "ssm_conv1d.weight": (CHANNELS, 4),
    "ssm_conv1d.bias": (CHANNELS,),
    "ssm_dt.bias": (SSM_HEADS,),
    "ssm_a": (SSM_HEADS, 1),
    "ssm_d": (SSM_HEADS, 1),
    "ssm_norm.weight": (1, INNER),
    "ssm_out.weight": (D, INNER),
}
_MLP: Shapes = {"ffn_gate.weight": (FF, D), "ffn_up.weight": (FF, D), "ffn_down.weight": (D, FF)}
_SHORT: Shapes = {
    "shortconv.conv.weight": (D, 3),
    "shortconv.in_proj.weight": (3 * D, D),
    "shortconv.out_proj.weight": (D, D),
}
_NORM: Shapes = {"attn_norm.weight": (D,)}
_NORMS: Shapes = {**_NORM, "ffn_norm.weight": (D,)}


@dataclass(frozen=True)
class Family:
    """config: None where transformers does not know the family. values: without the architecture before them."""

    architecture: str
    values: dict[str, Any]
    tensors: Shapes
    config: dict[str, Any] | None = None


def _blocks(outer: Shapes, *blocks: Shapes) -> Shapes:
    return {**outer, **{f"blk.{i}.{name}": shape for i, block in enumerate(blocks) for name, shape in block.items()}}


def _qwen3_next() -> Family:
    keys, values, head = 2, 4, 8
    channels, inner = (2 * keys + values) * head, values * head
    experts: Shapes = {
        "ffn_gate_inp.weight": (4, D), "ffn_gate_exps.weight": (4, 24, D), "ffn_up_exps.weight": (4, 24, D),
        "ffn_down_exps.weight": (4, D, 24), "ffn_gate_inp_shexp.weight": (D,), "ffn_gate_shexp.weight": (40, D),
        "ffn_up_shexp.weight": (40, D), "ffn_down_shexp.weight": (D, 40), "post_attention_norm.weight": (D,),
    }  # fmt: skip
    delta: Shapes = {
        **_NORM, "attn_qkv.weight": (channels, D), "attn_gate.weight": (inner, D), "ssm_conv1d.weight": (channels, 4),
        "ssm_ba.weight": (2 * values, D), "ssm_dt.bias": (values,), "ssm_a": (values,), "ssm_norm.weight": (head,),
        "ssm_out.weight": (D, inner), **experts,
    }  # fmt: skip
    full: Shapes = {
        **_NORM, **_ATTENTION, "attn_q.weight": (2 * HEADS * HEAD, D), "attn_q_norm.weight": (HEAD,),
        "attn_k_norm.weight": (HEAD,), **experts,
    }  # fmt: skip
    return Family(
        "qwen3next",
        {
            **_BASE, **_HEADS, "block_count": 4, "feed_forward_length": FF, "attention.head_count_kv": KV,
            "expert_count": 4, "expert_used_count": 2, "expert_feed_forward_length": 24,
            "expert_shared_feed_forward_length": 40, "ssm.conv_kernel": 4, "ssm.inner_size": inner,
            "ssm.state_size": head, "ssm.time_step_rank": values, "ssm.group_count": keys, "full_attention_interval": 4,
        },
        _blocks({**_OUTER, **_HEAD}, delta, delta, delta, full),
        {
            **_CONFIG, "model_type": "qwen3_next", "num_hidden_layers": 4, "head_dim": HEAD, "num_experts": 4,
            "num_experts_per_tok": 2, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40,
            "linear_num_key_heads": keys, "linear_num_value_heads": values, "linear_key_head_dim": head,
            "linear_value_head_dim": head, "linear_conv_kernel_dim": 4, "tie_word_embeddings": False,
        },
    )  # fmt: skip


def _rwkv7() -> Family:
    lora = 8
    low = {name: {f"time_mix_{name}1.weight": (lora, D), f"time_mix_{name}2.weight": (D, lora)} for name in "wavg"}
    block: Shapes = {
        "attn_norm.weight": (D,), "attn_norm.bias": (D,), "attn_norm_2.weight": (D,), "attn_norm_2.bias": (D,),
        **{f"time_mix_{name}0.weight": (D,) for name in "wav"}, **low["w"], **low["a"], **low["v"], **low["g"],
        "time_mix_lerp_fused.weight": (6, 1, 1, D), "time_mix_k_k.weight": (D,), "time_mix_k_a.weight": (D,),
        "time_mix_r_k.weight": (D,), "time_mix_key.weight": (D, D), "time_mix_value.weight": (D, D),
        "time_mix_receptance.weight": (D, D), "time_mix_ln.weight": (D,), "time_mix_ln.bias": (D,),
        "time_mix_output.weight": (D, D), "channel_mix_lerp_k.weight": (1, 1, D),
        "channel_mix_key.weight": (4 * D, D), "channel_mix_value.weight": (D, 4 * D),
    }  # fmt: skip
    outer = {**_OUTER, **_HEAD, "output_norm.bias": (D,), "token_embd_norm.weight": (D,), "token_embd_norm.bias": (D,)}
    ranks = ("decay", "iclr", "value_residual_mix", "gate")
    values = {
        **_BASE, "attention.head_count": 0, "block_count": 2, "feed_forward_length": 4 * D, "wkv.head_size": D,
        "token_shift_count": 2, **{f"attention.{name}_lora_rank": lora for name in ranks},
    }  # fmt: skip
    return Family("rwkv7", values, _blocks(outer, block, block))


FAMILIES: dict[str, Family] = {
    "falcon-h1": Family(
        "falcon-h1",
        {**_BASE, **_HEADS, **_SSM, "block_count": 2, "feed_forward_length": FF, "attention.head_count_kv": KV},
        _blocks({**_OUTER, **_HEAD}, *(2 * [{**_NORM, "ffn_norm": (D,), **_ATTENTION, **_MAMBA2, **_MLP}])),
        {
            **_CONFIG, **_MAMBA_CONFIG, "model_type": "falcon_h1", "num_hidden_layers": 2, "head_dim": HEAD,
            "mamba_d_ssm": INNER, "mamba_rms_norm": True, "tie_word_embeddings": False,
        },
    ),
    "granite hybrid": Family(
        "granitehybrid",
        {
            **_BASE, **_HEADS, **_SSM, "block_count": 3, "feed_forward_length": FF,
            "attention.head_count_kv": [0, KV, 0], "logit_scale": 6.0, "residual_scale": 0.5, "embedding_scale": 12.0,
            "attention.scale": 0.25,
        },
        _blocks(_OUTER, {**_NORMS, **_MAMBA2, **_MLP}, {**_NORMS, **_ATTENTION, **_MLP}, {**_NORMS, **_MAMBA2, **_MLP}),
        {
            **_CONFIG, **_MAMBA_CONFIG, "model_type": "granitemoehybrid", "num_hidden_layers": 3,
            "layer_types": ["mamba", "attention", "mamba"], "num_local_experts": 0, "num_experts_per_tok": 0,
            "shared_intermediate_size": FF, "position_embedding_type": "nope", "tie_word_embeddings": True,
        },
    ),
    "nemotron-h": Family(
        "nemotron_h",
        {
            **_BASE, **_HEADS, **_SSM, "block_count": 3, "feed_forward_length": [0, 0, FF],
            "attention.head_count_kv": [0, KV, 0],
        },
        _blocks(
            {**_OUTER, **_HEAD},
            {**_NORM, **_MAMBA2},
            {**_NORM, **_ATTENTION},
            {**_NORM, "ffn_up.weight": (FF, D), "ffn_down.weight": (D, FF)},
        ),
        {
            **_CONFIG, "model_type": "nemotron_h", "layers_block_type": ["mamba", "attention", "mlp"], "head_dim": HEAD,
            "mamba_num_heads": SSM_HEADS, "mamba_head_dim": INNER // SSM_HEADS, "n_groups": 1, "ssm_state_size": STATE,
            "conv_kernel": 4, "tie_word_embeddings": False,
        },
    ),
    "lfm2": Family(
        "lfm2",
        {
            **_BASE, **_HEADS, "block_count": 3, "feed_forward_length": FF, "attention.head_count_kv": [0, KV, 0],
            "shortconv.l_cache": 3,
        },
        _blocks(
            {"token_embd.weight": (VOCAB, D), "token_embd_norm.weight": (D,)},
            {**_NORMS, **_SHORT, **_MLP},
            {**_NORMS, **_ATTENTION, "attn_q_norm.weight": (HEAD,), "attn_k_norm.weight": (HEAD,), **_MLP},
            {**_NORMS, **_SHORT, **_MLP},
        ),
        {
            **_CONFIG, "model_type": "lfm2", "num_hidden_layers": 3, "layer_types": ["conv", "full_attention", "conv"],
            "conv_L_cache": 3, "block_auto_adjust_ff_dim": False, "block_ff_dim": FF, "tie_word_embeddings": True,
        },
    ),
    "qwen3-next": _qwen3_next(),
    "mamba2": Family(
        "mamba2",
        {**_BASE, **_SSM, "attention.head_count": 0, "block_count": 2, "feed_forward_length": 0},
        _blocks(_OUTER, *(2 * [{**_NORM, **_MAMBA2}])),
        {
            "model_type": "mamba2", "hidden_size": D, "vocab_size": VOCAB, "num_hidden_layers": 2,
            "num_heads": SSM_HEADS, "head_dim": INNER // SSM_HEADS, "state_size": STATE, "n_groups": 1, "expand": 2,
            "conv_kernel": 4, "use_conv_bias": True, "use_bias": False, "tie_word_embeddings": True,
        },
    ),
    "rwkv7": _rwkv7(),
}  # fmt: skip


def is_whole(name: str, shape: tuple[int, ...]) -> bool:
    """Whether a tensor is stored in fp32; else in fp16."""
    return len(shape) == 1 or any(part in name for part in ("conv1d", "conv.weight", "ssm_a", "ssm_d", "ssm_norm",
                                                            "lerp", "gate_inp"))  # fmt: skip


def write(path: Path, family: Family) -> Path:
    import gguf

    writer = gguf.GGUFWriter(path, family.architecture)
    for key, value in family.values.items():
        name = f"{family.architecture}.{key}"
        if isinstance(value, list):
            writer.add_array(name, value)
        elif isinstance(value, float):
            writer.add_float32(name, value)
        else:
            writer.add_uint32(name, value)
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        writer.add_float32(f"{family.architecture}.{key}", 1e-5)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list([*from_gguf.byte_alphabet(), "<|end|>", "<|user|>", "<|bos|>", "th", "the"])
    writer.add_token_types([1] * 256 + [3, 3, 3, 1, 1])
    writer.add_token_merges(["t h", "th e"])
    writer.add_eos_token_id(256)
    writer.add_bos_token_id(258)
    writer.add_add_bos_token(False)
    writer.add_chat_template("{% for m in messages %}<|user|>{{ m['content'] }}{% endfor %}")
    rng = np.random.default_rng(0)
    for name, shape in _values(family.tensors, rng):
        writer.add_tensor(name, shape)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _values(tensors: Mapping[str, tuple[int, ...]], rng: np.random.Generator) -> list[tuple[str, Any]]:
    found = []
    for name, shape in tensors.items():
        values = rng.normal(0, 0.1, shape)
        if "norm" in name and not name.endswith(".bias"):
            values += 1
        if name.endswith("ssm_a"):
            values = -np.abs(values) - 0.1  # states decay
        found.append((name, values.astype(np.float32 if is_whole(name, shape) else np.float16)))
    return found
