"""Architectures without a file of ours: built from transformers' modules, compared with transformers and llama.cpp."""

import json
from collections import Counter
from functools import cache
from math import prod
from pathlib import Path

import msgspec
import pytest

from core.analysis.work import kv_bytes_per_token, kv_cache_bytes, n_active_params, state_bytes, total, work
from core.charts.graph_layout import nodes
from core.layer_names import canonical_hf
from core.models import defaults, library, module_tree
from core.models.architectures import from_modules, model_types
from core.models.presets import presets
from core.models.spec import from_config, from_gguf, from_hf_folder
from core.types import Attention, Conv, Linear, Scan
from hardware.errors import ExplorerError
from tests.support import hybrids
from tests.support.cases import CASES

pytestmark = pytest.mark.engine("pytorch")

MIB = 2**20


@cache
def _tree(config):
    return msgspec.convert(module_tree.dump(json.loads(config)), module_tree.Tree)


@pytest.fixture
def here(monkeypatch):
    """transformers is asked in this process, which is PyTorch's, and not in one of its own."""

    asked = library.ask

    def ask(module, revision, config):
        if module != "core.models.module_tree":
            return asked(module, revision, config)
        return json.loads(msgspec.json.encode(_tree(config)))

    monkeypatch.setattr(library, "ask", ask)


def _default(model_type, **changes):
    """transformers' own default configuration, with few blocks."""
    import transformers

    found = transformers.CONFIG_MAPPING[model_type](**changes)
    return json.loads(json.dumps(found.to_dict(), default=str))


# Each as transformers makes it by default, with as many blocks as show every kind.
FAMILIES = {
    "gemma3n_text": {"num_hidden_layers": 10, "num_kv_shared_layers": 5},
    "qwen3_next": {"num_hidden_layers": 8},
    "qwen3_5_text": {"num_hidden_layers": 8},
    "qwen3_5_moe_text": {"num_hidden_layers": 8},
    "lfm2": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "lfm2_moe": {"num_hidden_layers": 4, "layer_types": ["conv", "conv", "full_attention", "conv"]},
    "falcon_h1": {"num_hidden_layers": 3},
    "granitemoehybrid": {"num_hidden_layers": 3, "layer_types": ["mamba", "attention", "mamba"]},
    "nemotron_h": {},
    "bamba": {"num_hidden_layers": 3, "attn_layer_indices": [1]},
    "zamba2": {},
    "cohere2": {"num_hidden_layers": 4},
    "llama4_text": {"num_hidden_layers": 4},
    "glm4_moe": {"num_hidden_layers": 3},
    "minimax": {"num_hidden_layers": 4},
    "minimax_m2": {"num_hidden_layers": 2},
    "kimi_linear": {"num_hidden_layers": 4},
    "hunyuan_v1_dense": {"num_hidden_layers": 2, "head_dim": 128},
    "hunyuan_v1_moe": {"num_hidden_layers": 2, "head_dim": 128, "num_experts": 8, "moe_topk": 2},
    "ernie4_5": {"num_hidden_layers": 2},
    "ernie4_5_moe": {"num_hidden_layers": 3},
    "t5": {"num_layers": 2},
    "bart": {"encoder_layers": 2, "decoder_layers": 2},
    "rwkv": {"num_hidden_layers": 2},
    "openai-gpt": {"n_layer": 2},
    "ctrl": {"n_layer": 2},
    "zamba": {"num_hidden_layers": 8},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "falcon_mamba": {"num_hidden_layers": 2},
}


@pytest.mark.parametrize("model_type", FAMILIES)
def test_parameters_are_those_of_transformers(model_type, here):
    assert model_type not in model_types()
    config = _default(model_type, **FAMILIES[model_type])
    spec = from_config(config)
    tree = _tree(json.dumps(config, sort_keys=True))
    assert spec.n_params == tree.n_params
    theirs = Counter()
    for module in tree.modules:
        for name, shape in module.parameters.items():
            if name not in module.tied:
                layer = canonical_hf(f"{module.path}.{name}", model_type)
                theirs[".".join((layer or "").split(".")[:2])] += prod(shape)
    ours = Counter()
    for layer in spec.layers:
        ours[".".join(layer.name.split(".")[:2])] += layer.n_params
    blocks = {name for name in theirs if name.startswith("blocks.")}
    assert blocks and {name: ours[name] for name in blocks} == {name: theirs[name] for name in blocks}
    rows = work(spec, 1, 100)
    assert total(rows).flops > 0 and len(rows) == len(spec.layers)
    for n, layer in enumerate(spec.layers):
        assert set(layer.inputs) <= {before.name for before in spec.layers[:n]}


