"""A text is the same tokens in every backend, with what the model's own tokenizer adds, and the same ids end it.

The Hugging Face folder is read by transformers, the GGUF that is made of it by llama.cpp, the ONNX folder by ours.
"""

from __future__ import annotations

import base64
import io
import itertools
import json
import random
from pathlib import Path
from typing import Any

import pytest

from core import plugins
from core.backends.onnxruntime.text import Text
from core.models import gguf_file, hf_to_gguf
from core.models import spec as specs
from core.models.templates import templates_of
from core.tokenizers import from_gguf, library, word_rules
from core.types import ModelEntry, Request, chat_templates, opened, raw, special_tokens
from hardware.errors import ExplorerError
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
        "shown": [session.decode(session.encode(text)) for text in texts],
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
    names = sorted({*from_gguf._END_OF_TURN, *between} - {"<turn|>"})
    path = tiny_gguf(tmp_path / "m.gguf", "llama", names=names, kind=kind)
    theirs = said("llama_cpp", path, "gguf", ("hello",))["ends"]
    from core.models import gguf_file

    metadata = gguf_file.read(path).metadata
    tokens = metadata["tokenizer.ggml.tokens"]
    ours = set(from_gguf._end_ids(metadata, tokens))
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
    from_gguf.write(gguf_file.read(path).metadata, back)
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


def test_a_sentencepiece_file_alone_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import sentencepiece

    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    folder = sentencepiece_folder(tmp_path)
    own = sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))
    texts = ("hello", "the cat, 3.14", "é 語 and\nthe rest")
    here, there = in_both(folder, texts)
    assert here["around"] == there["around"] == ((1,), ())
    assert here["raw"] == there["raw"] == [[1, *own.encode(text)] for text in texts]
    for _ in range(2):  # made by transformers elsewhere, then kept
        text = Text(folder, specs.read(folder, "hf"))
        assert [text.encode(t) for t in texts] == here["ids"] and text.opening == (1,)
        monkeypatch.setattr("core.tokenizers.library.Child", None)


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
            "pattern": word_rules._LLAMA3,
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
    library.save(folder, made)
    text = Text(made, specs.read(folder, "hf"))
    assert [text.encode(t) for t in texts] == ids and text.opening == (1,) and text.decode(ids[1]) == "hé"


N_WORDS = 256 + len(TEKKEN_WORDS)  # of the tiktoken vocabulary below: every byte, then eight words


def tiktoken_lines(words: list[bytes]) -> bytes:
    return b"".join(base64.b64encode(word) + b" %d\n" % rank for rank, word in enumerate(words))


def tiktoken_folder(tmp_path: Path, name: str, **config: Any) -> Path:
    """The tiny model of 320 rows with a tiktoken vocabulary for its only tokenizer: 256 bytes, eight words."""
    folder = hf_folder(tmp_path)
    for file in folder.glob("tokenizer*"):
        file.unlink()
    (folder / "special_tokens_map.json").unlink(missing_ok=True)
    words = [bytes([i]) for i in range(256)] + [word.encode() for word in TEKKEN_WORDS]
    (folder / name).write_bytes(tiktoken_lines(words))
    change(folder / "config.json", bos_token_id=N_WORDS, eos_token_id=N_WORDS + 1, pad_token_id=None, **config)
    (folder / "generation_config.json").write_text(json.dumps({"eos_token_id": N_WORDS + 1}))
    return folder


def in_all(folder: Path, texts: tuple[str, ...]) -> list[list[int]]:
    """The ids of texts, which are the same in PyTorch, llama.cpp and ONNX Runtime."""
    here, there = in_both(folder, texts)
    assert here["ids"] == there["ids"] and here["around"] == there["around"] and here["raw"] == there["raw"]
    assert here["special"] == there["special"] and here["ends"] == there["ends"] >= {N_WORDS + 1}
    made = folder.parent / "onnx"
    made.mkdir()
    library.save(folder, made)
    text = Text(made, specs.read(folder, "hf"))
    assert [text.encode(t) for t in texts] == here["ids"] and (text.opening, text.closing) == here["around"]
    found: list[list[int]] = here["ids"]
    return found


HELLO, THE = 256 + 3, 256 + 7  # "hello" and " the" by their ranks


