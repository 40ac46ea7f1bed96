"""A GGUF and the folder made from it are the same model: same ids, same logits as llama.cpp's."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.models import gguf_file, gguf_to_hf
from core.tokenizers import from_gguf, word_rules
from hardware.errors import ExplorerError
from tests.support.embedded import embedded
from tests.support.gguf_models import CASES, TEXTS, converted, tiny_gguf
from tests.support.progress import silent
from tests.support.reference import logits_of_folder, logits_of_gguf, vocabulary_of_gguf

pytestmark = pytest.mark.engine("pytorch")


@pytest.mark.parametrize("case", CASES)
def test_logits_equal_those_of_llama_cpp(case: str, tmp_path: Path) -> None:
    arch, extra = CASES[case]
    path = tiny_gguf(tmp_path / "m.gguf", arch, **extra)
    ids = [int(i) for i in np.random.default_rng(0).integers(0, 256, 40)]
    ours, theirs = logits_of_folder(converted(path, tmp_path / "hf"), ids), logits_of_gguf(path, ids)
    assert ours.std() > 0.1
    np.testing.assert_allclose(ours, theirs, atol=2e-3 * float(theirs.std()), rtol=1e-3)


def test_weights_are_dequantized_exactly(tmp_path: Path) -> None:
    from safetensors.numpy import load_file

    path = tiny_gguf(tmp_path / "m.gguf", "qwen3", quantized=True)
    weights = load_file(converted(path, tmp_path / "hf") / "model.safetensors")
    stored = {t.name: t for t in gguf_file.read(path).tensors}
    assert {w.dtype for w in weights.values()} == {np.dtype(np.float32)}

    q4 = stored["blk.1.ffn_up.weight"]  # blocks of 32: fp16 scale, fp16 minimum, 16 bytes of nibbles
    blocks = np.frombuffer(path.read_bytes()[q4.offset : q4.offset + q4.n_bytes], np.uint8).reshape(-1, 20)
    scale, low = blocks[:, :4].copy().view(np.float16).astype(np.float32).T
    nibbles = np.concatenate([blocks[:, 4:] & 15, blocks[:, 4:] >> 4], axis=1).astype(np.float32)
    by_hand = (scale[:, None] * nibbles + low[:, None]).reshape(q4.shape)
    assert q4.type_name == "Q4_1"
    np.testing.assert_array_equal(weights["model.layers.1.mlp.up_proj.weight"], by_hand)

    q8 = stored["blk.0.attn_v.weight"]  # blocks of 32: fp16 scale, 32 signed bytes
    blocks = np.frombuffer(path.read_bytes()[q8.offset : q8.offset + q8.n_bytes], np.uint8).reshape(-1, 34)
    by_hand = blocks[:, :2].copy().view(np.float16).astype(np.float32) * blocks[:, 2:].view(np.int8)
    np.testing.assert_array_equal(weights["model.layers.0.self_attn.v_proj.weight"], by_hand.reshape(q8.shape))


def test_the_folder_says_what_the_file_says(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = converted(tiny_gguf(tmp_path / "m.gguf", "llama"), tmp_path / "hf")
    config = json.loads((folder / "config.json").read_text())
    assert config["rms_norm_eps"] == 1e-5
    assert config["tie_word_embeddings"] and "quantization_config" not in config
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.eos_token == "<|end|>" and tokenizer.bos_token == "<|bos|>"
    ids = tokenizer.apply_chat_template([{"role": "user", "content": "the"}], return_dict=False)
    assert ids == [257, 260]
    assert tokenizer.decode([116, 104, 256], skip_special_tokens=True) == "th"
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [256]


def test_progress_ends_at_the_whole(tmp_path: Path) -> None:
    seen = []
    (tmp_path / "hf").mkdir()
    path = tiny_gguf(tmp_path / "m.gguf", "llama")
    gguf_to_hf.convert(path, tmp_path / "hf", lambda note, done=None, total=None, unit="": seen.append((done, total)))
    counted = [(done, total) for done, total in seen if total]
    assert counted == sorted(counted) and counted[0][0] == 0 and counted[-1][0] == counted[-1][1]
    assert counted[-1][1] < (tmp_path / "hf" / "model.safetensors").stat().st_size < gguf_to_hf.output_bytes(path)


WHOLE = "zqzqzq"  # a token that no merge makes


@pytest.mark.parametrize("rule", sorted(word_rules._RULE))
def test_splitting_rules_give_the_ids_of_llama_cpp(rule: str, tmp_path: Path) -> None:
    """With merges learned across all boundaries, a text cut at another place gets other ids."""
    import gguf
    from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    learner = Tokenizer(models.BPE())
    learner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    trainer = trainers.BpeTrainer(
        vocab_size=900, initial_alphabet=from_gguf.byte_alphabet(), show_progress=False, min_frequency=1
    )
    learner.train_from_iterator((text for text in TEXTS if "<|" not in text), trainer)
    learned = json.loads(learner.to_str())["model"]
    tokens = [*sorted(learned["vocab"], key=learned["vocab"].get), WHOLE, "<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_context_length(64)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([1] * (len(tokens) - 3) + [3] * 3)
    writer.add_token_merges([" ".join(pair) for pair in learned["merges"]])
    writer.add_eos_token_id(len(tokens) - 1)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    from_gguf.write(gguf_file.read(tmp_path / "v.gguf").metadata, tmp_path)
    tokenizer = PreTrainedTokenizerFast.from_pretrained(tmp_path)
    texts = (*TEXTS, WHOLE, "b\u3000z")
    ids = [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert ids == vocabulary_of_gguf(tmp_path / "v.gguf", texts).ids
    assert [tokenizer.decode(i) for i in ids] == list(texts)
    assert sum(map(len, ids)) < sum(len(text.encode()) for text in TEXTS) - 50


@pytest.mark.parametrize("kind", [3, 1])  # control tokens, and plain ones of such names
@pytest.mark.parametrize("name", ["", "Phi-3 mini", "Phi3"])  # by which llama.cpp tells whose marks take spaces away
def test_sentencepiece_vocabulary_gives_the_ids_of_llama_cpp(name: str, kind: int, tmp_path: Path) -> None:
    import gguf
    from transformers import AutoTokenizer

    pieces = ["▁", "t", "h", "e", "▁t", "he", "▁the", "▁▁", "ca", "c", "a", "at", "▁ca", "▁cat", "é"]
    marks = ["<|x|>", "<|endoftext|>", "<|end|>", "<PRE>", "<|fim_middle|>", "<|channel|>"]
    tokens = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256)), *pieces, *marks]
    writer = gguf.GGUFWriter(tmp_path / "v.gguf", "llama")
    writer.add_context_length(64)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(tokens)
    writer.add_token_scores([0.0] * 259 + [-float(i) for i in range(len(pieces))] + [0.0] * len(marks))
    writer.add_token_types([2, 3, 3] + [6] * 256 + [1] * len(pieces) + [4] + [kind] * 5)
    writer.add_string("general.name", name)
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_unk_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()

    header = gguf_file.read(tmp_path / "v.gguf")
    from_gguf.write(header.metadata, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    texts = (
        "the cat",
        "  the  at",
        "tehe é ü 語",
        "a<|x|>the cat</s> the",
        "héat\n",
        " the ".join([*marks, "<s>", ""]),
    )
    for text, theirs in zip(texts, vocabulary_of_gguf(tmp_path / "v.gguf", texts).ids, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == theirs, text
        assert tokenizer.encode(text) == [1, *ids]
    assert tokenizer.decode(tokenizer.encode("the cat", add_special_tokens=False)) == "the cat"


def test_byte_tokenizer_round_trip_and_small_vocabularies(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    from_gguf.write_bytes(300, tmp_path)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    ids = tokenizer.encode("Grüße, 世界\n\x00", add_special_tokens=False)
    assert ids == list("Grüße, 世界\n\x00".encode())
    assert tokenizer.decode(ids) == "Grüße, 世界\n\x00"
    assert tokenizer.decode([72, 299]) == "H⟨299⟩"
    from_gguf.write_bytes(100, tmp_path)
    small = AutoTokenizer.from_pretrained(tmp_path)
    assert max(small.encode("AZaz", add_special_tokens=False)) < 100


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"general.architecture": "rwkv7"}, "architecture 'rwkv7'"),
        ({"tokenizer.ggml.pre": "martian"}, "'martian'"),
        ({"tokenizer.ggml.model": "rwkv"}, "kind 'rwkv'"),
        ({"tokenizer.ggml.model": "none", "tokenizer.ggml.tokens": None}, "comes without a tokenizer"),
        ({"qwen3.attention.head_count": None}, "lacks 'qwen3.attention.head_count'"),
        ({"qwen3.rope.scaling.type": "longrope", "qwen3.rope.scaling.factor": 2.0}, "'longrope'"),
        ({"qwen3.block_count": 3}, "says 3 blocks, but holds the tensors of 2"),
        ({"qwen3.block_count": 1}, "says 1 blocks, but holds the tensors of 2"),
        ({"qwen3.feed_forward_length": 128}, "has shape"),
    ],
)
def test_what_is_not_understood_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", "qwen3")
    header = gguf_file.read(path)
    metadata = {k: v for k, v in (header.metadata | change).items() if v is not None}
    monkeypatch.setattr(gguf_file, "read", lambda _: gguf_file.GgufFile(header.paths, metadata, header.tensors))
    with pytest.raises(ExplorerError, match=words) as caught:
        gguf_to_hf.convert(path, tmp_path, silent)
    assert caught.value.hint


def test_header_agrees_with_the_gguf_package(tmp_path: Path) -> None:
    import gguf

    assert {int(k): v for k, v in gguf.GGML_QUANT_SIZES.items()} == {
        k: (block, n) for k, (_, block, n) in gguf_file.TYPES.items()
    }
    path = tiny_gguf(tmp_path / "m.gguf", "gemma3", quantized=True)
    ours, theirs = gguf_file.read(path), gguf.GGUFReader(path)
    assert [(t.name, t.offset, t.n_bytes, t.type_name) for t in ours.tensors] == [
        (t.name, t.data_offset, t.n_bytes, t.tensor_type.name) for t in theirs.tensors
    ]
    fields = {k: f.contents() for k, f in theirs.fields.items() if not k.startswith("GGUF.")}
    assert ours.metadata == fields


@pytest.mark.model
def test_embedded_model_tokens_and_answer() -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded("hf")[1]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    question = [{"role": "user", "content": "What is the capital of France?"}]
    chat = tokenizer.apply_chat_template(question, add_generation_prompt=True, tokenize=False)
    assert chat.endswith("<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n")
    texts = (*TEXTS, chat)
    for text, theirs in zip(texts, vocabulary_of_gguf(Path(embedded("gguf")[1]), texts).ids, strict=True):
        ids = tokenizer.encode(text, add_special_tokens=False)
        assert ids == theirs, text
        assert tokenizer.decode(ids) == text

    model = AutoModelForCausalLM.from_pretrained(folder)
    prompt = tokenizer(chat, return_tensors="pt", add_special_tokens=False)
    answer = model.generate(**prompt, max_new_tokens=16, do_sample=False)[0, prompt["input_ids"].shape[1] :]
    assert tokenizer.decode(answer, skip_special_tokens=True) == "The capital of France is Paris."
