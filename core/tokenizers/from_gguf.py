"""Builds the Hugging Face tokenizer files from the vocabulary inside a GGUF.

The tokens are those llama.cpp would produce, so that one prompt is the same ids on every backend.
(transformers' own GGUF tokenizer uses GPT-2's splitting rule for all of them, which gives other ids
for numbers.) Also writes the byte-level stand-in for models that come without a vocabulary.
Knows nothing of weights.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from core.tokenizers import word_rules
from core.tokenizers.folder import NAMES
from hardware.errors import ExplorerError

_BOS_BY_DEFAULT = {"llama-bpe", "tekken"}

# Of files written here, what the keys of llama.cpp cannot say (core.backends.llama_cpp.vocabulary reads them, too):
END_IDS = "roofscope.end_token_ids"  # all ids that end a text
NAMED = "roofscope.special_tokens"  # JSON: name ("bos_token") -> text, as chat templates get them
AROUND = "roofscope.added_token_ids"  # JSON: the ids put before a text, and those behind it
COMPOSED = "roofscope.composed"  # "NFC" where a text is put into Unicode's form NFC first
WHOLE = "tokenizer.huggingface.json"  # the whole tokenizer.json, where llama.cpp's own would read some texts otherwise

_UNKNOWN, _CONTROL, _USER_DEFINED = 2, 3, 4
_END_OF_TURN = {  # llama.cpp's own list (llama-vocab.cpp); a token of such a name ends an answer, whatever its type
    "<|im_end|>",
    "<|endoftext|>",
    "<|end_of_text|>",
    "<|eot_id|>",
    "<|eom_id|>",
    "<|end|>",
    "<|return|>",
    "<|call|>",
    "<|flush|>",
    "<|calls|>",
    "<end_of_turn>",
    "<end_of_utterance>",
    "<EOT>",
    "_<EOT>",
    "[EOT]",
    "[EOS]",
    "<eos>",
    "</s>",
    "<turn|>",
    "<|tool_response>",
    "<｜end▁of▁sentence｜>",
    "[e~[",
}
# what code models put between files ends an answer, too: the token that a key names, or the first of such a name
_BETWEEN_FILES = {
    "fim_pad": ("<|fim_pad|>", "<fim-pad>", "<fim_pad>", "<PAD>", "[PAD]"),
    "fim_rep": ("<|fim_repo|>", "<|repo_name|>", "<fim-repo>", "<REPO>", "<reponame>"),
    "fim_sep": ("<|file_sep|>",),
}
_WITHIN_FILES = {  # and these, which end none, are special by their names alone, too
    f"{before}{name}{behind}"
    for before, names, behind in (
        ("<|", ("fim_prefix", "fim_suffix", "fim_middle", "code_prefix", "code_suffix", "code_middle"), "|>"),
        ("<|", ("prefix", "suffix"), "|>"),
        ("<", ("fim-prefix", "fim-suffix", "fim-middle", "fim_prefix", "fim_suffix", "fim_middle"), ">"),
        ("<｜fim▁", ("begin", "hole", "end"), "｜>"),
        ("<", ("PRE", "SUF", "MID"), ">"),
        ("▁<", ("PRE", "SUF", "MID"), ">"),
    )
    for name in names
}
_SHOWN = {"<|start|>", "<|channel|>", "<|message|>", "<|constrain|>"}  # of gpt-oss: they stand in the text
_END_OF_MESSAGE = ({"<|return|>", "<|call|>"}, {"<|calls|>", "<|flush|>"})  # beside these <|end|> ends no turn


def write(metadata: dict[str, Any], folder: Path) -> None:
    """Write tokenizer.json, tokenizer_config.json and generation_config.json into `folder`.

    Raises ExplorerError for a kind of vocabulary that is not understood.
    """
    from tokenizers import normalizers

    kind = metadata.get("tokenizer.ggml.model")
    if not metadata.get("tokenizer.ggml.tokens"):
        raise ExplorerError("The file comes without a tokenizer.", "Take a file of the model that has one.")
    tokens = _unique(metadata["tokenizer.ggml.tokens"])
    types = _types(metadata, tokens)
    if kind == "gpt2":
        tokenizer = _byte_level_bpe(metadata, tokens)
    elif kind == "llama":
        tokenizer = _sentencepiece_bpe(metadata, tokens, types)
    else:
        raise ExplorerError(
            f"The file's vocabulary is of kind '{kind}', which cannot be converted.", "Run it with llama.cpp."
        )
    _add_special(tokenizer, tokens, types, metadata)
    if metadata.get(COMPOSED) == "NFC":
        tokenizer.normalizer = normalizers.NFC()
    whole = metadata.get(WHOLE) if NAMED in metadata else None  # other writers' are not what llama.cpp reads
    if isinstance(whole, str):
        (folder / "tokenizer.json").write_text(whole, encoding="utf-8")
    else:
        tokenizer.save(str(folder / "tokenizer.json"))

    named = special_ids(metadata, len(tokens))
    config: dict[str, Any] = {f"{name}_token": tokens[i] for name, i in named.items()}
    if isinstance(said := _said(metadata, NAMED), dict):
        config = {str(name): str(text) for name, text in said.items() if name in NAMES}
        config["extra_special_tokens"] = {str(name): str(text) for name, text in said.items() if name not in NAMES}
    config["add_bos_token"], config["add_eos_token"] = _adds(metadata, len(tokens))
    templates = chat_templates(metadata)
    if templates.keys() == {"default"}:
        config["chat_template"] = templates["default"]
    elif templates:
        config["chat_template"] = [{"name": name, "template": text} for name, text in templates.items()]
    _write_config(folder, config, metadata.get(f"{metadata.get('general.architecture')}.context_length"))

    ids = {f"{name}_token_id": i for name, i in named.items() if name in ("bos", "eos", "pad")}
    generation = {**ids, "eos_token_id": _end_ids(metadata, tokens), "do_sample": False}
    (folder / "generation_config.json").write_text(json.dumps(generation, indent=2))


def chat_templates(metadata: Mapping[str, Any]) -> dict[str, str]:
    """Name -> chat template of a GGUF file, the usual one called "default"."""
    found = {"default": metadata.get("tokenizer.chat_template")}
    found |= {key.removeprefix(_TEMPLATE): text for key, text in metadata.items() if key.startswith(_TEMPLATE)}
    return {name: text for name, text in found.items() if isinstance(text, str) and text}


_TEMPLATE = "tokenizer.chat_template."
_NAMED = {"bos": "bos", "eos": "eos", "pad": "padding", "unk": "unknown", "sep": "seperator", "mask": "mask"}
_WITHOUT_A_WORD = {"llama": {"bos": 1, "eos": 2, "unk": 0}, "gpt2": {"bos": 11, "eos": 11}}  # as llama.cpp has it


def special_ids(metadata: Mapping[str, Any], n_tokens: int) -> dict[str, int]:
    """Name ("bos", "eos", "pad", "unk", "sep", "mask") -> id, of those that the file has."""
    usual = _WITHOUT_A_WORD.get(str(metadata.get("tokenizer.ggml.model")), {})
    found = {}
    for name, key in _NAMED.items():
        stated = metadata.get(f"tokenizer.ggml.{key}_token_id")
        for i in (stated, usual.get(name)):
            if i is not None and 0 <= i < n_tokens:
                found[name] = int(i)
                break
    return found


def write_bytes(vocab_size: int, folder: Path) -> None:
    """Write a tokenizer that has no vocabulary: id = byte; higher ids are shown as their number.

    For models with random weights. With fewer than 256 ids the bytes above are left out.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = byte_alphabet()
    vocab = {alphabet[i] if i < 256 else "".join(alphabet[b] for b in f"⟨{i}⟩".encode()): i for i in range(vocab_size)}
    tokenizer = Tokenizer(models.BPE(vocab, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.save(str(folder / "tokenizer.json"))
    _write_config(folder, {})


def byte_alphabet() -> list[str]:
    """The printable character that stands for each byte in byte-level BPE (GPT-2)."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [b for b in range(256) if b not in set(printable)]
    chars = {b: chr(b) for b in printable} | {b: chr(256 + i) for i, b in enumerate(others)}
    return [chars[b] for b in range(256)]


def ends_turn(token: str) -> bool:
    """Whether llama.cpp stops at this token by its name alone."""
    return token in _END_OF_TURN


def _write_config(folder: Path, config: dict[str, Any], max_context: int | None = None) -> None:
    config = {"tokenizer_class": "PreTrainedTokenizerFast", "clean_up_tokenization_spaces": False, **config}
    if max_context:
        config["model_max_length"] = max_context
    (folder / "tokenizer_config.json").write_text(json.dumps(config, indent=2, ensure_ascii=False))


def _unique(tokens: list[str]) -> list[str]:
    """Tokens as valid, distinct text: what is no UTF-8 or stands twice is replaced by its id."""
    seen: set[str] = set()
    result = []
    for i, token in enumerate(tokens):
        result.append(token if token not in seen and _is_text(token) else f"⟨{i}⟩")
        seen.add(result[-1])
    return result


def _types(metadata: Mapping[str, Any], tokens: list[str]) -> list[int]:
    """Of each token its type, where llama.cpp goes by some names before what a file says."""
    stored = metadata.get("tokenizer.ggml.token_type") or [1] * len(tokens)
    marks = _END_OF_TURN | _WITHIN_FILES | {name for names in _BETWEEN_FILES.values() for name in names}
    named = dict.fromkeys(marks, _CONTROL) | dict.fromkeys(_SHOWN, _USER_DEFINED)
    return [named.get(token, kind) for token, kind in zip(tokens, stored, strict=True)]


def _takes_spaces(metadata: Mapping[str, Any], token: str) -> bool:
    """Whether a special token takes the spaces behind it away: those of Phi-3 do, which llama.cpp tells by its name."""
    name = str(metadata.get("general.name", "")).lower()
    return ("phi-3" in name or "phi3" in name) and token not in ("<unk>", "<s>", "<|endoftext|>")


def _is_text(token: str) -> bool:
    try:
        token.encode()
    except UnicodeEncodeError:
        return False
    return True


def _byte_level_bpe(metadata: dict[str, Any], tokens: list[str]) -> Any:
    from tokenizers import Tokenizer, decoders, models

    pre = metadata.get("tokenizer.ggml.pre", "default")
    if not word_rules.known(pre):
        raise ExplorerError(
            f"The file's tokenizer splits text by the rule '{pre}', which cannot be converted.",
            "Run it with llama.cpp.",
        )
    vocab = {token: i for i, token in enumerate(tokens)}
    pairs = [_pair(merge) for merge in metadata.get("tokenizer.ggml.merges", ())]
    merges = [(a, b) for a, b in pairs if a in vocab and b in vocab and a + b in vocab]
    tokenizer = Tokenizer(models.BPE(vocab, merges, ignore_merges=word_rules.keeps_whole_words(pre)))
    tokenizer.pre_tokenizer = word_rules.splitter(pre)
    tokenizer.decoder = decoders.ByteLevel()
    return tokenizer


def _pair(merge: str) -> tuple[str, str]:
    at = merge.find(" ", 1)
    return merge[:at], merge[at + 1 :]


def _sentencepiece_bpe(metadata: dict[str, Any], tokens: list[str], types: list[int]) -> Any:
    from tokenizers import Tokenizer, decoders, models, normalizers

    vocab = {token: i for i, token in enumerate(tokens)}
    scores = metadata.get("tokenizer.ggml.scores") or [0.0] * len(tokens)
    # SentencePiece joins whatever neighbours make the token with the best score; as a list of
    # merges that is every way to cut every token in two, best token first.
    ranked = sorted((i for i in range(len(tokens)) if types[i] not in (_UNKNOWN, _CONTROL)), key=lambda i: -scores[i])
    merges = []
    for i in ranked:
        token = tokens[i]
        merges += [
            (token[:cut], token[cut:]) for cut in range(1, len(token)) if token[:cut] in vocab and token[cut:] in vocab
        ]
    unknown = special_ids(metadata, len(tokens)).get("unk")
    tokenizer = Tokenizer(
        models.BPE(
            vocab,
            merges,
            unk_token=None if unknown is None else tokens[unknown],
            fuse_unk=True,
            byte_fallback=True,
        )
    )
    prefix = metadata.get("tokenizer.ggml.add_space_prefix", True)
    spaces = normalizers.Replace(" ", "▁")
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), spaces]) if prefix else spaces
    steps = [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()]
    tokenizer.decoder = decoders.Sequence([*steps, decoders.Strip(" ", left=1)] if prefix else steps)
    return tokenizer


def _add_special(tokenizer: Any, tokens: list[str], types: list[int], metadata: dict[str, Any]) -> None:
    from tokenizers import AddedToken, processors

    def added(text: str, special: bool) -> Any:
        return AddedToken(text, normalized=False, special=special, rstrip=_takes_spaces(metadata, text))

    special = [t for t, kind in zip(tokens, types, strict=True) if kind in (_CONTROL, _UNKNOWN)]
    plain = [t for t, kind in zip(tokens, types, strict=True) if kind == _USER_DEFINED]
    tokenizer.add_special_tokens([added(t, True) for t in special if t])
    tokenizer.add_tokens([added(t, False) for t in plain if t])
    begins, ends = _adds(metadata, len(tokens))
    known = special_ids(metadata, len(tokens))
    before, behind = [known["bos"]] if begins else [], [known["eos"]] if ends else []
    if isinstance(said := _said(metadata, AROUND), list) and len(said) == 2:
        before, behind = ([i for i in ids if isinstance(i, int) and 0 <= i < len(tokens)] for ids in said)
    if before or behind:
        tokenizer.post_processor = processors.TemplateProcessing(
            single=[*(tokens[i] for i in before), "$A", *(tokens[i] for i in behind)],
            special_tokens=[(tokens[i], i) for i in dict.fromkeys([*before, *behind])],
        )


def _adds(metadata: Mapping[str, Any], n_tokens: int) -> tuple[bool, bool]:
    """Whether a text gets a BOS before it and an EOS behind it; without a word in the file, as llama.cpp has it."""
    rule = word_rules.rule_of(metadata.get("tokenizer.ggml.pre", ""))
    default = metadata.get("tokenizer.ggml.model") == "llama" or rule in _BOS_BY_DEFAULT
    begins = metadata.get("tokenizer.ggml.add_bos_token", default)
    ends = metadata.get("tokenizer.ggml.add_eos_token", False)
    known = special_ids(metadata, n_tokens)
    return bool(begins) and "bos" in known, bool(ends) and "eos" in known


def _said(metadata: Mapping[str, Any], key: str) -> Any:
    """What stands under a key of our own, which anybody can write; None where it is no JSON."""
    try:
        return json.loads(metadata.get(key, "null"))
    except (ValueError, TypeError, RecursionError):
        return None


def _end_ids(metadata: Mapping[str, Any], tokens: list[str]) -> list[int]:
    """Every id that ends an answer: the file's own, and the markers that llama.cpp also stops at."""
    if said := [int(i) for i in str(metadata.get(END_IDS, "")).split(",") if i.isdecimal()]:
        return said
    place = {token: i for i, token in reversed(list(enumerate(tokens)))}
    stated = [special_ids(metadata, len(tokens)).get("eos")]
    stated += [metadata.get(f"tokenizer.ggml.{key}_token_id") for key in ("eot", "eom")]
    for key, names in _BETWEEN_FILES.items():
        named = metadata.get(f"tokenizer.ggml.{key}_token_id")
        stated.append(next((place[n] for n in names if n in place), None) if named is None else named)
    marked = [i for i, token in enumerate(tokens) if token in _END_OF_TURN]
    found = dict.fromkeys(i for i in [*stated, *marked] if i is not None and 0 <= i < len(tokens))
    there = {tokens[i] for i in found}
    without = {"<|end|>"} if any(ends <= there for ends in _END_OF_MESSAGE) else set()
    without |= {"</s>"} if "<|tool_response>" in there else set()
    return [i for i in found if tokens[i] not in without]
