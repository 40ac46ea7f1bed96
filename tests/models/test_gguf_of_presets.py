"""Every preset's configuration against a GGUF of it written small, as llama.cpp names tensors and numbers."""

import json
from math import prod
from pathlib import Path

import pytest

from core.analysis.work import kv_cache_bytes, state_bytes, work
from core.models.presets import presets
from core.models.spec import from_config, from_gguf
from core.types import Attention, Conv, Embedding, Linear, Norm, Scan
from tests.models.test_spec import _is_vector, write_gguf

pytestmark = pytest.mark.engine("pytorch")

NOT_IN_LLAMA_CPP = {"opt-125m", "mobilebert-uncased"}

# model_type -> general.architecture, where they differ
ARCHITECTURES = {
    "mistral": "llama",
    "mixtral": "llama",
    "gpt_neox": "gptneox",
    "phi": "phi2",
    "qwen2_moe": "qwen2moe",
    "qwen3_moe": "qwen3moe",
    "gemma3_text": "gemma3",
    "deepseek_v2": "deepseek2",
    "deepseek_v3": "deepseek2",
    "gpt_oss": "gpt-oss",
    "distilbert": "bert",
}

SMALL = {
    "hidden_size": 64, "n_embd": 64, "dim": 64, "intermediate_size": 96, "n_inner": 96, "hidden_dim": 96,
    "num_attention_heads": 4, "n_head": 4, "n_heads": 4, "vocab_size": 48, "max_position_embeddings": 32,
    "n_positions": 32, "moe_intermediate_size": 24, "shared_expert_intermediate_size": 40, "num_experts": 6,
    "num_local_experts": 6, "n_routed_experts": 6, "num_experts_per_tok": 2, "sliding_window": 8, "q_lora_rank": 20,
    "kv_lora_rank": 12, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 6, "state_size": 8,
    "time_step_rank": 5, "mamba_d_state": 8, "mamba_dt_rank": 5, "num_heads": 8, "mamba_head_dim": 16,
}  # fmt: skip
BLOCKS = {"jamba": 8, "gemma3_text": 7}


def _small(config):
    """The same configuration with small sizes: what is None, listed or absent stays so."""
    kind = config["model_type"]
    found = {key: SMALL[key] if config.get(key) and key in SMALL else value for key, value in config.items()}
    n_blocks = BLOCKS.get(kind, 4)
    for key in ("num_hidden_layers", "n_layer", "n_layers"):
        if key in found:
            found[key] = n_blocks
    if isinstance(found.get("layer_types"), list):
        found["layer_types"] = found["layer_types"][:n_blocks]
    heads = config.get("num_key_value_heads")
    if heads:
        found["num_key_value_heads"] = 4 if heads == config["num_attention_heads"] else min(heads, 2)
    if found.get("head_dim"):
        found["head_dim"] = 16 if kind == "mamba2" else 24
    if kind.startswith("mamba"):
        found["intermediate_size"] = 128
    if kind in ("mistral", "phi3"):
        found["sliding_window"] = None  # llama.cpp sees all positions in both
    if kind in ("bert", "distilbert"):
        found["architectures"] = ["BertEncoder"]  # llama.cpp embeds with it
    return found


