"""A tiktoken vocabulary: the words of a byte-level tokenizer in base64, each with its rank, a line each.

How a text is cut into words, and which special tokens stand behind the words, such a file does not say: both are its
family's, which is told by the file's name, by the class that tokenizer_config.json names and by config.json. Loads no
library.

Sources: the tokenizers that the makers publish beside the file (tokenization_kimi.py and tokenization_moonshot.py,
tokenization_chatglm.py, tokenization_hy.py, tokenization_qwen.py; Meta's llama3/tokenizer.py).
"""

from __future__ import annotations

import base64
import itertools
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

NAMES = ("tokenizer.model", "tiktoken.model")  # and whatever ends with .tiktoken
SUFFIX = ".tiktoken"
_LINE = re.compile(rb"[A-Za-z0-9+/]+={0,2} \d+\r?\n")
_MOST_WITHOUT = 512  # rows of a model's table that neither a word nor a special token has: padding


class Family(NamedTuple):
    """rule: how it cuts a text into words, by llama.cpp's name (`word_rules`). special: its tokens behind the words,
    in order. named: "bos_token" and the like -> text. composed: a text is put into Unicode's form NFC.
    before: what is put before a text, tokens or the names of some. reserved: ids behind the words that have a name
    where tokenizer_config.json, which has to list the others, gives them none."""

    rule: str
    special: tuple[str, ...]
    named: Mapping[str, str]
    composed: bool = False
    before: tuple[str, ...] = ()
    reserved: int = 0


class Special(NamedTuple):
    """A token behind the words. said: what tokenizer_config.json says of it."""

    id: int
    text: str
    said: Mapping[str, Any]


def begins_as_one(start: bytes) -> bool:
    """Whether a file that starts so is a tiktoken vocabulary."""
    return bool(_LINE.match(start))


def family(name: str, config: Mapping[str, Any], settings: Mapping[str, Any]) -> Family | None:
    """Whose vocabulary it is. name: of the file; config: the model's config.json; settings: of tokenizer_config.json.

    None: of nobody who is known.
    """
    kind, reader = str(config.get("model_type")), str(settings.get("tokenizer_class"))
    if name in ("qwen.tiktoken", "hy.tiktoken"):
        return _QWEN if name == "qwen.tiktoken" else _HUNYUAN
    if name == "tiktoken.model" and (reader == "TikTokenTokenizer" or kind.startswith("kimi") or kind == "deepseek_v3"):
        return _KIMI
    if name == "tokenizer.model" and (reader == "ChatGLM4Tokenizer" or kind in ("chatglm", "glm", "glm4")):
        return _GLM_4
    if kind == "llama" and name in NAMES:
        return _LLAMA_3_1 if _scaled(config) else _LLAMA_3
    return None


def words(file: Path) -> dict[bytes, int]:
    """Word -> rank, which is its id. Raises ValueError for a file that is cut off or damaged."""
    try:
        pairs = [line.split() for line in file.read_bytes().splitlines() if line]
        found = {base64.b64decode(word, validate=True): int(rank) for word, rank in pairs}
    except ValueError:
        raise ValueError(f"{file.name} is cut off or damaged") from None
    if sorted(found.values()) != list(range(len(pairs))):
        raise ValueError(f"{file.name} is damaged: its ranks are not 0, 1, 2 and so on")
    if any(bytes([byte]) not in found for byte in range(256)):
        raise ValueError(f"{file.name} is cut off or damaged: it lacks single bytes")
    return found


def special(n_words: int, of: Family, config: Mapping[str, Any], settings: Mapping[str, Any]) -> list[Special]:
    """The tokens behind the words, as tokenizer_config.json lists them (`settings`), else those of the family.

    Gaps in a list are named as transformers does. Raises ValueError where the words end before the special tokens
    begin.
    """
    rows = config.get("vocab_size")
    listed = {int(i): said for i, said in (settings.get("added_tokens_decoder") or {}).items() if str(i).isdecimal()}
    behind = {i: said for i, said in listed.items() if i >= n_words and (not isinstance(rows, int) or i < rows)}
    if behind:
        if min(behind) > n_words or max(behind) - n_words > 100_000:
            raise ValueError(f"its vocabulary ends after {n_words:,} words, before its first special token")
        end = min(n_words + of.reserved, rows) if isinstance(rows, int) else n_words + of.reserved
        last = max(*behind, end - 1)
        return [_said(i, behind.get(i, f"<|reserved_token_{i}|>")) for i in range(n_words, last + 1)]
    if of.reserved:
        raise ValueError("tokenizer_config.json beside it does not list its special tokens")
    n = rows - n_words if isinstance(rows, int) else len(of.special)
    if n > len(of.special) + _MOST_WITHOUT:
        raise ValueError(f"its vocabulary has {n_words:,} words for the {rows:,} rows of the model's table")
    return [Special(n_words + i, text, {}) for i, text in enumerate(of.special[: max(n, 0)])]


def _said(i: int, said: Any) -> Special:
    if isinstance(said, Mapping):
        return Special(i, str(said.get("content", "")), said)
    return Special(i, str(said), {})


def _scaled(config: Mapping[str, Any]) -> bool:
    """Whether it is Llama 3.1 or later, whose reserved tokens have other names: it scales its positions."""
    rope = config.get("rope_parameters") or config.get("rope_scaling") or {}
    return isinstance(rope, Mapping) and "llama3" in (rope.get("rope_type"), rope.get("type"))


# ---------------------------------------------------------------- the families


def _llama_3(more: Mapping[int, str]) -> Family:
    """Meta's 256 tokens behind the words, reserved ones numbered in between. more: place -> name."""
    begin, end = "<|begin_of_text|>", "<|end_of_text|>"
    known = {0: begin, 1: end, 6: "<|start_header_id|>", 7: "<|end_header_id|>", 9: "<|eot_id|>", **more}
    n = itertools.count()
    tokens = tuple(known[i] if i in known else f"<|reserved_special_token_{next(n)}|>" for i in range(256))
    return Family("llama-bpe", tokens, {"bos_token": begin, "eos_token": end}, before=("bos_token",))


_LLAMA_3 = _llama_3({})
_LLAMA_3_1 = _llama_3({4: "<|finetune_right_pad_id|>", 8: "<|eom_id|>", 10: "<|python_tag|>"})
_QWEN = Family(
    "qwen2",
    ("<|endoftext|>", "<|im_start|>", "<|im_end|>", *(f"<|extra_{i}|>" for i in range(205))),
    {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    composed=True,
)
_HUNYUAN = Family(
    "hunyuan",
    ("<|endoftext|>", "<|startoftext|>", "<|bos|>", "<|eos|>", "<|pad|>", *(f"<|extra_{i}|>" for i in range(205))),
    {"bos_token": "<|startoftext|>", "eos_token": "<|endoftext|>", "pad_token": "<|pad|>"},
    composed=True,
)
_GLM_4 = Family(
    "chatglm-bpe",
    ("<|endoftext|>", "[MASK]", "[gMASK]", "[sMASK]", "<sop>", "<eop>", "<|system|>", "<|user|>", "<|assistant|>",
     "<|observation|>", "<|begin_of_image|>", "<|end_of_image|>", "<|begin_of_video|>", "<|end_of_video|>"),
    {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"},
    before=("[gMASK]", "<sop>"),
)  # fmt: skip
_KIMI = Family("kimi-k2", (), {"bos_token": "[BOS]", "eos_token": "[EOS]"}, reserved=258)