@pytest.mark.parametrize("scaled", [False, True])
def test_llama_3s_tiktoken_file_is_read(scaled: bool, tmp_path: Path) -> None:
    """Meta's 256 special tokens stand behind the words: BOS is the first, <|eot_id|> the tenth."""
    rope = {"rope_type": "llama3", "rope_theta": 10000.0, "factor": 8.0, "low_freq_factor": 1.0,
            "high_freq_factor": 4.0, "original_max_position_embeddings": 32}  # fmt: skip
    folder = tiktoken_folder(tmp_path, "tokenizer.model", **({"rope_parameters": rope} if scaled else {}))
    eom = "<|eom_id|>" if scaled else "<|reserved_special_token_4|>"
    texts = ("hello the", "hé 7", f"<|begin_of_text|><|start_header_id|>hello{eom}<|eot_id|>")
    bos = N_WORDS
    ids = [[HELLO, THE], [104, 0xC3, 0xA9, 32, 55], [bos, bos + 6, HELLO, bos + 8, bos + 9]]
    assert in_all(folder, texts) == ids
    tokenizer = library.library_tokenizer(folder)
    assert tokenizer.encode("hello") == [bos, HELLO] and tokenizer.decode(ids[1]) == "hé 7"
    assert (tokenizer.bos_token, tokenizer.eos_token) == ("<|begin_of_text|>", "<|end_of_text|>")


def test_qwens_tiktoken_file_is_read(tmp_path: Path) -> None:
    folder = tiktoken_folder(tmp_path, "qwen.tiktoken")
    end = N_WORDS
    texts = ("hello the", "12", "<|im_start|>hello<|im_end|><|endoftext|><|extra_0|>")
    ids = [[HELLO, THE], [49, 50], [end + 1, HELLO, end + 2, end, end + 3]]
    assert in_all(folder, texts) == ids
    tokenizer = library.library_tokenizer(folder)
    assert tokenizer.encode("e\u0301") == [0xC3, 0xA9], "a text is put into NFC first, and nothing is added to it"


def tokenizer_class(folder: Path, name: str, **settings: Any) -> Path:
    """The folder with the class that its maker's own code reads it by."""
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name, **settings}))
    return folder


def test_glm_4s_tiktoken_file_is_read(tmp_path: Path) -> None:
    """Fourteen special tokens in the order of tokenization_chatglm.py; two stand before every text."""
    folder = tokenizer_class(tiktoken_folder(tmp_path, "tokenizer.model"), "ChatGLM4Tokenizer")
    first = N_WORDS
    texts = ("hello the", "1234", "[gMASK]<sop><|user|>hello<|assistant|><|endoftext|><|end_of_video|>")
    ids = [[HELLO, THE], [49, 50, 51, 52], [first + 2, first + 4, first + 7, HELLO, first + 8, first, first + 13]]
    assert in_all(folder, texts) == ids
    tokenizer = library.library_tokenizer(folder)
    assert tokenizer.encode("hello") == [first + 2, first + 4, HELLO] and tokenizer.eos_token == "<|endoftext|>"
    assert tokenizer.encode("e\u0301", add_special_tokens=False) == [101, 0xCC, 0x81], "a text is read as it stands"


def test_hunyuans_tiktoken_file_is_read(tmp_path: Path) -> None:
    """Five special tokens and the extra ones in the order of tokenization_hy.py; nothing is added to a text."""
    folder = tokenizer_class(tiktoken_folder(tmp_path, "hy.tiktoken"), "HYTokenizer", eos_token="<|eos|>")
    first = N_WORDS
    texts = ("hello the", "12", "<|startoftext|>hello<|extra_0|><|eos|><|pad|>")
    ids = [[HELLO, THE], [49, 50], [first + 1, HELLO, first + 5, first + 3, first + 4]]
    assert in_all(folder, texts) == ids
    tokenizer = library.library_tokenizer(folder)
    assert tokenizer.encode("e\u0301") == [0xC3, 0xA9], "a text is put into NFC first, and nothing is added to it"
    assert (tokenizer.bos_token, tokenizer.eos_token, tokenizer.pad_token) == ("<|startoftext|>", "<|eos|>", "<|pad|>")


KIMI_TOKENS = ("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>")


