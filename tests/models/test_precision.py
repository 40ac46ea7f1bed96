"""What a configuration declares of its weights' precision, compared with published sizes and sums made by hand."""

import json
import math
import struct
import time
from pathlib import Path
from typing import Any

import pytest

from core.analysis.memory import Shape, split
from core.analysis.work import total, work
from core.models.artifacts import check_precision
from core.models.precision import declared, support
from core.models.precision.rules import matcher
from core.models.spec import from_config, from_hf_folder, read
from core.runs.resolve import resolve
from core.types import Generate, ModelEntry, ModelSpec, Request
from hardware.errors import ExplorerError

# One block of width 128: matrices of 128 x 128 (q, o), 64 x 128 (k, v), 256 x 128 (gate, up), 128 x 256 (down).
SMALL: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 256,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 261,
    "tie_word_embeddings": False,
    "dtype": "float16",
}
MATRICES = {
    "self_attn.q_proj": (128, 128),
    "self_attn.k_proj": (64, 128),
    "self_attn.v_proj": (64, 128),
    "self_attn.o_proj": (128, 128),
    "mlp.gate_proj": (256, 128),
    "mlp.up_proj": (256, 128),
    "mlp.down_proj": (128, 256),
}
N_LINEAR = 2 * 128 * 128 + 2 * 64 * 128 + 3 * 256 * 128
N_ROWS = 128 + 64 + 64 + 128 + 256 + 256 + 128
TABLES = 2 * 261 * 128  # token table and head, elements
NORMS = 3 * 128
REST_BYTES = 2 * (TABLES + NORMS)

GPT_OSS: dict[str, Any] = {
    "model_type": "gpt_oss",
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_hidden_layers": 24,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "vocab_size": 201088,
    "quantization_config": {
        "quant_method": "mxfp4",
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
    },
}
LLAMA_70B: dict[str, Any] = {
    "model_type": "llama",
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "vocab_size": 128256,
    "torch_dtype": "bfloat16",
    "quantization_config": {
        "quant_method": "compressed-tensors",
        "format": "float-quantized",
        "ignore": ["lm_head"],
        "config_groups": {
            "group_0": {
                "targets": ["Linear"],
                "weights": {"num_bits": 8, "type": "float", "strategy": "channel", "symmetric": True},
            }
        },
    },
}
QWEN_MLX: dict[str, Any] = {
    "model_type": "qwen2",
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_hidden_layers": 28,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "torch_dtype": "float16",
    "quantization": {"group_size": 64, "bits": 4},
}


def small(**quantization: Any) -> ModelSpec:
    return from_config({**SMALL, "quantization_config": quantization})


def stored(spec: ModelSpec) -> int:
    assert spec.weight_bytes is not None
    return spec.weight_bytes


def dtypes(spec: ModelSpec) -> dict[str, str | None]:
    return {layer.name: layer.weight_dtype for layer in spec.layers if layer.n_params}


@pytest.mark.parametrize(
    ("config", "gb", "dtype"), [(GPT_OSS, 13.76, "mxfp4"), (LLAMA_70B, 72.67, "fp8"), (QWEN_MLX, 4.284, "int4")]
)
def test_the_size_of_published_models(config: dict[str, Any], gb: float, dtype: str) -> None:
    """openai/gpt-oss-20b: 13.76 GB. 70.6 B weights, all but table and head in a byte. 7.616 B weights of 4.5 bits."""
    spec = from_config(config)
    assert stored(spec) / 1e9 == pytest.approx(gb, rel=0.001)
    assert spec.dtype == dtype


def test_work_and_memory_take_the_declared_bytes() -> None:
    spec = from_config(GPT_OSS)
    assert split(spec, Shape(n_context=16, n_forward=16)).weights_bytes == stored(spec)
    one = total(work(spec, 1)).weight_bytes
    experts = sum(layer.weight_bytes or 0 for layer in spec.layers if ".experts." in layer.name)
    table = next(layer.weight_bytes or 0 for layer in spec.layers if layer.name == "embed")
    assert one == pytest.approx(stored(spec) - experts * 28 / 32 - table * (1 - 1 / 201088))


