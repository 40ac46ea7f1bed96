"""Writes a Hugging Face tokenizer into the header of a GGUF file; the inverse of `from_gguf`.

llama.cpp must give the same ids as the tokenizer.json. It knows a few rules that cut a text into words, by
name; the rule is found by what it does to a text full of hard cases, not by how a tokenizer.json spells it.
Knows nothing of weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.tokenizers import from_gguf, word_rules
from core.tokenizers.folder import (
    added,
    chat_templates,
    end_ids,
    read_json,
    tokenizer_file,
)
from core.tokenizers.library import library_tokenizer, special_tokens
from hardware.errors import ExplorerError

_NORMAL, _UNKNOWN, _CONTROL, _USER_DEFINED, _UNUSED, _BYTE = 1, 2, 3, 4, 5, 6  # gguf.TokenType
_RUN_ELSEWHERE = "Run the model with PyTorch or ONNX Runtime."


def add(writer: Any, folder: Path, n_rows: int) -> None:
    """Put the tokenizer of `folder` into `writer`, a gguf.GGUFWriter. n_rows: of the embedding table.

    Raises ExplorerError when there is no tokenizer, when llama.cpp has no such kind or rule, and when
    the tokenizer has ids beyond the table.
    """
    tokenizer, named = _tokenizer(folder)
    content = json.loads(tokenizer.to_str())
    model = content["model"]
    if model.get("type", "BPE") != "BPE":
        raise _refused(f"A tokenizer of kind '{model['type']}' cannot be written into a GGUF")
    settings, config, generation = (
        read_json(folder / name) for name in ("tokenizer_config.json", "config.json", "generation_config.json")
    )

    if odd := next((n for n in ("end_of_word_suffix", "continuing_subword_prefix") if model.get(n)), None):
        raise _refused(f"The tokenizer marks parts of words ({odd}), which llama.cpp does not")

    stored = read_json(folder / "tokenizer.json")
    if stored:
        _check_rows(_ids(stored), n_rows)
    tokens, types = _tokens(content, n_rows, own=not stored)
    pairs = [tuple(m.split(" ", 1)) if isinstance(m, str) else tuple(m) for m in model.get("merges", ())]
    if model.get("byte_fallback"):
        _add_sentencepiece(writer, tokenizer, tokens, types, pairs)
    else:
        _add_byte_level(writer, tokenizer, content, pairs)
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    _add_special(writer, tokenizer, tokens, named, config, generation)
    if tokenizer.encode_special_tokens or _is_beyond(tokenizer, content):
        writer.add_string(from_gguf.WHOLE, _whole(tokenizer, content))
    templates = chat_templates(folder, settings)
    if templates.keys() == {"default"}:
        writer.add_chat_template(templates["default"])
    elif templates:
        writer.add_chat_template([{"name": name, "template": text} for name, text in templates.items()])


def _tokenizer(folder: Path) -> tuple[Any, dict[str, str]]:
    """The `tokenizers.Tokenizer` of the folder, also of a SentencePiece file, and its special tokens by name."""
    if tokenizer_file(folder) is None:
        raise _refused(f"{folder.name} has no tokenizer.json, without which no GGUF can be written")
    tokenizer = library_tokenizer(folder)
    return tokenizer.backend_tokenizer, special_tokens(tokenizer)


def _is_beyond(tokenizer: Any, content: dict[str, Any]) -> bool:
    """Whether llama.cpp could read a text otherwise: GGUF has no place for what its special tokens do to their spaces,
    llama.cpp puts the space in front of a text behind each of them, too, and cuts some families' texts otherwise."""
    added = content.get("added_tokens", ())
    apart = {token["content"] for token in added}
    if any(from_gguf.ends_turn(text) for text in content["model"]["vocab"].keys() - apart):
        return True
    if any(token["lstrip"] or token["rstrip"] or token["single_word"] for token in added):
        return True
    if _of_its_maker(tokenizer) is not None:
        return True
    if not content["model"].get("byte_fallback"):  # llama.cpp passes over a byte that is not there
        lost = any(char not in content["model"]["vocab"] for char in from_gguf.byte_alphabet())
        return lost and content["model"].get("unk_token") is not None
    if any(f"<0x{byte:02X}>" not in content["model"]["vocab"] for byte in range(256)):  # at which llama.cpp stops
        return True
    mark = next((token["content"] for token in added if token["special"]), "")
    prefix = "▁" if _begins_with_a_space(tokenizer) else ""
    for text in ("a", " a"):
        wanted = prefix + text.replace(" ", "▁")
        alone, behind = (tokenizer.encode(t, add_special_tokens=False).tokens for t in (text, f"{mark}{text}"))
        if "".join(alone) != wanted or "".join(behind) != mark + wanted:
            return True
    return False