@pytest.mark.parametrize("preset", [e.id for e in presets()])
def test_what_is_built_from_modules_is_what_we_wrote_by_hand(preset):
    """Parameters, cache, recurrent state and products of every preset, from its modules instead of our families."""
    config = json.loads(Path(next(e for e in presets() if e.id == preset).files["config"]).read_text())
    by_hand = from_config(config)
    network, doubts = from_modules.network(_tree(json.dumps(config, sort_keys=True)))
    assert not doubts
    generic = msgspec.structs.replace(by_hand, layers=network.layers)
    assert generic.n_params == by_hand.n_params
    assert n_active_params(generic) == n_active_params(by_hand)
    for n in (1, 10_000):
        assert kv_cache_bytes(generic, n) == kv_cache_bytes(by_hand, n)
    for kind in (Linear, Attention, Scan, Conv):
        products = [
            sum(row.flops for row, layer in zip(work(s, 3, 50), s.layers, strict=True) if isinstance(layer.op, kind))
            for s in (generic, by_hand)
        ]
        assert products[0] == products[1], kind


@pytest.mark.parametrize("name", [name for name, family in hybrids.FAMILIES.items() if family.config])
def test_a_gguf_of_a_hybrid_family_is_its_configuration(name, here, tmp_path):
    family = hybrids.FAMILIES[name]
    ours, theirs = from_config(family.config), from_gguf(hybrids.write(tmp_path / "small.gguf", family))
    assert not ours.doubts and not theirs.doubts
    assert theirs.n_params == ours.n_params == sum(prod(shape) for shape in family.tensors.values())
    assert theirs.weight_bytes == sum(
        prod(shape) * (4 if hybrids.is_whole(key, shape) else 2) for key, shape in family.tensors.items()
    )
    assert theirs.n_blocks == ours.n_blocks and theirs.max_context in (ours.max_context, 128)
    for n in (1, 100):
        assert kv_cache_bytes(theirs, n) == kv_cache_bytes(ours, n) and state_bytes(theirs) == state_bytes(ours)
    for kind in (Linear, Attention, Scan, Conv):
        products = [
            sum(row.flops for row, layer in zip(work(s, 3, 50), s.layers, strict=True) if isinstance(layer.op, kind))
            for s in (ours, theirs)
        ]
        assert products[0] == products[1], kind
    read = {source for layer in theirs.layers for source in layer.inputs}
    assert [layer.name for layer in theirs.layers if layer.name not in read] == ["lm_head"]


CASE_CONFIGS = sorted(str(p.relative_to(CASES)) for p in CASES.rglob("*.json") if '"model_type"' in p.read_text())


@pytest.mark.parametrize("case", CASE_CONFIGS or [pytest.param(None, marks=pytest.mark.skip("no cases here"))])
def test_parameters_of_every_case_are_those_of_transformers(case, here):
    config = json.loads((CASES / case).read_text())
    sent = {key: value for key, value in config.items() if key not in defaults.NOT_SENT}
    assert from_config(config).n_params == _tree(json.dumps(sent, sort_keys=True)).n_params


# ---------------------------------------------------------------- published figures

FALCON_H1_1B5 = {
    "model_type": "falcon_h1",
    "hidden_size": 2048,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 8,
    "num_key_value_heads": 2,
    "head_dim": 128,
    "vocab_size": 65537,
    "mamba_d_ssm": 3072,
    "mamba_n_heads": 48,
    "mamba_d_head": 64,
    "mamba_n_groups": 1,
    "mamba_d_state": 256,
    "mamba_d_conv": 4,
    "tie_word_embeddings": False,
}


def test_falcon_h1_keeps_what_llama_cpp_logs(here):
    """llama.cpp of Falcon-H1-1.5B at 32,768 cells: KV 768.00 MiB (K 384 + V 384), recurrent state 72.98 MiB."""
    spec = from_config(FALCON_H1_1B5)
    assert state_bytes(spec) / MIB == pytest.approx(72.98, abs=0.005)
    assert (kv_cache_bytes(spec, 32_768) - state_bytes(spec)) / MIB == 768
    assert kv_cache_bytes(spec, 32_768, batch=3) == 3 * kv_cache_bytes(spec, 32_768)
    assert "FalconH1ForCausalLM" in spec.source