@pytest.mark.parametrize(
    ("quantization", "n_bytes"),
    [
        # 4 bits, 16 + 4 bits per group and row (two groups in `down`), 4 bytes per column
        ({"quant_method": "gptq", "bits": 4, "group_size": 128},
         N_LINEAR / 2 + (N_ROWS + 128) * 2.5 + 4 * (6 * 128 + 256)),
        ({"quant_method": "gptq", "bits": 8, "group_size": -1}, N_LINEAR + N_ROWS * 3 + 4 * (6 * 128 + 256)),
        ({"quant_method": "awq", "bits": 4, "group_size": 64}, N_LINEAR / 2 + N_LINEAR / 64 * 2.5),
        ({"quant_method": "fp8", "weight_block_size": [128, 128]}, N_LINEAR + 4 * (1 + 1 + 1 + 1 + 2 + 2 + 2)),
        ({"quant_method": "fp8", "weight_block_size": None}, N_LINEAR + 4 * 7),
        ({"quant_method": "fbgemm_fp8"}, N_LINEAR + 4 * N_ROWS),
        ({"quant_method": "mxfp8"}, N_LINEAR * 33 / 32),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, N_LINEAR * 4.5 / 8),
        ({"load_in_8bit": True}, N_LINEAR + 4 * N_ROWS),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, N_LINEAR + 4 * N_ROWS),
        ({"quant_method": "torchao",
          "quant_type": {"default": {"_type": "Int8DynamicActivationInt4WeightConfig", "_data": {"group_size": 32}}}},
         N_LINEAR * 5 / 8),
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 64}}},
         N_LINEAR * 4.5 / 8),
    ],
)  # fmt: skip
def test_methods_that_leave_table_and_head_alone(quantization: dict[str, Any], n_bytes: float) -> None:
    spec = small(**quantization)
    assert stored(spec) == round(n_bytes) + REST_BYTES
    assert dtypes(spec)["lm_head"] == dtypes(spec)["embed"] == dtypes(spec)["blocks.0.attn_norm"] == "fp16"


DOWN = 256 * 128


@pytest.mark.parametrize(
    ("quantization", "n_bytes"),
    [
        # AutoFP8, whose list of exceptions has a name of its own and whose scale is that of the whole matrix
        ({"quant_method": "fp8", "activation_scheme": "static", "ignored_layers": ["lm_head"]}, N_LINEAR + 4 * 7),
        ({"quant_method": "fp8", "ignored_layers": ["model.layers.0.mlp.down_proj"]}, N_LINEAR + DOWN + 4 * 6),
        ({"quant_method": "modelopt_fp8", "quant_algo": "FP8", "ignore": ["lm_head"]}, N_LINEAR + 4 * 7),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4", "exclude_modules": ["lm_head"]}, N_LINEAR * 4.5 / 8),
        ({"producer": {"name": "modelopt"}, "quant_algo": "W4A16_AWQ", "exclude_modules": ["lm_head"]},
         N_LINEAR * (4 + 16 / 128) / 8),
        ({"quant_method": "modelopt", "quant_algo": "NVFP4",
          "ignore": ["lm_head", "backbone.layers.0.mixer.down_proj"]},
         (N_LINEAR - DOWN) * 4.5 / 8 + 2 * DOWN),
        ({"quant_method": "torchao", "quant_type": {"default": {"_type": "IntxWeightOnlyConfig", "_data": {
            "weight_dtype": {"_type": "torch.dtype", "_data": "int4"},
            "granularity": {"_type": "PerGroup", "_data": {"group_size": 32}}}}}}, N_LINEAR * 5 / 8),
        # modules as one list instead of a list of lists
        ({"quant_method": "gptq", "bits": 4, "group_size": 128, "modules_in_block_to_quantize": ["mlp.down_proj"]},
         2 * (N_LINEAR - DOWN) + DOWN / 2 + 2 * 128 * 2.5 + 4 * 256),
        ({"quant_method": "aqlm", "in_group_size": 8, "nbits_per_codebook": 16, "num_codebooks": 1},
         N_LINEAR * 2 / 8 + 2 * N_ROWS),
        ({"quant_method": "higgs", "bits": 4, "group_size": 256}, N_LINEAR / 2 + 2 * N_ROWS),
    ],
)  # fmt: skip
def test_other_spellings(quantization: dict[str, Any], n_bytes: float) -> None:
    assert stored(small(**quantization)) == pytest.approx(n_bytes + REST_BYTES, abs=4)


