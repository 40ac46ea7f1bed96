"""A folder and the GGUF made from it are one model: same weights, same ids, and llama.cpp's logits are PyTorch's."""

from __future__ import annotations

import json
import os
import unicodedata
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.models import artifact_cache, artifacts, catalogue, gguf_file, gguf_to_hf, hf_to_gguf
from core.models import spec as specs
from core.types import ModelEntry
from hardware.errors import ExplorerError
from tests.support.embedded import embedded
from tests.support.gguf_models import CASES, TEXTS, converted, tiny_gguf
from tests.support.progress import silent
from tests.support.reference import logits_of_folder, logits_of_gguf, vocabulary_of_gguf
from tests.support.tiny import hf_folder

pytestmark = pytest.mark.engine("pytorch")

IDS = [int(i) for i in np.random.default_rng(0).integers(0, 256, 40)]
ABOUT = "general."  # what a file says of itself, not of the model


def written(folder: Path, path: Path) -> Path:
    hf_to_gguf.convert(folder, path, "Tiny", silent)
    return path


def values(path: Path) -> dict[str, np.ndarray]:
    return {t.name: gguf_to_hf._dequantized(t) for t in gguf_file.read(path).tensors}


@pytest.mark.parametrize("case", CASES)
def test_there_and_back_is_the_same_file(case: str, tmp_path: Path) -> None:
    arch, extra = CASES[case]
    path = tiny_gguf(tmp_path / "m.gguf", arch, **extra)
    again = written(converted(path, tmp_path / "hf"), tmp_path / "again.gguf")
    before, after = values(path), values(again)
    assert before.keys() == after.keys()
    for name, array in before.items():
        # a norm that Gemma stores without its one loses its last bits on the way
        np.testing.assert_allclose(after[name], array, rtol=1e-6, atol=1e-7 if "gemma" in arch else 0, err_msg=name)
    said, says = gguf_file.read(path).metadata, gguf_file.read(again).metadata
    for key, value in said.items():
        if not key.startswith(ABOUT):
            assert says[key] == (pytest.approx(value) if isinstance(value, float) else value), key
    theirs = logits_of_gguf(path, IDS)
    np.testing.assert_allclose(logits_of_gguf(again, IDS), theirs, atol=1e-3 * float(theirs.std()))


def test_llama_cpp_computes_what_pytorch_does(tmp_path: Path) -> None:
    """The llama that transformers itself made, with its own tokenizer files."""
    folder = hf_folder(tmp_path)
    path = written(folder, tmp_path / "m.gguf")
    ours, theirs = logits_of_folder(folder, IDS), logits_of_gguf(path, IDS)
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(theirs.std()))


