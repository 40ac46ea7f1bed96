"""Canonical names: transformers' modules, GGUF tensors and llama.cpp's graph under one scheme."""

import numpy as np
import pytest

from core import plugins
from core.layer_names import block_of, canonical_gguf, canonical_hf, fit, kind_of, within
from core.models.spec import from_gguf
from core.types import Request
from tests.models.test_spec import FILES, write_gguf

HF = {
    "model.embed_tokens": "embed",
    "model.layers.7.self_attn.q_proj": "blocks.7.attn.q_proj",
    "model.layers.7.self_attn": "blocks.7.attn.core",
    "model.layers.7.mlp": "blocks.7.mlp.act",
    "model.layers.7.mlp.act_fn": "blocks.7.mlp.act",
    "model.layers.7.mlp.down_proj.weight": "blocks.7.mlp.down_proj",
    "model.layers.7.input_layernorm": "blocks.7.attn_norm",
    "model.layers.7.post_attention_layernorm": "blocks.7.mlp_norm",
    "model.layers.7": None,
    "model.norm": "final_norm",
    "model.rotary_emb": "rope",
    "lm_head": "lm_head",
    "model.language_model.layers.3.mlp.up_proj": "blocks.3.mlp.up_proj",
    "model.vision_tower.vision_model.encoder.layers.0.self_attn.q_proj": None,
    "transformer.wte": "embed",
    "transformer.wpe": "embed.position",
    "transformer.h.0.attn.c_attn": "blocks.0.attn.qkv_proj",
    "transformer.h.0.attn.c_proj": "blocks.0.attn.o_proj",
    "transformer.h.0.mlp.c_proj": "blocks.0.mlp.down_proj",
    "h.11.mlp.c_fc.bias": "blocks.11.mlp.up_proj",
    "transformer.ln_f": "final_norm",
    "bert.embeddings": None,
    "bert.embeddings.word_embeddings": "embed",
    "bert.embeddings.LayerNorm": "embed.norm",
    "bert.encoder.layer.3.attention.self.query": "blocks.3.attn.q_proj",
    "bert.encoder.layer.3.attention.self": "blocks.3.attn.core",
    "bert.encoder.layer.3.attention.output.dense": "blocks.3.attn.o_proj",
    "bert.encoder.layer.3.attention.output.LayerNorm": "blocks.3.attn_norm",
    "bert.encoder.layer.3.intermediate.dense": "blocks.3.mlp.up_proj",
    "bert.encoder.layer.3.output.dense": "blocks.3.mlp.down_proj",
    "bert.encoder.layer.3.output.LayerNorm": "blocks.3.mlp_norm",
    "bert.pooler.dense": "pooler",
    "cls.predictions.transform.dense": "mlm.dense",
    "cls.predictions.decoder": "lm_head",
    "distilbert.transformer.layer.5.attention.q_lin": "blocks.5.attn.q_proj",
    "distilbert.transformer.layer.5.ffn.lin2": "blocks.5.mlp.down_proj",
    "vocab_transform": "mlm.dense",
    "mobilebert.encoder.layer.0.ffn.1.output.dense": "blocks.0.mlp.1.down_proj",
    "mobilebert.encoder.layer.0.bottleneck.attention.dense": "blocks.0.bottleneck.qk_proj",
    "mobilebert.encoder.layer.0.output.bottleneck.dense": "blocks.0.bottleneck.out_proj",
    "gpt_neox.layers.2.attention.query_key_value": "blocks.2.attn.qkv_proj",
    "gpt_neox.layers.2.mlp.dense_4h_to_h": "blocks.2.mlp.down_proj",
    "model.decoder.layers.2.fc1": "blocks.2.mlp.up_proj",
    "model.decoder.layers.2.final_layer_norm": "blocks.2.mlp_norm",
    "model.decoder.final_layer_norm": "final_norm",
    "model.layers.1.self_attn.dense": "blocks.1.attn.o_proj",
    "model.layers.1.self_attn.kv_a_proj_with_mqa": "blocks.1.attn.kv_a_proj",
    "model.layers.1.mlp.gate": "blocks.1.mlp.router",
    "model.layers.1.block_sparse_moe.gate": "blocks.1.mlp.router",
    "model.layers.1.mlp.experts": "blocks.1.mlp.experts",
    "model.layers.1.block_sparse_moe.experts.3.w2.weight": "blocks.1.mlp.experts.down_proj",
    "model.layers.1.mlp.shared_expert.up_proj": "blocks.1.mlp.shared_expert.up_proj",
    "model.layers.1.mlp.shared_experts.up_proj": "blocks.1.mlp.shared_expert.up_proj",
    "model.layers.1.mlp.shared_expert_gate": "blocks.1.mlp.shared_expert.router",
    "backbone.embeddings": "embed",
    "backbone.layers.0.norm": "blocks.0.attn_norm",
    "backbone.layers.0.mixer": "blocks.0.ssm.scan",
    "backbone.layers.0.mixer.in_proj": "blocks.0.ssm.in_proj",
    "backbone.layers.0.mixer.conv1d": "blocks.0.ssm.conv",
    "backbone.norm_f": "final_norm",
    "model.layers.0.mamba.x_proj": "blocks.0.ssm.x_proj",
    "model.layers.3.linear_attn.in_proj_qkvz": "blocks.3.ssm.in_proj_qkvz",
    "model.layers.3.conv.conv": "blocks.3.ssm.conv",
    "backbone.layers.1.mixer.q_proj": "blocks.1.attn.q_proj",
    "backbone.layers.1.mixer.shared_experts.up_proj": "blocks.1.mlp.shared_expert.up_proj",
    "model.layers.2.mamba_decoder.mamba.conv1d": "blocks.2.ssm.conv",
    "model.layers.2.mamba_decoder.input_layernorm": "blocks.2.ssm_norm",
    "model.layers.2.shared_transformer.self_attn.o_proj": "blocks.2.attn.o_proj",
    "model.layers.2.shared_mlp.input_linear": "blocks.2.mlp.shared_expert.gate_up_proj",
    "model.layers.2.altup.router_norm": "blocks.2.altup.router_norm",
    "something.else": None,
    "": None,
}


