"""Work: small cases by hand, figures that others published, properties, and torch's own count."""

import json
from itertools import pairwise
from math import isclose
from pathlib import Path

import pytest

from core.analysis.work import (
    causal_pairs,
    experts_touched,
    kv_bytes_per_token,
    kv_cache_bytes,
    n_active_params,
    state_bytes,
    total,
    work,
)
from core.layer_names import block_of, canonical_hf
from core.models.presets import presets
from core.models.spec import from_config, from_gguf
from core.types import Attention, Embedding, Linear
from hardware.errors import ExplorerError
from tests.models.test_spec import LLAMA, embedded_gguf

G = 1e9
GIB = 2**30


def preset(preset_id):
    path = next(e for e in presets() if e.id == preset_id).files["config"]
    return from_config(json.loads(Path(path).read_text()), name=preset_id)


def rows_of(spec, *args, **kwargs):
    return {row.name: row for row in work(spec, *args, **kwargs)}


def matmul_flops(spec, rows, executed=True):
    """FLOPs of matrix products alone, the convention of most published counts."""
    ops = {layer.name: layer.op for layer in spec.layers}
    chosen = [r for r in rows if isinstance(ops[r.name], Linear | Attention)]
    return sum(r.flops_executed if executed else r.flops for r in chosen)


# ---------------------------------------------------------------- by hand


def test_a_tiny_llama_by_hand():
    """d 64, 4 heads of 16, 2 KV heads, feed-forward 128, vocabulary 256; 3 new tokens after 5, batch 2."""
    rows = rows_of(from_config(LLAMA), 3, 5, 2, weight_dtype="fp32", activation_dtype="fp32", kv_dtype="fp16")
    q, k = rows["blocks.0.attn.q_proj"], rows["blocks.0.attn.k_proj"]
    assert q.flops == q.flops_executed == 2 * 6 * 64 * 64
    assert q.weight_bytes == 64 * 64 * 4
    assert q.activation_bytes == 6 * (64 + 64) * 4
    assert k.flops == 2 * 6 * 64 * 32
    core = rows["blocks.0.attn.core"]
    # tokens 6, 7 and 8 see 6, 7 and 8 keys: 21 pairs; 4 heads, 16 wide, 2 products, 2 FLOPs, 2 sequences
    assert core.flops == 2 * 4 * 4 * 16 * (6 + 7 + 8)
    assert core.flops_executed == 2 * 4 * 4 * 16 * 3 * 8
    assert core.kv_read_bytes == 2 * 8 * (2 * 32) * 2
    assert core.kv_write_bytes == 2 * 3 * (2 * 32) * 2
    # query in, output out, new keys and values in
    assert core.activation_bytes == 2 * 3 * (64 + 64 + 32 + 32) * 4
    assert rows["embed"].weight_bytes == 6 * 64 * 4 and rows["embed"].flops == 0
    head = rows["lm_head"]
    assert head.flops == 2 * 2 * 64 * 256  # the last position of each sequence
    assert head.weight_bytes == 256 * 64 * 4  # tied: the whole table is read
    assert head.activation_bytes == 2 * (64 + 256) * 4
    assert rows["blocks.0.mlp.act"].flops == 6 * 2 * 128
    assert rows["blocks.0.mlp.act"].activation_bytes == 6 * 3 * 128 * 4
    assert rows["blocks.0.attn.residual"].activation_bytes == 6 * 3 * 64 * 4
    assert rows["blocks.0.attn_norm"].flops == 6 * 4 * 64
    assert rows["blocks.0.attn.rope"].flops == 6 * 3 * (64 + 32)
    assert total(tuple(rows.values())).flops == sum(r.flops for r in rows.values())


def test_logits_only_where_they_are_asked_for():
    spec = from_config(LLAMA)
    one, every, none = (rows_of(spec, 8, n_logits=n)["lm_head"] for n in (1, 8, 0))
    assert every.flops == 8 * one.flops
    assert every.weight_bytes == one.weight_bytes
    assert none.flops == none.weight_bytes == none.activation_bytes == 0
    assert rows_of(spec, 4, n_logits=100)["lm_head"].flops == 4 * one.flops


