"""Writes a Hugging Face tokenizer into the header of a GGUF file; the inverse of gguf_tokenizer.

llama.cpp must give the same ids as the tokenizer.json. It knows a few rules that cut a text into words, by
name; the rule is found by what it does to a text full of hard cases, not by how a tokenizer.json spells it.
Knows nothing of weights.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from core.errors import ExplorerError
from core.models import gguf_tokenizer
from core.models.library_tokenizer import library_tokenizer
from core.tokenizer_folder import (
    added,
    chat_templates,
    end_ids,
    read_json,
    token_text,
    tokenizer_file,
)

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
_RUN_ELSEWHERE = "Run the model with PyTorch or ONNX Runtime."
_HARD = (
    "I'll don't WE'VE it's  a  lot\tof\n\n words\r\n 1234567 3.14159 a1b22c333 x=y+2; (foo)[bar]{baz} != <tag/> "
    "CamelCaseWord ALLCAPS mixedUP Ünïcödé naïve — “quotes” … 日本語テキスト 한국어 кириллица 🙂👩‍👩‍👧 e\u0301 "
    "٣٤٥ Ⅷ½² https://example.com/a?b=c&d=1 $9.99 50% #tag @user __init__ \\n 'tis   end   \n   "
)


def add(writer: Any, folder: Path, n_rows: int) -> None:
    """Put the tokenizer of `folder` into `writer`, a gguf.GGUFWriter. n_rows: of the embedding table.

    Raises ExplorerError when there is no tokenizer, when llama.cpp has no such kind or rule, and when
    the tokenizer has ids beyond the table.
    """
    content, tokenizer = _tokenizer(folder)
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise _refused(f"A tokenizer of kind '{model['type']}' cannot be written into a GGUF")
    settings, config, generation = (
        read_json(folder / name) for name in ("tokenizer_config.json", "config.json", "generation_config.json")
    )

    tokens, types = _tokens(content, n_rows)
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model.get("merges", ())]
    if model.get("byte_fallback"):
        _add_sentencepiece(writer, tokenizer, tokens, types, pairs)
    else:
        _add_byte_level(writer, tokenizer, content, pairs)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, tokenizer, tokens, settings, config, generation)
    templates = chat_templates(folder, settings)
    if templates.keys() == {"default"}:
        writer.add_chat_template(templates["default"])
    elif templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])


def _tokenizer(folder: Path) -> tuple[dict[str, Any], Any]:
    """The content of a tokenizer.json, and the `tokenizers.Tokenizer` of it; made here from a SentencePiece file."""
    from tokenizers import Tokenizer

    file = tokenizer_file(folder)
    if file is None:
        raise _refused(f"{folder.name} has no tokenizer.json, without which no GGUF can be written")
    if file.name != "tokenizer.json":
        tokenizer = library_tokenizer(folder)
        return json.loads(tokenizer.to_str()), tokenizer
    try:
        return json.loads(file.read_text(encoding="utf-8")), Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise ExplorerError(f"{folder.name}'s tokenizer.json is damaged.", "Copy or download it again.") from error


def _tokens(content: dict[str, Any], n_rows: int) -> tuple[list[str], list[int]]:
    """Every row's token and its type; rows that no token has are unused."""
    known = {i: (text, _NORMAL) for text, i in content["model"]["vocab"].items()}
    if content["model"].get("byte_fallback"):
        is_byte = {f"<0x{b:02X}>" for b in range(256)}
        known |= {i: (text, _BYTE) for i, (text, _) in known.items() if text in is_byte}
    unknown = content["model"].get("unk_token")
    for token in content.get("added_tokens", ()):
        kind = _CONTROL if token["special"] else _USER_DEFINED
        known[token["id"]] = (token["content"], _UNKNOWN if token["content"] == unknown else kind)
    if max(known, default=-1) >= n_rows:
        raise ExplorerError(
            f"The tokenizer has {max(known) + 1} tokens, but the model's table has {n_rows} rows.",
            "Use the tokenizer that came with the model.",
        )
    rows = [known.get(i, (f"[PAD{i}]", _UNUSED)) for i in range(n_rows)]
    return [text for text, _ in rows], [kind for _, kind in rows]