@pytest.mark.parametrize(("path", "name"), HF.items())
def test_transformers_modules(path, name):
    assert canonical_hf(path) == name


def test_one_path_means_two_things_in_two_families():
    path = "model.layers.1.post_attention_layernorm"
    assert canonical_hf(path, "llama") == "blocks.1.mlp_norm"
    assert canonical_hf(path, "gemma3_text") == "blocks.1.attn_post_norm"


@pytest.mark.parametrize(
    ("path", "name"),
    {
        "shared": "embed",
        "encoder.block.0.layer.0.SelfAttention.q": "encoder.blocks.0.attn.q_proj",
        "encoder.block.0.layer.1.layer_norm": "encoder.blocks.0.mlp_norm",
        "encoder.block.0.layer.1.DenseReluDense.wo": "encoder.blocks.0.mlp.down_proj",
        "decoder.block.3.layer.1.EncDecAttention.k": "blocks.3.cross.k_proj",
        "decoder.block.3.layer.1.layer_norm": "blocks.3.cross_norm",
        "decoder.block.3.layer.2.layer_norm": "blocks.3.mlp_norm",
        "encoder.final_layer_norm": "encoder.final_norm",
        "decoder.final_layer_norm": "final_norm",
    }.items(),
)
def test_the_two_sides_of_an_encoder_decoder(path, name):
    assert canonical_hf(path, "t5") == name