@pytest.mark.parametrize("change", [{"n_new": 0}, {"n_past": -1}, {"batch": 0}, {"kv_dtype": "fp7"}])
def test_work_that_makes_no_sense_is_one_sentence(change):
    with pytest.raises(ExplorerError) as caught:
        work(from_config(LLAMA), **{"n_new": 1, **change})
    assert caught.value.hint


def test_unfused_attention_moves_its_scores_four_times():
    spec = from_config(LLAMA)
    fused, unfused = (rows_of(spec, 8, 4, fused_attention=f)["blocks.0.attn.core"] for f in (True, False))
    assert unfused.activation_bytes - fused.activation_bytes == 4 * 4 * 8 * 12 * 4
    assert unfused.flops == fused.flops


@pytest.mark.parametrize("window", [None, 1, 3, 8, 100])
def test_pairs_are_the_sum_they_stand_for(window):
    for n_new in (1, 2, 7):
        for n_past in (0, 1, 5, 20):
            expected = sum(min(n_past + i, window or 10**9) for i in range(1, n_new + 1))
            assert causal_pairs(n_new, n_past, window) == expected


def test_a_window_bounds_work_and_cache():
    """Mistral-7B, window 4096: beyond it, decode reads and computes no more."""
    spec = preset("mistral-7b")
    inside, at, beyond = (rows_of(spec, 1, p)["blocks.0.attn.core"] for p in (4000, 4095, 20_000))
    assert inside.flops < at.flops == beyond.flops == beyond.flops_executed
    assert at.kv_read_bytes == beyond.kv_read_bytes == 4096 * 2 * 8 * 128 * 2
    assert kv_cache_bytes(spec, 4096) == kv_cache_bytes(spec, 100_000)
    assert kv_bytes_per_token(spec) == 32 * 2 * 8 * 128 * 2


def test_experts_that_are_touched():
    assert isclose(experts_touched(8, 2, 1), 2)
    assert isclose(experts_touched(8, 2, 2), 8 * (1 - 0.75**2))
    assert isclose(experts_touched(8, 2, 1000), 8)
    assert isclose(experts_touched(8, 8, 1), 8)
    spec = preset("mixtral-8x7b")
    one = rows_of(spec, 1, weight_dtype="bf16")["blocks.0.mlp.experts.up_proj"]
    assert isclose(one.weight_bytes, 2 * 4096 * 14336 * 2)
    assert one.flops == 2 * 2 * 4096 * 14336
    assert one.activation_bytes == 2 * (4096 + 14336) * 4
    many = rows_of(spec, 1, batch=64, weight_dtype="bf16")["blocks.0.mlp.experts.up_proj"]
    assert 7.99 * 4096 * 14336 * 2 < many.weight_bytes <= 8 * 4096 * 14336 * 2


def test_an_encoder_sees_everything_and_caches_nothing():
    spec = preset("bert-base-uncased")
    rows = rows_of(spec, 128)
    core = rows["blocks.0.attn.core"]
    assert core.flops == core.flops_executed == 4 * 12 * 64 * 128 * 128
    assert core.kv_read_bytes == core.kv_write_bytes == 0
    assert kv_bytes_per_token(spec) == kv_cache_bytes(spec, 512) == 0
    assert rows["lm_head"].flops == 2 * 128 * 768 * 30522  # every position is predicted


def test_mamba_has_a_state_of_constant_size():
    """State per block: d_inner * d_state + d_inner * (d_conv - 1) elements (Gu and Dao 2023, section 3)."""
    spec = preset("mamba-130m")
    assert state_bytes(spec) == 24 * (1536 * 16 + 1536 * 3) * 4
    assert kv_bytes_per_token(spec) == 0
    assert kv_cache_bytes(spec, 10) == kv_cache_bytes(spec, 100_000) == state_bytes(spec)
    decode = [total(work(spec, 1, past)) for past in (0, 1000)]
    assert decode[0] == decode[1]
    scan = rows_of(spec, 1)["blocks.0.ssm.scan"]
    assert scan.flops == 7 * 1536 * 16 + 3 * 1536
    assert scan.kv_read_bytes == scan.kv_write_bytes == 1536 * 16 * 4


