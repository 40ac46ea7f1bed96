"""Configurations of models as the hub has them, beside the numbers that their makers and other programs publish.

Each was answered wrongly once; the sizes are what matters in them.
"""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Any

import pytest

from core.analysis.memory import Shape, split
from core.analysis.work import kv_bytes_per_token, kv_cache_bytes, n_active_params, work
from core.models import precision
from core.models.spec import from_config, from_gguf, from_hf_folder, read
from core.types import Attention, ModelSpec
from hardware.errors import ExplorerError
from tests.models.test_families import here  # noqa: F401
from tests.models.test_spec import _MLP, _NORMS, write_gguf

pytestmark = [pytest.mark.engine("pytorch"), pytest.mark.usefixtures("here")]

MIB = 2**20


def cores(spec: ModelSpec) -> list[Attention]:
    return [layer.op for layer in spec.layers if isinstance(layer.op, Attention)]


# ---------------------------------------------------------------- parameters

BGE_M3: dict[str, Any] = {
    "model_type": "xlm-roberta", "architectures": ["XLMRobertaModel"], "hidden_size": 1024, "num_hidden_layers": 24,
    "num_attention_heads": 16, "intermediate_size": 4096, "max_position_embeddings": 8194, "type_vocab_size": 1,
    "vocab_size": 250002,
}  # fmt: skip
NOMIC: dict[str, Any] = {
    "model_type": "nomic_bert", "architectures": ["NomicBertModel"], "n_embd": 768, "n_head": 12, "n_layer": 12,
    "n_inner": 3072, "n_positions": 8192, "vocab_size": 30528, "type_vocab_size": 2, "rotary_emb_fraction": 1.0,
    "rotary_emb_base": 1000, "activation_function": "swiglu", "qkv_proj_bias": False, "mlp_fc1_bias": False,
    "mlp_fc2_bias": False, "prenorm": False,
}  # fmt: skip
GTE_MODERNBERT: dict[str, Any] = {
    "model_type": "modernbert", "architectures": ["ModernBertModel"], "hidden_size": 768, "num_hidden_layers": 22,
    "intermediate_size": 1152, "num_attention_heads": 12, "vocab_size": 50368, "global_attn_every_n_layers": 3,
    "local_attention": 128,
}  # fmt: skip
DEBERTA: dict[str, Any] = {
    "model_type": "deberta-v2", "architectures": ["DebertaV2Model"], "hidden_size": 768, "num_hidden_layers": 12,
    "num_attention_heads": 12, "intermediate_size": 3072, "type_vocab_size": 0, "vocab_size": 128100,
    "relative_attention": True, "position_buckets": 256, "norm_rel_ebd": "layer_norm", "share_att_key": True,
    "pos_att_type": "p2c|c2p", "position_biased_input": False,
}  # fmt: skip
FLAN_T5: dict[str, Any] = {
    "model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "d_model": 768, "d_kv": 64, "d_ff": 2048,
    "num_layers": 12, "num_decoder_layers": 12, "num_heads": 12, "vocab_size": 32128, "is_encoder_decoder": True,
    "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False,
}  # fmt: skip
MT5 = FLAN_T5 | {"model_type": "mt5", "architectures": ["MT5ForConditionalGeneration"], "d_model": 512, "d_ff": 1024}
MT5 |= {"num_layers": 8, "num_decoder_layers": 8, "num_heads": 6, "vocab_size": 250112}
MIMO: dict[str, Any] = {  # 7,833,409,536 on the hub, of which 210,790,400 are the block that foretells a token
    "model_type": "mimo", "auto_map": {"AutoConfig": "configuration_mimo.MiMoConfig"}, "hidden_size": 4096,
    "num_hidden_layers": 36, "num_attention_heads": 32, "num_key_value_heads": 8, "intermediate_size": 11008,
    "vocab_size": 151680, "attention_bias": True, "tie_word_embeddings": False, "num_nextn_predict_layers": 1,
}  # fmt: skip
PHI_4_MM: dict[str, Any] = {  # the same as Phi-4-mini; pictures and sound have adapters
    "model_type": "phi4mm", "auto_map": {"AutoConfig": "configuration_phi4mm.Phi4MMConfig"}, "hidden_size": 3072,
    "num_hidden_layers": 32, "intermediate_size": 8192, "num_attention_heads": 24, "num_key_value_heads": 8,
    "vocab_size": 200064, "tie_word_embeddings": True, "partial_rotary_factor": 0.75,
}  # fmt: skip
OMNI: dict[str, Any] = {
    "model_type": "qwen2_5_omni",
    "talker_config": {"hidden_size": 896},
    "thinker_config": {
        "model_type": "qwen2_5_omni_thinker",
        "torch_dtype": "bfloat16",
        "text_config": {
            "model_type": "qwen2_5_omni_text", "hidden_size": 3584, "intermediate_size": 18944, "vocab_size": 152064,
            "num_hidden_layers": 28, "num_attention_heads": 28, "num_key_value_heads": 4, "tie_word_embeddings": False,
        },
    },
}  # fmt: skip
OMNI_MOE: dict[str, Any] = {
    "model_type": "qwen3_omni_moe",
    "thinker_config": {
        "model_type": "qwen3_omni_moe_thinker",
        "text_config": {
            "model_type": "qwen3_omni_moe_text", "hidden_size": 2048, "num_hidden_layers": 48, "head_dim": 128,
            "moe_intermediate_size": 768, "intermediate_size": 768, "num_experts": 128, "num_experts_per_tok": 8,
            "num_attention_heads": 32, "num_key_value_heads": 4, "vocab_size": 151936, "tie_word_embeddings": False,
        },
    },
}  # fmt: skip
_SIDE = {
    "model_type": "t5_gemma_module", "hidden_size": 2304, "num_hidden_layers": 26, "intermediate_size": 9216,
    "num_attention_heads": 8, "num_key_value_heads": 4, "head_dim": 256, "vocab_size": 256000, "sliding_window": 4096,
}  # fmt: skip
T5GEMMA: dict[str, Any] = {
    "model_type": "t5gemma", "is_encoder_decoder": True, "encoder": _SIDE, "decoder": _SIDE, "vocab_size": 256000,
    "tie_word_embeddings": True,
}  # fmt: skip
# two of Gemma 2 (2,614,341,888), 26 cross-attentions with two norms each
_CROSS = 2304 * 256 * (8 + 4 + 4 + 8) + 2 * 2304
N_T5GEMMA = 2 * 2_614_341_888 + 26 * _CROSS
LLAMA_4_SCOUT: dict[str, Any] = {  # llama.cpp counts 107.77 B; its context is ten million tokens and more
    "model_type": "llama4", "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "llama4_text", "hidden_size": 5120, "intermediate_size": 8192, "intermediate_size_mlp": 16384,
        "num_hidden_layers": 48, "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128,
        "num_local_experts": 16, "num_experts_per_tok": 1, "interleave_moe_layer_step": 1, "vocab_size": 202048,
        "attention_chunk_size": 8192, "max_position_embeddings": 10_485_760,
    },
}  # fmt: skip
DBRX: dict[str, Any] = {
    "model_type": "dbrx", "d_model": 6144, "n_heads": 48, "n_layers": 40, "max_seq_len": 32768, "vocab_size": 100352,
    "attn_config": {"clip_qkv": 8, "kv_n_heads": 8, "rope_theta": 500000}, "tie_word_embeddings": False,
    "ffn_config": {"ffn_hidden_size": 10752, "moe_num_experts": 16, "moe_top_k": 4},
}  # fmt: skip