FP8_ROWS = {"num_bits": 8, "type": "float", "strategy": "channel"}
NVFP4 = {"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}
INT4 = {"num_bits": 4, "type": "int", "strategy": "group", "group_size": 128}
HEAD = 261 * 128
Q_PROJ = 128 * 128
UNLISTED = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


@pytest.mark.parametrize(
    ("quantization", "n_bytes"),
    [
        # a module that is named says nothing of those inside it (SGLang's pull request 32736)
        ({"quant_method": "compressed-tensors", "ignore": ["lm_head", "model.layers.0.mlp", "model.layers.0"],
          "config_groups": {"g": {"targets": ["Linear"], "weights": FP8_ROWS}}}, N_LINEAR + 2 * N_ROWS),
        # two groups with formats of their own (nm-testing/llama-fp8-nvfp4-test): down_proj in FP8, the rest NVFP4
        ({"quant_method": "compressed-tensors", "format": "mixed-precision", "ignore": ["lm_head"], "config_groups": {
            "group_0": {"targets": ["re:.*mlp.down_proj.*"], "weights": FP8_ROWS, "format": "float-quantized"},
            "group_1": {"targets": ["re:.*mlp.(gate|up)_proj.*", "re:.*self_attn.*"], "weights": NVFP4,
                        "format": "nvfp4-pack-quantized"}}}, (N_LINEAR - DOWN) * 4.5 / 8 + DOWN + 2 * 128),
        # the names that it had before, and the form in which its sparsity stands beside it
        ({"quant_method": "sparseml", "ignore": ["lm_head"],
          "config_groups": {"g": {"targets": ["Linear"], "weights": FP8_ROWS}}}, N_LINEAR + 2 * N_ROWS),
        # two of four weights kept, a bit for each says which
        ({"quant_method": "compressed-tensors", "ignore": ["lm_head"], "format": "marlin-24",
          "config_groups": {"g": {"targets": ["Linear"], "weights": INT4}}},
         N_LINEAR * 3 / 8 + 2 * (N_ROWS + 128)),
        ({"quant_method": "compressed-tensors", "ignore": ["lm_head"], "format": "float-quantized",
          "sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"},
          "config_groups": {"g": {"targets": ["Linear"], "weights": FP8_ROWS}}}, N_LINEAR * 5 / 8 + 2 * N_ROWS),
        # ModelOpt by module (its pull request 929)
        ({"quant_method": "modelopt", "quant_algo": "MIXED_PRECISION", "kv_cache_quant_algo": "FP8",
          "quantized_layers": {"model.layers.0.self_attn.q_proj": {"quant_algo": "FP8"},
                               "model.layers.0.mlp.down_proj": {"quant_algo": "NVFP4", "group_size": 16}}},
         Q_PROJ + 4 + DOWN * 4.5 / 8 + 2 * (N_LINEAR - Q_PROJ - DOWN)),
        # HQQ by module: what is not named stays
        ({"quant_method": "hqq", "skip_modules": ["lm_head"], "quant_config": {
            "self_attn.q_proj": {"weight_quant_params": {"nbits": 4, "group_size": 64}},
            "mlp.down_proj": {"weight_quant_params": {"nbits": 8, "group_size": 128}}}},
         Q_PROJ * 4.5 / 8 + DOWN * 8.25 / 8 + 2 * (N_LINEAR - Q_PROJ - DOWN)),
        # Quark by module
        ({"quant_method": "quark", "exclude": ["lm_head"], "layer_quant_config": {
            "*down_proj": {"weight": {"dtype": "int8", "qscheme": "per_channel"}}},
          "global_quant_config": {"weight": {"dtype": "fp8_e4m3", "qscheme": "per_tensor"}}},
         N_LINEAR + 4 * 6 + 4 * 128),
        # transformers' newer ones
        ({"quant_method": "fp_quant", "forward_dtype": "mxfp4"}, N_LINEAR * 4.25 / 8),
        ({"quant_method": "fouroversix", "dtype": "nvfp4", "modules_to_not_convert": ["lm_head"]}, N_LINEAR * 4.5 / 8),
        ({"quant_method": "metal", "bits": 8, "group_size": 64}, N_LINEAR * 8.5 / 8),
        ({"quant_method": "gemma", "num_bits": 4, "module_quant_configs": {"mlp\\.down": {"num_bits": 8}}},
         (N_LINEAR + DOWN) / 2 + 4 * N_ROWS),
        ({"quant_method": "exl2", "bits": 4.25, "head_bits": 6}, N_LINEAR * 4.25 / 8 + HEAD * 6 / 8 - 2 * HEAD),
        ({"quant_method": "exl3", "bits": 3.0}, N_LINEAR * 3 / 8),
        ({"quant_method": "sinq", "nbits": 4, "group_size": 64}, N_LINEAR * 4.25 / 8),
        # modules listed, and the head not among them: transformers leaves those alone and nothing else
        ({**UNLISTED, "llm_int8_skip_modules": None}, N_LINEAR * 4.5 / 8),
        ({**UNLISTED, "llm_int8_skip_modules": ["lm_head", "mlp.down_proj"]}, (N_LINEAR - DOWN) * 4.5 / 8 + 2 * DOWN),
        ({**UNLISTED, "llm_int8_skip_modules": ["vision_tower"]}, (N_LINEAR + HEAD) * 4.5 / 8 - 2 * HEAD),
        ({"quant_method": "fp8", "weight_block_size": None, "modules_to_not_convert": ["vision_tower"]},
         N_LINEAR + HEAD + 4 * 8 - 2 * HEAD),
    ],
)  # fmt: skip
def test_files_as_public_reports_have_them(quantization: dict[str, Any], n_bytes: float) -> None:
    assert stored(small(**quantization)) == pytest.approx(n_bytes + REST_BYTES, abs=8)


COLUMNS = 6 * 128 + 256  # of all matrices
ORDERED = INT4 | {"symmetric": True, "actorder": "group"}


def of_torchao(name: str, **data: Any) -> dict[str, Any]:
    return {"quant_method": "torchao", "quant_type": {"default": {"_type": name, "_data": data}}}