def test_a_hybrid_caches_only_in_its_attention_blocks():
    spec = preset("jamba-v0.1")
    assert kv_bytes_per_token(spec) == 4 * 2 * 8 * 128 * 2
    assert kv_cache_bytes(spec, 100) == 100 * kv_bytes_per_token(spec) + state_bytes(spec)
    assert state_bytes(spec) == 28 * (8192 * 16 + 8192 * 3) * 4


# ---------------------------------------------------------------- figures that others published


def test_llm_viewer_prefill_of_llama_2_7b():
    """LLM-Viewer (model_analyzer.py at 472f71f, run for Llama-2-7B, batch 1, length 2048, FP16).

    It computes all scores, so executed FLOPs are compared. Its attention is three unfused parts; its
    k_proj and v_proj write the cache themselves, where ours write an activation that the core then
    copies into the cache, hence the term that is taken off.
    """
    rows = rows_of(preset("llama-2-7b"), 2048, activation_dtype="fp16", fused_attention=False)
    for name in ("attn.q_proj", "attn.k_proj", "attn.v_proj", "attn.o_proj"):
        row = rows[f"blocks.0.{name}"]
        assert round(row.flops / G, 3) == 68.719
        assert round(row.bytes / 1e6, 3) == 67.109
        assert round(row.intensity) == 1024
    for name in ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"):
        row = rows[f"blocks.0.{name}"]
        assert round(row.flops / G, 2) == 184.68
        assert round(row.bytes / 1e6, 2) == 152.04
        assert round(row.intensity, 2) == 1214.68
    core = rows["blocks.0.attn.core"]
    assert round(core.flops_executed / G, 2) == round(2 * 34.360, 2)
    copied_into_cache = 2 * core.kv_write_bytes
    assert round((core.bytes - copied_into_cache) / 1e6) == round(2 * 301.99 + 536.87)


def test_llm_viewer_decode_of_llama_2_7b():
    """The same, one token with 2048 in the cache. Bytes of the fused core are those of the cache and the token."""
    spec = preset("llama-2-7b")
    rows = rows_of(spec, 1, 2047, activation_dtype="fp16")
    assert round(rows["blocks.0.attn.q_proj"].flops / 1e6, 3) == 33.554
    assert round(rows["blocks.0.attn.q_proj"].bytes / 1e6, 3) == 33.571
    assert round(rows["blocks.0.mlp.up_proj"].flops / 1e6, 3) == 90.178
    assert round(rows["blocks.0.mlp.up_proj"].bytes / 1e6, 3) == 90.208
    assert round(rows["blocks.0.attn.core"].flops / 1e6, 3) == round(2 * 16.777, 3)
    assert round(rows["blocks.0.attn.core"].kv_read_bytes / 1e6, 2) == round(2 * 16.777216, 2)
    assert round(kv_cache_bytes(spec, 2048) / G, 4) == 1.0737


def test_llm_viewer_counts_half_of_the_head():
    """Its configs/Llama.py gives lm_head 1 FLOP per weight (131 M) where every other layer has 2; we give 2 (262 M)."""
    head = rows_of(preset("llama-2-7b"), 1, 2047)["lm_head"]
    assert round(head.flops / 1e6) == 262
    assert round(head.flops / 2 / 1e6) == 131


def test_llm_viewer_decode_total_but_for_its_head():
    """14.170 G in all: ours without elementwise work and with half of the head is within 0.5 %."""
    spec = preset("llama-2-7b")
    rows = work(spec, 1, 2047)
    ours = matmul_flops(spec, rows) - rows_of(spec, 1)["lm_head"].flops / 2
    assert abs(ours / 14.170e9 - 1) < 0.005


def test_calflops_llama_2_7b():
    """calflops README, input (1, 128): 6,738,415,616 parameters, 850.00 GMACs, 1700.06 GFLOPs.

    It computes all logits and all scores. The 0.06 G are its elementwise operations.
    """
    spec = preset("llama-2-7b")
    rows = work(spec, 128, n_logits=128)
    assert spec.n_params == 6_738_415_616
    assert round(matmul_flops(spec, rows) / 2 / G, 2) == 850.00
    assert abs(total(rows).flops_executed / G - 1700.06) < 1700.06 * 0.001