def test_kimis_tiktoken_file_is_read(tmp_path: Path) -> None:
    """Its special tokens are those of tokenizer_config.json, the others behind the words are reserved by their ids;
    nothing is added to a text."""
    listed = {str(N_WORDS + i): {"content": text, "special": True} for i, text in enumerate(KIMI_TOKENS)}
    folder = tiktoken_folder(tmp_path, "tiktoken.model")
    tokenizer_class(folder, "TikTokenTokenizer", added_tokens_decoder=listed, bos_token="[BOS]", eos_token="[EOS]")
    first = N_WORDS
    texts = ("hello the", "123", f"<|im_user|>hello<|im_end|>[EOS]<|reserved_token_{first + 9}|>")
    assert in_all(folder, texts) == [[HELLO, THE], [49, 50, 51], [first + 3, HELLO, first + 2, first + 1, first + 9]]
    tokenizer = library.library_tokenizer(folder)
    assert tokenizer.encode("hello") == [HELLO] and len(tokenizer) == 320, "as many as the table has rows"
    tokenizer_class(folder, "TikTokenTokenizer")
    with pytest.raises(ExplorerError, match=r"tokenizer_config\.json beside it does not list its special tokens"):
        library.library_tokenizer(folder)


KIMI_CUTS = "|".join(  # the expression of tokenization_kimi.py, for the library that knows all of it
    (
        r"[\p{Han}]+",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]+[\p{Ll}\p{Lm}\p{Lo}\p{M}&&[^\p{Han}]]*"
        r"(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)


def test_kimi_cuts_a_text_as_its_makers_expression_does() -> None:
    """Which llama.cpp does not: it keeps CamelCase in one piece, and what lies outside its letters apart."""
    import regex

    chance = random.Random(5)
    letters = "abcXYZ '-_.,!？。中文字日本ひらカナ한국éÉe\u0301ǅʰ12345٣Ⅷ½ \t\n\r\u3000🙂"
    texts = ["CamelCase中文abc ABCdef'll 1234", *("".join(chance.choices(letters, k=30)) for _ in range(300))]
    cuts = word_rules.splitter("kimi-k2", of_its_maker=True)
    expression = regex.compile(KIMI_CUTS, regex.V1)
    for text in texts:
        assert [text[a:b] for _, (a, b) in cuts.pre_tokenize_str(text)] == expression.findall(text)
    assert expression.findall("CamelCase") == ["Camel", "Case"]
    here = word_rules.splitter("kimi-k2").pre_tokenize_str("CamelCase")
    assert [word for word, _ in here] == ["CamelCase"]


def test_what_the_folder_says_of_its_special_tokens_counts_before_the_familys(tmp_path: Path) -> None:
    folder = tiktoken_folder(tmp_path, "tokenizer.model")
    listed = {
        str(N_WORDS): {"content": "<|begin|>", "special": True},
        str(N_WORDS + 1): {"content": "<|end|>", "special": True},
        str(N_WORDS + 3): {"content": "<tool>", "special": False},
        "9000": {"content": "<behind the table>", "special": True},
    }
    settings = {"added_tokens_decoder": listed, "bos_token": "<|begin|>", "eos_token": "<|end|>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"add_bos_token": False}))
    texts = ("<|begin|>hello<tool> the", f"<|reserved_token_{N_WORDS + 2}|>")
    assert in_all(folder, texts) == [[N_WORDS, HELLO, N_WORDS + 3, THE], [N_WORDS + 2]]
    tokenizer = library.library_tokenizer(folder)
    assert tokenizer.encode("hello") == [HELLO] and tokenizer.bos_token == "<|begin|>"
    assert tokenizer.decode([HELLO, N_WORDS + 3, N_WORDS], skip_special_tokens=True) == "hello<tool>"


def by_ranks(text: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Byte pairs joined as tiktoken does it: of all neighbours those whose joint word has the lowest rank, first."""
    if text in ranks:
        return [ranks[text]]
    pieces = [bytes([byte]) for byte in text]
    while True:
        joined = [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(pieces)) if a + b in ranks]
        if not joined:
            return [ranks[piece] for piece in pieces]
        _, i = min(joined)
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]


def test_words_are_joined_by_their_ranks(tmp_path: Path) -> None:
    """A random vocabulary of 400 words, some of which no merge makes, over random words of four letters."""
    chance = random.Random(3)
    words = [bytes([i]) for i in range(256)]
    while len(words) < 500:
        word = chance.choice(words[97:101] + words[256:]) + chance.choice(words[97:101] + words[256:])
        if word not in words and len(word) < 9:
            words.append(word)
    words += [word for word in (b"dddddddddd", b"abcdabcdab") if word not in words]
    folder = tiktoken_folder(tmp_path, "tokenizer.model", vocab_size=len(words) + 256)
    (folder / "tokenizer.model").write_bytes(tiktoken_lines(words))
    tokenizer = library.library_tokenizer(folder)
    ranks = {word: rank for rank, word in enumerate(words)}
    texts = ["".join(chance.choices("abcd", k=chance.randint(1, 20))) for _ in range(300)] + ["dddddddddd"]
    assert [tokenizer.encode(t, add_special_tokens=False) for t in texts] == [
        by_ranks(t.encode(), ranks) for t in texts
    ]


TORN: dict[str, tuple[Any, str]] = {
    "a line cut off": (lambda b: b[:-4], "is cut off or damaged"),
    "a line lost": (lambda b: b.replace(b"aGVsbG8= 259\n", b""), "its ranks are not 0, 1, 2"),
    "a rank twice": (lambda b: b.replace(b" 263\n", b" 262\n"), "its ranks are not 0, 1, 2"),
    "no base64": (lambda b: b + b"%%% 264\n", "is cut off or damaged"),
    "its end lost": (lambda b: b"".join(b.splitlines(keepends=True)[:-3]), "ends after 261 words"),
    "bytes lost": (lambda b: b"YWI= 0\nYWM= 1\n", "lacks single bytes"),
}


@pytest.mark.parametrize("how", TORN)
def test_a_damaged_tiktoken_file_is_called_so(how: str, tmp_path: Path) -> None:
    folder = tiktoken_folder(tmp_path, "tokenizer.model")
    listed = {str(N_WORDS): {"content": "<|begin_of_text|>"}, str(N_WORDS + 1): {"content": "<|end_of_text|>"}}
    (folder / "tokenizer_config.json").write_text(json.dumps({"added_tokens_decoder": listed}))
    file = folder / "tokenizer.model"
    make, words = TORN[how]
    file.write_bytes(make(file.read_bytes()))
    with pytest.raises(ExplorerError, match=words) as refused:
        library.library_tokenizer(folder)
    assert "tokenizer.json" in refused.value.hint and refused.value.message.endswith(".")


@pytest.mark.parametrize("how", ["cut", "html"])
def test_a_damaged_sentencepiece_file_is_called_so(how: str, tmp_path: Path) -> None:
    folder = sentencepiece_folder(tmp_path)
    file = folder / "tokenizer.model"
    file.write_bytes(file.read_bytes()[:-200] if how == "cut" else b"<!doctype html><html>no such file</html>")
    with pytest.raises(ExplorerError, match=r"tokenizer\.model is (cut off or damaged|no SentencePiece model)") as said:
        library.library_tokenizer(folder)
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
    library.save(folder, made)
    text = Text(made, specs.read(folder, "hf"))
    assert [text.encode(t) for t in texts] == here["ids"] and text.special_tokens == here["special"]
    assert (text.opening, text.closing) == here["around"]
    back = tmp_path / "back"
    back.mkdir()
    from_gguf.write(gguf_file.read(folder.parent / "m.gguf").metadata, back)
    again = PreTrainedTokenizerFast.from_pretrained(back)
    assert [again.encode(t) for t in texts] == [tokenizer.encode(t) for t in texts]
    assert again.special_tokens_map == here["special"]


@pytest.mark.parametrize("name", ["GPT2Tokenizer", "Qwen2Tokenizer", "GPTNeoXTokenizerFast", "CohereTokenizerFast"])
def test_a_text_is_cut_into_words_as_its_tokenizer_json_says(name: str, tmp_path: Path) -> None:
    """Whatever class the folder names: transformers builds a tokenizer with that class's own rule in place of it."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    own = Tokenizer(models.BPE(ignore_merges=True))
    own.pre_tokenizer, own.decoder = word_rules.splitter("llama-bpe"), decoders.ByteLevel()
    bytes_ = pre_tokenizers.ByteLevel.alphabet()
    texts = ["1234567 and 12345, don't WE'VE\n\n  there", "99 red, 999 blue WE'VE don't"]
    own.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=300, initial_alphabet=bytes_, show_progress=False))
    own.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": name}))
    found = library.library_tokenizer(tmp_path)
    assert [found.encode(text, add_special_tokens=False) for text in texts] == [own.encode(text).ids for text in texts]


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


@pytest.mark.parametrize("how", ["split", "unknown", "looks like an end", "spaces", "composed", "a byte"])
def test_what_llama_cpp_would_read_otherwise_is_read_as_its_folder_says(how: str, tmp_path: Path) -> None:
    """By the whole tokenizer, which a GGUF of ours holds. "unknown": llama.cpp would abort."""
    of_bytes = how in ("composed", "a byte")
    folder = hf_folder(tmp_path) if of_bytes else sentencepiece_folder(tmp_path)
    library.save(folder, folder)
    content = json.loads((folder / "tokenizer.json").read_text())
    vocab, model = content["model"]["vocab"], content["model"]
    if how == "split":
        change(folder / "tokenizer_config.json", split_special_tokens=True)
    elif how == "unknown":
        kept = {word: i for word, i in vocab.items() if not word.startswith("<0x")}
        model |= {"vocab": {word: i for i, word in enumerate(sorted(kept, key=kept.__getitem__))}, "unk_token": "<unk>"}
    elif how == "composed":
        content["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "NFC"}]}
    elif how == "a byte":
        del vocab["x"]
        model["unk_token"] = "!"
    elif how == "looks like an end":
        vocab["<|im_end|>"] = len(vocab)
    else:
        vocab["▁▁"] = len(vocab)
        model["merges"].append(["▁", "▁"])
        mark = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
        content["added_tokens"].append({"id": vocab["▁▁"], "content": "▁▁", **mark})
    (folder / "tokenizer.json").write_text(json.dumps(content))
    texts = ("the cat", "<s>the</s>", "é 語", "a  tree<|im_end|>", "e\u0301 xx")
    tokenizer = library.library_tokenizer(folder)
    hf_to_gguf.convert(folder, tmp_path / "m.gguf", "Tiny", silent)
    there = said("llama_cpp", tmp_path / "m.gguf", "gguf", texts)
    assert there["ids"] == [tokenizer.encode(text, add_special_tokens=False) for text in texts]
    assert how != "spaces" or there["shown"][3] == "a  tree<|im_end|>"
    back = tmp_path / "back"
    back.mkdir()
    from_gguf.write(gguf_file.read(tmp_path / "m.gguf").metadata, back)
    again = library.library_tokenizer(back)
    assert how == "split" or there["ids"] == [again.encode(text, add_special_tokens=False) for text in texts]


def test_a_character_without_a_token_in_another_ones_gguf_is_a_sentence(tmp_path: Path) -> None:
    """A SentencePiece vocabulary without bytes, at which llama.cpp aborts."""
    assert elsewhere.call("llama_cpp", _lost, str(tmp_path / "v.gguf")) == ("'x'", [0, 5])


def _lost(path: str) -> tuple[str, list[int]]:
    import gguf
    import llama_cpp

    from core.backends.llama_cpp.vocabulary import Vocabulary

    writer = gguf.GGUFWriter(path, "llama")
    writer.add_context_length(64)
    writer.add_tokenizer_model("llama")
    writer.add_token_list(["<unk>", "<s>", "</s>", "▁", "t", "▁t"])
    writer.add_token_scores([0.0, 0.0, 0.0, -2.0, -3.0, -1.0])
    writer.add_token_types([2, 3, 3, 1, 1, 1])
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    settings = llama_cpp.llama_model_default_params()
    settings.vocab_only = True
    model = llama_cpp.llama_model_load_from_file(path.encode(), settings)
    vocabulary = Vocabulary(model, "m")
    try:
        vocabulary.encode("x")
    except ExplorerError as error:
        return error.message.split("token for ")[1].split(" ")[0], vocabulary.encode("<unk>t")
    finally:
        llama_cpp.llama_model_free(model)
    return "", []


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
    said = {from_gguf.END_IDS: "x,", from_gguf.NAMED: "{", from_gguf.AROUND: "[[900], [1.5]]"}
    from_gguf.write(metadata | said, tmp_path)
    written = json.loads((tmp_path / "tokenizer_config.json").read_text())
    from_gguf.write(metadata, tmp_path)
    assert written == json.loads((tmp_path / "tokenizer_config.json").read_text())