E5_MISTRAL: dict[str, Any] = {
    "model_type": "mistral", "architectures": ["MistralModel"], "hidden_size": 4096, "num_hidden_layers": 32,
    "intermediate_size": 14336, "num_attention_heads": 32, "num_key_value_heads": 8, "vocab_size": 32000,
    "sliding_window": 4096, "tie_word_embeddings": False,
}  # fmt: skip


@pytest.mark.parametrize(
    ("config", "n_params"),
    [
        (BGE_M3, 567_754_752),
        (NOMIC, 136_731_648),
        (GTE_MODERNBERT, 149_014_272),
        (DEBERTA, 183_831_552),
        (FLAN_T5, 247_577_856),
        (MT5, 300_176_768),
        (MIMO, 7_833_409_536 - 210_790_400),
        (PHI_4_MM, 3_836_021_760),
        (OMNI, 7_615_616_512),
        (OMNI_MOE, 30_532_122_624),
        (T5GEMMA, N_T5GEMMA),
        (LLAMA_4_SCOUT, 107_769_861_120),
        (DBRX, 131_596_523_520),
        (E5_MISTRAL, 7_110_660_096),
    ],
)
def test_parameters_are_those_that_are_published(config: dict[str, Any], n_params: int) -> None:
    assert from_config(config).n_params == n_params