def test_nanogpt_transformer_sizing_of_gpt2():
    """nanoGPT transformer_sizing.ipynb: GPT-2 without biases, 1024 tokens, all logits, all scores."""
    spec = preset("gpt2")
    biases = sum(layer.op.d_out for layer in spec.layers if isinstance(layer.op, Linear) and layer.op.bias)
    biases += sum(768 for layer in spec.layers if layer.kind == "norm")
    assert spec.n_params - biases == 124_337_664
    rows = work(spec, 1024, n_logits=1024)
    by_name = {r.name: r for r in rows}
    assert by_name["blocks.0.attn.qkv_proj"].flops == 3_623_878_656
    assert by_name["blocks.0.attn.core"].flops_executed / 2 == 1_610_612_736
    block = tuple(r for r in rows if block_of(r.name) == 0)
    assert matmul_flops(spec, block) == 17_716_740_096
    assert by_name["lm_head"].flops == 79_047_426_048
    assert matmul_flops(spec, rows) == 291_648_307_200


@pytest.mark.parametrize(
    ("preset_id", "n_tokens", "gib"), [("qwen3-0.6b", 40_960, 4.375), ("gemma-3-27b", 131_072, 10.41)]
)
def test_unsloth_kv_cache(preset_id, n_tokens, gib):
    """unsloth PR 4757: an explicit head_dim, and 10 global of 62 blocks with the rest in a window of 1024."""
    assert round(kv_cache_bytes(preset(preset_id), n_tokens) / GIB, 3 if gib == 4.375 else 2) == gib


def test_latent_attention_caches_70_kb_per_token():
    """DeepSeek-V3: 61 blocks of 512 + 64 elements (DeepSeek-AI 2024, section 2.1.1)."""
    assert kv_bytes_per_token(preset("deepseek-v3"), "bf16") == 61 * 576 * 2 == 70_272


@pytest.mark.parametrize(
    ("preset_id", "billions", "digits"),
    [
        ("mixtral-8x7b", 12.9, 1),  # Jiang et al. 2024: 12.9B active
        ("olmoe-1b-7b", 1.3, 1),  # Muennighoff et al. 2024: 1.3B active of 6.9B
        ("qwen3-30b-a3b", 3.3, 1),  # Qwen team 2025: 3.3B activated of 30.5B; with embeddings 3.35B
        ("qwen1.5-moe-a2.7b", 2.7, 1),  # Qwen team 2024: 2.7B activated of 14.3B
        ("deepseek-v3", 37, 0),  # DeepSeek-AI 2024: 37B activated of 671B
        ("jamba-v0.1", 12, 0),  # Lieber et al. 2024: 12B active of 52B
    ],
)
def test_active_parameters(preset_id, billions, digits):
    assert abs(n_active_params(preset(preset_id)) / G - billions) <= 0.6 * 10**-digits


def test_logits_dominate_a_small_model():
    """2048 positions of a vocabulary of 152 K in fp32 are 1.24 GB."""
    spec = preset("qwen2.5-0.5b")
    head = rows_of(spec, 2048, n_logits=2048)["lm_head"]
    assert round((head.activation_bytes - 2048 * 896 * 4) / G, 2) == 1.24


@pytest.mark.parametrize(("dtype", "intensity"), [("fp32", 0.5), ("bf16", 1.0), ("q8_0", 1.9), ("q4_0", 3.6)])
def test_decode_intensity_is_two_over_bytes_per_weight(dtype, intensity):
    """Batch 1, empty context (Williams et al. 2009 applied to decode)."""
    row = total(work(preset("llama-2-7b"), 1, weight_dtype=dtype))
    assert abs(row.flops / row.weight_bytes / intensity - 1) < 0.02


# ---------------------------------------------------------------- the embedded file


def test_decode_reads_the_bytes_of_the_file():
    """A tied table is read once as the head; the embedding reads a row of it (Q8_0: 576 * 34 / 32 bytes)."""
    spec = from_gguf(embedded_gguf())
    assert total(work(spec, 1)).weight_bytes == spec.weight_bytes + 576 * 34 / 32
    assert total(work(spec, 1, weight_dtype="fp32")).weight_bytes == 4 * (spec.n_params + 576)


# ---------------------------------------------------------------- properties

FIELDS = ("flops", "flops_executed", "weight_bytes", "activation_bytes", "kv_read_bytes", "kv_write_bytes")
SMALL = ["smollm2-135m", "gpt2", "gemma-3-270m", "tiny-moe", "deepseek-v2-lite", "mamba-130m", "bert-base-uncased"]