def _metadata(c, spec):
    """The numbers, by llama.cpp's keys."""

    def get(*keys):
        return next((c[key] for key in keys if c.get(key) is not None), None)

    kind = c["model_type"]
    cores = [layer.op for layer in spec.layers if isinstance(layer.op, Attention)]
    found = {
        "block_count": spec.n_blocks,
        "context_length": spec.max_context or 32,
        "embedding_length": spec.d_model,
        "feed_forward_length": get("intermediate_size", "n_inner", "hidden_dim") or 4 * spec.d_model,
        "attention.sliding_window": get("sliding_window") if any(core.window for core in cores) else None,
        "expert_count": get("num_local_experts", "num_experts", "n_routed_experts"),
        "expert_used_count": get("num_experts_per_tok"),
        "expert_feed_forward_length": get("moe_intermediate_size"),
        "expert_shared_feed_forward_length": get("shared_expert_intermediate_size"),
        "expert_shared_count": get("n_shared_experts"),
        "leading_dense_block_count": get("first_k_dense_replace"),
        "rope.dimension_count": round(get("partial_rotary_factor", "rotary_pct") * 16)
        if get("rotary_pct", "partial_rotary_factor")
        else None,
    }
    if cores:
        found["attention.head_count"] = cores[0].n_heads
        found["attention.head_count_kv"] = cores[0].n_kv_heads
    if cores and get("head_dim"):
        found |= {"attention.key_length": cores[0].qk_dim, "attention.value_length": cores[0].v_dim}
    if kind == "gpt_oss":
        found["expert_feed_forward_length"] = c["intermediate_size"]
    if kind.startswith("deepseek"):
        found |= {"attention.kv_lora_rank": c["kv_lora_rank"], "attention.q_lora_rank": c["q_lora_rank"] or 0}
        nope, rope, v, rank = (c[k] for k in ("qk_nope_head_dim", "qk_rope_head_dim", "v_head_dim", "kv_lora_rank"))
        found |= {"attention.key_length": rank + rope, "attention.value_length": rank, "rope.dimension_count": rope}
        found |= {"attention.key_length_mla": nope + rope, "attention.value_length_mla": v}
        found["attention.head_count_kv"] = 1
    scans = [layer for layer in spec.layers if isinstance(layer.op, Scan)]
    if scans:
        rank = get("time_step_rank", "mamba_dt_rank", "num_heads")
        found |= {"ssm.conv_kernel": 4, "ssm.inner_size": scans[0].op.d_inner, "ssm.state_size": scans[0].op.d_state}
        found |= {"ssm.time_step_rank": rank, "ssm.group_count": c.get("n_groups", 0)}
    if kind == "jamba":
        heads = {int(x.name.split(".")[1]): x.op.n_kv_heads for x in spec.layers if isinstance(x.op, Attention)}
        found["attention.head_count_kv"] = [heads.get(i, 0) for i in range(spec.n_blocks)]
    return {key: value for key, value in found.items() if value is not None}


NAMES = {
    "embed": "token_embd", "embed.position": "position_embd", "embed.token_type": "token_types",
    "embed.norm": "token_embd_norm", "final_norm": "output_norm", "lm_head": "output", "attn.q_proj": "attn_q",
    "attn.k_proj": "attn_k", "attn.v_proj": "attn_v", "attn.o_proj": "attn_output", "attn.qkv_proj": "attn_qkv",
    "attn.q_norm": "attn_q_norm", "attn.k_norm": "attn_k_norm", "attn.q_a_proj": "attn_q_a",
    "attn.q_a_norm": "attn_q_a_norm", "attn.kv_a_proj": "attn_kv_a_mqa", "attn.kv_a_norm": "attn_kv_a_norm",
    "attn_norm": "attn_norm", "mlp_norm": "ffn_norm",
    "attn_post_norm": "post_attention_norm", "mlp_post_norm": "post_ffw_norm", "mlp.gate_proj": "ffn_gate",
    "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "mlp.gate_up_proj": "ffn_up", "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps", "mlp.shared_expert.router": "ffn_gate_inp_shexp",
    "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
    "mlp.shared_expert.down_proj": "ffn_down_shexp", "attn.core": "attn_sinks", "ssm.in_proj": "ssm_in",
    "ssm.conv": "ssm_conv1d", "ssm.x_proj": "ssm_x", "ssm.dt_proj": "ssm_dt", "ssm.out_proj": "ssm_out",
    "ssm.norm": "ssm_norm", "ssm.dt_norm": "ssm_dt_norm", "ssm.b_norm": "ssm_b_norm", "ssm.c_norm": "ssm_c_norm",
}  # fmt: skip
OTHERWISE = {
    "bert": {"attn_norm": "attn_output_norm", "mlp_norm": "layer_output_norm"},
    "distilbert": {"attn_norm": "attn_output_norm", "mlp_norm": "layer_output_norm"},
    "gpt_oss": {"mlp_norm": "post_attention_norm"},
}


