"""What a folder says of its model's text: which tokenizer is read, its templates, its ends. No engine is loaded."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from core.backends.onnxruntime.text import Text
from core.models.token_counter import counter
from core.tokenizers.folder import (
    additions,
    chat_templates,
    end_ids,
    is_changed,
    is_tiktoken,
    named,
    named_tokens,
    read_json,
    template_warnings,
    tokenizer_file,
)
from core.tokenizers.library import library_tokenizer
from core.types import ModelSpec
from hardware.errors import ExplorerError

FORMS = {
    "tekken.json": (b'{"config": {}}', "tekken"),
    "tiktoken.model": (b"AA== 0\n", "tiktoken"),
    "cl100k_base.tiktoken": (b"AA== 0\n", "tiktoken"),
    "tokenizer.model": (b"AA== 0\nAQ== 1\n", "tiktoken"),
    "spiece.model": (b"<!doctype html><html>404</html>", "no SentencePiece model"),
    "merges.txt": (b"#version: 0.2\nh e\n", "merges"),
    "vocab.json": (b'{"h": 0}', "merges"),
    "tokenizer.json": (b"version https://git-lfs.github.com/spec/v1\noid sha256:1\n", "pointer"),
}


@pytest.mark.parametrize("name", FORMS)
def test_a_form_that_is_not_read_is_refused_with_its_file(name: str, tmp_path: Path) -> None:
    content, what = FORMS[name]
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ExplorerError, match=f"{name} is .*{what}") as refused:
        tokenizer_file(tmp_path)
    assert refused.value.message.count(".") - name.count(".") == 1 and "tokenizer.json" in refused.value.hint


def test_what_is_read_is_chosen_before_what_is_not(tmp_path: Path) -> None:
    assert tokenizer_file(tmp_path) is None
    (tmp_path / "tekken.json").write_bytes(b"{}")
    (tmp_path / "tokenizer.model").write_bytes(b"\n\x0e\n\x05<unk>")  # SentencePiece
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.model"
    (tmp_path / "tokenizer.model").unlink()
    (tmp_path / "tekken.json").write_text('{"config": {}, "vocab": [], "special_tokens" : []}')
    assert tokenizer_file(tmp_path) == tmp_path / "tekken.json"
    (tmp_path / "tokenizer.json").write_text("{}")
    assert tokenizer_file(tmp_path) == tmp_path / "tokenizer.json"


@pytest.mark.parametrize(
    ("name", "kind", "read"),
    [
        ("tokenizer.model", "llama", True),
        ("tiktoken.model", "llama", True),
        ("qwen.tiktoken", "qwen", True),
        ("tiktoken.model", "kimi_k2", True),
        ("tiktoken.model", "deepseek_v3", True),  # Moonlight
        ("tiktoken.model", "mistral", False),
        ("tokenizer.model", "chatglm", True),
        ("tokenizer.model", "mistral", False),
        ("hy.tiktoken", "hunyuan_v1_moe", True),
        ("cl100k_base.tiktoken", "llama", False),
    ],
)
def test_a_tiktoken_vocabulary_is_read_where_its_family_is_known(
    name: str, kind: str, read: bool, tmp_path: Path
) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    (tmp_path / name).write_bytes(b"AA== 0\nAQ== 1\n")
    if read:
        assert tokenizer_file(tmp_path) == tmp_path / name and is_tiktoken(tmp_path / name)
        return
    with pytest.raises(ExplorerError, match="does not say how a text is cut into words"):
        tokenizer_file(tmp_path)


def test_templates_are_found_in_all_their_places(tmp_path: Path) -> None:
    listed = [{"name": "default", "template": "D"}, {"name": "tool_use", "template": "T"}]
    assert chat_templates(tmp_path, {}) == {}
    assert chat_templates(tmp_path, {"chat_template": "D"}) == {"default": "D"}
    assert chat_templates(tmp_path, {"chat_template": listed}) == {"default": "D", "tool_use": "T"}
    assert named({"default": "D", "rag": "R"}) == {"default": "D", "rag": "R"} and named(None) == {}
    (tmp_path / "additional_chat_templates").mkdir()
    (tmp_path / "additional_chat_templates" / "tool_use.jinja").write_text("U")
    (tmp_path / "chat_template.jinja").write_text("F")
    assert chat_templates(tmp_path, {"chat_template": "D"}) == {"default": "F", "tool_use": "U"}
    assert not template_warnings({"default": "D", "rag": "R"}) and not template_warnings({})
    assert "rag" in template_warnings({"rag": "R"})[0]


def test_a_template_of_a_processor_counts_where_there_is_no_other(tmp_path: Path) -> None:
    (tmp_path / "chat_template.json").write_text(json.dumps({"chat_template": "P"}))
    assert chat_templates(tmp_path, {}) == {"default": "P"}
    assert chat_templates(tmp_path, {"chat_template": "D"}) == {"default": "D"}


def test_every_end_counts() -> None:
    class Config:
        eos_token_id = 3

    assert end_ids({"eos_token_id": [258, 41, 130]}, Config(), {"eos_token_id": None}, None) == {258, 41, 130, 3}
    odd = {"eos_token_id": ["2", 7.0, 0.5, True, "end", float("nan")]}
    assert end_ids({"eos_token_id": "12"}, odd) == {12, 2, 7}


def test_additions_are_what_stands_around_a_text() -> None:
    assert additions(lambda text, special: [1, 97, 2] if special else [97]) == ((1,), (2,))
    assert additions(lambda text, special: [97]) == ((), ())
    assert additions(lambda text, special: [5] if special else [97]) == ((), ())


def folder_with_tokenizer(folder: Path, single: str = "", **settings: Any) -> Path:
    """A byte-level tokenizer of 256 + 2 tokens, without weights. single: what its post-processor makes of a text."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors

    pieces = sorted(pre_tokenizers.ByteLevel.alphabet())
    inner = Tokenizer(models.BPE(vocab={piece: i for i, piece in enumerate(pieces)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.add_special_tokens(["<s>", "</s>"])
    if single:
        special = [("<s>", 256), ("</s>", 257)]
        inner.post_processor = processors.TemplateProcessing(single=single, special_tokens=special)
    folder.mkdir(exist_ok=True)
    inner.save(str(folder / "tokenizer.json"))
    written = {"bos_token": "<s>", "eos_token": {"content": "</s>"}, **settings}
    (folder / "tokenizer_config.json").write_text(json.dumps(written))
    return folder


def test_a_text_is_neither_cut_off_nor_filled_up(tmp_path: Path) -> None:
    """What a training or a sentence encoder left in tokenizer.json is of its own texts (tokenizers' issue 1151)."""
    file = folder_with_tokenizer(tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["truncation"] = {"direction": "Right", "max_length": 4, "strategy": "LongestFirst", "stride": 0}
    content["model"]["vocab"]["he"] = 258
    content["model"] |= {"merges": [["h", "e"]], "dropout": 1.0}
    content["padding"] = {
        "strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0, "pad_type_id": 0,
        "pad_token": "</s>",
    }  # fmt: skip
    file.write_text(json.dumps(content))
    n = len("hello there") - 2
    assert len(Text(tmp_path, spec_of(259)).encode("hello there")) == n, "and no merge is left to chance"
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert counter(str(tmp_path / "config.json"))("hello there") == n


def test_tokens_that_the_settings_alone_list_are_tokens(tmp_path: Path) -> None:
    """onnxruntime-extensions' pull request 890: transformers adds them, in order, behind the others."""
    listed = {str(i): {"content": text, "special": i == 258} for i, text in ((259, "<tool>"), (258, "<end>"))}
    listed["256"] = {"content": "<s>", "special": True}
    text = Text(folder_with_tokenizer(tmp_path, added_tokens_decoder=listed), spec_of(260))
    assert text.encode("a<tool><end><s>b")[1:-1] == [259, 258, 256] and text.decode([259, 258]) == "<tool>"
    odd = {"x": {"content": "<x>"}, "259": 5, "258": {"content": ""}, "-1": {}}
    text = Text(folder_with_tokenizer(tmp_path, added_tokens_decoder=odd), spec_of(260))
    assert len(text.encode("a<x>")) == 4


BESIDE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "additional": ({"additional_special_tokens": ["<tool>", "<end>"]}, {}),
    "extra": ({"extra_special_tokens": ["<tool>", "<end>"]}, {}),
    "extra, by a name of the model's own": ({"extra_special_tokens": {"boi": "<tool>", "end_token": "<end>"}}, {}),
    "extra, named": ({"extra_special_tokens": {"tool_token": "<tool>", "end_token": "<end>"}}, {}),
    "an end that the vocabulary lacks": ({"eos_token": "<tool>", "pad_token": "<end>"}, {}),
    "added_tokens.json": ({}, {"added_tokens.json": {"<end>": 259, "<tool>": 258}}),
    "special_tokens_map.json": ({"eos_token": None}, {"special_tokens_map.json": {"eos_token": "<tool>"}}),
    "split": ({"split_special_tokens": True}, {}),
}


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize("how", BESIDE)
def test_tokens_that_stand_beside_a_tokenizer_alone_are_tokens_as_in_transformers(how: str, tmp_path: Path) -> None:
    """Where fine-tuned models name their turn marks."""
    from transformers import AutoTokenizer

    settings, files = BESIDE[how]
    folder = folder_with_tokenizer(
        tmp_path, **{"tokenizer_class": "PreTrainedTokenizerFast", "eos_token": "</s>", **settings}
    )
    for name, content in files.items():
        (folder / name).write_text(json.dumps(content))
    theirs, ours = AutoTokenizer.from_pretrained(folder), Text(folder, spec_of(260))
    for text in ("a<tool><end><s>b", "x </s> y"):
        assert ours.encode(text) == theirs.encode(text, add_special_tokens=False)
    assert theirs.eos_token_id is None or theirs.eos_token_id in ours.eos_ids
    assert theirs.special_tokens_map == ours.special_tokens


@pytest.mark.engine("pytorch")
def test_a_token_that_is_special_beside_a_tokenizer_alone_is_no_text(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = folder_with_tokenizer(tmp_path, tokenizer_class="PreTrainedTokenizerFast", eos_token="</s>")
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token |= {"special": False, "rstrip": True}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    theirs, ours = AutoTokenizer.from_pretrained(folder), Text(folder, spec(False))
    ids = ours.encode("a<s> b</s>")
    assert ids == theirs.encode("a<s> b</s>", add_special_tokens=False)
    assert ours.decode(ids) == theirs.decode(ids, skip_special_tokens=True)


ODD: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "code of its own": ({"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}, {}),
    "a longest text in words": ({"model_max_length": "131072"}, {}),
    "tokens as objects without their type": ({"eos_token": {"content": "</s>", "lstrip": True}}, {}),
    "objects of an older release": ({}, {"additional_special_tokens": ["<tool>", {"content": "<end>"}]}),
}


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize("how", ODD)
def test_what_transformers_would_not_read_is_read_as_it_is_meant(how: str, tmp_path: Path) -> None:
    settings, older = ODD[how]
    folder = folder_with_tokenizer(tmp_path, **{"tokenizer_class": "PreTrainedTokenizerFast", **settings})
    (folder / "special_tokens_map.json").write_text(json.dumps(older))
    theirs, ours = library_tokenizer(folder), Text(folder, spec_of(260))
    text = "a<tool><end><s>b"
    assert theirs.encode(text, add_special_tokens=False) == ours.encode(text)
    assert 256 in ours.encode(text) and ours.decode(ours.encode(text)).startswith("a")


@pytest.mark.parametrize(
    ("settings", "config", "words", "changed"),
    [
        ({}, {}, None, False),
        ({"tokenizer_class": "PreTrainedTokenizerFast"}, {"model_type": "llama"}, None, False),
        ({"tokenizer_class": "LlamaTokenizer"}, {}, {"type": "Metaspace"}, True),
        ({}, {"model_type": "bert"}, {"type": "BertPreTokenizer"}, True),
        (
            {"tokenizer_class": "Qwen2Tokenizer"},
            {},
            {"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}]},
            False,
        ),
        ({"tokenizer_class": "GPT2Tokenizer", "add_prefix_space": True}, {}, {"type": "ByteLevel"}, True),
    ],
)
def test_what_a_class_may_change_of_a_tokenizer_is_known(
    settings: dict[str, Any], config: dict[str, Any], words: dict[str, Any] | None, changed: bool, tmp_path: Path
) -> None:
    contents = {"tokenizer_config": settings, "config": config, "tokenizer": {"pre_tokenizer": words}}
    for name, content in contents.items():
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    assert is_changed(tmp_path) == changed


def spec_of(vocab_size: int) -> ModelSpec:
    return msgspec.structs.replace(spec(False), vocab_size=vocab_size)


def spec(random_weights: bool) -> ModelSpec:
    return ModelSpec(
        name="m",
        architecture="llama",
        d_model=8,
        n_blocks=1,
        vocab_size=258,
        max_context=64,
        layers=(),
        random_weights=random_weights,
    )


@pytest.mark.parametrize(
    ("given", "opening", "closing"),
    [
        ({}, (), ()),
        ({"single": "<s> $A"}, (256,), ()),
        ({"single": "<s> $A", "add_bos_token": False}, (256,), ()),
        ({"add_bos_token": True}, (), ()),
        ({"single": "<s> $A </s>"}, (256,), (257,)),
        ({"single": "$A </s>"}, (), (257,)),
    ],
)
def test_what_a_tokenizer_adds_to_a_text(
    given: dict[str, Any], opening: tuple[int, ...], closing: tuple[int, ...], tmp_path: Path
) -> None:
    text = Text(folder_with_tokenizer(tmp_path, **given), spec(False))
    assert (text.opening, text.closing) == (opening, closing)
    assert len(text.encode("hello")) == 5, "encode itself adds nothing"


def test_real_weights_never_run_on_stand_in_tokens(tmp_path: Path) -> None:
    text = Text(tmp_path, spec(False))
    with pytest.raises(ExplorerError, match=f"{tmp_path.name} comes without a tokenizer") as refused:
        text.encode("hello")
    assert "prompt tokens" in refused.value.hint and text.decode([7, 300]) == "⟨7⟩⟨300⟩" and not text.warnings
    free = Text(tmp_path, spec(True))
    assert free.decode(free.encode("Grüße")) == "Grüße" and "tokenizer.json" in free.warnings[0]
    (tmp_path / "tekken.json").write_text("{}")
    with pytest.raises(ExplorerError, match=r"tekken\.json"):
        Text(tmp_path, spec(True))


def test_damaged_json_is_a_sentence(tmp_path: Path) -> None:
    assert read_json(tmp_path / "none.json") == {}
    for content, words in {
        b"{": r"bad\.json in .* is not valid JSON \(line 1: ",
        b'{\n"a": 1,\n}': r"is not valid JSON \(line 3: ",
        b"[" * 100_000: "is not valid JSON",
        '{"a": 1}'.encode("utf-16"): "is no UTF-8 text",
        b"[]": "holds no JSON object",
        b'\xef\xbb\xbf{"a": 1}': "begins with a byte order mark",
    }.items():
        (tmp_path / "bad.json").write_bytes(content)
        with pytest.raises(ExplorerError, match=words):
            read_json(tmp_path / "bad.json")


def test_parts_of_a_tokenizer_that_contradict_one_another_are_a_sentence(tmp_path: Path) -> None:
    """tokenizers panics, which is no Exception of Python's."""
    file = folder_with_tokenizer(tmp_path) / "tokenizer.json"
    content = json.loads(file.read_text())
    content["model"]["vocab"]["he"] = 258
    content["model"] |= {"merges": [["h", "e"]], "continuing_subword_prefix": "####"}
    file.write_text(json.dumps(content))
    with pytest.raises(ExplorerError, match=r"tokenizer\.json in .* cannot be read: its parts contradict"):
        Text(tmp_path, spec_of(259))


def test_a_token_behind_the_models_table_is_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match=r"adds to every text a token \(257\) behind the 257"):
        Text(folder_with_tokenizer(tmp_path, "$A </s>"), spec_of(257))
    text = Text(folder_with_tokenizer(tmp_path), spec_of(257))
    assert text.encode("a<s>")[-1] == 256
    with pytest.raises(ExplorerError, match="behind the 257 that m knows"):
        text.encode("a</s>")


def test_a_template_that_is_no_text_is_a_sentence(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_bytes(b"\xff{{ messages }}")
    with pytest.raises(ExplorerError, match=r"chat_template\.jinja .* no UTF-8"):
        chat_templates(tmp_path, {})


def test_special_tokens_of_older_folders(tmp_path: Path) -> None:
    (tmp_path / "special_tokens_map.json").write_text(json.dumps({"bos_token": {"content": "<b>"}, "pad_token": "<p>"}))
    settings = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": None, "add_bos_token": True}
    assert named_tokens(tmp_path, settings) == {"bos_token": "<b>", "eos_token": "</s>", "pad_token": "<p>"}
    listed = {**settings, "added_tokens_decoder": {}}
    assert named_tokens(tmp_path, listed) == {"bos_token": "<s>", "eos_token": "</s>"}
    own = {"added_tokens_decoder": {}, "extra_special_tokens": {"boi": {"content": "<i>"}, "image_token": "<image>"}}
    assert named_tokens(tmp_path, own) == {"boi": "<i>", "image_token": "<image>"}


@pytest.mark.parametrize("name", ["rwkv_vocab_v20230424.txt", "tokenization_own.py"])
def test_a_tokenizer_of_ones_own_code_is_named(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("x")
    with pytest.raises(ExplorerError, match=name.replace(".", r"\.")):
        tokenizer_file(tmp_path)
