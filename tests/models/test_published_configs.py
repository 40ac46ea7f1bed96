"""Configurations as their makers publish them, alone in a file: those of repositories with code of their own whose
network transformers has, and of multimodal ones that it does not know around a language model that it does."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from core.analysis.work import kv_cache_bytes
from core.models import formats
from core.models.spec import read
from core.types import ModelSpec
from hardware.errors import ExplorerError

OWN_CODE = {"auto_map": {"AutoConfig": "configuration_own.OwnConfig"}}
KIMI_K2: dict[str, Any] = {
    **OWN_CODE,
    "model_type": "kimi_k2",
    "architectures": ["DeepseekV3ForCausalLM"],
    "hidden_size": 7168,
    "intermediate_size": 18432,
    "moe_intermediate_size": 2048,
    "num_hidden_layers": 61,
    "num_attention_heads": 64,
    "num_key_value_heads": 64,
    "n_shared_experts": 1,
    "n_routed_experts": 384,
    "num_experts_per_tok": 8,
    "first_k_dense_replace": 1,
    "q_lora_rank": 1536,
    "kv_lora_rank": 512,
    "qk_nope_head_dim": 128,
    "qk_rope_head_dim": 64,
    "v_head_dim": 128,
    "vocab_size": 163840,
    "num_nextn_predict_layers": 0,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
INT4 = {  # of Kimi-K2-Thinking: the routed experts alone
    "quant_method": "compressed-tensors",
    "format": "pack-quantized",
    "ignore": ["lm_head", "re:.*self_attn.*", "re:.*shared_experts.*", r"re:.*mlp\.(gate|up|gate_up|down)_proj.*"],
    "config_groups": {
        "group_0": {
            "targets": ["Linear"],
            "weights": {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 32, "symmetric": True},
        }
    },
}
INTERNVL3: dict[str, Any] = {
    **OWN_CODE,
    "model_type": "internvl_chat",
    "torch_dtype": "bfloat16",
    "vision_config": {"hidden_size": 1024},
    "llm_config": {
        "model_type": "qwen2",
        "hidden_size": 3584,
        "intermediate_size": 18944,
        "num_hidden_layers": 28,
        "num_attention_heads": 28,
        "num_key_value_heads": 4,
        "vocab_size": 151674,
        "tie_word_embeddings": False,
    },
}
VL2_TINY: dict[str, Any] = {  # without latent attention, and with zeros in the place of its widths
    "model_type": "deepseek_vl_v2",
    "torch_dtype": "bfloat16",
    "language_config": {
        "model_type": "deepseek_v2",
        "use_mla": False,
        "kv_lora_rank": None,
        "q_lora_rank": None,
        "qk_nope_head_dim": 0,
        "qk_rope_head_dim": 0,
        "v_head_dim": 0,
        "hidden_size": 1280,
        "intermediate_size": 6848,
        "moe_intermediate_size": 896,
        "first_k_dense_replace": 1,
        "n_routed_experts": 64,
        "n_shared_experts": 2,
        "num_experts_per_tok": 6,
        "num_hidden_layers": 12,
        "num_attention_heads": 10,
        "num_key_value_heads": 10,
        "vocab_size": 129280,
    },
}
_MOE = 64 * 3 * 1280 * 896 + 3 * 1280 * 2 * 896 + 64 * 1280  # routed, shared, router
N_VL2 = 2 * 129280 * 1280 + 12 * (4 * 1280**2 + 2 * 1280) + 3 * 1280 * 6848 + 11 * _MOE + 1280


def bare(tmp_path: Path, config: dict[str, Any]) -> ModelSpec:
    """A lone config.json, as a run or a prediction takes it."""
    file = tmp_path / "config.json"
    file.write_text(json.dumps(config))
    assert formats.files_of(file) == {"config": str(file)}
    formats.check({"config": str(file)})
    return read(file, "config")


@pytest.mark.parametrize(
    ("config", "architecture", "n_params", "kv_bytes"),
    [
        # the hub counts 23,040 more: what balances 60 routers, no weight of a layer
        (KIMI_K2, "deepseek_v3", 1_026_408_232_448 - 60 * 384, 61 * 576 * 2),
        (INTERNVL3, "qwen2", 7_615_616_512 - 2 * (152064 - 151674) * 3584, 28 * 2 * 4 * 128 * 2),
        (VL2_TINY, "deepseek_v2", N_VL2, 12 * 2 * 1280 * 2),
    ],
)
def test_a_network_that_transformers_has_under_another_name(
    config: dict[str, Any], architecture: str, n_params: int, kv_bytes: int, tmp_path: Path
) -> None:
    spec = bare(tmp_path, config)
    assert (spec.architecture, spec.n_params, spec.dtype) == (architecture, n_params, "bf16")
    assert kv_cache_bytes(spec, 1) == kv_bytes


def test_kimi_k2_in_the_precision_that_it_declares(tmp_path: Path) -> None:
    """1,029 GB in FP8; as K2-Thinking, by the same pattern as a part of K2.5, the 594 GB that its repository has."""
    fp8 = {"quant_method": "fp8", "weight_block_size": [128, 128]}
    assert (bare(tmp_path, {**KIMI_K2, "quantization_config": fp8}).weight_bytes or 0) / 1e9 == pytest.approx(
        1029.2, 1e-4
    )
    thinking = bare(tmp_path, {**KIMI_K2, "quantization_config": INT4})
    assert (thinking.weight_bytes or 0) / 1e9 == pytest.approx(594.2, 1e-4) and thinking.dtype == "int4"
    k25 = {**OWN_CODE, "model_type": "kimi_k25", "torch_dtype": "bfloat16", "vision_config": {}}
    inside = bare(tmp_path, {**k25, "text_config": {**KIMI_K2, "quantization_config": INT4}})
    assert (inside.architecture, inside.weight_bytes) == ("deepseek_v3", thinking.weight_bytes)


@pytest.mark.parametrize("name", ["qwen", "baichuan", "minicpm"])
def test_a_network_that_only_its_own_code_tells_is_refused(name: str, tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match=f"'{name}' needs Python code from its own repository, which is never run"):
        bare(tmp_path, {**OWN_CODE, "model_type": name, "hidden_size": 64, "num_hidden_layers": 2})
