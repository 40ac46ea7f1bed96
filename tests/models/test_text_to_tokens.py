"""A text is the same tokens in every backend, with what the model's own tokenizer adds, and the same ids end it.

The Hugging Face folder is read by transformers, the GGUF that is made of it by llama.cpp, the ONNX folder by ours.
"""

from __future__ import annotations

import base64
import io
import json
from pathlib import Path
from typing import Any

import pytest

from core import library_tokenizer, plugins
from core.backends.onnxruntime.text import Text
from core.errors import ExplorerError
from core.models import gguf_file, gguf_tokenizer, hf_to_gguf
from core.models import spec as specs
from core.models.templates import templates_of
from core.types import ModelEntry, Request, chat_templates, opened, raw, special_tokens
from tests.support import elsewhere
from tests.support.gguf_models import tiny_gguf
from tests.support.progress import silent
from tests.support.tiny import hf_folder

pytestmark = pytest.mark.engine("pytorch")

TEXTS = ("hello", "the theater, 3.14 and é", "")


def said(backend: str, path: Path, fmt: str, texts: tuple[str, ...]) -> dict[str, Any]:
    """What an opened session makes of texts."""
    return elsewhere.call(backend, _said, backend, str(path), fmt, texts)


def _said(backend: str, path: str, fmt: str, texts: tuple[str, ...]) -> dict[str, Any]:
    request = Request(model="x", backend=backend, threads=1)
    session = plugins.get("backend", backend).open(path, specs.read(path, fmt), request, silent)
    found = {
        "raw": [raw(session, text) for text in texts],
        "ids": [session.encode(text) for text in texts],
        "special": special_tokens(session),
        "opened": [opened(session, text) for text in texts],
        "around": (session.opening, session.closing),
        "ends": session.eos_ids,
        "template": session.chat_template,
        "templates": dict(chat_templates(session)),
    }
    session.close()
    return found


def in_both(folder: Path, texts: tuple[str, ...] = TEXTS) -> tuple[dict[str, Any], dict[str, Any]]:
    path = folder.parent / "m.gguf"
    hf_to_gguf.convert(folder, path, "Tiny", silent)
    return said("pytorch", folder, "hf", texts), said("llama_cpp", path, "gguf", texts)


def change(file: Path, **values: Any) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


BOS, END, START = 261, 262, 263  # <|endoftext|>, <|im_end|>, <|im_start|> of the tiny model


def adding(folder: Path, *pieces: str) -> Path:
    """The folder with a tokenizer that makes these pieces of a text, which is "A"."""
    ids = {"<|endoftext|>": BOS, "<|im_end|>": END}
    single = [{"SpecialToken" if p in ids else "Sequence": {"id": p, "type_id": 0}} for p in pieces]
    tokens = {p: {"id": p, "ids": [ids[p]], "tokens": [p]} for p in pieces if p in ids}
    kind = {"type": "TemplateProcessing", "single": single, "pair": single, "special_tokens": tokens}
    change(folder / "tokenizer.json", post_processor=kind)
    return folder