def test_qwen3_5_27b_keeps_what_llama_cpp_logs(here):
    """llama.cpp, pull request 23792: for each of two sequences R 5.625 MiB and S 144 MiB, 48 of 64 blocks recurrent."""
    config = {
        "model_type": "qwen3_5_text",
        "num_hidden_layers": 64,
        "linear_num_value_heads": 48,
        "linear_num_key_heads": 16,
        "linear_key_head_dim": 128,
        "linear_value_head_dim": 128,
        "linear_conv_kernel_dim": 4,
    }
    spec = from_config(config)
    assert sum(isinstance(layer.op, Scan) for layer in spec.layers) == 48
    assert state_bytes(spec) / MIB == 5.625 + 144


def test_lfm2_keeps_what_llama_cpp_logs(here):
    """llama.cpp of LFM2.5-1.2B at 4,096 cells: KV 48 MiB, in the 6 of 16 blocks that attend."""
    kinds = ["full_attention" if i in (2, 5, 8, 10, 12, 14) else "conv" for i in range(16)]
    spec = from_config(
        {"model_type": "lfm2", "hidden_size": 2048, "num_hidden_layers": 16, "num_attention_heads": 32,
         "num_key_value_heads": 8, "layer_types": kinds}
    )  # fmt: skip
    assert kv_cache_bytes(spec, 4096) - state_bytes(spec) == 48 * MIB
    assert state_bytes(spec) == 10 * 2048 * 2 * 4  # llama.cpp keeps kernel - 1 columns in fp32


# ---------------------------------------------------------------- what only some families have


def _cores(spec):
    return [layer.op for layer in spec.layers if isinstance(layer.op, Attention)]


def test_blocks_that_borrow_keys_and_values_keep_none(here):
    """Gemma 3n: the last blocks read the cache of an earlier one."""
    spec = from_config(_default("gemma3n_text", **FAMILIES["gemma3n_text"]))
    cores = _cores(spec)
    assert [core.borrows for core in cores] == [False] * 5 + [True] * 5
    first = [layer for layer in spec.layers if isinstance(layer.op, Attention)][-1]
    row = next(r for r in work(spec, 1, 100) if r.name == first.name)
    assert row.kv_read_bytes > 0 and row.kv_write_bytes == 0
    kept = sum(min(100, c.window or 100) * c.n_kv_heads * (c.qk_dim + c.v_dim) * 2 for c in cores[:5])
    assert kv_cache_bytes(spec, 100) == kept


EXAONE_4_32B = {
    "model_type": "exaone4", "hidden_size": 5120, "intermediate_size": 27392, "num_hidden_layers": 64,
    "num_attention_heads": 40, "num_key_value_heads": 8, "head_dim": 128, "vocab_size": 102400, "sliding_window": 4096,
}  # fmt: skip


def test_windows_by_letters(here):
    """transformers' issue 39696: EXAONE-4.0-32B (32.0 B parameters) as first published, and the 1.2B's without any."""
    spec = from_config({**EXAONE_4_32B, "sliding_window_pattern": "LLLG"})
    assert [core.window for core in _cores(spec)] == [4096, 4096, 4096, None] * 16
    assert round(spec.n_params / 1e9, 1) == 32.0
    odd = from_config({**EXAONE_4_32B, "num_hidden_layers": 6, "sliding_window_pattern": "LLLG"})
    assert [core.window for core in _cores(odd)] == [4096, 4096, 4096, None, 4096, None]  # the last one sees all
    for none in ({"sliding_window_pattern": None}, {"sliding_window": None, "sliding_window_pattern": None}):
        assert {core.window for core in _cores(from_config({**EXAONE_4_32B, "num_hidden_layers": 4} | none))} == {None}


def test_windows_and_blocks_without_rotation(here):
    spec = from_config(_default("cohere2", num_hidden_layers=4, sliding_window=64))
    assert [core.window for core in _cores(spec)] == [64, 64, 64, None]
    rotated = {layer.name.split(".")[1] for layer in spec.layers if layer.name.endswith("attn.rope")}
    assert rotated == {"0", "1", "2"}  # the block that sees all positions has none
    llama4 = from_config(_default("llama4_text", num_hidden_layers=4))
    assert [core.window for core in _cores(llama4)] == [8192, 8192, 8192, None]
    assert "chunk" in llama4.doubts and llama4.doubts.count(".") == 1


