"""Dropped blocks, channels and heads: where what goes does nothing, nothing changes."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.models import spec as specs
from core.transforms import _torch_model as torch_model
from core.transforms._calibration import sequences
from core.transforms._widths import Shape, best_heads
from core.transforms.drop_layers import Dropping
from core.transforms.shrink import Shrinking, smaller
from hardware.errors import ExplorerError
from tests.support.onnx_exports import exported
from tests.support.progress import silent
from tests.support.reference import logits_in
from tests.support.tiny import byte_level_tokenizer, hf_folder
from tests.support.workshop import make, source_of

pytestmark = pytest.mark.engine("pytorch")

drop, shrink = plugins.get("transform", "drop_layers"), plugins.get("transform", "shrink")
IDS = np.random.default_rng(1).integers(33, 300, size=(1, 20))
WIDTHS = {
    "vocab_size": 320,
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "max_position_embeddings": 96,
    "initializer_range": 0.2,
}


def folder_of(path: Path, family: str, change: Callable[[Any], None] = lambda model: None, **config: Any) -> Path:
    """A random model of a family with four blocks, after `change`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(3)
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **{**WIDTHS, **config})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():  # biases start as zeros
            if name.endswith("bias"):
                parameter.normal_(0, 0.2)
        change(model)
    model.save_pretrained(path)
    byte_level_tokenizer().save_pretrained(path)
    return path


def logits(path: Path) -> Any:
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32).eval()
    with torch.no_grad():
        return model(torch.tensor(IDS)).logits.numpy()


# ---------------------------------------------------------------- blocks


def test_a_block_that_does_nothing_goes_first(tmp_path: Path) -> None:
    def idle(model: Any) -> None:
        for i in (1, 2):
            model.model.layers[i].self_attn.o_proj.weight.zero_()
            model.model.layers[i].mlp.down_proj.weight.zero_()

    source = folder_of(tmp_path / "source", "llama", idle, tie_word_embeddings=True)
    made, outcome = make("drop_layers", source, tmp_path / "out", n=2)
    assert outcome.facts["dropped"] == [1, 2] and outcome.facts["kept"] == [0, 3]
    assert outcome.facts["influence"][1:3] == pytest.approx([0, 0], abs=1e-5)
    assert min(outcome.facts["influence"][0], outcome.facts["influence"][3]) > 0.01
    assert made.spec.n_blocks == 2 and made.spec.n_params < source_of(source).spec.n_params
    np.testing.assert_allclose(logits(tmp_path / "out"), logits(source), atol=1e-4)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["tie_word_embeddings"] and made.spec.layers[-1].n_params == 0


def test_the_first_blocks_are_the_model_cut_short(tmp_path: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM

    source = folder_of(tmp_path / "source", "llama")
    model = AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32).eval()
    with torch.no_grad():
        hidden = model.model(torch.tensor(IDS), output_hidden_states=True).hidden_states[3]
        wanted = model.lm_head(model.model.norm(hidden)).numpy()
    made, outcome = make("drop_layers", source, tmp_path / "out", keep_first=3)
    assert made.spec.n_blocks == 3 and outcome.facts["dropped"] == [3]
    np.testing.assert_allclose(logits(tmp_path / "out"), wanted, atol=1e-4)


def test_lists_with_a_value_for_each_block_lose_the_same_ones(tmp_path: Path) -> None:
    kinds = ["sliding_attention", "full_attention", "sliding_attention", "full_attention"]
    source = folder_of(
        tmp_path / "source", "qwen2", layer_types=kinds, use_sliding_window=True, sliding_window=8, max_window_layers=0
    )
    _, outcome = make("drop_layers", source, tmp_path / "out", n=1)
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert config["num_hidden_layers"] == 3
    assert config["layer_types"] == [kinds[i] for i in outcome.facts["kept"]]
    assert np.isfinite(logits(tmp_path / "out")).all()


def test_a_model_without_blocks_is_refused(tmp_path: Path) -> None:
    tiny = source_of(hf_folder(tmp_path)).spec
    with pytest.raises(ExplorerError, match="leaves none"):
        drop.check(tiny, Dropping(n=2))
    with pytest.raises(ExplorerError, match="leaves all"):
        drop.check(tiny, Dropping(keep_first=2))
    drop.check(tiny, Dropping(n=1))


# ---------------------------------------------------------------- channels and heads