def _whole(tokenizer: Any, content: dict[str, Any]) -> str:
    """The tokenizer.json. Where special tokens are split as any other text, which it cannot say, they are left out."""
    if not tokenizer.encode_special_tokens:
        return str(tokenizer.to_str())
    plain = [token for token in content.get("added_tokens", ()) if not token["special"]]
    return json.dumps(content | {"added_tokens": plain}, ensure_ascii=False)


def _begins_with_a_space(tokenizer: Any) -> bool:
    first = tokenizer.encode("a", add_special_tokens=False).tokens[:1]
    return bool(first) and first[0].startswith("▁")


def _ids(content: dict[str, Any]) -> list[int]:
    return [*content["model"]["vocab"].values(), *(token["id"] for token in content.get("added_tokens", ()))]


def _check_rows(ids: list[int], n_rows: int) -> None:
    if max(ids, default=-1) >= n_rows:
        raise ExplorerError(
            f"The tokenizer has {max(ids) + 1} tokens, but the model's table has {n_rows} rows.",
            "Use the tokenizer that came with the model.",
        )


def _tokens(content: dict[str, Any], n_rows: int, own: bool) -> tuple[list[str], list[int]]:
    """Every row's token and its type; rows that no token has are unused.

    own: no file says which tokens there are. Else those that transformers adds for its class, behind the table, count
    not.
    """
    model = content["model"]
    known = {i: (text, _NORMAL) for text, i in model["vocab"].items()}
    if model.get("byte_fallback"):
        is_byte = {f"<0x{b:02X}>" for b in range(256)}
        known |= {i: (text, _BYTE) for i, (text, _) in known.items() if text in is_byte}
    unknown = model.get("unk_token")
    for token in content.get("added_tokens", ()):
        if "▁" in token["content"] and not token["special"] and model.get("byte_fallback") and token["id"] in known:
            continue  # llama.cpp would show its "▁"
        kind = _CONTROL if token["special"] else _USER_DEFINED
        known[token["id"]] = (token["content"], _UNKNOWN if token["content"] == unknown else kind)
    if own:
        _check_rows(list(known), n_rows)
    rows = [known.get(i, (f"[PAD{i}]", _UNUSED)) for i in range(n_rows)]
    return [text for text, _ in rows], [kind for _, kind in rows]


# ---------------------------------------------------------------- the two kinds


def _add_byte_level(writer: Any, tokenizer: Any, content: dict[str, Any], pairs: list[tuple[str, ...]]) -> None:
    normalizers = set(_normalizers(content.get("normalizer")))
    if odd := sorted(normalizers - {"NFC"}):
        raise _refused(f"The tokenizer's normalizer '{odd[0]}' is not known to llama.cpp")
    if normalizers:
        writer.add_string(from_gguf.COMPOSED, "NFC")  # which llama.cpp by itself does not do
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_rule(tokenizer, content, pairs) if pairs else "gpt-2")
    # llama.cpp wants a merge; these two bytes never follow one another in UTF-8
    writer.add_token_merges([f"{a} {b}" for a, b in pairs] or [" ".join(from_gguf.byte_alphabet()[-2:])])