def test_routed_experts_are_counted_as_used(here):
    spec = from_config(_default("qwen3_next", num_hidden_layers=4))
    up = next(layer for layer in spec.layers if layer.name == "blocks.0.mlp.experts.up_proj")
    assert (up.op.n_experts, up.op.n_active) == (512, 10)
    kept = [
        (type(layer.op).__name__, layer.op.d_inner, layer.op.d_state)
        for layer in spec.layers
        if isinstance(layer.op, Scan)
    ]
    assert kept == [("Scan", 32 * 128, 128)] * 3


def test_an_encoder_decoder_reads_the_prompt_once(here):
    spec = from_config(_default("t5", num_layers=2))
    assert spec.causal and spec.n_blocks == 2 and "counted on both sides" in spec.doubts
    assert [c[0].label for c in nodes(spec.layers, (), merge=True)] == [
        "encoder.embed", "Encoder ×2", "encoder.final_norm", "embed", "0", "1", "final_norm", "lm_head",
    ]  # fmt: skip
    prompt = {row.name: row for row in work(spec, 64)}
    answer = {row.name: row for row in work(spec, 1, 64)}
    assert prompt["encoder.blocks.0.attn.q_proj"].flops == 64 * prompt["blocks.0.attn.q_proj"].flops
    assert prompt["blocks.0.cross.k_proj"].flops == 64 * prompt["blocks.0.cross.q_proj"].flops
    assert not any(row.bytes or row.flops for name, row in answer.items() if name.startswith("encoder."))
    assert answer["blocks.0.cross.k_proj"].flops == 0
    core = answer["blocks.1.cross.core"]
    assert core.kv_read_bytes == 64 * 2 * 512 * 2 and core.kv_write_bytes == 0
    assert prompt["blocks.1.cross.core"].kv_write_bytes == 64 * 2 * 512 * 2


def test_an_encoder_that_hears_is_counted(here):
    """Whisper: AutoModelForCausalLM has its decoder alone."""
    config = _default("whisper", encoder_layers=2, decoder_layers=2)
    spec = from_config(config)
    assert spec.n_params == _tree(json.dumps(config, sort_keys=True)).n_params
    assert sum(layer.name.startswith("encoder.blocks.") for layer in spec.layers) > 10
    assert "cross-attention" not in spec.doubts


def test_two_attentions_in_a_block_keep_twice_as_much(here):
    """LongCat-Flash: two latent attentions per block, and experts of which a third are no matrices going down."""
    spec = from_config(_default("longcat_flash", num_layers=2, num_hidden_layers=4))
    tree = _tree(json.dumps(_default("longcat_flash", num_layers=2, num_hidden_layers=4), sort_keys=True))
    assert spec.n_params == tree.n_params
    assert kv_cache_bytes(spec, 1) == 2 * 2 * (512 + 64) * 2


@pytest.mark.parametrize(
    ("model_type", "changes", "n_kept", "n_state"),
    [
        # 7,424 keys and values in both places of the block that is shared; 16 numbers and three tokens of a convolution
        ("zamba", {"num_hidden_layers": 8}, 2 * 2 * 7424, 8 * 7424 * (16 + 3)),
        # three of the weighted sum, and the token before in both mixings (transformers' `state` has five tensors)
        ("rwkv", {"num_hidden_layers": 2}, 0, 2 * 5 * 4096),
    ],
)
def test_what_blocks_keep_of_the_past(model_type, changes, n_kept, n_state, here):
    spec = from_config(_default(model_type, **changes))
    assert kv_bytes_per_token(spec) == 2 * n_kept and state_bytes(spec) == 4 * n_state and not spec.doubts


@pytest.mark.parametrize("model_type", ["big_bird", "megatron-bert", "rembert", "roformer"])
def test_an_encoder_that_could_be_made_a_decoder_is_none(model_type, here):
    spec = from_config(_default(model_type, num_hidden_layers=2))
    assert not spec.causal and kv_cache_bytes(spec, 100) == 0