@pytest.mark.parametrize(
    ("quantization", "n_bytes", "dtype"),
    [
        # AutoRound's formats beside integers (its pull requests 649 and 911)
        ({"quant_method": "auto-round", "bits": 4, "group_size": 32, "data_type": "mx_fp"}, N_LINEAR * 4.25 / 8,
         "mxfp4"),
        ({"quant_method": "auto-round", "bits": 8, "group_size": 32, "data_type": "mx_fp8e4m3_rceil"},
         N_LINEAR * 8.25 / 8, "mxfp8"),
        ({"quant_method": "auto-round", "bits": 4, "group_size": 16, "data_type": "nv_fp4_with_static_gs"},
         N_LINEAR * 4.5 / 8, "nvfp4"),
        ({"quant_method": "auto-round", "bits": 8, "group_size": -1, "data_type": "fp"}, N_LINEAR + 2 * N_ROWS, "fp8"),
        # its FP8_BLOCK and FPW8A16, as release 0.16.1 writes them
        ({"quant_method": "auto-round", "bits": 8, "group_size": [128, 128], "data_type": "fp",
          "packing_format": "auto_round:fp8", "weight_block_size": [128, 128]},
         N_LINEAR + 2 * (1 + 1 + 1 + 1 + 2 + 2 + 2), "fp8"),
        ({"quant_method": "auto-round", "bits": 8, "group_size": 0, "data_type": "fp"}, N_LINEAR + 2 * 7, "fp8"),
        # the group of every column is stored (compressed-tensors' pull requests 97 and 143), unless it is the order
        # in which they are
        ({"quant_method": "compressed-tensors", "ignore": ["lm_head"],
          "config_groups": {"g": {"targets": ["Linear"], "weights": ORDERED}}},
         N_LINEAR / 2 + 2 * (N_ROWS + 128) + 4 * COLUMNS, "int4"),
        ({"quant_method": "compressed-tensors", "ignore": ["lm_head"],
          "config_groups": {"g": {"targets": ["Linear"], "weights": ORDERED | {"actorder": "weight"}}}},
         N_LINEAR / 2 + 2 * (N_ROWS + 128), "int4"),
        # two of four weights, not quantized: half of 16 bits and a bit
        ({"quant_method": "compressed-tensors", "sparsity_config": {
            "format": "sparse-24-bitmask", "sparsity_structure": "2:4", "ignore": ["lm_head"]}},
         N_LINEAR * 9 / 8, "fp16"),
        # ModelOpt's names of formats: vLLM's pull request 42566, its own 1327, TensorRT-LLM's 17269
        *(({"quant_method": "modelopt", "quant_algo": name, "ignore": ["lm_head"]}, N_LINEAR * bits / 8, dtype)
          for name, bits, dtype in (("W4A16_NVFP4", 4.5, "nvfp4"), ("NVFP4_W4A16", 4.5, "nvfp4"),
                                    ("W4A8_NVFP4_FP8", 4.5, "nvfp4"), ("W4A16_MXFP4", 4.25, "mxfp4"),
                                    ("W4A8_MXFP4_FP8", 4.25, "mxfp4"))),
        # HQQ without groups: one scale and zero per row
        ({"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 8, "group_size": None}}},
         N_LINEAR + 4 * N_ROWS, "int8"),
        (of_torchao("MXDynamicActivationMXWeightConfig", block_size=32,
                    weight_dtype={"_type": "torch.dtype", "_data": "float8_e4m3fn"}), N_LINEAR * 8.25 / 8, "mxfp8"),
        (of_torchao("MXDynamicActivationMXWeightConfig", block_size=32,
                    weight_dtype={"_type": "torch.dtype", "_data": "float4_e2m1fn_x2"}), N_LINEAR * 4.25 / 8, "mxfp4"),
        (of_torchao("NVFP4DynamicActivationNVFP4WeightConfig"), N_LINEAR * 4.5 / 8, "nvfp4"),
        # SGLang's integers (its pull requests 3730 and 3888)
        ({"quant_method": "blockwise_int8", "activation_scheme": "dynamic", "weight_block_size": [128, 128]},
         N_LINEAR + 4 * (1 + 1 + 1 + 1 + 2 + 2 + 2), "int8"),
        ({"quant_method": "w8a8_int8", "activation_scheme": "dynamic"}, N_LINEAR + 4 * N_ROWS, "int8"),
        # BitNet packed, and while it is trained (transformers' BitNetQuantConfig)
        ({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "offline"},
         N_LINEAR / 4 + 2 * 7, "int2"),
        ({"quant_method": "bitnet", "linear_class": "autobitlinear", "quantization_mode": "online"}, 2 * N_LINEAR,
         "fp16"),
    ],
)  # fmt: skip
def test_number_formats_by_the_names_that_files_give_them(
    quantization: dict[str, Any], n_bytes: float, dtype: str
) -> None:
    spec = small(**quantization)
    assert stored(spec) == pytest.approx(n_bytes + REST_BYTES, abs=4)
    assert dtypes(spec)["blocks.0.mlp.up_proj"] == dtype and "not known here" not in spec.source


@pytest.mark.parametrize(
    "quantization",
    [
        {"config_groups": {"group_0": {"targets": [], "weights": None}}, "kv_cache_scheme": {"num_bits": 8}},
        {"config_groups": {}, "kv_cache_scheme": {"num_bits": 8, "type": "float", "strategy": "tensor"}},
        {"sparsity_config": {"format": "dense", "sparsity_structure": "2:4"}},
    ],
)
def test_a_quantized_cache_leaves_the_weights_plain(quantization: dict[str, Any], tmp_path: Path) -> None:
    """compressed-tensors' pull request 135: what the file stores is what the model's dtype says, and runs as that."""
    config = {**SMALL, "quantization_config": {"quant_method": "compressed-tensors", **quantization}}
    assert declared(config) is None and from_config(config) == from_config(SMALL)
    tensors = rest() | {f"model.layers.0.{module}.weight": ("F16", shape) for module, shape in MATRICES.items()}
    folder = write(tmp_path / "m", config, tensors)
    assert stored(from_hf_folder(folder)) == 2 * N_LINEAR + REST_BYTES
    entry = ModelEntry(id="m", label="m", family="local", files={"hf": str(folder)})
    for kind in ("hf", "gguf", "onnx"):
        check_precision(entry, kind)


@pytest.mark.parametrize("outer", ["dtype", "torch_dtype"])
def test_what_stands_around_the_language_model_counts_for_it(outer: str) -> None:
    """Qwen2.5-Omni: its dtype and its quantization stand beside its text_config, inside thinker_config."""
    text = {k: v for k, v in SMALL.items() if k != "dtype"}
    thinker = {outer: "bfloat16", "text_config": text, "quantization_config": {"quant_method": "mxfp8"}}
    spec = from_config({"model_type": "qwen2_5_omni", "thinker_config": thinker})
    assert dtypes(spec)["embed"] == "bf16" and dtypes(spec)["blocks.0.mlp.up_proj"] == "mxfp8"


def test_the_quantization_beside_its_sparsity_in_older_files() -> None:
    group = {"targets": ["Linear"], "weights": FP8_ROWS}
    own = {"quant_method": "sparseml", "config_groups": {"g": group}, "ignore": ["lm_head"]}
    spec = from_config(
        {**SMALL, "compression_config": {"sparsity_config": {"format": "dense"}, "quantization_config": own}}
    )
    assert stored(spec) == N_LINEAR + 2 * N_ROWS + REST_BYTES and "compressed-tensors" in spec.source


def test_a_module_of_mlx_with_numbers_of_its_own_takes_nothing_from_the_model() -> None:
    """gpt-oss-20b-MXFP4-Q8 as MLX publishes it: experts in MXFP4, all else in groups of 64 and 8 bits."""
    own = {"group_size": 64, "bits": 8}
    quantization = {"group_size": 32, "bits": 4, "mode": "mxfp4", "lm_head": own, "model.embed_tokens": own,
                    "model.layers.0.self_attn.q_proj": own, "model.layers.0.mlp.up_proj": {"bits": 6}}  # fmt: skip
    layers = {layer.name: layer for layer in from_config({**SMALL, "quantization": quantization}).layers}
    assert layers["embed"].weight_bytes == layers["lm_head"].weight_bytes == 261 * 128 * 8.5 / 8
    assert layers["blocks.0.attn.q_proj"].weight_bytes == 128 * 128 * 8.5 / 8
    assert layers["blocks.0.mlp.up_proj"].weight_bytes == DOWN * 6.5 / 8
    assert layers["blocks.0.mlp.down_proj"].weight_bytes == DOWN * 4.25 / 8
    assert layers["blocks.0.mlp.down_proj"].weight_dtype == "mxfp4"


def test_exceptions_are_named_as_in_a_multimodal_file() -> None:
    ignore = ["language_model.lm_head", "re:.*vision.*", "language_model.model.layers.0.mlp.down_proj"]
    weights = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    group = {"targets": ["Linear"], "weights": weights}
    quantization = {"quant_method": "compressed-tensors", "config_groups": {"g": group}, "ignore": ignore}
    spec = from_config({"model_type": "llava", "text_config": SMALL, "quantization_config": quantization})
    assert dtypes(spec)["lm_head"] == dtypes(spec)["blocks.0.mlp.down_proj"] == "fp16"
    assert dtypes(spec)["blocks.0.mlp.up_proj"] == "fp8"


def test_what_modelopt_declares_in_a_file_of_its_own(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps(SMALL))
    declared = {"producer": {"name": "modelopt"}, "quantization": {"quant_algo": "FP8", "exclude_modules": ["lm_head"]}}
    (tmp_path / "hf_quant_config.json").write_text(json.dumps(declared))
    spec = read(tmp_path / "config.json", "config")
    assert stored(spec) == N_LINEAR + 4 * 7 + REST_BYTES and "ModelOpt" in spec.source


OF_GPTQ = {"bits": 4, "group_size": 128, "damp_percent": 0.01, "desc_act": False, "sym": True}
OF_AWQ = {"zero_point": True, "q_group_size": 128, "w_bit": 4, "version": "GEMM"}


def awq(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {name: tensor for name, tensor in gptq(out, wide).items() if name != "g_idx"} | {
        "qweight": ("I32", (wide, out // 8))
    }


@pytest.mark.parametrize(
    ("name", "found", "label"),
    [("quantize_config.json", OF_GPTQ, "GPTQ"), ("quant_config.json", OF_AWQ, "AWQ"),
     ("quantize_config.json", OF_AWQ, "AWQ")],
)  # fmt: skip
def test_what_older_programs_declare_in_a_file_of_its_own(
    name: str, found: dict[str, Any], label: str, tmp_path: Path
) -> None:
    """AutoGPTQ's issue 22, and the names of files that vLLM looks for; weights under a name of their own."""
    parts = gptq if label == "GPTQ" else awq
    tensors = rest() | {
        f"model.layers.0.{module}.{part}": tensor
        for module, shape in MATRICES.items()
        for part, tensor in parts(*shape).items()
    }
    folder = write(tmp_path / "m", SMALL, tensors)
    (folder / "model.safetensors").rename(folder / "gptq_model-4bit-128g.safetensors")
    (folder / name).write_text(json.dumps(found))
    spec = from_hf_folder(folder)
    assert spec.dtype == "int4" and f"{label}, 4 bits in groups of 128" in spec.source
    entry = ModelEntry(id="m", label="m", family="local", files={"hf": str(folder)})
    for kind in ("hf", "gguf"):
        with pytest.raises(ExplorerError, match=rf"are quantized \({label}, .*, which (no backend|cannot be)") as said:
            check_precision(entry, kind)
        assert "roofscope transform dequantize" in said.value.hint


def test_double_quantization_stores_the_scales_in_a_byte() -> None:
    plain = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    spec = small(**plain, bnb_4bit_use_double_quant=True)
    assert stored(spec) == pytest.approx(N_LINEAR * (4 + 8.125 / 64) / 8 + REST_BYTES, abs=4)
    assert dtypes(spec)["blocks.0.mlp.up_proj"] == "nf4"


@pytest.mark.parametrize(
    ("weights", "dtype", "bits"),
    [
        ({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64}, "int4", 4 + 16 / 64),
        ({"num_bits": 4, "type": "int", "strategy": "group", "group_size": 64, "symmetric": False}, "int4",
         4 + 20 / 64),
        ({"num_bits": 4, "type": "float", "strategy": "tensor_group", "group_size": 16}, "nvfp4", 4.5),
        ({"num_bits": 4, "type": "float", "strategy": "group", "group_size": 32, "scale_dtype": "torch.uint8"},
         "mxfp4", 4.25),
        ({"num_bits": 8, "type": "float", "strategy": "tensor"}, "fp8", 8),
    ],
)  # fmt: skip
def test_compressed_tensors(weights: dict[str, Any], dtype: str, bits: float) -> None:
    """The head is a Linear like others, unless it is in `ignore`; so is ModelOpt's."""
    group = {"targets": ["Linear"], "weights": weights}
    for method in ("compressed-tensors", "modelopt"):
        spec = small(quant_method=method, config_groups={"group_0": group}, ignore=["re:.*k_proj$", "lm_head"])
        n = N_LINEAR - 64 * 128
        assert stored(spec) == pytest.approx(n * bits / 8 + 2 * 64 * 128 + REST_BYTES, abs=16)
        assert dtypes(spec)["blocks.0.attn.q_proj"] == dtype and dtypes(spec)["blocks.0.attn.k_proj"] == "fp16"
    whole = small(quant_method="compressed-tensors", config_groups={"group_0": group})
    assert dtypes(whole)["lm_head"] == dtype


def test_mlx_has_modules_of_their_own() -> None:
    quantization = {"group_size": 64, "bits": 4, "model.layers.0.mlp.down_proj": {"group_size": 32, "bits": 8},
                    "lm_head": False}  # fmt: skip
    spec = from_config({**SMALL, "quantization": quantization})
    layers = {layer.name: layer for layer in spec.layers}
    assert layers["embed"].weight_bytes == 261 * 128 * 4.5 / 8
    assert layers["blocks.0.mlp.down_proj"].weight_bytes == 128 * 256 * 9 / 8
    assert layers["lm_head"].weight_bytes == 261 * 128 * 2


def test_gptq_rules_for_single_modules() -> None:
    spec = small(quant_method="gptq", bits=4, group_size=128, dynamic={"-:.*o_proj": {}, "+:.*down.*": {"bits": 8}})
    assert dtypes(spec)["blocks.0.attn.o_proj"] == "fp16"
    assert dtypes(spec)["blocks.0.mlp.down_proj"] == "int8"
    assert dtypes(spec)["blocks.0.mlp.up_proj"] == "int4"
    chosen = small(quant_method="gptq", bits=4, modules_in_block_to_quantize=[["self_attn.q_proj", "mlp.up_proj"]])
    quantized = {name for name, dtype in dtypes(chosen).items() if dtype == "int4"}
    assert quantized == {"blocks.0.attn.q_proj", "blocks.0.mlp.up_proj"}


@pytest.mark.parametrize(
    ("pattern", "path", "fits"),
    [
        ("lm_head", "lm_head", True),
        ("self_attn", "model.layers.3.self_attn.q_proj", True),
        ("gate", "model.layers.3.mlp.gate_proj", False),
        ("model.layers.1", "model.layers.10.mlp.up_proj", False),
        ("model.layers.*.self_attn", "model.layers.10.self_attn.k_proj", True),
        ("model.layers.0*", "model.layers.1.mlp.up_proj", False),
        ("re:.*mlp.gate$", "model.layers.1.mlp.gate", True),
    ],
)
def test_patterns_name_modules(pattern: str, path: str, fits: bool) -> None:
    assert matcher(pattern)(path) is fits


def test_what_is_not_known_is_said_and_counted_as_it_is_named() -> None:
    spec = small(quant_method="vptq")
    assert stored(spec) == 2 * N_LINEAR + REST_BYTES
    assert "'vptq'" in spec.source and "not known here" in spec.source
    assert declared(SMALL) is None and from_config(SMALL).weight_bytes is None


@pytest.mark.parametrize(
    "quantization",
    [{"quant_method": "gptq", "bits": "four"}, {"quant_method": "awq", "bits": 400},
     {"quant_method": "compressed-tensors", "ignore": ["re:("], "config_groups": {}},
     {"quant_method": "gptq", "dynamic": ["+:.*"]}, {"quant_method": "fp8", "weight_block_size": ["a", "b"]}],
)  # fmt: skip
def test_numbers_that_make_no_sense(quantization: dict[str, Any]) -> None:
    with pytest.raises(ExplorerError, match="quantization of this conf"):
        small(**quantization)


@pytest.mark.parametrize("key", ["dtype", "torch_dtype"])
def test_the_dtype_under_its_new_key_and_its_old_one(key: str) -> None:
    plain = {k: v for k, v in SMALL.items() if k != "dtype"}
    assert from_config({**plain, key: "bfloat16"}).dtype == "bf16"
    assert from_config({**plain, key: "auto"}).dtype == "fp32"
    nested = {"model_type": "llava", "text_config": {**plain, key: "float16"}}
    assert from_config(nested).dtype == "fp16"


# ---------------------------------------------------------------- files

BITS = {"I32": 32, "F16": 16, "F32": 32, "F8_E4M3": 8, "F8_E8M0": 8, "U8": 8, "U32": 32, "BF16": 16, "I64": 64}


def write(folder: Path, config: dict[str, Any], tensors: dict[str, tuple[str, tuple[int, ...]]]) -> Path:
    """A folder whose safetensors file has these headers, and zeros."""
    header, at = {}, 0
    for name, (dtype, shape) in tensors.items():
        end = at + math.prod(shape) * BITS.get(dtype, 8) // 8
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, end]}
        at = end
    raw = json.dumps(header).encode()
    folder.mkdir(exist_ok=True)
    (folder / "model.safetensors").write_bytes(struct.pack("<Q", len(raw)) + raw + bytes(at))
    (folder / "config.json").write_text(json.dumps(config))
    return folder


def rest(*, head: bool = True) -> dict[str, tuple[str, tuple[int, ...]]]:
    tables = {"model.embed_tokens.weight": ("F16", (261, 128)), "lm_head.weight": ("F16", (261, 128))}
    norms = ("model.norm", "model.layers.0.input_layernorm", "model.layers.0.post_attention_layernorm")
    return (tables if head else {}) | {f"{norm}.weight": ("F16", (128,)) for norm in norms}


def gptq(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "qweight": ("I32", (wide // 8, out)), "qzeros": ("I32", (wide // 128, out // 8)),
        "scales": ("F16", (wide // 128, out)), "g_idx": ("I32", (wide,)),
    }  # fmt: skip


def mxfp8(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {"weight": ("F8_E4M3", (out, wide)), "weight_scale": ("F8_E8M0", (out, wide // 32))}


def nf4(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {
        "weight": ("U8", (out * wide // 2, 1)), "weight.absmax": ("F32", (out * wide // 64,)),
        "weight.quant_map": ("F32", (16,)), "weight.quant_state.bitsandbytes__nf4": ("U8", (80,)),
    }  # fmt: skip


def nf4_in_words(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """With bnb_4bit_quant_storage, as a model of many processes has it (bitsandbytes' pull request 1295)."""
    return nf4(out, wide) | {"weight": ("BF16", (out * wide // 4, 1))}


def of_subclass(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    """As torchao flattens a tensor of its own into safetensors (its pull request 3282)."""
    return {"_weight_qdata": ("F8_E4M3", (out, wide)), "_weight_scale": ("F32", (out, 1))}


def mlx(out: int, wide: int) -> dict[str, tuple[str, tuple[int, ...]]]:
    return {"weight": ("U32", (out, wide // 8)), "scales": ("F16", (out, wide // 64)),
            "biases": ("F16", (out, wide // 64))}  # fmt: skip


@pytest.mark.parametrize(
    ("quantization", "parts", "dtype", "beyond"),
    [
        ({"quant_method": "gptq", "bits": 4, "group_size": 128}, gptq, "int4", 0),
        ({"quant_method": "mxfp8"}, mxfp8, "mxfp8", 0),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}, nf4, "nf4",
         7 * (64 + 80)),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
          "bnb_4bit_quant_storage": "bfloat16"}, nf4_in_words, "nf4", 7 * (64 + 80)),
        (of_torchao("Float8WeightOnlyConfig"), of_subclass, "fp8", 0),
    ],
)  # fmt: skip
def test_a_folder_has_the_bytes_that_its_configuration_foretells(
    tmp_path: Path, quantization: dict[str, Any], parts: Any, dtype: str, beyond: int
) -> None:
    """beyond: what the file keeps besides weights and scales."""
    tensors = rest() | {
        f"model.layers.0.{module}.{name}": tensor
        for module, shape in MATRICES.items()
        for name, tensor in parts(*shape).items()
    }
    config = {**SMALL, "quantization_config": quantization}
    spec = from_hf_folder(write(tmp_path / "m", config, tensors))
    assert spec.dtype == dtype and dtypes(spec)["blocks.0.mlp.down_proj"] == dtype
    assert spec.n_params == N_LINEAR + TABLES + NORMS
    assert stored(spec) == stored(from_config(config)) + beyond


def test_an_mlx_folder(tmp_path: Path) -> None:
    whole = {f"model.layers.0.{module}": shape for module, shape in MATRICES.items()}
    whole |= {"model.embed_tokens": (261, 128), "lm_head": (261, 128)}
    tensors = rest(head=False) | {f"{m}.{n}": t for m, s in whole.items() for n, t in mlx(*s).items()}
    config = {**SMALL, "quantization": {"group_size": 64, "bits": 4}}
    spec = from_hf_folder(write(tmp_path / "m", config, tensors))
    assert spec.dtype == "int4" and stored(spec) == (N_LINEAR + TABLES) * 4.5 / 8 + 2 * NORMS


def test_a_layer_that_is_missing_is_still_missed(tmp_path: Path) -> None:
    config = {**SMALL, "quantization_config": {"quant_method": "mxfp8"}}
    with pytest.raises(ExplorerError, match="7 layers"):
        from_hf_folder(write(tmp_path / "m", config, rest()))


def test_a_number_format_that_nobody_knows_is_one_sentence(tmp_path: Path) -> None:
    folder = write(tmp_path / "m", SMALL, rest() | {"model.layers.0.mlp.up_proj.weight": ("P5_X", (256, 128))})
    with pytest.raises(ExplorerError, match=r"up_proj.weight is stored as 'P5_X'") as caught:
        from_hf_folder(folder)
    assert len(caught.value.message) + len(caught.value.hint) < 200


def test_a_bare_configuration_says_what_it_declares(tmp_path: Path) -> None:
    file = tmp_path / "m.json"
    file.write_text(json.dumps(GPT_OSS))
    spec = read(file, "config")
    assert spec.random_weights and "MXFP4, 4 bits in groups of 32" in spec.source


# ---------------------------------------------------------------- who can run them


def quantized_folder(folder: Path, quantization: dict[str, Any]) -> Path:
    return write(folder, {**SMALL, "quantization_config": quantization}, rest())


@pytest.mark.parametrize(
    ("backend", "words"),
    [("pytorch", "PyTorch runs only with some_kernels"), ("llama_cpp", "cannot be converted into a GGUF"),
     ("onnxruntime", "cannot be converted into an ONNX export")],
)  # fmt: skip
def test_a_run_of_weights_that_nothing_here_can_run_is_one_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, backend: str, words: str
) -> None:
    monkeypatch.setitem(support.NEEDS, "gptq", ("some_kernels",))
    folder = quantized_folder(tmp_path / "small-gptq", {"quant_method": "gptq", "bits": 4, "group_size": 128})
    with pytest.raises(ExplorerError, match=words) as caught:
        resolve(Request(task=Generate(), model=str(folder), backend=backend))
    assert "GPTQ, 4 bits in groups of 128" in caught.value.message and "small-gptq" in caught.value.message


def test_weights_of_a_method_that_no_library_here_reads(tmp_path: Path) -> None:
    folder = quantized_folder(tmp_path / "m", {"quant_method": "modelopt", "quant_algo": "NVFP4"})
    with pytest.raises(ExplorerError, match="no backend here can run"):
        resolve(Request(task=Generate(), model=str(folder), backend="pytorch"))


def test_weights_that_the_installed_libraries_run_are_let_through(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(support.NEEDS, "gptq", ())
    entry = ModelEntry(
        id="m", label="m", family="local", files={"hf": str(quantized_folder(tmp_path / "m", {"quant_method": "gptq"}))}
    )
    check_precision(entry, "hf")
    with pytest.raises(ExplorerError, match="into a GGUF"):
        check_precision(entry, "gguf")


def test_an_expression_without_an_end_is_given_up() -> None:
    """A configuration from elsewhere names modules by it, and a page reads it."""
    began = time.monotonic()
    with pytest.raises(ExplorerError, match="takes too long"):
        matcher(r"re:(?:a|\w|\w\w|\.)+$")("model.layers.0.mlp.experts.gate_up_projection_of_the_block!")
    assert time.monotonic() - began < 10
    with pytest.raises(ExplorerError, match="not a regular expression"):
        matcher("re:(")