def test_the_heads_that_add_most_stay() -> None:
    import torch

    before = Shape(d_ff=8, n_heads=6, n_kv_heads=3, head_dim=2)
    energy = torch.tensor([1.0, 1, 5, 5, 9, 9, 0, 1, 4, 4, 3, 3])  # two channels of each of six heads
    groups, heads = best_heads(energy, before, smaller(before, Shrinking(mlp=0, groups=1)))
    assert groups.tolist() == [1, 2] and heads.tolist() == [2, 3, 4, 5], "sums 12, 19, 14"
    groups, heads = best_heads(energy, before, smaller(before, Shrinking(mlp=0, queries=1)))
    assert groups.tolist() == [0, 1, 2] and heads.tolist() == [1, 2, 4]


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "mistral"])
def test_channels_and_heads_that_do_nothing_go_without_a_trace(tmp_path: Path, family: str) -> None:
    def idle(model: Any) -> None:
        for i, block in enumerate(model.model.layers):
            block.mlp.down_proj.weight[:, i : 64 + i].zero_()
            group = i % 2
            block.self_attn.o_proj.weight[:, 32 * group : 32 * (group + 1)].zero_()

    source = folder_of(tmp_path / "source", family, idle)
    made, outcome = make("shrink", source, tmp_path / "out", mlp=0.5, groups=1)
    assert outcome.facts["intermediate_size"] == [128, 64] and outcome.facts["num_key_value_heads"] == [2, 1]
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert (config["num_attention_heads"], config["head_dim"]) == (2, 16)
    np.testing.assert_allclose(logits(tmp_path / "out"), logits(source), atol=1e-4)
    assert made.spec.weight_bytes < source_of(source).spec.weight_bytes  # type: ignore[operator]


def test_one_query_head_of_every_group_goes_without_a_trace(tmp_path: Path) -> None:
    def idle(model: Any) -> None:
        for block in model.model.layers:
            block.self_attn.o_proj.weight[:, 16:32].zero_()
            block.self_attn.o_proj.weight[:, 32:48].zero_()

    source = folder_of(tmp_path / "source", "llama", idle)
    _, outcome = make("shrink", source, tmp_path / "out", mlp=0.0, queries=1)
    assert outcome.facts["num_attention_heads"] == [4, 2] and outcome.facts["num_key_value_heads"] == [2, 2]
    np.testing.assert_allclose(logits(tmp_path / "out"), logits(source), atol=1e-4)


def test_a_narrow_model_opens_everywhere(tmp_path: Path) -> None:
    """Its heads are no longer hidden_size / num_attention_heads wide, which a converter may take for granted."""
    from core.models.hf_to_gguf import convert as to_gguf

    make("shrink", folder_of(tmp_path / "source", "llama"), tmp_path / "out", mlp=0.25, groups=1)
    wanted = logits(tmp_path / "out")
    exported(tmp_path / "out", tmp_path / "onnx")
    to_gguf(tmp_path / "out", tmp_path / "tiny.gguf", "tiny", silent)
    for backend, path, fmt in (
        ("onnxruntime", tmp_path / "onnx", "onnx"),
        ("llama_cpp", tmp_path / "tiny.gguf", "gguf"),
    ):
        np.testing.assert_allclose(logits_in(backend, path, fmt, IDS), wanted, atol=0.02)


def test_what_cannot_be_taken_out_is_told(tmp_path: Path) -> None:
    tiny = source_of(hf_folder(tmp_path)).spec
    for params, cause in (
        (Shrinking(groups=2), "2 key/value heads"),
        (Shrinking(queries=2), "2 query heads"),
        (Shrinking(mlp=0.0), "Nothing"),
    ):
        with pytest.raises(ExplorerError, match=cause):
            shrink.check(tiny, params)
    with pytest.raises(ExplorerError, match="'gpt2'"):
        shrink.check(specs.from_config({"model_type": "gpt2", **GPT2}), Shrinking())


GPT2 = {"n_embd": 64, "n_layer": 2, "n_head": 4, "n_positions": 96, "vocab_size": 320}


def test_shards_and_small_files_are_complete(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.models import formats
    from core.transforms import _hf_folder

    monkeypatch.setattr(_hf_folder, "SHARD_BYTES", 60_000)
    source = folder_of(tmp_path / "source", "llama")
    (source / "chat_template.jinja").write_text("{{ messages }}")
    (source / "roofscope.json").write_text("{}")
    make("drop_layers", source, tmp_path / "out", keep_first=3)
    formats.check(formats.files_of(tmp_path / "out"))
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert "model.safetensors.index.json" in names and len(list((tmp_path / "out").glob("*.safetensors"))) > 2
    assert {"tokenizer.json", "chat_template.jinja", "generation_config.json"} <= names
    assert "roofscope.json" not in names, "that is the parent's story"
    assert np.isfinite(logits(tmp_path / "out")).all()
    shutil.rmtree(source)


@pytest.mark.model
def test_four_blocks_less_still_write_text(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By their influence on a quarter of the text."""
    from core.models import artifacts, catalogue
    from core.types import Request

    monkeypatch.setattr(torch_model, "sequences", lambda *source: sequences(*source)[::4])
    _, path = artifacts.provide(catalogue.find("smollm2-135m"), ("hf",), lambda *_, **__: None)
    made, outcome = make("drop_layers", Path(path), home / "drop", n=4)
    assert made.spec.n_blocks == 26
    assert 0 not in outcome.facts["dropped"], "the first block changes its input most"
    session = plugins.get("backend", "pytorch").open(
        made.path, made.spec, Request(model="x", backend="pytorch", threads=1), lambda *_, **__: None
    )
    ids, words = session.encode("The capital of France is the city of"), list[int]()
    for _ in range(12):
        words.append(int(session.forward(np.array([ids + words]), keep=1).argmax()[0, 0]))
    text = session.decode(words)
    session.close()
    assert len(set(words)) > 4 and sum(letter.isalpha() or letter.isspace() for letter in text) > 0.7 * len(text)
