"""A folder's tokenizer as transformers reads it, for every backend and for the processes that convert models.

One reader, so that a folder and what is made of it read a text alike. transformers is imported inside.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core.paths import cache_dir
from core.tokenizers import tiktoken_file, word_rules
from core.tokenizers.folder import (
    AS_IT_IS,
    NAMES,
    SENTENCEPIECE,
    TEKKEN,
    at_rest,
    chat_templates,
    is_changed,
    is_tiktoken,
    named_tokens,
    read_json,
    token_flags,
    token_text,
    tokenizer_file,
    tokenizer_of,
    without_panic,
)
from hardware.child import Child
from hardware.errors import ExplorerError
from hardware.files import write_whole

_TEKKEN_TOKENS = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
_OF_TOKENIZER = (".json", ".txt", ".model", ".tiktoken", ".jinja")  # endings of the files that it is made of
_PROBE = "A fox: 3.14, twice."
_HARD = f" {word_rules.HARD}"


def library_tokenizer(folder: Path) -> Any:
    """transformers' tokenizer, which reads SentencePiece, tekken and tiktoken files, too. Raises ExplorerError.

    transformers builds some tokenizers anew, from the class that a folder names and the vocabulary of its
    tokenizer.json. Where that class is of another kind than the file, which many published folders have, the text
    comes back damaged or is cut into other words; then the file is taken as it is.
    """
    options: dict[str, Any] = {"trust_remote_code": False, "local_files_only": True}
    file = tokenizer_file(folder)
    try:
        if file is not None and file.name == TEKKEN:
            return _tekken(file)
        if file is not None and is_tiktoken(file):
            return _tiktoken(file)
        with without_panic():
            found = _as_its_class(folder, options | _mended(folder))
        if hasattr(found, "backend_tokenizer"):
            at_rest(found.backend_tokenizer)
        return found
    except Exception as error:  # transformers and tokenizers raise their own
        for name in ("tokenizer_config.json", "special_tokens_map.json", "added_tokens.json", "tokenizer.json"):
            read_json(folder / name)  # tells better what is wrong with it
        cause = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        if file is not None and file.name in SENTENCEPIECE and "tiktoken" in cause:  # what transformers tries next
            cause = f"{file.name} is cut off or damaged"
        raise ExplorerError(
            f"The tokenizer in {folder.name} cannot be read: {cause.split('. ')[0].rstrip('.')}.",
            "Put the model's tokenizer.json beside its weights.",
        ) from error


def _as_its_class(folder: Path, options: dict[str, Any]) -> Any:
    """As the class has it that a folder names, or as its tokenizer.json does where that is of another kind, or where
    the class is code of the model's own."""
    import transformers

    stored = folder / "tokenizer.json"
    try:
        found = transformers.AutoTokenizer.from_pretrained(str(folder), **options)
    except ValueError:  # code, which is not run
        if not stored.is_file():
            raise
        return transformers.PreTrainedTokenizerFast.from_pretrained(str(folder), **options)
    if stored.is_file() and not (_keeps(found) and _cuts_as(found.backend_tokenizer, stored)):
        own = transformers.PreTrainedTokenizerFast.from_pretrained(str(folder), **options)
        return own if _keeps(own) else found
    return found


def _mended(folder: Path) -> dict[str, Any]:
    """What transformers must be told where a folder says it in a way that it does not read: a longest text as words,
    tokens as objects without their type, and as older releases wrote them."""
    from transformers import AddedToken

    found: dict[str, Any] = {}
    settings = read_json(folder / "tokenizer_config.json")
    if isinstance(length := settings.get("model_max_length"), str):
        found["model_max_length"] = int(length) if length.isdecimal() else None
    for name in NAMES:
        if isinstance(said := settings.get(name), dict) and "__type" not in said and token_text(said):
            found[name] = AddedToken(token_text(said), special=True, **token_flags(said))
    more = read_json(folder / "special_tokens_map.json").get("additional_special_tokens")
    if "added_tokens_decoder" not in settings and isinstance(more, list) and any(isinstance(t, dict) for t in more):
        found["additional_special_tokens"] = [
            AddedToken(token_text(t), special=True, **token_flags(t if isinstance(t, dict) else {})) for t in more
        ]
    return found