def with_config(folder: Path, **change: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    return folder


def test_biases_of_query_and_key_are_paired_like_their_rows(tmp_path: Path) -> None:
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(1)
    numbers = {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = LlamaConfig(vocab_size=320, num_key_value_heads=2, attention_bias=True, initializer_range=0.3, **numbers)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if name.endswith("bias"):
            torch.nn.init.normal_(weight)
    folder = hf_folder(tmp_path)
    model.save_pretrained(folder)
    theirs = logits_of_gguf(written(folder, tmp_path / "m.gguf"), IDS)
    np.testing.assert_allclose(logits_of_folder(folder, IDS), theirs, atol=1e-3 * float(theirs.std()))


@pytest.mark.parametrize("dtype", ["BF16", "F16", "F32"])
def test_no_bit_is_lost(dtype: str, tmp_path: Path) -> None:
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    folder = hf_folder(tmp_path)
    kind = {"BF16": torch.bfloat16, "F16": torch.float16, "F32": torch.float32}[dtype]
    AutoModelForCausalLM.from_pretrained(folder, dtype=kind).save_pretrained(folder)
    stored, found = load_file(folder / "model.safetensors"), values(written(folder, tmp_path / "m.gguf"))
    np.testing.assert_array_equal(found["blk.1.ffn_up.weight"], stored["model.layers.1.mlp.up_proj.weight"].float())
    np.testing.assert_array_equal(found["output_norm.weight"], stored["model.norm.weight"].float())
    query = stored["model.layers.0.self_attn.q_proj.weight"].float()
    # head 0 has rows 0 to 15: rows 0 and 8 rotate together, and stand beside one another in the file
    np.testing.assert_array_equal(found["blk.0.attn_q.weight"][:4], query[[0, 8, 1, 9]])
    assert {t.type_name for t in gguf_file.read(tmp_path / "m.gguf").tensors if len(t.shape) > 1} == {dtype}
    assert specs.from_gguf(tmp_path / "m.gguf").n_params == specs.from_hf_folder(folder).n_params
    assert (tmp_path / "m.gguf").stat().st_size < hf_to_gguf.output_bytes(folder)
    assert np.isfinite(logits_of_gguf(tmp_path / "m.gguf", IDS)).all()


# ---------------------------------------------------------------- text


@pytest.mark.parametrize(
    ("cut", "rule"),
    [
        ([{"type": "Digits", "individual_digits": True}, {"type": "ByteLevel", "use_regex": True}], "smollm"),
        ([{"type": "ByteLevel", "use_regex": True}], "gpt-2"),
    ],
)
def test_a_rule_is_known_by_what_it_does(cut: list[dict[str, Any]], rule: str, tmp_path: Path) -> None:
    """SmolLM's and GPT-2's own tokenizer.json spell their rules otherwise than core/tokenizers does."""
    folder = hf_folder(tmp_path)
    file = folder / "tokenizer.json"
    content = json.loads(file.read_text())
    steps = [{"add_prefix_space": False, "trim_offsets": True, **step} for step in cut]
    content["pre_tokenizer"] = steps[0] if len(steps) == 1 else {"type": "Sequence", "pretokenizers": steps}
    file.write_text(json.dumps(content))
    assert gguf_file.read(written(folder, tmp_path / "m.gguf")).metadata["tokenizer.ggml.pre"] == rule


@pytest.mark.parametrize("normalizer", [None, "NFC", "a sequence"])
def test_text_and_special_tokens(normalizer: str | None, tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder, texts = hf_folder(tmp_path), (*TEXTS, "the theater in an inn")
    texts = tuple(t for t in texts if normalizer is None or t == unicodedata.normalize("NFC", t))  # llama.cpp has none
    composing = {"type": "NFC"} if normalizer == "NFC" else {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    break_tokenizer(lambda c: c.update(normalizer=normalizer and composing))(folder)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    theirs = vocabulary_of_gguf(written(folder, tmp_path / "m.gguf"), texts)
    assert [tokenizer.encode(text, add_special_tokens=False) for text in texts] == theirs.ids
    assert (theirs.bos, theirs.eos) == (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert theirs.metadata["tokenizer.chat_template"] == tokenizer.chat_template
    assert theirs.n == 320


def test_a_sentencepiece_vocabulary_keeps_its_ids(tmp_path: Path) -> None:
    import gguf
    from transformers import AutoTokenizer

    from core.tokenizers import from_gguf, to_gguf

    pieces = ["▁", "t", "h", "e", "▁t", "he", "▁the", "▁▁", "ca", "c", "a", "at", "▁ca", "▁cat", "é"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces, "<|x|>"]
    metadata = {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": [0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0],
        "tokenizer.ggml.token_type": [2, 3, 3] + [6] * 256 + [1] * len(pieces) + [3],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
    }
    from_gguf.write(metadata, tmp_path)
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_context_length(64)
    to_gguf.add(writer, tmp_path, len(tokens))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    says = gguf_file.read(tmp_path / "v.gguf").metadata
    for key in ("tokens", "token_type", "bos_token_id", "eos_token_id", "unknown_token_id"):
        assert says[f"tokenizer.ggml.{key}"] == metadata[f"tokenizer.ggml.{key}"]
    assert says["tokenizer.ggml.add_bos_token"] and says["tokenizer.ggml.add_space_prefix"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = ("the cat", "  the  at", "tehe é ü 語", "a<|x|>the cat</s> the", "héat\n")
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert ids == vocabulary_of_gguf(tmp_path / "v.gguf", texts).ids


# ---------------------------------------------------------------- refusals


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"model_type": "phi3"}, "architecture 'phi3'"),
        ({"hidden_act": "gelu"}, "activation 'gelu'"),
        ({"rope_parameters": {"rope_type": "dynamic", "rope_theta": 1e4, "factor": 2.0}}, "scaled by 'dynamic'"),
        ({"rope_parameters": {"rope_type": "yarn", "rope_theta": 1e4, "factor": 2.0, "beta_fast": 9.0}}, "beta_fast"),
        ({"quantization_config": {"bits": 4}}, "quantized already"),
        ({"num_hidden_layers": 3}, "blk.2"),
        ({"num_hidden_layers": 1}, "has no place"),
    ],
)
def test_what_llama_cpp_would_compute_otherwise_is_refused(change: dict[str, Any], words: str, tmp_path: Path) -> None:
    folder = with_config(hf_folder(tmp_path), **change)
    with pytest.raises(ExplorerError, match=words) as caught:
        written(folder, tmp_path / "m.gguf")
    assert caught.value.hint and not (tmp_path / "m.gguf").exists()


def break_tokenizer(change: Any) -> Any:
    def apply(folder: Path) -> None:
        file = folder / "tokenizer.json"
        content = json.loads(file.read_text())
        change(content)
        file.write_text(json.dumps(content))

    return apply


FAULTS: dict[str, tuple[Any, str]] = {
    "none": (lambda folder: (folder / "tokenizer.json").unlink(), "no tokenizer.json"),
    "damaged": (
        lambda folder: (folder / "tokenizer.json").write_text('{"version'),
        r"tokenizer\.json .* not valid JSON",
    ),
    "rule": (break_tokenizer(lambda c: c.update(pre_tokenizer={"type": "Whitespace"})), "splits text by a rule"),
    "parts of words": (break_tokenizer(lambda c: c["model"].update(end_of_word_suffix="</w>")), "marks parts of words"),
    "what it adds": (
        break_tokenizer(
            lambda c: c.update(
                post_processor={
                    "type": "TemplateProcessing",
                    "single": [{"SpecialToken": {"id": "<b>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}],
                    "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
                    "special_tokens": {"<b>": {"id": "<b>", "ids": [400], "tokens": ["<b>"]}},
                }
            )
        ),
        "401 tokens, but the model's table has 320 rows",
    ),
    "normalizer": (break_tokenizer(lambda c: c.update(normalizer={"type": "Lowercase"})), "'Lowercase'"),
    "too large": (
        break_tokenizer(lambda c: c["added_tokens"].append({**c["added_tokens"][0], "id": 400, "content": "<x>"})),
        "401 tokens, but the model's table has 320 rows",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_tokenizer_that_does_not_fit_is_refused(fault: str, tmp_path: Path) -> None:
    spoil, words = FAULTS[fault]
    folder = hf_folder(tmp_path)
    spoil(folder)
    with pytest.raises(ExplorerError, match=words) as caught:
        written(folder, tmp_path / "m.gguf")
    assert caught.value.hint


def test_a_missing_tensor_is_refused(tmp_path: Path) -> None:
    from safetensors.numpy import load_file, save_file

    folder = hf_folder(tmp_path)
    weights = load_file(folder / "model.safetensors")
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, folder / "model.safetensors")
    with pytest.raises(ExplorerError, match=r"blk\.1\.ffn_up\.weight is missing"):
        written(folder, tmp_path / "m.gguf")


# ---------------------------------------------------------------- the cache


def test_a_folder_opens_in_llama_cpp_through_the_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "own"))  # a cache in which nobody else builds
    folder = hf_folder(tmp_path)
    entry = ModelEntry(id="t", label="Tiny", family="local", files={"hf": str(folder)})
    seen: list[tuple[float, float]] = []

    def progress(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
        if done is not None and total is not None:
            seen.append((done, total))

    kind, path = artifacts.provide(entry, ("gguf",), progress)
    assert kind == "gguf" and os.listdir(Path(path).parent).count("model.gguf") == 1
    assert seen == sorted(seen) and seen[0][0] == 0 and seen[-1][0] == seen[-1][1]
    assert artifacts.provide(entry, ("gguf",), silent) == (kind, path)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(ExplorerError, match=r"tokenizer\.json"):
        artifacts.provide(entry, ("gguf",), silent)
    assert not list(artifact_cache.folder().glob("part-*"))


@pytest.mark.model
def test_the_embedded_model_there_and_back(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    entry = catalogue.find(catalogue.EMBEDDED)
    folder = Path(embedded("hf")[1])
    path = written(folder, tmp_path / "m.gguf")
    before, after = gguf_file.read(Path(entry.files["gguf"])), gguf_file.read(path)
    assert {t.type_name for t in after.tensors} == {"F32"}
    said = before.metadata
    same = [k for k in said if not k.startswith(ABOUT) and k != "tokenizer.ggml.add_space_prefix"]
    assert len(same) > 15 and [k for k in same if after.metadata.get(k) != said[k]] == []
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert [tokenizer.encode(text, add_special_tokens=False) for text in TEXTS] == vocabulary_of_gguf(path, TEXTS).ids

    prompt = tokenizer.encode("The three laws of thermodynamics, briefly: first,", add_special_tokens=False)
    ids = list(prompt)
    ours, theirs = logits_of_folder(folder, ids), logits_of_gguf(path, ids)
    np.testing.assert_allclose(ours, theirs, atol=1e-3 * float(theirs.std()), rtol=1e-3)
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    wanted = model.generate(torch.tensor([prompt]), max_new_tokens=24, min_new_tokens=24, do_sample=False)[0].tolist()
    assert logits_of_gguf(path, wanted[:-1]).argmax(-1)[len(prompt) - 1 :].tolist() == wanted[len(prompt) :]