@pytest.mark.parametrize(
    ("model_type", "n_params"),
    [
        ("paddleocr_vl", 360_748_032),  # ERNIE-4.5-0.3B
        ("ernie4_5_vl_moe", 21_825_437_888),  # ERNIE-4.5-21B-A3B: experts that see pictures stand apart
        ("florence2", 406_291_456),  # BART, which reads the prompt with its encoder
    ],
)
def test_what_a_token_of_text_passes_in_a_multimodal_model(model_type, n_params, here):
    config = _default(model_type)
    config["text_config"]["tie_word_embeddings"] = True
    assert from_config(config).n_params == n_params


def test_convolved_keys_are_still_keys(here):
    spec = from_config(_default("inkling_text", num_hidden_layers=2))
    assert not spec.doubts  # all of its shared experts are used
    assert [core.n_kv_heads for core in _cores(spec)] == [16, 16] and [c.qk_dim for c in _cores(spec)] == [128, 128]


@pytest.mark.parametrize(
    ("model_type", "changes", "words"),
    [
        ("cpmant", {"num_hidden_layers": 2}, "what CpmAntAttention keeps"),
        ("xlstm", {"num_hidden_layers": 2}, "what xLSTMLayer keeps"),
        ("deepseek_v4", {"num_hidden_layers": 4}, "what DeepseekV4Attention keeps"),
        ("deepseek_v32", {"num_hidden_layers": 4}, "which of the past tokens an indexer chooses"),
        ("trocr", {"decoder_layers": 2}, "what its cross-attention reads"),
        ("hrm_text", {"num_hidden_layers": 2}, "how often a block runs"),
    ],
)
def test_a_cache_that_is_not_understood_is_not_nothing_in_silence(model_type, changes, words, here):
    assert words in from_config(_default(model_type, **changes)).doubts


@pytest.mark.parametrize("model_type", ["blenderbot-small", "mvp", "prophetnet"])
def test_encoders_of_all_encoder_decoders_are_found(model_type, here):
    spec = from_config(_default(model_type))
    assert any(layer.name.startswith("encoder.blocks.") for layer in spec.layers)
    assert any(layer.name == "encoder.blocks.0.attn.core" and not layer.op.causal for layer in spec.layers)


def test_numbers_of_a_block_itself_have_a_place(here):
    spec = from_config(_default("doge", num_hidden_layers=2))
    assert spec.n_params == _tree(json.dumps(_default("doge", num_hidden_layers=2), sort_keys=True)).n_params
    assert kv_cache_bytes(spec, 1) == 2 * 2 * 8 * 128 * 2


# ---------------------------------------------------------------- the way there


def test_glm_4_under_the_names_of_its_own_code(here):
    """THUDM/glm-4-9b-chat, of whose numbers the hub counts 9,399,951,392: 32 are frequencies of the rotation."""
    config = {
        "model_type": "chatglm", "add_bias_linear": False, "add_qkv_bias": True, "ffn_hidden_size": 13696,
        "hidden_size": 4096, "kv_channels": 128, "multi_query_attention": True, "multi_query_group_num": 2,
        "num_attention_heads": 32, "num_layers": 40, "padded_vocab_size": 151552, "seq_length": 131072,
        "torch_dtype": "bfloat16", "tie_word_embeddings": False,
    }  # fmt: skip
    spec = from_config(config)
    assert (spec.architecture, spec.n_params, spec.max_context) == ("glm", 9_399_951_360, 131072)
    assert kv_cache_bytes(spec, 1) == 40 * 2 * 2 * 128 * 2
    first = {key: value for key, value in config.items() if key != "ffn_hidden_size"}
    with pytest.raises(ExplorerError, match="'chatglm'"):
        from_config(first)


def test_an_architecture_of_nobody_is_one_sentence():
    with pytest.raises(ExplorerError, match="'nosuch' is not known here, nor to transformers") as caught:
        from_config({"model_type": "nosuch", "hidden_size": 64})
    assert len(caught.value.hint) < 120


def test_numbers_that_transformers_refuses_are_one_sentence(monkeypatch):
    def refuse(module, revision, config):
        with pytest.raises(Exception, match="expected int, got str"):
            module_tree.dump(json.loads(config))
        raise library.NoAnswerError("expected int, got str")

    monkeypatch.setattr(library, "ask", refuse)
    with pytest.raises(ExplorerError, match="'cohere2' is not known here, and transformers cannot build it") as caught:
        from_config({"model_type": "cohere2", "hidden_size": "wide"})
    assert "\n" not in caught.value.message and len(caught.value.message) < 400