def _tekken(file: Path) -> Any:
    """Of a tekken.json, with its <s> before a text: transformers leaves that away, and mistral-common puts it there."""
    from transformers.integrations.mistral.tokenizer import MistralConverter

    found = MistralConverter(str(file)).converted()
    named = {name: text for name, text in _TEKKEN_TOKENS.items() if found.token_to_id(text) is not None}
    return _wrapped(found, file.parent, named, [text for name, text in named.items() if name == "bos_token"])


def _tiktoken(file: Path) -> Any:
    """Of a tiktoken vocabulary, with what its family adds to it: transformers cuts every one as Llama 3 does.

    Raises ValueError for a damaged one.
    """
    from tokenizers import AddedToken, normalizers
    from transformers.convert_slow_tokenizer import TikTokenConverter

    folder = file.parent
    config, settings = (read_json(folder / name) for name in ("config.json", "tokenizer_config.json"))
    family = tiktoken_file.family(file.name, config, settings)
    assert family is not None, "tokenizer_file gives no other"
    words = tiktoken_file.words(file)

    class Converter(TikTokenConverter):  # type: ignore[misc]
        """Without the tiktoken package, which would do no more than read the file."""

        @staticmethod
        def load_tiktoken_bpe(tiktoken_url: str) -> dict[bytes, int]:
            return words

    found = Converter(vocab_file=str(file)).converted()
    found.pre_tokenizer = word_rules.splitter(family.rule, of_its_maker=True)
    if family.composed:
        found.normalizer = normalizers.NFC()
    for i, text, said in tiktoken_file.special(len(words), family, config, settings):
        token = AddedToken(text, special=bool(said.get("special", True)), **token_flags(said))
        (found.add_special_tokens if token.special else found.add_tokens)([token])
        if found.token_to_id(text) != i:
            raise ValueError(f"its special token '{text}' cannot have the id {i:,}")
    named = {**family.named, **named_tokens(folder, settings)}
    named = {name: text for name, text in named.items() if found.token_to_id(text) is not None}
    before = [named.get(token, token) for token in family.before if settings.get("add_bos_token", True)]
    return _wrapped(found, folder, named, [token for token in before if found.token_to_id(token) is not None])


def _wrapped(found: Any, folder: Path, named: Mapping[str, str], before: Sequence[str]) -> Any:
    """A `tokenizers.Tokenizer` as transformers has one, with the folder's templates. before: tokens put before a
    text."""
    from tokenizers import processors
    from transformers import PreTrainedTokenizerFast

    if before:
        adds = processors.TemplateProcessing(
            single=[*before, "$A"],
            pair=[*before, "$A", "$B"],
            special_tokens=[(token, found.token_to_id(token)) for token in before],
        )
        found.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), adds])
    templates = chat_templates(folder, read_json(folder / "tokenizer_config.json"))
    stored = templates["default"] if templates.keys() == {"default"} else templates or None
    return PreTrainedTokenizerFast(tokenizer_object=found, chat_template=stored, **named)


def _keeps(tokenizer: Any) -> bool:
    """Whether a plain text comes back from its ids."""
    ids = tokenizer.encode(_PROBE, add_special_tokens=False)
    text = str(tokenizer.decode(ids, clean_up_tokenization_spaces=False))
    return text.strip().casefold() == _PROBE.casefold()


def _cuts_as(tokenizer: Any, stored: Path) -> bool:
    """Whether a `tokenizers.Tokenizer` cuts a text into words as a tokenizer.json of bytes does; True for other kinds.

    The text begins with a space, before which none is put whatever `add_prefix_space` says.
    """
    from tokenizers import Tokenizer

    content = json.loads(stored.read_text(encoding="utf-8"))
    model = content["model"]
    if model.get("type") != "BPE" or '"ByteLevel"' not in json.dumps(content.get("pre_tokenizer")):
        return True
    without = model | {"vocab": {}, "merges": [], "unk_token": None}
    own = Tokenizer.from_str(json.dumps(content | {"model": without, "added_tokens": [], "post_processor": None}))
    whole = bool(model.get("ignore_merges")) == tokenizer.model.ignore_merges
    return whole and _words(own) == _words(tokenizer)


