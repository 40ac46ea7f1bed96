"""GGUF files of architectures without a file of ours: layers from tensors, heads and states from their numbers."""

from math import prod

import pytest

from core.analysis.work import kv_bytes_per_token, kv_cache_bytes, n_active_params, state_bytes, work
from core.models.spec import from_gguf
from core.types import Attention, Conv, Linear, Scan
from tests.models.test_spec import _MLP, _NORMS, _is_vector, write_gguf

_OUTER = {"token_embd.weight": (16, 32), "output_norm.weight": (32,), "output.weight": (16, 32)}
_SIZES = {"context_length": 64, "embedding_length": 32, "feed_forward_length": 64}
_HEADS = {"attention.head_count": 4, "attention.key_length": 8, "attention.value_length": 8}
_SSM = {"ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 4, "ssm.time_step_rank": 8, "ssm.group_count": 1}


def _at(block, tensors):
    return {name.replace("blk.0.", f"blk.{block}."): shape for name, shape in tensors.items()}


_ATTENTION = {
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32),
    "blk.0.attn_output.weight": (32, 32),
}
_MAMBA2 = {
    "blk.0.ssm_in.weight": (144, 32),
    "blk.0.ssm_conv1d.weight": (72, 4),
    "blk.0.ssm_conv1d.bias": (72,),
    "blk.0.ssm_dt.bias": (8,),
    "blk.0.ssm_a": (8, 1),
    "blk.0.ssm_d": (8, 1),
    "blk.0.ssm_norm.weight": (1, 64),
    "blk.0.ssm_out.weight": (32, 64),
}
_SHORT = {
    "blk.0.shortconv.conv.weight": (32, 3),
    "blk.0.shortconv.in_proj.weight": (96, 32),
    "blk.0.shortconv.out_proj.weight": (32, 32),
}
_DELTA = {
    "blk.0.attn_norm.weight": (32,),
    "blk.0.post_attention_norm.weight": (32,),
    "blk.0.attn_qkv.weight": (64, 32),
    "blk.0.attn_gate.weight": (32, 32),
    "blk.0.ssm_conv1d.weight": (64, 4),
    "blk.0.ssm_ba.weight": (8, 32),
    "blk.0.ssm_dt.bias": (4,),
    "blk.0.ssm_a": (4,),
    "blk.0.ssm_norm.weight": (8,),
    "blk.0.ssm_out.weight": (32, 32),
}
_MOE = {
    "blk.0.ffn_gate_inp.weight": (4, 32),
    "blk.0.ffn_gate_exps.weight": (4, 24, 32),
    "blk.0.ffn_up_exps.weight": (4, 24, 32),
    "blk.0.ffn_down_exps.weight": (4, 32, 24),
    "blk.0.ffn_gate_inp_shexp.weight": (32,),
    "blk.0.ffn_gate_shexp.weight": (40, 32),
    "blk.0.ffn_up_shexp.weight": (40, 32),
    "blk.0.ffn_down_shexp.weight": (32, 40),
}
_RWKV = {
    "blk.0.attn_norm.weight": (32,), "blk.0.attn_norm.bias": (32,), "blk.0.attn_norm_2.weight": (32,),
    "blk.0.attn_norm_2.bias": (32,), "blk.0.time_mix_w0.weight": (32,), "blk.0.time_mix_w1.weight": (8, 32),
    "blk.0.time_mix_w2.weight": (32, 8), "blk.0.time_mix_lerp_fused.weight": (6, 1, 1, 32),
    "blk.0.time_mix_key.weight": (32, 32), "blk.0.time_mix_value.weight": (32, 32),
    "blk.0.time_mix_receptance.weight": (32, 32), "blk.0.time_mix_ln.weight": (32,), "blk.0.time_mix_ln.bias": (32,),
    "blk.0.time_mix_output.weight": (32, 32), "blk.0.channel_mix_lerp_k.weight": (1, 1, 32),
    "blk.0.channel_mix_key.weight": (64, 32), "blk.0.channel_mix_value.weight": (32, 64),
}  # fmt: skip