GGUF = {
    "token_embd.weight": "embed",
    "output_norm.weight": "final_norm",
    "output.weight": "lm_head",
    "blk.7.attn_q.weight": "blocks.7.attn.q_proj",
    "blk.7.attn_q.bias": "blocks.7.attn.q_proj",
    "blk.7.attn_output.weight": "blocks.7.attn.o_proj",
    "blk.7.ffn_norm.weight": "blocks.7.mlp_norm",
    "blk.7.ffn_gate_inp.weight": "blocks.7.mlp.router",
    "blk.7.ffn_down_exps.weight": "blocks.7.mlp.experts.down_proj",
    "blk.7.ssm_a": "blocks.7.ssm.scan",
    "blk.7.ssm_beta.weight": "blocks.7.ssm.beta",
    "blk.7.shortconv.conv.weight": "blocks.7.ssm.conv",
    "blk.7.time_mix_key.weight": "blocks.7.ssm.key",
    "blk.7.laurel_l.weight": "blocks.7.laurel_l",
    "Qcur-7": "blocks.7.attn.q_proj",
    "kq-7": "blocks.7.attn.core",
    "kq_soft_max-7": "blocks.7.attn.core",
    "kqv_out-7": "blocks.7.attn.core",
    "cache_k_l12 (view) (permuted)": "blocks.12.attn.core",
    "attn_out-7": "blocks.7.attn.o_proj",
    "ffn_inp-7": "blocks.7.attn.residual",
    "ffn_gate-7": "blocks.7.mlp.gate_proj",
    "ffn_up-7": "blocks.7.mlp.up_proj",
    "ffn_swiglu-7": "blocks.7.mlp.act",
    "ffn_out-7": "blocks.7.mlp.down_proj",
    "ffn_moe_logits-7": "blocks.7.mlp.router",
    "ffn_moe_swiglu-7": "blocks.7.mlp.experts.act",
    "l_out-7": "blocks.7.mlp.residual",
    "attn_norm-7": "blocks.7.attn_norm",
    "result_norm": "final_norm",
    "result_output": "lm_head",
    "embd": "embed",
    "norm-7": None,
    "norm": None,
    "node_21": None,
    "leaf_3": None,
}


@pytest.mark.parametrize(("name", "canonical"), GGUF.items())
def test_gguf_tensors_and_graph_nodes(name, canonical):
    assert canonical_gguf(name) == canonical


@pytest.mark.engine("llama_cpp")
@pytest.mark.parametrize("family", [name for name in FILES if name != "bert"])
def test_llama_cpp_times_the_layers_that_the_network_has(family, tmp_path):
    """A tiny file of each family runs in llama.cpp; every node of its graph is a layer of ours, and the reverse."""
    file = write_gguf(tmp_path / "tiny.gguf", *FILES[family])
    spec = from_gguf(file)
    request = Request(model="tiny", backend="llama_cpp", threads=1)
    session = plugins.get("backend", "llama_cpp").open(str(file), spec, request, lambda *_, **__: None)
    try:
        trace = session.trace()
        trace.phase("prefill")
        session.forward(np.array([[1, 2, 3]]))
        session.commit(3)
        rows = trace.finish()["prefill"]
    finally:
        session.close()
    layers = {layer.name for layer in spec.layers}
    timed = {fit(row.name, layers) for row in rows}
    assert timed <= layers
    # factors are an argument of the rotation; the cap and Phi-3's sum are nodes without a name of their own
    assert layers - timed <= {"rope", "lm_head.softcap", "blocks.0.attn.residual"}


@pytest.mark.parametrize(
    ("name", "kind"),
    {
        "embed": "embedding",
        "embed.norm": "norm",
        "blocks.0.attn_norm": "norm",
        "blocks.0.attn.q_norm": "norm",
        "blocks.0.attn.core": "attention",
        "blocks.0.attn.residual": "other",
        "blocks.0.mlp.gate_proj": "mlp",
        "blocks.0.mlp.router": "router",
        "blocks.0.mlp.experts.up_proj": "mlp",
        "blocks.0.ssm.scan": "ssm",
        "final_norm": "norm",
        "lm_head": "head",
        "mlm.dense": "head",
        "blocks.0": "other",
        "rope": "other",
    }.items(),
)
def test_kinds(name, kind):
    assert kind_of(name) == kind


def test_a_part_is_found_in_the_layer_that_holds_it():
    layers = {"blocks.3.mlp.gate_up_proj", "blocks.3.attn.qkv_proj", "blocks.3.ssm.residual", "lm_head"}
    assert fit("blocks.3.mlp.up_proj", layers) == "blocks.3.mlp.gate_up_proj"
    assert fit("blocks.3.attn.k_proj", layers) == "blocks.3.attn.qkv_proj"
    assert fit("blocks.3.mlp.residual", layers) == "blocks.3.ssm.residual"
    assert fit("lm_head", layers) == "lm_head"
    assert fit("blocks.4.mlp.up_proj", layers) == "blocks.4.mlp.up_proj"
    assert fit("unknown", layers) == "unknown"


def test_blocks_and_groups():
    assert block_of("blocks.12.attn.core") == 12
    assert block_of("lm_head") is None
    assert within("blocks.1.mlp.experts.act", "blocks.1.mlp.experts")
    assert not within("blocks.11.mlp", "blocks.1")