@pytest.mark.parametrize("preset_id", SMALL)
def test_work_grows_with_batch_length_and_context(preset_id):
    spec = preset(preset_id)

    def row(n_new=4, n_past=8, batch=2):
        return total(work(spec, n_new, n_past, batch))

    for grid in (
        [row(n_new=n) for n in (1, 2, 3, 8, 64)],
        [row(batch=b) for b in (1, 2, 4, 32)],
        [row(n_past=p) for p in (0, 1, 64, 2000)],
    ):
        for less, more in pairwise(grid):
            for field in (
                "flops",
                "flops_executed",
                "weight_bytes",
                "activation_bytes",
                "kv_read_bytes",
                "kv_write_bytes",
            ):
                assert getattr(less, field) <= getattr(more, field), field
    for args in ((1, 0, 1), (5, 3, 2), (64, 600, 1)):
        for r in work(spec, *args):
            assert 0 <= r.flops <= r.flops_executed
            assert min(r.weight_bytes, r.activation_bytes, r.kv_read_bytes, r.kv_write_bytes) >= 0


def test_flops_and_activations_are_linear_in_batch():
    spec = preset("smollm2-135m")
    one, four = total(work(spec, 7, 9, 1)), total(work(spec, 7, 9, 4))
    assert four.flops == 4 * one.flops and four.activation_bytes == 4 * one.activation_bytes
    assert four.kv_read_bytes == 4 * one.kv_read_bytes


@pytest.mark.parametrize("preset_id", ["smollm2-135m", "gemma-3-270m"])
def test_a_prompt_in_chunks_is_the_same_useful_work(preset_id):
    spec = preset(preset_id)
    whole = total(work(spec, 1200, n_logits=0))
    chunks = [total(work(spec, 300, past, n_logits=0)) for past in range(0, 1200, 300)]
    assert sum(c.flops for c in chunks) == whole.flops
    assert sum(c.flops_executed for c in chunks) < whole.flops_executed
    assert sum(c.kv_write_bytes for c in chunks) == whole.kv_write_bytes


def test_work_grows_with_every_width():
    for key, values in {
        "hidden_size": (64, 128),
        "intermediate_size": (128, 256),
        "num_hidden_layers": (2, 3),
        "num_key_value_heads": (1, 2, 4),
        "vocab_size": (256, 512),
    }.items():
        grid = [total(work(from_config({**LLAMA, key: v}), 4, 8)) for v in values]
        for less, more in pairwise(grid):
            assert less.flops < more.flops and less.bytes < more.bytes, key


def test_narrower_types_move_fewer_bytes_and_the_same_flops():
    spec = preset("smollm2-135m")
    rows = [total(work(spec, 1, 100, weight_dtype=d)) for d in ("fp32", "bf16", "q8_0", "q5_0", "q4_0", "q2_k")]
    for wide, narrow in pairwise(rows):
        assert wide.weight_bytes > narrow.weight_bytes
        assert wide.flops == narrow.flops
    caches = [kv_bytes_per_token(spec, d) for d in ("fp32", "fp16", "q8_0", "q4_0")]
    assert caches == sorted(caches, reverse=True)
    assert kv_bytes_per_token(spec, "q8_0") == 30 * 2 * 3 * 64 * 34 / 32


def test_weights_of_a_dense_forward_are_all_read_once():
    for preset_id in ("gpt2", "tinyllama-1.1b", "mamba-130m", "bert-base-uncased"):
        spec = preset(preset_id)
        tables = sum(layer.n_params for layer in spec.layers if isinstance(layer.op, Embedding))
        tied = any(isinstance(layer.op, Linear) and layer.op.tied_to for layer in spec.layers)
        table = next(layer.n_params for layer in spec.layers if layer.name == "embed")
        rows = work(spec, 1, weight_dtype="fp32")
        embeddings = sum(r.weight_bytes for r in rows if r.kind == "embedding" and r.weight_bytes)
        everything_else = spec.n_params - tables + (table if tied else 0)
        assert total(rows).weight_bytes - embeddings == 4 * everything_else