@pytest.mark.parametrize(
    ("pieces", "around"),
    [
        (("A",), ((), ())),
        (("<|endoftext|>", "A"), ((BOS,), ())),
        (("<|endoftext|>", "A", "<|im_end|>"), ((BOS,), (END,))),
    ],
)
def test_bos_and_eos_are_added_to_a_text_as_transformers_adds_them(
    pieces: tuple[str, ...], around: tuple[tuple[int, ...], tuple[int, ...]], tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = adding(hf_folder(tmp_path), *pieces)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    twice = "<|endoftext|>hello"
    here, there = in_both(folder, (*TEXTS, twice))
    assert here["around"] == around and there["around"] == around
    assert here["raw"][:2] == there["raw"][:2] == [tokenizer.encode(text) for text in TEXTS[:2]]
    assert here["opened"] == there["opened"] and here["opened"][2] == list(around[0])
    assert here["raw"][3] == [BOS, *here["opened"][0][len(around[0]) :], *around[1]], "never twice"
    text = Text(folder, specs.read(folder, "hf"))
    assert (text.opening, text.closing) == around


def test_every_end_is_an_end_in_every_backend(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    change(folder / "generation_config.json", eos_token_id=[START, 41, 130, 77])
    here, there = in_both(folder)
    ends = {START, 41, 130, 77, END}
    assert here["ends"] == there["ends"] == ends
    assert Text(folder, specs.read(folder, "hf")).eos_ids == ends


@pytest.mark.parametrize("kind", [3, 1])  # control tokens, and plain ones of such names
def test_the_ends_of_a_gguf_are_those_of_llama_cpp(kind: int, tmp_path: Path) -> None:
    between = ["<|fim_pad|>", "<|repo_name|>", "<|file_sep|>"]
    names = sorted({*gguf_tokenizer._END_OF_TURN, *between} - {"<turn|>"})
    path = tiny_gguf(tmp_path / "m.gguf", "llama", names=names, kind=kind)
    theirs = said("llama_cpp", path, "gguf", ("hello",))["ends"]
    from core.models import gguf_file

    metadata = gguf_file.read(path).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    ours = set(gguf_tokenizer._end_ids(metadata, tokens))
    assert {tokens[i] for i in ours} == {tokens[i] for i in theirs} and len(ours) > len(names) // 2


def test_named_templates_are_one_template_in_every_backend(tmp_path: Path) -> None:
    from transformers import AutoTokenizer

    folder = hf_folder(tmp_path)
    default = (folder / "chat_template.jinja").read_text()
    listed = [{"name": "default", "template": default}, {"name": "tool_use", "template": "TOOL"}]
    change(folder / "tokenizer_config.json", chat_template=listed)
    (folder / "chat_template.jinja").unlink()
    here, there = in_both(folder)
    text = Text(folder, specs.read(folder, "hf"))
    assert here["template"] == there["template"] == text.chat_template == default
    assert here["templates"] == there["templates"] == text.chat_templates == {"default": default, "tool_use": "TOOL"}
    path = folder.parent / "m.gguf"
    for fmt, place in (("hf", folder), ("gguf", path)):
        entry = ModelEntry(id="m", label="m", family="local", files={fmt: str(place)})
        assert templates_of(entry) == here["templates"]
    back = tmp_path / "back"
    back.mkdir()
    gguf_tokenizer.write(gguf_file.read(path).metadata, back)
    assert AutoTokenizer.from_pretrained(back).chat_template == here["templates"], (
        "and in the folder that is made of it"
    )


def sentencepiece_folder(tmp_path: Path) -> Path:
    """The tiny model with a genuine SentencePiece file for its only tokenizer."""
    import sentencepiece

    folder, model = hf_folder(tmp_path), io.BytesIO()
    words = ["the cat sat on the mat", "hello there, the theater in an inn", "a tree by the sea", "é ü 3.14"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(words),
        model_writer=model,
        vocab_size=310,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
        num_threads=1,
    )
    for file in ("tokenizer.json", "special_tokens_map.json"):
        (folder / file).unlink(missing_ok=True)
    (folder / "tokenizer.model").write_bytes(model.getvalue())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"legacy": False, "add_bos_token": True}))
    change(folder / "config.json", bos_token_id=1, eos_token_id=2, pad_token_id=None)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    return folder


