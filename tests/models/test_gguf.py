"""A GGUF's header as a configuration: what is listed per block, windows, and tensors of other uses."""

from __future__ import annotations

from math import prod
from pathlib import Path
from typing import Any

import pytest

from core.analysis.work import kv_cache_bytes, total, work
from core.models.spec import from_config, from_gguf
from core.types import Aside, Attention, ModelSpec
from hardware.errors import ExplorerError
from tests.support.gguf_bytes import model

Shapes = dict[str, tuple[int, ...]]


def around(vocab: int, d: int, tied: bool = False) -> Shapes:
    head = {} if tied else {"output.weight": (vocab, d)}
    return {"token_embd.weight": (vocab, d), "output_norm.weight": (d,), **head}


def attention(i: int, d: int, d_q: int, d_kv: int) -> Shapes:
    shapes = {"attn_q": (d_q, d), "attn_k": (d_kv, d), "attn_v": (d_kv, d), "attn_output": (d, d_q)}
    return {f"blk.{i}.{name}.weight": shape for name, shape in shapes.items()}


def mlp(i: int, d: int, d_ff: int) -> Shapes:
    shapes = {"ffn_gate": (d_ff, d), "ffn_up": (d_ff, d), "ffn_down": (d, d_ff)}
    return {f"blk.{i}.{name}.weight": shape for name, shape in shapes.items()}


def vectors(i: int, **widths: int) -> Shapes:
    return {f"blk.{i}.{name}.weight": (width,) for name, width in widths.items()}


def sizes(architecture: str, blocks: int, d: int, d_ff: Any, heads: Any, kv: Any, **more: Any) -> dict[str, Any]:
    return {
        "general.architecture": architecture,
        "block_count": blocks,
        "context_length": 4096,
        "embedding_length": d,
        "feed_forward_length": d_ff,
        "attention.head_count": heads,
        "attention.head_count_kv": kv,
        **{key.replace("__", "."): value for key, value in more.items()},
    }


def cores(spec: ModelSpec) -> dict[str, Attention]:
    return {layer.name: layer.op for layer in spec.layers if isinstance(layer.op, Attention)}


# ---------------------------------------------------------------- a value for each block


def test_heads_and_widths_of_each_block(tmp_path: Path) -> None:
    shapes = {
        **around(16, 32),
        **attention(0, 32, 32, 16),
        **mlp(0, 32, 48),
        **vectors(0, attn_norm=32, ffn_norm=32),
        **attention(1, 32, 16, 8),
        **mlp(1, 32, 64),
        **vectors(1, attn_norm=32, ffn_norm=32),
    }
    entries = sizes("llama", 2, 32, [48, 64], [4, 2], [2, 1], attention__key_length=8)
    spec = from_gguf(model(tmp_path / "m.gguf", entries, shapes))
    assert spec.n_params == sum(map(prod, shapes.values()))
    assert [(c.n_heads, c.n_kv_heads, c.qk_dim) for c in cores(spec).values()] == [(4, 2, 8), (2, 1, 8)]
    assert {layer.name: layer.op.d_out for layer in spec.layers if layer.name.endswith("up_proj")} == {  # type: ignore[union-attr]
        "blocks.0.mlp.up_proj": 48,
        "blocks.1.mlp.up_proj": 64,
    }


def test_a_configuration_lists_values_per_block_too() -> None:
    config = {"model_type": "llama", "hidden_size": 32, "num_hidden_layers": 2, "vocab_size": 16, "head_dim": 8}
    listed = {"num_attention_heads": [4, 2], "num_key_value_heads": [2, 1], "intermediate_size": [48, 64]}
    assert [c.n_heads for c in cores(from_config({**config, **listed})).values()] == [4, 2]
    with pytest.raises(ExplorerError, match="'intermediate_size' has 1 entries in the configuration"):
        from_config({**config, **listed, "intermediate_size": [48]})


JAMBA = sizes(
    "jamba",
    4,
    32,
    48,
    4,
    [0, 0, 2, 0],
    ssm__conv_kernel=4,
    ssm__inner_size=64,
    ssm__state_size=8,
    ssm__time_step_rank=2,
    expert_count=4,
    expert_used_count=2,
)