def test_an_encoder_without_a_head_still_reads_to_both_sides() -> None:
    for config in (BGE_M3, NOMIC, GTE_MODERNBERT, DEBERTA):
        spec = from_config(config)
        assert not spec.causal and not any(layer.name.startswith(("lm_head", "mlm")) for layer in spec.layers)


def test_the_context_may_be_longer_than_any_width() -> None:
    assert from_config(LLAMA_4_SCOUT).max_context == 10_485_760


def test_dbrx_keeps_keys_and_uses_four_of_sixteen_experts() -> None:
    """Databricks: 132 B parameters, of which 36 B are active; 8 heads of 128 for keys and values in 40 blocks."""
    spec = from_config(DBRX)
    assert not spec.doubts
    assert round(n_active_params(spec) / 1e9) == 36
    assert kv_bytes_per_token(spec) == 40 * 2 * 8 * 128 * 2


# ---------------------------------------------------------------- what is kept

DEEPSEEK_V32: dict[str, Any] = {
    "model_type": "deepseek_v32", "hidden_size": 7168, "intermediate_size": 18432, "moe_intermediate_size": 2048,
    "num_hidden_layers": 61, "num_attention_heads": 128, "num_key_value_heads": 128, "n_routed_experts": 256,
    "n_shared_experts": 1, "num_experts_per_tok": 8, "first_k_dense_replace": 3, "q_lora_rank": 1536,
    "kv_lora_rank": 512, "qk_nope_head_dim": 128, "qk_rope_head_dim": 64, "v_head_dim": 128, "vocab_size": 129280,
    "index_head_dim": 128, "index_n_heads": 64, "index_topk": 2048, "tie_word_embeddings": False,
}  # fmt: skip


def test_an_indexer_keeps_a_key_beside_the_latent() -> None:
    """vLLM's indexer cache has index_head_dim numbers per token and block beside the latent's 576."""
    spec = from_config(DEEPSEEK_V32)
    assert kv_bytes_per_token(spec, "fp16") == 61 * (512 + 64 + 128) * 2
    assert kv_cache_bytes(spec, 1000) == 1000 * kv_bytes_per_token(spec)
    assert "which of the past tokens an indexer chooses" in spec.doubts and "none is counted" not in spec.doubts


MLLAMA: dict[str, Any] = {
    "model_type": "mllama", "torch_dtype": "bfloat16",
    "text_config": {
        "model_type": "mllama_text_model", "cross_attention_layers": [3, 8, 13, 18, 23, 28, 33, 38],
        "hidden_size": 4096, "intermediate_size": 14336, "num_attention_heads": 32, "num_hidden_layers": 40,
        "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False, "rms_norm_eps": 1e-5,
    },
    "vision_config": {"image_size": 560, "patch_size": 14, "max_num_tiles": 4, "hidden_size": 1280},
}  # fmt: skip