def _normalizers(stored: Mapping[str, Any] | None) -> list[str]:
    """Their kinds, those of a sequence one by one."""
    if not stored:
        return []
    if "normalizers" in stored:
        return [kind for one in stored["normalizers"] for kind in _normalizers(one)]
    return [stored["type"]]


def _rule(tokenizer: Any, content: dict[str, Any], pairs: list[tuple[str, ...]]) -> str:
    """The name of the rule that cuts the hard text as the tokenizer does.

    Whether a word that is a token stays whole comes with the rule; where its merges make every word, both are the same.
    """
    cuts = _cuts(tokenizer)
    same = [n for n in word_rules.rules() if word_rules.splitter(n).pre_tokenize_str(word_rules.HARD) == cuts]
    whole_words = bool(content["model"].get("ignore_merges"))
    exact = next((name for name in same if word_rules.keeps_whole_words(name) == whole_words), None)
    if exact is not None:
        return exact
    if same and _merges_make_every_word(content, pairs):
        return same[0]
    if (name := _of_its_maker(tokenizer)) is not None:
        return name
    raise _refused("The tokenizer splits text by a rule that llama.cpp is not known to have")


def _of_its_maker(tokenizer: Any) -> str | None:
    """The name of the rule that is this one, but for texts that llama.cpp cuts otherwise; None where there is none."""
    cuts = _cuts(tokenizer)
    rules = word_rules.rules_of_makers()
    return next((n for n in rules if word_rules.splitter(n, True).pre_tokenize_str(word_rules.HARD) == cuts), None)


def _cuts(tokenizer: Any) -> list[Any]:
    return list(tokenizer.pre_tokenizer.pre_tokenize_str(word_rules.HARD)) if tokenizer.pre_tokenizer else []


def _merges_make_every_word(content: dict[str, Any], pairs: list[tuple[str, ...]]) -> bool:
    from tokenizers import models

    vocab = content["model"]["vocab"]
    merged = models.BPE(vocab, [(first, second) for first, second in pairs])
    others = {"", *(token["content"] for token in content.get("added_tokens", ()))}
    return all(len(merged.tokenize(word)) == 1 for word in vocab.keys() - others)


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
    writer.add_add_space_prefix(_begins_with_a_space(tokenizer))


# ---------------------------------------------------------------- special tokens, chat template


def _add_special(
    writer: Any,
    tokenizer: Any,
    tokens: list[str],
    named: dict[str, str],
    config: dict[str, Any],
    generation: dict[str, Any],
) -> None:
    """The ids by the keys of the format, and by our own what those cannot say.

    named: the special tokens as chat templates get them; where one is not named, its id is that of config.json.
    """
    ids: dict[str, int] = {}
    for name in ("bos", "eos", "unk", "pad"):
        text = named.get(f"{name}_token")
        stated = config.get(f"{name}_token_id")
        stated = stated[0] if isinstance(stated, list) and stated else stated
        found = tokenizer.token_to_id(text) if text else stated
        if isinstance(found, int) and 0 <= found < len(tokens):
            ids[name] = found
    opening, closing = added(tokenizer)
    _check_rows([*opening, *closing], len(tokens))
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
    others = [i for i in ends if i != ids.get("eos") and i < len(tokens) and not from_gguf.ends_turn(tokens[i])]
    for i, write in zip(others, (writer.add_eot_token_id, writer.add_eom_token_id), strict=False):
        write(i)
    writer.add_string(from_gguf.END_IDS, ",".join(map(str, ends)))
    writer.add_string(from_gguf.NAMED, json.dumps(named, ensure_ascii=False))
    writer.add_string(from_gguf.AROUND, json.dumps([opening, closing]))
    writer.add_add_bos_token(len(opening) == 1)
    if "eos" in ids and closing == (ids["eos"],):
        writer.add_add_eos_token(True)


def _refused(cause: str) -> ExplorerError:
    return ExplorerError(f"{cause}.", _RUN_ELSEWHERE)