def mamba(i: int) -> Shapes:
    shapes = {
        "ssm_in.weight": (128, 32),
        "ssm_conv1d.weight": (64, 4),
        "ssm_conv1d.bias": (64,),
        "ssm_x.weight": (18, 64),
        "ssm_dt_norm.weight": (2,),
        "ssm_dt.weight": (64, 2),
        "ssm_dt.bias": (64,),
        "ssm_b_norm.weight": (8,),
        "ssm_c_norm.weight": (8,),
        "ssm_a": (64, 8),
        "ssm_d": (64,),
        "ssm_out.weight": (32, 64),
    }
    return {f"blk.{i}.{name}": shape for name, shape in shapes.items()}


def experts(i: int) -> Shapes:
    shapes = {"gate_inp": (4, 32), "gate_exps": (4, 48, 32), "up_exps": (4, 48, 32), "down_exps": (4, 32, 48)}
    return {f"blk.{i}.ffn_{name}.weight": shape for name, shape in shapes.items()}


def jamba_shapes() -> Shapes:
    shapes = around(16, 32)
    for i, (mixer, feed_forward) in enumerate(
        [
            (mamba(0), mlp(0, 32, 48)),
            (mamba(1), experts(1)),
            (attention(2, 32, 32, 16), mlp(2, 32, 48)),
            (mamba(3), experts(3)),
        ]
    ):
        shapes |= vectors(i, attn_norm=32, ffn_norm=32) | mixer | feed_forward
    return shapes


def test_a_hybrid_has_a_cache_only_where_it_has_attention(tmp_path: Path) -> None:
    shapes = jamba_shapes()
    spec = from_gguf(model(tmp_path / "m.gguf", JAMBA, shapes))
    assert spec.n_params == sum(map(prod, shapes.values()))
    assert {name: core.n_kv_heads for name, core in cores(spec).items()} == {"blocks.2.attn.core": 2}
    read = {row.name: row.kv_read_bytes for row in work(spec, n_new=1, n_past=10, kv_dtype="fp16") if row.kv_read_bytes}
    assert set(read) == {"blocks.0.ssm.scan", "blocks.1.ssm.scan", "blocks.2.attn.core", "blocks.3.ssm.scan"} | {
        f"blocks.{i}.ssm.conv" for i in (0, 1, 3) if f"blocks.{i}.ssm.conv" in read
    }


CONTRADICTIONS = {
    "too few entries": (
        {"attention.head_count_kv": [0, 2]},
        r"'jamba\.attention\.head_count_kv' of 2 blocks, but has 4",
    ),
    "a width per block": ({"embedding_length": [32, 32, 32, 64]}, r"'jamba\.embedding_length' as a list"),
    "more blocks than tensors": ({"block_count": 6}, "6 blocks, but holds the tensors of 4"),
    "fewer blocks than tensors": ({"block_count": 3}, "3 blocks, but holds the tensors of 4"),
}


@pytest.mark.parametrize("case", CONTRADICTIONS)
def test_a_header_that_contradicts_itself_is_refused(case: str, tmp_path: Path) -> None:
    change, words = CONTRADICTIONS[case]
    with pytest.raises(ExplorerError, match=words):
        from_gguf(model(tmp_path / "m.gguf", {**JAMBA, **change}, jamba_shapes()))


# ---------------------------------------------------------------- windows

LOCAL = [True, True, True, False] * 2


def olmo(path: Path, **window: Any) -> Path:
    shapes = around(261, 64)
    for i in range(8):
        norms = {"post_attention_norm": 64, "post_ffw_norm": 64, "attn_q_norm": 64, "attn_k_norm": 64}
        shapes |= vectors(i, **norms) | attention(i, 64, 64, 64) | mlp(i, 64, 128)
    return model(path, sizes("olmo2", 8, 64, 128, 4, 4, **window), shapes)