def test_a_picture_has_its_places_in_the_cache() -> None:
    """Llama-3.2-11B-Vision in Ollama at 2,048 tokens: 656.25 MiB, of which 256 hold the text in fp16, and 400.25 the
    6,404 tokens of a picture in eight blocks in fp32."""
    spec = from_config(MLLAMA)
    assert kv_bytes_per_token(spec) * 2048 == 256 * MIB
    pictured = kv_cache_bytes(spec, 2048) - 256 * MIB
    assert 2 * pictured / MIB == 400.25
    assert split(spec, Shape(n_context=2048, n_forward=1)).kv_bytes == kv_cache_bytes(spec, 2048)
    assert "6,404 places" in spec.doubts and "nothing is counted" not in spec.doubts
    prompt, answer = ({row.name: row for row in work(spec, n, past)} for n, past in ((16, 0), (1, 16)))
    assert prompt["blocks.3.cross.k_proj"].flops == 2 * 6404 * 4096 * 1024
    assert prompt["blocks.3.cross.q_proj"].flops == 2 * 16 * 4096 * 4096
    assert answer["blocks.3.cross.k_proj"].flops == answer["blocks.3.cross.k_proj"].weight_bytes == 0
    core = answer["blocks.3.cross.core"]
    assert core.kv_read_bytes == 6404 * 2 * 8 * 128 * 2 and core.kv_write_bytes == 0
    assert core.flops == 2 * 6404 * 32 * (128 + 128)
    assert prompt["blocks.3.cross.core"].kv_write_bytes == 6404 * 2 * 8 * 128 * 2


# ---------------------------------------------------------------- precision

DEEPSEEK_V4_FLASH: dict[str, Any] = {
    "model_type": "deepseek_v4", "expert_dtype": "fp4", "hidden_size": 4096, "head_dim": 512, "hc_mult": 4,
    "index_head_dim": 128, "index_n_heads": 64, "index_topk": 512, "moe_intermediate_size": 2048,
    "n_routed_experts": 256, "n_shared_experts": 1, "num_attention_heads": 64, "num_experts_per_tok": 6,
    "num_hidden_layers": 43, "num_hash_layers": 3, "num_key_value_heads": 1, "o_groups": 8, "o_lora_rank": 1024,
    "q_lora_rank": 1024, "qk_rope_head_dim": 64, "sliding_window": 128, "tie_word_embeddings": False,
    "vocab_size": 129280, "torch_dtype": "bfloat16", "compress_rope_theta": 160000,
    "compress_ratios": [0, 0, *[4, 128] * 20, 4, 0],
    "rope_scaling": {"beta_fast": 32, "beta_slow": 1, "factor": 16, "original_max_position_embeddings": 65536,
                     "type": "yarn"},
    "quantization_config": {"activation_scheme": "dynamic", "fmt": "e4m3", "quant_method": "fp8",
                            "scale_fmt": "ue8m0", "weight_block_size": [128, 128]},
}  # fmt: skip


def test_experts_of_four_bits_beside_the_rest_in_eight() -> None:
    """DeepSeek-V4-Flash: "FP4 + FP8 mixed"; the experts are packed FP4 with a byte of scale for 32."""
    spec = from_config(DEEPSEEK_V4_FLASH)
    experts = [layer for layer in spec.layers if ".mlp.experts." in layer.name and layer.n_params]
    n = 43 * 256 * 3 * 4096 * 2048
    assert sum(layer.n_params for layer in experts) == n
    assert sum(layer.weight_bytes or 0 for layer in experts) == n * 4.25 / 8 and spec.dtype == "mxfp4"
    assert (spec.weight_bytes or 0) / 1e9 == pytest.approx(155.6, abs=0.05)
    shared = next(layer for layer in spec.layers if layer.name == "blocks.5.mlp.shared_expert.gate_proj")
    assert shared.weight_dtype == "fp8"
    nvidia = {"quant_method": "fp8", "moe_quant_algo": "NVFP4", "quant_algo": "MIXED_PRECISION"}
    again = from_config(DEEPSEEK_V4_FLASH | {"quantization_config": nvidia})
    assert again.dtype == "nvfp4" and "experts in NVFP4" in again.source


QWEN3: dict[str, Any] = {
    "model_type": "qwen3", "hidden_size": 64, "num_hidden_layers": 48, "intermediate_size": 128, "head_dim": 16,
    "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256, "tie_word_embeddings": False,
}  # fmt: skip