def test_the_library_is_asked_in_a_process_and_once(monkeypatch):
    config = {"model_type": "falcon_h1", **_TINY, **TINY["falcon_h1"]}  # one of its defaults is infinite
    spec = from_config(config)
    assert spec.n_blocks == 2 and spec.vocab_size == 128 and spec.d_model == 64
    assert "as transformers" in spec.source and "FalconH1ForCausalLM" in spec.source
    monkeypatch.setattr(library, "Child", None)
    library.ask.cache_clear()
    assert from_config(config) == spec


# ---------------------------------------------------------------- folders of such models

_TINY = {"hidden_size": 64, "intermediate_size": 96, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16,
         "vocab_size": 128, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}  # fmt: skip
_EXPERTS = {"num_local_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24}
TINY = {
    "gemma3n_text": {"num_hidden_layers": 4, "num_kv_shared_layers": 2, "vocab_size_per_layer_input": 128,
                     "hidden_size_per_layer_input": 16, "laurel_rank": 8, "intermediate_size": [96] * 4,
                     "activation_sparsity_pattern": [0.0] * 4,
                     "layer_types": ["sliding_attention", "full_attention"] * 2},
    "granitemoehybrid": {"num_hidden_layers": 2, "layer_types": ["mamba", "attention"], "mamba_n_heads": 8,
                         "mamba_d_head": 16, "mamba_d_state": 8, "shared_intermediate_size": 40, **_EXPERTS},
    "nemotron_h": {"hybrid_override_pattern": "M*-E", "mamba_num_heads": 8, "mamba_head_dim": 16, "ssm_state_size": 8,
                   "n_groups": 2, "n_routed_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 24,
                   "moe_shared_expert_intermediate_size": 40},
    "kimi_linear": {"num_hidden_layers": 2, "num_key_value_heads": 4, "num_experts": 4, **_EXPERTS, "kv_lora_rank": 12,
                    "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8, "linear_num_heads": 4,
                    "linear_head_dim": 16},
    "ernie4_5_moe": {"num_hidden_layers": 2, "moe_num_experts": 4, "moe_k": 2, "moe_intermediate_size": 24},
    "bamba": {"num_hidden_layers": 2, "attn_layer_indices": [1], "mamba_n_heads": 8, "mamba_d_head": 16,
              "mamba_d_state": 8},
    "falcon_h1": {"num_hidden_layers": 2, "mamba_d_ssm": 64, "mamba_n_heads": 4, "mamba_d_head": 16,
                  "mamba_d_state": 8},
    "glm4_moe": {"num_hidden_layers": 2, "n_routed_experts": 4, **_EXPERTS, "first_k_dense_replace": 1},
    "t5": {"d_model": 64, "d_kv": 16, "d_ff": 96, "num_layers": 2, "num_heads": 4},
    # whose modules around the blocks, or in their activation, have names of their own
    "apertus": {"num_hidden_layers": 2},
    "biogpt": {"num_hidden_layers": 2},
    "bloom": {"n_layer": 2, "n_head": 4},
    "ctrl": {"n_embd": 64, "dff": 96, "n_layer": 2, "n_head": 4},
    "hy_v3": {"num_hidden_layers": 2, "num_experts": 4, **_EXPERTS, "first_k_dense_replace": 1},
    "openai-gpt": {"n_embd": 64, "n_layer": 2, "n_head": 4},
    "rwkv": {"num_hidden_layers": 2, "attention_hidden_size": 64},
    "xglm": {"d_model": 64, "ffn_dim": 96, "num_layers": 2, "attention_heads": 4},
}  # fmt: skip


def _folder(model_type, path):
    import transformers

    transformers.utils.logging.set_verbosity_error()
    own = {"vocab_size": 128} if model_type == "t5" else _TINY
    config = transformers.CONFIG_MAPPING[model_type](**{**own, **TINY[model_type]})
    auto = transformers.AutoModelForSeq2SeqLM if model_type == "t5" else transformers.AutoModelForCausalLM
    auto.from_config(config).save_pretrained(path)
    return path


@pytest.mark.parametrize("model_type", TINY)
def test_a_folder_of_such_a_family_gives_every_byte_to_a_layer(model_type, here, tmp_path):
    """Whatever the library calls a part in its files and otherwise in memory, no byte is lost or counted twice."""
    folder = _folder(model_type, tmp_path)
    with (folder / "model.safetensors").open("rb") as file:
        header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    stored = {name: prod(entry["shape"]) for name, entry in header.items() if name != "__metadata__"}
    spec = from_hf_folder(folder)
    assert spec.weight_bytes == 4 * sum(stored.values())
    assert spec.n_params <= sum(stored.values()) <= spec.n_params + 8  # routing biases are no parameters there


@pytest.mark.parametrize(
    ("model_type", "auto", "sizes"),
    [
        # its head, which the library builds before the table, is the table
        ("xlm-roberta", "AutoModelForMaskedLM", {**_TINY, "num_hidden_layers": 2}),
        # whose positions are computed and in no file
        ("marian", "AutoModelForSeq2SeqLM",
         {"vocab_size": 128, "d_model": 64, "encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4,
          "decoder_attention_heads": 4, "encoder_ffn_dim": 96, "decoder_ffn_dim": 96, "pad_token_id": 0,
          "decoder_start_token_id": 0}),
    ],
)  # fmt: skip
def test_a_folder_without_what_the_library_makes_itself(model_type, auto, sizes, here, tmp_path):
    import transformers
    from safetensors.torch import load_file

    config = transformers.CONFIG_MAPPING[model_type](**sizes)
    getattr(transformers, auto).from_config(config).save_pretrained(tmp_path)
    stored = load_file(tmp_path / "model.safetensors")
    stored.pop("final_logits_bias", None)  # no parameter
    spec = from_hf_folder(tmp_path)
    assert spec.n_params == sum(tensor.numel() for tensor in stored.values()) and spec.weight_bytes == 4 * spec.n_params
    assert next(layer for layer in spec.layers if layer.name == "embed").n_params == 128 * 64


def test_blocks_that_foretell_tokens_stand_apart(here, tmp_path):
    """GLM-4.5: one block behind the last, which decoding of one token at a time never runs."""
    from safetensors.torch import load_file, save_file

    folder = _folder("glm4_moe", tmp_path)
    before = from_hf_folder(folder)
    tensors = load_file(folder / "model.safetensors")
    extra = {name.replace("layers.1.", "layers.2."): t.clone() for name, t in tensors.items() if "layers.1." in name}
    save_file({**tensors, **extra}, folder / "model.safetensors")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 1}))
    spec = from_hf_folder(folder)
    assert spec.layers == before.layers and spec.weight_bytes == before.weight_bytes
    (aside,) = spec.aside
    assert (aside.name, aside.weight_bytes) == ("mtp", 4 * sum(t.numel() for t in extra.values()))