def _tensors(c, spec):
    """Every tensor of the network, name -> shape."""
    found = {}
    for layer in (x for x in spec.layers if x.n_params):
        at, part = "", layer.name
        if layer.name.startswith("blocks."):
            _, index, part = layer.name.split(".", 2)
            at = f"blk.{index}."
        op = layer.op
        if isinstance(op, Scan):
            n = op.n_params // 3
            own = {"ssm_a": (op.d_inner, op.d_state), "ssm_d": (op.d_inner,)}
            if c["model_type"] == "mamba2":
                own = {"ssm_a": (n, 1), "ssm_d": (n, 1), "ssm_dt.bias": (n,)}
            found |= {at + name: shape for name, shape in own.items()}
            continue
        if part == "attn.kv_b_proj" and isinstance(
            op, Linear
        ):  # in two, as it is taken into the queries and the answer
            heads, nope, v = (c[k] for k in ("num_attention_heads", "qk_nope_head_dim", "v_head_dim"))
            found |= {f"{at}attn_k_b.weight": (heads, op.d_in, nope), f"{at}attn_v_b.weight": (heads, v, op.d_in)}
            continue
        name = at + (OTHERWISE.get(c["model_type"], {}).get(part) or NAMES[part])
        if part == "attn.q_proj" and c.get("q_lora_rank"):
            name = f"{at}attn_q_b"
        experts = (op.n_experts,) if isinstance(op, Linear) and op.n_experts > 1 else ()
        shape = {
            Embedding: lambda op=op: (op.rows, op.d),
            Linear: lambda op=op, n=experts: (*n, op.d_out, op.d_in),
            Norm: lambda op=op, part=part: (1, op.d) if part == "ssm.norm" else (op.d,),
            Conv: lambda op=op: (op.channels, op.kernel),
            Attention: lambda layer=layer: (layer.n_params,),
        }[type(op)]()
        found[f"{name}.weight"] = shape[1:] if part == "mlp.shared_expert.router" else shape
        if getattr(op, "bias", False):
            found[f"{name}.bias"] = (*experts, op.d_out) if isinstance(op, Linear) else (shape[0],)
    return found


@pytest.mark.parametrize("preset", [e.id for e in presets() if e.id not in NOT_IN_LLAMA_CPP])
def test_the_configuration_and_a_gguf_of_it_give_the_same_layers_and_bytes(preset, tmp_path):
    config = _small(json.loads(Path(next(e for e in presets() if e.id == preset).files["config"]).read_text()))
    ours = from_config(config)
    tensors = _tensors(config, ours)
    assert sum(prod(shape) for shape in tensors.values()) == ours.n_params
    kind = config["model_type"]
    file = write_gguf(tmp_path / "small.gguf", ARCHITECTURES.get(kind, kind), _metadata(config, ours), tensors)
    theirs = from_gguf(file)
    assert [(x.name, x.op, x.n_params, x.inputs) for x in theirs.layers] == [
        (x.name, x.op, x.n_params, x.inputs) for x in ours.layers
    ]
    assert theirs.weight_bytes == sum(prod(s) * (4 if _is_vector(n, s) else 2) for n, s in tensors.items())
    assert kv_cache_bytes(theirs, 100) == kv_cache_bytes(ours, 100) and state_bytes(theirs) == state_bytes(ours)
    assert [r.kv_read_bytes for r in work(theirs, 2, 20)] == [r.kv_read_bytes for r in work(ours, 2, 20)]
    assert theirs.max_context == ours.max_context or ours.max_context is None


def test_presets_that_llama_cpp_does_not_have_are_no_more_than_these():
    import gguf

    names = set(gguf.MODEL_ARCH_NAMES.values())
    kinds = {e.id: json.loads(Path(e.files["config"]).read_text())["model_type"] for e in presets()}
    assert {i for i, kind in kinds.items() if ARCHITECTURES.get(kind, kind) not in names} == NOT_IN_LLAMA_CPP