def test_thousands_of_listed_modules_are_looked_up() -> None:
    """nvidia/MiniMax-M3-NVFP4 lists 22,000 modules, and took three minutes."""
    listed = {
        f"model.layers.{i}.mlp.experts.{e}.{part}": {"quant_algo": "NVFP4", "group_size": 16}
        for i in range(48)
        for e in range(128)
        for part in ("w1", "w2", "w3")
    }
    listed |= {f"model.layers.{i}.self_attn.{part}": {"quant_algo": "FP8"} for i in range(48) for part in ("q_proj",)}
    wild = [f"model.layers.{i}.mlp*" for i in range(40, 48)]
    modelopt = {"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "quantized_layers": listed, "ignore": wild}
    began = time.process_time()
    spec = from_config(QWEN3 | {"quantization_config": modelopt})
    assert time.process_time() - began < 10
    by_name = {layer.name: layer for layer in spec.layers}
    assert by_name["blocks.3.attn.q_proj"].weight_dtype == "fp8" != by_name["blocks.3.attn.k_proj"].weight_dtype
    assert by_name["blocks.44.mlp.up_proj"].weight_dtype != "nvfp4"


def test_a_name_in_a_list_names_all_inside_it_and_no_other() -> None:
    listed = ["lm_head", "model.layers.1", "model.layers.2.mlp.", r"re:.*layers\.3\..*q_proj", "model.layers.4.*"]
    found = precision.declared({"quantization_config": {"quant_method": "fp8", "modules_to_not_convert": listed}})
    assert found is not None
    layers = {layer.name: layer for layer in from_config(QWEN3).layers}
    left = {name for name, layer in layers.items() if name.startswith("blocks.") and ".residual" not in name
            and found.reach(layer) and layer.n_params and found.scheme_of(layer) is None}  # fmt: skip
    matrices = {"attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj"}
    mlp = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}
    expected = {f"blocks.{i}.{part}" for i in (1, 4) for part in matrices | mlp}
    expected |= {f"blocks.2.{part}" for part in mlp} | {"blocks.3.attn.q_proj"}
    assert left == expected  # and none of blocks 10 to 19


# ---------------------------------------------------------------- folders

_TINY = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
         "vocab_size": 100, "pad_token_id": 0}  # fmt: skip
ENCODERS = {
    "xlm-roberta": {"max_position_embeddings": 66, "type_vocab_size": 1},
    "roberta": {"max_position_embeddings": 66, "type_vocab_size": 1},
    "mpnet": {"max_position_embeddings": 66},
    "modernbert": {},
    "deberta-v2": {"relative_attention": True, "norm_rel_ebd": "layer_norm", "position_buckets": 8,
                   "pos_att_type": "p2c|c2p", "share_att_key": True, "type_vocab_size": 0},
    "bert": {},
}  # fmt: skip


def _folder(path: Path, model: Any, **changes: Any) -> tuple[Path, int]:
    from safetensors.torch import load_file

    model.save_pretrained(path)
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    return path, sum(tensor.numel() for tensor in load_file(path / "model.safetensors").values())