def test_a_sentencepiece_file_alone_is_read(tmp_path: Path) -> None:
    import sentencepiece

    folder = sentencepiece_folder(tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = ("hello", "the cat, 3.14", "é 語 and\nthe rest")
    here, there = in_both(folder, texts)
    assert here["around"] == there["around"] == ((1,), ())
    assert here["raw"] == there["raw"] == [[1, *own.encode(text)] for text in texts]


TEKKEN_WORDS = ("he", "ll", "hell", "hello", " t", "th", " th", " the")
TEKKEN_MARKS = ("<unk>", "<s>", "</s>", "[INST]", "[/INST]")


def tekken_folder(tmp_path: Path) -> Path:
    """The tiny model with Mistral's tekken.json for its only tokenizer: five marks, 256 bytes, eight words."""
    folder = hf_folder(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    words = [bytes([i]) for i in range(256)] + [word.encode() for word in TEKKEN_WORDS]
    n_marks, n_rows = len(TEKKEN_MARKS), len(TEKKEN_MARKS) + len(words)
    content = {
        "config": {
            "pattern": gguf_tokenizer._LLAMA3,
            "num_vocab_tokens": len(words),
            "default_vocab_size": n_rows,
            "default_num_special_tokens": n_marks,
            "version": "v11",
        },
        "vocab": [
            {"rank": i, "token_bytes": base64.b64encode(word).decode(), "token_str": None}
            for i, word in enumerate(words)
        ],
        "special_tokens": [{"rank": i, "token_str": t, "is_control": True} for i, t in enumerate(TEKKEN_MARKS)],
    }
    (folder / "tekken.json").write_text(json.dumps(content))
    (folder / "chat_template.jinja").write_text("{{ bos_token }}[INST]{{ messages[-1]['content'] }}[/INST]")
    change(folder / "config.json", bos_token_id=1, eos_token_id=2, pad_token_id=None)
    (folder / "generation_config.json").write_text(json.dumps({"bos_token_id": 1, "eos_token_id": 2}))
    return folder


def test_a_tekken_file_is_read(tmp_path: Path) -> None:
    """Ids counted by hand: a byte is 5 + byte, the n-th word 5 + 256 + n; <s> stands before a text, and never twice."""
    folder = tekken_folder(tmp_path)
    texts = ("hello the", "hé", "<s>[INST]hello[/INST]", "7 1")
    hello, the = 5 + 256 + 3, 5 + 256 + 7
    ids = [[hello, the], [5 + 104, 5 + 0xC3, 5 + 0xA9], [1, 3, hello, 4], [5 + 55, 5 + 32, 5 + 49]]
    here, there = in_both(folder, texts)
    assert here["ids"] == there["ids"] == ids
    assert here["around"] == there["around"] == ((1,), ())
    assert here["raw"] == there["raw"] == [[1, *ids[0]], [1, *ids[1]], ids[2], [1, *ids[3]]]
    assert here["ends"] == there["ends"] == {2} and here["template"] == there["template"]
    assert here["special"] == {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    made = tmp_path / "onnx"
    made.mkdir()
    library_tokenizer.save(folder, made)
    text = Text(made, specs.read(folder, "hf"))
    assert [text.encode(t) for t in texts] == ids and text.opening == (1,) and text.decode(ids[1]) == "hé"


@pytest.mark.parametrize("how", ["cut", "html"])
def test_a_damaged_sentencepiece_file_is_called_so(how: str, tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path)
    file = folder / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:-200] if how == "cut" else b"<!doctype html><html>no such file</html>")
    with pytest.raises(ExplorerError, match=r"tokenizer\.model is (cut off or damaged|no SentencePiece model)") as said:
        library_tokenizer.library_tokenizer(folder)
    assert "tiktoken" not in said.value.message and "tokenizer.json" in said.value.hint


def listed(folder: Path, **settings: Any) -> Path:
    """The folder with these entries in its tokenizer_config.json and, as older folders have it, no list of tokens."""
    file = folder / "tokenizer_config.json"
    kept = json.loads(file.read_text())
    file.write_text(json.dumps({k: v for k, v in kept.items() if k != "added_tokens_decoder"} | settings))
    return folder


def stripping(folder: Path) -> Path:
    """Its turn marks take the spaces behind them away, as Phi-3's do, and its end those before it."""
    content = json.loads((folder / "tokenizer.json").read_text())
    for token in content["added_tokens"]:
        token |= {"rstrip": token["content"] == "<|im_start|>", "lstrip": token["content"] == "<|im_end|>"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return listed(folder)


def misnamed(folder: Path) -> Path:
    """It names a class of another kind than its tokenizer.json, as DeepSeek-R1-Distill-Llama does."""
    return listed(folder, tokenizer_class="LlamaTokenizerFast")


def twofold(folder: Path) -> Path:
    """Its tokenizer puts two tokens before a text, as GLM-4's does."""
    return adding(folder, "<|endoftext|>", "<|im_end|>", "A")


def mapped(folder: Path) -> Path:
    """Its special tokens are in special_tokens_map.json alone."""
    listed(folder)
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    kept = {k: v for k, v in settings.items() if not k.endswith("_token") and "special" not in k}
    (folder / "tokenizer_config.json").write_text(json.dumps(kept))
    marks = {"bos_token": {"content": "<|endoftext|>", "lstrip": False}, "eos_token": "<|im_end|>", "unk_token": "h"}
    (folder / "special_tokens_map.json").write_text(json.dumps(marks))
    return folder


def nameless(folder: Path) -> Path:
    """Its tokenizer names no BOS, and its config.json has the id of one."""
    return listed(folder, bos_token=None)


ODD = {f.__name__: f for f in (stripping, misnamed, twofold, mapped, nameless)}
SPACED = "<|im_start|> user\n hi  <|im_end|>\n x"


@pytest.mark.parametrize("how", ODD)
def test_an_odd_folder_reads_and_renders_alike_in_every_backend(how: str, tmp_path: Path) -> None:
    from transformers import PreTrainedTokenizerFast

    folder = ODD[how](hf_folder(tmp_path))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(folder)
    texts = (*TEXTS[:2], SPACED)
    here, there = in_both(folder, texts)
    assert here["ids"] == there["ids"] == [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert here["raw"] == there["raw"] and here["around"] == there["around"]
    assert here["special"] == there["special"] == tokenizer.special_tokens_map
    made = tmp_path / "onnx"
    made.mkdir()
    library_tokenizer.save(folder, made)
    text = Text(made, specs.read(folder, "hf"))
    assert [text.encode(t) for t in texts] == here["ids"] and text.special_tokens == here["special"]
    assert (text.opening, text.closing) == here["around"]
    back = tmp_path / "back"
    back.mkdir()
    gguf_tokenizer.write(gguf_file.read(folder.parent / "m.gguf").metadata, back)
    again = PreTrainedTokenizerFast.from_pretrained(back)
    assert [again.encode(t) for t in texts] == [tokenizer.encode(t) for t in texts]
    assert again.special_tokens_map == here["special"]


@pytest.mark.parametrize("legacy", [True, False])
def test_a_space_in_front_of_a_text_stands_behind_no_mark_unless_the_tokenizer_puts_it_there(
    legacy: bool, tmp_path: Path
) -> None:
    from transformers import AutoTokenizer

    folder = sentencepiece_folder(tmp_path)
    change(folder / "tokenizer_config.json", legacy=legacy)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    texts = ("the cat", "<s>the cat</s> the", "<s> the cat", "x<s>the")
    here, there = in_both(folder, texts)
    assert here["ids"] == there["ids"] == [tokenizer.encode(text, add_special_tokens=False) for text in texts]


def test_a_file_without_a_vocabulary_reads_no_text(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", "llama", ints={"vocab_size": 261})
    path.write_bytes(path.read_bytes().replace(b"gpt2", b"none"))
    assert "comes without a tokenizer" in elsewhere.call("llama_cpp", _refusal, str(path))


def _refusal(path: str) -> str:
    request = Request(model="x", backend="llama_cpp", threads=1)
    session = plugins.get("backend", "llama_cpp").open(path, specs.read(path, "gguf"), request, silent)
    try:
        session.encode("hello")
    except ExplorerError as error:
        return error.message + session.decode([7])
    finally:
        session.close()
    return ""


def test_what_anybody_wrote_under_our_keys_harms_nothing(tmp_path: Path) -> None:
    path = tiny_gguf(tmp_path / "m.gguf", "llama")
    metadata = gguf_file.read(path).metadata
    said = {gguf_tokenizer.END_IDS: "x,", gguf_tokenizer.NAMED: "{", gguf_tokenizer.AROUND: "[[900], [1.5]]"}
    gguf_tokenizer.write(metadata | said, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    gguf_tokenizer.write(metadata, tmp_path)
    assert written == json.loads((tmp_path / "tokenizer_config.json").read_text())