def _words(tokenizer: Any) -> list[str]:
    text = tokenizer.normalizer.normalize_str(_HARD) if tokenizer.normalizer else _HARD
    return [word for word, _ in tokenizer.pre_tokenizer.pre_tokenize_str(text)] if tokenizer.pre_tokenizer else [text]


def save(source: Path, target: Path) -> None:
    """Put the tokenizer of `source` into `target` as tokenizer.json, and its special tokens into tokenizer_config.json.

    Raises ExplorerError.
    """
    tokenizer = library_tokenizer(source)
    tokenizer.backend_tokenizer.save(str(target / "tokenizer.json"))
    settings = read_json(target / "tokenizer_config.json")
    settings = {key: value for key, value in settings.items() if key not in named_tokens(source, settings)}
    named = special_tokens(tokenizer)
    settings |= {name: text for name, text in named.items() if name in NAMES} | {"tokenizer_class": AS_IT_IS}
    if own := {name: text for name, text in named.items() if name not in NAMES}:
        settings["extra_special_tokens"] = own
    (target / "tokenizer_config.json").write_text(json.dumps(settings, indent=2, ensure_ascii=False), encoding="utf-8")
    (target / "special_tokens_map.json").unlink(missing_ok=True)  # older folders say there what is now said above


def fast_tokenizer(folder: Path) -> Any:
    """A `tokenizers.Tokenizer` that reads a text as transformers does, which is not imported: where it would read the
    folder's tokenizer.json in a way of its own, or there is none, it is asked in another process and its answer kept.

    Raises ExplorerError.
    """
    from tokenizers import Tokenizer

    file = tokenizer_file(folder)
    assert file is not None, "a folder with a tokenizer"
    if file.name == "tokenizer.json":
        try:
            if not is_changed(folder) or not _release():
                return tokenizer_of(file)
        except ExplorerError:
            raise
        except Exception as error:  # tokenizers raises plain Exception
            raise ExplorerError(
                f"The tokenizer.json in {folder.name} cannot be read: {error}.", "Export or download the model again."
            ) from error
    files = sorted(f for f in folder.iterdir() if f.suffix in _OF_TOKENIZER and f.is_file())
    key = sha256(repr([_release(), *((f.name, f.read_bytes()) for f in files)]).encode()).hexdigest()[:20]
    kept = cache_dir() / "tokenizers" / f"{key}.json"
    if not kept.is_file():
        with (
            TemporaryDirectory() as made,
            Child("core.tokenizers.library", [str(folder.absolute()), made], hush=True) as child,
        ):
            said = next((m for m in child.messages() if m and m.keys() & {"values", "reason"}), {})
            if "values" not in said:
                reason = said.get("reason") or f"The tokenizer in {folder.name} cannot be read: {child.last_error}"
                raise ExplorerError(reason, "Put the model's tokenizer.json beside its weights.")
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, (Path(made) / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer.from_file(str(kept))
    settings = read_json(folder / "tokenizer_config.json")
    tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens", False))
    return tokenizer


def _release() -> str:
    """Of transformers; "" where it is not installed."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def main() -> None:
    """`python -m core.tokenizers.library SOURCE TARGET` saves, and prints {"values": {}} or {"reason": ...}."""
    try:
        save(*map(Path, sys.argv[1:]))
        said: dict[str, Any] = {"values": {}}
    except ExplorerError as error:
        said = {"reason": error.message}
    print(json.dumps(said), flush=True)


def special_tokens(tokenizer: Any) -> dict[str, str]:
    """Name ("bos_token") -> text of the special tokens that chat templates are given."""
    tokens: Mapping[str, Any] = getattr(tokenizer, "special_tokens_map", None) or {}
    return {name: str(token) for name, token in tokens.items() if isinstance(token, str)}


if __name__ == "__main__":
    main()