@pytest.mark.parametrize("tied", [True, False])
def test_the_outer_configuration_ties_the_head(tied: bool, tmp_path: Path) -> None:
    """transformers 5 writes its own default there and the text's inside; a tied head is in no file (LightOnOCR)."""
    import transformers

    text = {"model_type": "mistral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
            "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64}  # fmt: skip
    vision = {"model_type": "pixtral", "hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1,
              "num_attention_heads": 2, "image_size": 28, "patch_size": 14, "head_dim": 16}  # fmt: skip
    config = transformers.Mistral3Config(
        text_config=text, vision_config=vision, image_token_index=5, tie_word_embeddings=tied
    )
    path, n = _folder(tmp_path / "m", transformers.Mistral3ForConditionalGeneration(config))
    assert json.loads((path / "config.json").read_text())["text_config"]["tie_word_embeddings"] is False
    spec = from_hf_folder(path)
    assert spec.n_params == n - sum(a.n_params for a in spec.aside) == from_config(config.to_dict()).n_params
    assert any(layer.name == "lm_head" and layer.n_params for layer in spec.layers) == (not tied)


@pytest.mark.parametrize("model_type", ENCODERS)
def test_an_encoder_that_embeds_is_counted_whatever_class_its_configuration_names(
    model_type: str, tmp_path: Path
) -> None:
    """all-mpnet-base-v2 and all-distilroberta-v1 are named ForMaskedLM, and have no such head."""
    import transformers

    config = transformers.CONFIG_MAPPING[model_type](**{**_TINY, **ENCODERS[model_type]})
    bare = transformers.AutoModel.from_config(config)
    named = type(bare).__name__.removesuffix("Model") + "ForMaskedLM"
    right, n = _folder(tmp_path / "right", bare)
    assert from_hf_folder(right).weight_bytes == 4 * n
    wrong, n = _folder(tmp_path / "wrong", bare, architectures=[named])
    spec = from_hf_folder(wrong)
    assert (spec.weight_bytes, spec.n_params, spec.causal) == (4 * n, n, False)


@pytest.mark.parametrize("kind", ["mistral", "glm4"])
def test_a_decoder_that_embeds_is_counted_and_not_opened_to_write(kind: str, tmp_path: Path) -> None:
    import transformers

    sizes = {**_TINY, "num_key_value_heads": 2, "head_dim": 8, "tie_word_embeddings": False}
    bare = transformers.AutoModel.from_config(transformers.CONFIG_MAPPING[kind](**sizes))
    path, n = _folder(tmp_path / "m", bare)
    assert from_config(json.loads((path / "config.json").read_text())).n_params == n
    with pytest.raises(ExplorerError, match="which has no head that writes text"):
        from_hf_folder(path)
    tied = json.loads((path / "config.json").read_text()) | {"tie_word_embeddings": True}
    assert any(layer.name == "lm_head" for layer in from_config(tied).layers)


@pytest.mark.parametrize("model_type", ["modernbert", "roberta", "mpnet"])
def test_an_encoder_that_fills_gaps_keeps_its_head(model_type: str, tmp_path: Path) -> None:
    import transformers

    config = transformers.CONFIG_MAPPING[model_type](**{**_TINY, **ENCODERS[model_type]})
    path, n = _folder(tmp_path / "m", transformers.AutoModelForMaskedLM.from_config(config))
    spec = from_hf_folder(path)
    assert spec.weight_bytes == 4 * n
    assert next(layer for layer in spec.layers if layer.name == "lm_head").weight_bytes


def _llama_like(kind: str, tmp_path: Path) -> tuple[Path, dict[str, Any]]:
    import transformers
    from safetensors.torch import load_file

    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 2,
             "intermediate_size": 96, "vocab_size": 128, "pad_token_id": 0}  # fmt: skip
    model = transformers.AutoModelForCausalLM.from_config(transformers.CONFIG_MAPPING[kind](**sizes))
    path, _ = _folder(tmp_path / "m", model)
    return path, load_file(path / "model.safetensors")


def _declare(path: Path, tensors: dict[str, Any], **changes: Any) -> None:
    from safetensors.torch import save_file

    save_file(tensors, path / "model.safetensors")
    file = path / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


def test_adapters_for_pictures_and_sound_lie_aside(tmp_path: Path) -> None:
    """Phi-4-multimodal: `q_proj.base_layer.weight`, `q_proj.lora_A.vision.weight`."""
    import torch

    path, plain = _llama_like("phi3", tmp_path)
    found: dict[str, Any] = {}
    for name, tensor in plain.items():
        base = name.removesuffix(".weight")
        if not base.endswith("_proj"):
            found[name] = tensor
            continue
        found[f"{base}.base_layer.weight"] = tensor
        for sense in ("vision", "speech"):
            found[f"{base}.lora_A.{sense}.weight"] = torch.zeros(4, tensor.shape[1])
            found[f"{base}.lora_B.{sense}.weight"] = torch.zeros(tensor.shape[0], 4)
    found["model.embed_tokens_extend.image_embed.img_projection.0.weight"] = torch.zeros(8, 8)
    _declare(path, found, model_type="phi4mm", auto_map={"AutoConfig": "c.C"})
    spec = from_hf_folder(path)
    n = sum(t.numel() for t in plain.values())
    assert (spec.architecture, spec.n_params, spec.weight_bytes) == ("phi3", n, 4 * n) and not spec.doubts
    aside = {a.name: a.n_params for a in spec.aside}
    assert aside["vision"] == aside["audio"] + 64 and sum(aside.values()) == sum(t.numel() for t in found.values()) - n