def test_a_multimodal_configuration_is_its_language_model(here):
    text = {**_TINY, "num_hidden_layers": 4, "linear_num_value_heads": 4, "linear_num_key_heads": 2,
            "linear_key_head_dim": 8, "linear_value_head_dim": 8}  # fmt: skip
    alone = from_config({"model_type": "qwen3_5_text", **text})
    whole = from_config({"model_type": "qwen3_5", "text_config": text, "vision_config": {"depth": 2}})
    assert whole.layers == alone.layers and whole.architecture == "qwen3_5_text"
    assert sum(isinstance(layer.op, Scan) for layer in whole.layers) == 3


@pytest.mark.parametrize("model_type", ["falcon_h1", "granitemoehybrid", "nemotron_h"])
def test_pytorch_times_the_layers_that_were_built(model_type, here, tmp_path):
    import numpy as np

    from core import plugins
    from core.types import Request

    folder = _folder(model_type, tmp_path)
    spec = from_hf_folder(folder)
    request = Request(model="tiny", backend="pytorch", threads=1)
    session = plugins.get("backend", "pytorch").open(str(folder), spec, request, lambda *_, **__: None)
    try:
        trace = session.trace()
        trace.phase("prefill")
        session.forward(np.array([[1, 2, 3]]))
        session.commit(3)
        rows = trace.finish()["prefill"]
    finally:
        session.close()
    layers = {layer.name for layer in spec.layers}
    assert {row.name for row in rows if not row.name.endswith(".experts")} <= layers
    timed = {row.name for row in rows}
    products = {x.name for x in spec.layers if isinstance(x.op, Linear | Conv) and ".experts." not in x.name}
    assert products <= timed