@pytest.mark.parametrize("pattern", [LOCAL, [int(one) for one in LOCAL], 4, None])
def test_a_window_pattern_is_that_of_the_configuration(pattern: Any, tmp_path: Path) -> None:
    window = {} if pattern is None else {"attention__sliding_window_pattern": pattern}
    file = from_gguf(olmo(tmp_path / "m.gguf", attention__sliding_window=32, **window))
    config = {
        "model_type": "olmo3",
        "hidden_size": 64,
        "intermediate_size": 128,
        "num_hidden_layers": 8,
        "num_attention_heads": 4,
        "num_key_value_heads": 4,
        "vocab_size": 261,
        "sliding_window": 32,
        "layer_types": ["sliding_attention" if one else "full_attention" for one in LOCAL],
        "max_position_embeddings": 4096,
        "tie_word_embeddings": False,
    }
    bare = from_config(config)
    assert file.architecture == "olmo3"
    assert [(layer.name, layer.op) for layer in file.layers] == [(layer.name, layer.op) for layer in bare.layers]
    for spec in (file, bare):
        read = total(work(spec, n_new=1, n_past=1000, kv_dtype="fp16")).kv_read_bytes
        assert read == (6 * 32 + 2 * 1001) * 256 == 561_664


def test_olmo_2_has_no_window(tmp_path: Path) -> None:
    spec = from_gguf(olmo(tmp_path / "m.gguf"))
    assert spec.architecture == "olmo2" and {core.window for core in cores(spec).values()} == {None}


def test_a_window_of_its_own_for_each_block(tmp_path: Path) -> None:
    spec = from_gguf(olmo(tmp_path / "m.gguf", attention__sliding_window=[16, 0] * 4))
    assert [core.window for core in cores(spec).values()] == [16, None] * 4


def plain(path: Path, architecture: str, **window: Any) -> ModelSpec:
    """Eight blocks of any architecture, by its tensors."""
    shapes = around(16, 32)
    for i in range(8):
        shapes |= vectors(i, attn_norm=32, ffn_norm=32) | attention(i, 32, 32, 16) | mlp(i, 32, 48)
    return from_gguf(model(path, sizes(architecture, 8, 32, 48, 4, 2, **window), shapes))


@pytest.mark.parametrize(
    ("architecture", "local"),
    [
        ("cohere2", [1, 1, 1, 0] * 2),
        ("gemma3n", [1, 1, 1, 1, 0, 1, 1, 1]),
        ("plamo3", [1] * 7 + [0]),
        ("smallthinker", [0, 1, 1, 1] * 2),
        ("modern-bert", [0, 1, 1, 0, 1, 1, 0, 1]),
    ],
)
def test_without_a_pattern_blocks_see_what_llama_cpp_lets_them_see(
    architecture: str, local: list[int], tmp_path: Path
) -> None:
    """Its load_swa_pattern: converted files of these name the window alone."""
    spec = plain(tmp_path / "m.gguf", architecture, attention__sliding_window=16)
    assert [core.window for core in cores(spec).values()] == [16 if one else None for one in local]
    assert "window" not in spec.doubts


def test_llama_4_sees_chunks_without_a_word_in_the_file(tmp_path: Path) -> None:
    windows = [core.window for core in cores(plain(tmp_path / "m.gguf", "llama4")).values()]
    assert windows == [8192, 8192, 8192, None] * 2
    whole = plain(tmp_path / "n.gguf", "llama4", attention__sliding_window=0)
    assert {core.window for core in cores(whole).values()} == {None}


@pytest.mark.parametrize("architecture", ["llama", "granite"])
def test_where_llama_cpp_lets_every_block_see_all_a_window_is_only_a_word(architecture: str, tmp_path: Path) -> None:
    """Its phi3 says so in its log ("Phi SWA is currently disabled", pull request 13676), and keeps all positions."""
    spec = plain(tmp_path / "m.gguf", architecture, attention__sliding_window=16)
    assert {core.window for core in cores(spec).values()} == {None} and not spec.doubts