def test_mimo_is_qwen2_with_a_block_that_foretells(tmp_path: Path) -> None:
    path, plain = _llama_like("qwen2", tmp_path)
    more = {k.replace("layers.1.", "mtp_layers.0."): t.clone() for k, t in plain.items() if "layers.1." in k}
    _declare(path, {**plain, **more}, model_type="mimo", auto_map={"AutoConfig": "c.C"}, num_nextn_predict_layers=1)
    spec = from_hf_folder(path)
    assert (spec.architecture, spec.weight_bytes) == ("qwen2", 4 * sum(t.numel() for t in plain.values()))
    assert [(a.name, a.n_params) for a in spec.aside] == [("mtp", sum(t.numel() for t in more.values()))]


def test_the_experts_of_dbrx_lie_below_one_another(tmp_path: Path) -> None:
    import transformers

    config = transformers.DbrxConfig(
        d_model=64, n_heads=4, n_layers=2, vocab_size=128, max_seq_len=64,
        attn_config={"kv_n_heads": 2, "rope_theta": 1e4},
        ffn_config={"ffn_hidden_size": 32, "moe_num_experts": 4, "moe_top_k": 2},
    )  # fmt: skip
    path, n = _folder(tmp_path / "m", transformers.DbrxForCausalLM(config))
    spec = from_hf_folder(path)
    assert spec.weight_bytes == 4 * n and not spec.doubts
    up = next(layer for layer in spec.layers if layer.name == "blocks.1.mlp.experts.up_proj")
    assert (up.op.d_in, up.op.d_out, up.op.n_experts, up.op.n_active) == (64, 32, 4, 2)  # type: ignore[union-attr]


# ---------------------------------------------------------------- GGUF

_OUTER = {"token_embd.weight": (16, 32), "output_norm.weight": (32,), "output.weight": (16, 32)}
_SIZES = {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 64}
_EXPERTS = {"blk.0.ffn_gate_inp.weight": (4, 32), "blk.0.ffn_gate_exps.weight": (4, 24, 32),
            "blk.0.ffn_up_exps.weight": (4, 24, 32), "blk.0.ffn_down_exps.weight": (4, 32, 24)}  # fmt: skip
_SPARSE = {"leading_dense_block_count": 0, "expert_count": 4, "expert_used_count": 2, "expert_shared_count": 0,
           "expert_feed_forward_length": 24}  # fmt: skip
_LATENT = {"blk.0.attn_q_a.weight": (24, 32), "blk.0.attn_q_a_norm.weight": (24,), "blk.0.attn_q_b.weight": (48, 24),
           "blk.0.attn_kv_a_mqa.weight": (20, 32), "blk.0.attn_kv_a_norm.weight": (16,),
           "blk.0.attn_output.weight": (32, 32)}  # fmt: skip
_WHOLE = {**_LATENT, "blk.0.attn_kv_b.weight": (64, 16)}
_ABSORBED = {**_LATENT, "blk.0.attn_k_b.weight": (4, 16, 8), "blk.0.attn_v_b.weight": (4, 8, 16)}
_RANKS = {**_SIZES, "attention.head_count": 4, "attention.head_count_kv": 4, "attention.q_lora_rank": 24,
          "attention.kv_lora_rank": 16, "attention.key_length": 12, "rope.dimension_count": 4}  # fmt: skip
_MLA = {"attention.key_length": 20, "attention.value_length": 16, "attention.key_length_mla": 12,
        "attention.value_length_mla": 8, "attention.head_count_kv": 1}  # fmt: skip
_INDEXER = {"blk.0.indexer.k_norm.weight": (8,), "blk.0.indexer.k_norm.bias": (8,),
            "blk.0.indexer.proj.weight": (2, 32), "blk.0.indexer.attn_k.weight": (8, 32),
            "blk.0.indexer.attn_q_b.weight": (16, 24)}  # fmt: skip