# ---------------------------------------------------------------- torch's own count


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize("attention", ["eager", "sdpa"])
def test_torch_counts_the_same_flops_in_the_linear_layers(attention):
    """FlopCounterMode per module against ours, all logits.

    Attention is compared in eager mode, whose products it counts. The fused kernel on CPU is missing in
    the counter of torch 2.13 and counts as zero (pytorch issue 195460): there, zero or the full count is
    accepted for the core, and never taken for the truth.
    """
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    config = transformers.LlamaConfig(**{k: v for k, v in LLAMA.items() if k != "model_type"})
    config._attn_implementation = attention
    model = transformers.LlamaForCausalLM(config).eval()
    counter = FlopCounterMode(display=False, depth=10)
    with counter, torch.no_grad():
        model(torch.zeros((2, 8), dtype=torch.long), use_cache=False)
    counted = {}
    for path, ops in counter.get_flop_counts().items():
        name = canonical_hf(path.removeprefix("LlamaForCausalLM."))
        if name and name != "rope":
            counted[name] = sum(ops.values())
    spec = from_config(LLAMA)
    ours = rows_of(spec, 8, batch=2, n_logits=8)
    for layer in spec.layers:
        if isinstance(layer.op, Linear):
            assert counted[layer.name] == ours[layer.name].flops, layer.name
    for block in range(2):
        children = sum(v for k, v in counted.items() if k.startswith(f"blocks.{block}.attn.") and k.endswith("_proj"))
        core = counted[f"blocks.{block}.attn.core"] - children  # self_attn's own share
        executed = ours[f"blocks.{block}.attn.core"].flops_executed
        assert core == executed if attention == "eager" else core in (0, executed)


def shrunk(preset_id):
    """A preset's configuration with two blocks and small widths, its structure kept."""
    path = next(e for e in presets() if e.id == preset_id).files["config"]
    config = json.loads(Path(path).read_text())
    small = {"hidden_size": 64, "n_embd": 64, "word_embed_proj_dim": 64, "intermediate_size": 96, "ffn_dim": 96}
    small |= {"num_attention_heads": 4, "n_head": 4, "num_key_value_heads": 2, "head_dim": 16}
    small |= {"moe_intermediate_size": 48, "shared_expert_intermediate_size": 80, "num_experts_per_tok": 2}
    small |= {"num_local_experts": 4, "num_experts": 4, "n_routed_experts": 4, "n_group": 1, "topk_group": 1}
    small |= {"kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4, "v_head_dim": 8}
    if config["model_type"] == "mobilebert":
        small = {}
    if config.get("q_lora_rank"):
        small["q_lora_rank"] = 24
    if config.get("num_key_value_heads") == config.get("num_attention_heads"):
        small["num_key_value_heads"] = 4
    small |= {"num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "vocab_size": 512}
    small |= {"pad_token_id": 0, "bos_token_id": 0, "eos_token_id": 0, "torch_dtype": "float32"}
    return {key: small.get(key, value) for key, value in config.items()}


RECURRENT = ("mamba", "mamba2", "jamba")  # torch multiplies matrices inside the scan, too


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize(
    "preset_id", [e.id for e in presets() if e.lineage["architecture"] not in RECURRENT and "70b" not in e.id]
)
def test_torch_counts_the_same_matrix_products_in_every_family(preset_id):
    """The whole forward under FlopCounterMode, eager attention and experts: equal to the FLOP.

    Rotary tables are made by a small product that no layer of ours stands for; it is taken off.
    """
    import torch
    import transformers
    from torch.utils.flop_counter import FlopCounterMode

    values = shrunk(preset_id)
    spec = from_config(values)
    config = transformers.AutoConfig.for_model(**values)
    config._attn_implementation, config._experts_implementation = "eager", "eager"
    auto = transformers.AutoModelForCausalLM if spec.causal else transformers.AutoModelForMaskedLM
    model = auto.from_config(config).eval()
    counter = FlopCounterMode(display=False, depth=12)
    with counter, torch.no_grad():
        model(torch.arange(16).reshape(2, 8), use_cache=False)
    counts = {path: sum(ops.values()) for path, ops in counter.get_flop_counts().items()}
    rotary = sum(n for path, n in counts.items() if path.endswith("rotary_emb"))
    assert counts["Global"] - rotary == matmul_flops(spec, work(spec, 8, batch=2, n_logits=8))