def test_a_period_of_none_is_a_window_everywhere(tmp_path: Path) -> None:
    window = {"attention__sliding_window": 16, "attention__sliding_window_pattern": 0}
    assert {core.window for core in cores(plain(tmp_path / "m.gguf", "cohere2", **window)).values()} == {16}


def test_one_matrix_in_the_place_of_an_attention_keeps_nothing(tmp_path: Path) -> None:
    """DeciLM (Llama-3.1-Nemotron-51B): blocks with an attention, with one matrix instead, with none, without a
    feed-forward network; llama.cpp keeps keys and values of the first and the last kind only."""
    shapes = {
        **around(16, 32),
        **(vectors(0, attn_norm=32, ffn_norm=32) | attention(0, 32, 32, 16) | mlp(0, 32, 48)),
        **(vectors(1, attn_norm=32, ffn_norm=32) | {"blk.1.attn_output.weight": (32, 32)} | mlp(1, 32, 48)),
        **(vectors(2, ffn_norm=32) | mlp(2, 32, 64)),
        **(vectors(3, attn_norm=32) | attention(3, 32, 32, 8)),
    }
    entries = sizes("deci", 4, 32, [48, 48, 64, 0], [4, 4, 0, 4], [2, 0, 0, 1], attention__key_length=8)
    spec = from_gguf(model(tmp_path / "m.gguf", entries, shapes))
    assert spec.n_params == sum(map(prod, shapes.values()))
    assert [(c.n_heads, c.n_kv_heads) for c in cores(spec).values()] == [(4, 2), (4, 1)]
    assert kv_cache_bytes(spec, 100) == 2 * 2 * 100 * (2 + 1) * 8


# ---------------------------------------------------------------- what no text token touches


def gemma(path: Path, more: Shapes | None = None) -> ModelSpec:
    norms = {"attn_norm": 32, "ffn_norm": 32, "post_attention_norm": 32, "post_ffw_norm": 32}
    shapes = {
        **around(16, 32, tied=True),
        **vectors(0, **norms, attn_q_norm=8, attn_k_norm=8),
        **attention(0, 32, 32, 16),
        **mlp(0, 32, 48),
    }
    entries = sizes("gemma3", 1, 32, 48, 4, 2, attention__key_length=8, attention__sliding_window=16)
    return from_gguf(model(path, entries, {**shapes, **(more or {})}))


def test_vision_and_audio_are_shown_apart(tmp_path: Path) -> None:
    text = gemma(tmp_path / "text.gguf")
    other = {"v.blk.0.attn_q.weight": (64, 64), "v.patch_embedding.weight": (64, 3, 14, 14), "mm.proj.weight": (32, 64)}
    whole = gemma(tmp_path / "whole.gguf", {**other, "a.blk.0.attn_q.weight": (8, 8)})
    assert whole.layers == text.layers and whole.n_params == text.n_params
    assert total(work(whole, n_new=1)).weight_bytes == total(work(text, n_new=1)).weight_bytes
    n = sum(map(prod, other.values()))
    assert text.aside == ()
    assert set(whole.aside) == {
        Aside(name="vision", n_params=n, weight_bytes=4 * n),
        Aside(name="audio", n_params=64, weight_bytes=256),
    }
    assert "vision (0.0 M parameters, 0.2 MB)" in whole.source


def test_blocks_that_foretell_tokens_are_shown_apart(tmp_path: Path) -> None:
    one = {**attention(0, 32, 32, 16), **mlp(0, 32, 48), **vectors(0, attn_norm=32, ffn_norm=32)}
    extra = {name.replace("blk.0", "blk.1"): shape for name, shape in one.items()} | {
        "blk.1.nextn.eh_proj.weight": (32, 64)
    }
    entries = sizes("llama", 2, 32, 48, 4, [2, 2], nextn_predict_layers=1)
    spec = from_gguf(model(tmp_path / "m.gguf", entries, {**around(16, 32), **one, **extra}))
    assert spec.n_blocks == 1
    assert [(a.name, a.n_params) for a in spec.aside] == [("mtp", sum(map(prod, extra.values())))]