def _gemma4(block: int, width: int) -> dict[str, tuple[int, ...]]:
    shapes = {"attn_norm": (32,), "attn_q": (4 * width, 32), "attn_k": (width, 32), "attn_v": (width, 32),
              "attn_output": (32, 4 * width), "ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32),
              "ffn_down": (32, 64)}  # fmt: skip
    return {f"blk.{block}.{name}.weight": shape for name, shape in shapes.items()}


FILES: dict[str, tuple[str, dict[str, Any], dict[str, tuple[int, ...]], int]] = {
    # llama.cpp, pull request 11397: DeepSeek-R1 without key_length_mla keeps 24,576 and 16,384 per block, 128 heads
    "deepseek2, as files were before": (
        "deepseek2", {**_RANKS, **_SPARSE, "attention.value_length": 8}, {**_NORMS, **_WHOLE, **_EXPERTS}, 4 * (12 + 8),
    ),
    # its values are as wide as the model over its heads, which no key says
    "minicpm3": ("minicpm3", _RANKS, {**_NORMS, **_WHOLE, **_MLP}, 4 * (12 + 8)),
    "glm-dsa": (
        "glm-dsa",
        {**_RANKS, **_SPARSE, **_MLA, "attention.indexer.head_count": 2, "attention.indexer.key_length": 8,
         "attention.indexer.top_k": 4},
        {**_NORMS, **_ABSORBED, **_EXPERTS, **_INDEXER}, 16 + 4 + 8,
    ),
    # vllm-metal, issue 628: heads of E2B are 256 wide where they see a window and 512 elsewhere; the last borrow
    "gemma4": (
        "gemma4",
        {**_SIZES, "block_count": 3, "attention.head_count": 4, "attention.head_count_kv": 1,
         "attention.key_length": 16, "attention.value_length": 16, "attention.key_length_swa": 8,
         "attention.value_length_swa": 8, "attention.sliding_window": 8, "attention.shared_kv_layers": 1,
         "attention.sliding_window_pattern": [True, False, True], "rope.dimension_count": 16},
        {**_gemma4(0, 8), **_gemma4(1, 16), **_gemma4(2, 8)}, 2 * 8 + 2 * 16,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", FILES)
def test_what_llama_cpp_keeps_of_a_token(name: str, tmp_path: Path) -> None:
    architecture, values, tensors, kept = FILES[name]
    spec = from_gguf(write_gguf(tmp_path / "m.gguf", architecture, values, {**_OUTER, **tensors}))
    assert kv_bytes_per_token(spec) == 2 * kept
    assert ("indexer" in spec.doubts) == (name == "glm-dsa")


def test_the_encoder_of_t5_alone(tmp_path: Path) -> None:
    """As image generators read it: every name begins with "enc."."""
    shapes = {"attn_norm": (32,), "attn_q": (32, 32), "attn_k": (32, 32), "attn_v": (32, 32), "attn_o": (32, 32),
              "attn_rel_b": (4, 8), "ffn_norm": (32,), "ffn_gate": (64, 32), "ffn_up": (64, 32),
              "ffn_down": (32, 64)}  # fmt: skip
    tensors = {f"enc.blk.0.{name}.weight": shape for name, shape in shapes.items()} | {"enc.output_norm.weight": (32,)}
    values = {**_SIZES, "attention.head_count": 4, "attention.key_length": 8, "attention.value_length": 8,
              "attention.relative_buckets_count": 8}  # fmt: skip
    file = write_gguf(tmp_path / "m.gguf", "t5encoder", values, {"token_embd.weight": (16, 32), **tensors})
    spec = from_gguf(file)
    assert not spec.causal and spec.n_blocks == 1 and kv_cache_bytes(spec, 100) == 0
    assert [core.n_heads for core in cores(spec)] == [4]
    names = {layer.name for layer in spec.layers}
    assert {"blocks.0.attn.q_proj", "blocks.0.mlp.up_proj", "final_norm"} <= names


def test_a_configuration_of_nobody_is_still_one_sentence(tmp_path: Path) -> None:
    """Ultravox names its language model and says nothing of it."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps({"model_type": "ultravox", "text_model_id": "meta-llama/Llama-3.1-8B-Instruct"}))
    with pytest.raises(ExplorerError, match="'ultravox' is not known here"):
        read(file, "config")