# architecture -> its numbers, its tensors, (cached elements per token, state elements)
FILES = {
    "falcon-h1": (
        {**_SIZES, **_HEADS, **_SSM, "block_count": 1, "attention.head_count_kv": 2},
        {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm": (32,), **_ATTENTION, **_MAMBA2, **_MLP},
        (2 * 2 * 8, 64 * 4 + 72 * 3),
    ),
    "granitehybrid": (
        {**_SIZES, **_HEADS, **_SSM, "block_count": 2, "attention.head_count_kv": [0, 2]},
        {**_NORMS, **_MAMBA2, **_MLP, **_at(1, {**_NORMS, **_ATTENTION, **_MLP})},
        (2 * 2 * 8, 64 * 4 + 72 * 3),
    ),
    "lfm2": (
        {**_SIZES, **_HEADS, "block_count": 2, "attention.head_count_kv": [0, 2], "shortconv.l_cache": 3},
        {"token_embd_norm.weight": (32,), **_NORMS, **_SHORT, **_MLP}
        | _at(1, {**_NORMS, **_ATTENTION, **_MLP, "blk.0.attn_q_norm.weight": (8,), "blk.0.attn_k_norm.weight": (8,)}),
        (2 * 2 * 8, 32 * 2),
    ),
    "qwen3next": (
        {**_SIZES, **_HEADS, "block_count": 2, "attention.head_count_kv": 2, "expert_count": 4, "expert_used_count": 2}
        | {"expert_feed_forward_length": 24, "expert_shared_feed_forward_length": 40, "ssm.conv_kernel": 4}
        | {
            "ssm.inner_size": 32,
            "ssm.state_size": 8,
            "ssm.time_step_rank": 4,
            "ssm.group_count": 2,
            "full_attention_interval": 2,
        },
        {**_DELTA, **_MOE}
        | _at(1, {**_ATTENTION, **_MOE, "blk.0.attn_q.weight": (64, 32), "blk.0.attn_norm.weight": (32,)})
        | {
            "blk.1.attn_q_norm.weight": (8,),
            "blk.1.attn_k_norm.weight": (8,),
            "blk.1.post_attention_norm.weight": (32,),
        },
        (2 * 2 * 8, 32 * 8 + 64 * 3),
    ),
    "rwkv7": (
        {**_SIZES, "block_count": 1, "wkv.head_size": 8, "token_shift_count": 2, "attention.head_count": 0},
        _RWKV,
        (0, 32 * 8 + 2 * 32),
    ),
    "cohere2": (
        {**_SIZES, **_HEADS, "block_count": 2, "attention.head_count_kv": 2, "attention.sliding_window": 8}
        | {"attention.sliding_window_pattern": 2, "logit_scale": 0.25},
        {"blk.0.attn_norm.weight": (32,), **_ATTENTION, **_MLP}
        | _at(1, {"blk.0.attn_norm.weight": (32,), **_ATTENTION, **_MLP}),
        (2 * 2 * 2 * 8, 0),
    ),
}


_WITHOUT = {
    "lfm2": "output_norm.weight",
    "cohere2": "output.weight",
}  # its norm has another name; its head is the table


def _tensors(architecture):
    return {k: v for k, v in {**_OUTER, **FILES[architecture][1]}.items() if k != _WITHOUT.get(architecture)}


def _written(architecture, tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", architecture, FILES[architecture][0], _tensors(architecture))


@pytest.mark.parametrize("architecture", FILES)
def test_every_byte_has_a_layer_and_every_state_its_size(architecture, tmp_path):
    values, _, (per_token, state) = FILES[architecture]
    spec = from_gguf(_written(architecture, tmp_path))
    tensors = _tensors(architecture)
    assert spec.n_params == sum(prod(shape) for shape in tensors.values())
    assert spec.weight_bytes == sum(prod(s) * (4 if _is_vector(n, s) else 2) for n, s in tensors.items())
    assert spec.n_blocks == values["block_count"] and spec.architecture == architecture and not spec.doubts
    assert kv_bytes_per_token(spec, "fp16") == 2 * per_token and state_bytes(spec) == 4 * state
    matrices = sum(
        x.n_params * x.op.n_active // x.op.n_experts
        for x in spec.layers
        if isinstance(x.op, Linear) and x.name != "lm_head"
    )
    rows = work(spec, 5, 20, batch=2)
    found = sum(
        r.flops for r, x in zip(rows, spec.layers, strict=True) if isinstance(x.op, Linear) and x.name != "lm_head"
    )
    assert found == 2 * 5 * 2 * matrices
    read = sum(r.kv_read_bytes for r, x in zip(rows, spec.layers, strict=True) if isinstance(x.op, Scan | Conv))
    assert read == 2 * 4 * state  # of both sequences


@pytest.mark.parametrize("architecture", FILES)
def test_every_output_is_read_and_blocks_are_put_together_as_they_run(architecture, tmp_path):
    """Also where a file lists the tensors of a block by their names, as converted files do."""
    values, tensors = FILES[architecture][0], _tensors(architecture)
    sources = []
    for order in (list, sorted):
        ordered = {name: tensors[name] for name in order(tensors)}
        spec = from_gguf(write_gguf(tmp_path / f"{order.__name__}.gguf", architecture, values, ordered))
        sources.append({layer.name: set(layer.inputs) for layer in spec.layers})
        read = {name for layer in spec.layers for name in layer.inputs}
        assert [x.name for x in spec.layers if x.name not in read] == ["lm_head"]
    assert sources[0] == sources[1] or architecture == "rwkv7"  # whose parts only its order tells
    wired = {
        "falcon-h1": {"ssm.in_proj": "attn_norm", "ssm.conv": "ssm.in_proj", "ssm.scan": "ssm.conv"},
        "granitehybrid": {"ssm.in_proj": "attn_norm", "ssm.conv": "ssm.in_proj", "ssm.out_proj": "ssm.norm"},
        "lfm2": {"ssm.in_proj": "attn_norm", "ssm.conv": "ssm.in_proj", "ssm.out_proj": "ssm.act"},
        "qwen3next": {"attn.qkv_proj": "attn_norm", "ssm.conv": "attn.qkv_proj", "mlp.router": "mlp_norm"},
    }
    for layer, source in wired.get(architecture, {}).items():
        assert sources[0][f"blocks.0.{layer}"] == {f"blocks.0.{source}"}, layer


def test_windows_of_a_pattern(tmp_path):
    spec = from_gguf(_written("cohere2", tmp_path))
    assert [x.op.window for x in spec.layers if isinstance(x.op, Attention)] == [8, None]
    assert kv_cache_bytes(spec, 100) == 2 * 32 * (8 + 100)


@pytest.mark.parametrize("architecture", ["qwen3moe", "glm4moe"])
def test_gate_and_up_of_all_experts_in_one_tensor(architecture, tmp_path):
    """As newer conversions have them: two of four experts are read for a token."""
    block = {**_NORMS, **_ATTENTION, "blk.0.attn_q_norm.weight": (8,), "blk.0.attn_k_norm.weight": (8,)}
    block |= {"blk.0.ffn_gate_inp.weight": (4, 32), "blk.0.ffn_gate_up_exps.weight": (4, 48, 32)}
    block |= {"blk.0.ffn_down_exps.weight": (4, 32, 24)}
    values = {**_SIZES, **_HEADS, "block_count": 1, "attention.head_count_kv": 2, "expert_count": 4}
    values |= {"expert_used_count": 2, "expert_feed_forward_length": 24}
    spec = from_gguf(write_gguf(tmp_path / "m.gguf", architecture, values, {**_OUTER, **block}))
    assert spec.n_params == sum(prod(shape) for shape in {**_OUTER, **block}.values())
    assert n_active_params(spec) == spec.n_params - 2 * (48 * 32 + 32 * 24)


@pytest.mark.parametrize("n_blocks", [2, 64])
def test_windows_that_llama_cpp_sees_in_one_size_alone(n_blocks, tmp_path):
    """EXAONE 4 (llama.cpp's pull request 26848): in 64 blocks, whatever the file says of the others."""
    block = {"blk.0.post_attention_norm.weight": (32,), "blk.0.post_ffw_norm.weight": (32,), **_ATTENTION, **_MLP}
    block |= {"blk.0.attn_q_norm.weight": (8,), "blk.0.attn_k_norm.weight": (8,)}
    tensors = {name: shape for i in range(n_blocks) for name, shape in _at(i, block).items()}
    values = {**_SIZES, **_HEADS, "block_count": n_blocks, "attention.head_count_kv": 2, "attention.sliding_window": 8}
    spec = from_gguf(write_gguf(tmp_path / "m.gguf", "exaone4", values, {**_OUTER, **tensors}))
    windows = [x.op.window for x in spec.layers if isinstance(x.op, Attention)]
    assert windows == ([8, 8, 8, None] * 16 if n_blocks == 64 else [None, None]) and not spec.doubts


def test_both_sides_of_an_encoder_decoder(tmp_path):
    side = {
        "attn_norm.weight": (32,), "attn_q.weight": (32, 32), "attn_k.weight": (32, 32), "attn_v.weight": (32, 32),
        "attn_o.weight": (32, 32), "ffn_norm.weight": (32,), "ffn_up.weight": (64, 32), "ffn_down.weight": (32, 64),
    }  # fmt: skip
    cross = {f"cross_{name}": shape for name, shape in side.items() if name.startswith("attn_")}
    tensors = {
        "token_embd.weight": (16, 32),
        **{f"enc.blk.0.{name}": shape for name, shape in side.items()},
        **{f"dec.blk.0.{name}": shape for name, shape in {**side, **cross}.items()},
        "enc.output_norm.weight": (32,),
        "dec.output_norm.weight": (32,),
    }
    values = {**_SIZES, **_HEADS, "block_count": 1, "attention.head_count_kv": 4}
    spec = from_gguf(write_gguf(tmp_path / "t5.gguf", "t5", values, tensors))
    assert spec.n_params == sum(prod(shape) for shape in tensors.values()) and spec.causal
    cores = {x.name: x.op for x in spec.layers if isinstance(x.op, Attention)}
    assert {name: (op.causal, op.cross) for name, op in cores.items()} == {
        "encoder.blocks.0.attn.core": (False, False),
        "blocks.0.attn.core": (True, False),
        "blocks.0.cross.core": (True, True),
    }