# ---------------------------------------------------------------- the two kinds


def _add_byte_level(writer: Any, tokenizer: Any, content: dict[str, Any], pairs: list[tuple[str, ...]]) -> None:
    normalizer = (content.get("normalizer") or {}).get("type")
    if normalizer not in (None, "NFC"):  # llama.cpp has none; text is nearly always in NFC
        raise _refused(f"The tokenizer's normalizer '{normalizer}' is not known to llama.cpp")
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_rule(tokenizer, bool(content["model"].get("ignore_merges"))) if pairs else "gpt-2")
    # llama.cpp wants a merge; these two bytes never follow one another in UTF-8
    writer.add_token_merges([f"{a} {b}" for a, b in pairs] or [" ".join(gguf_tokenizer.byte_alphabet()[-2:])])


def _rule(tokenizer: Any, whole_words: bool) -> str:
    """The name of the rule that cuts the hard text as the tokenizer does."""
    cuts = tokenizer.pre_tokenizer.pre_tokenize_str(_HARD) if tokenizer.pre_tokenizer else []
    for name in gguf_tokenizer.rules():
        same = gguf_tokenizer.splitter(name).pre_tokenize_str(_HARD) == cuts
        if same and gguf_tokenizer.keeps_whole_words(name) == whole_words:
            return name
    raise _refused("The tokenizer splits text by a rule that llama.cpp is not known to have")


def _add_sentencepiece(
    writer: Any, tokenizer: Any, tokens: list[str], types: list[int], pairs: list[tuple[str, ...]]
) -> None:
    """llama.cpp joins the neighbours whose joint token has the best score; the merges are in that order."""
    rank: dict[str, int] = {}
    for pair in pairs:
        rank.setdefault("".join(pair), len(rank))
    writer.add_tokenizer_model("llama")
    scored = (_NORMAL, _USER_DEFINED)
    writer.add_token_scores(
        [float(-rank.get(text, len(rank))) if kind in scored else 0.0 for text, kind in zip(tokens, types, strict=True)]
    )
    first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
    writer.add_add_space_prefix(bool(first) and first[0].startswith("▁"))


# ---------------------------------------------------------------- special tokens, chat template


def _add_special(
    writer: Any,
    tokenizer: Any,
    tokens: list[str],
    settings: dict[str, Any],
    config: dict[str, Any],
    generation: dict[str, Any],
) -> None:
    ids: dict[str, int] = {}
    for name in ("bos", "eos", "unk", "pad"):
        text = token_text(settings.get(f"{name}_token"))
        stated = config.get(f"{name}_token_id")
        stated = stated[0] if isinstance(stated, list) else stated
        found = tokenizer.token_to_id(text) if text else stated
        if isinstance(found, int) and 0 <= found < len(tokens):
            ids[name] = found
    opening, closing = added(tokenizer)
    if len(opening) == 1:
        ids["bos"] = opening[0]
    for name, write in (
        ("bos", writer.add_bos_token_id),
        ("eos", writer.add_eos_token_id),
        ("unk", writer.add_unk_token_id),
        ("pad", writer.add_pad_token_id),
    ):
        if name in ids:
            write(ids[name])
    ends = sorted(end_ids(generation, config, {"eos_token_id": ids.get("eos")}))
    # llama.cpp knows the usual names itself, and two more ids
    others = [i for i in ends if i != ids.get("eos") and i < len(tokens) and not gguf_tokenizer.ends_turn(tokens[i])]
    for i, write in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        write(i)
    writer.add_string(gguf_tokenizer.END_IDS, ",".join(map(str, ends)))
    writer.add_add_bos_token(len(opening) == 1)
    if "eos" in ids and closing == (ids["eos"],):
        writer.add_add_eos_token(True)


def _refused(cause: str) -> ExplorerError:
    return ExplorerError(f"{cause}.", _RUN_ELSEWHERE)
