"""What a folder says of its model's text: which tokenizer file is read, chat templates, and the ids that end a text.

Reads small files and loads no library. A tokenizer in a form that is not read is refused in a sentence that names the
file: real weights never run on tokens that stand in for their own.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from core.tokenizers import tiktoken_file
from core.types import ModelSpec
from hardware.errors import ExplorerError

NAMES = tuple(f"{name}_token" for name in ("bos", "eos", "unk", "sep", "pad", "cls", "mask"))  # of transformers
SENTENCEPIECE = ("tokenizer.model", "spiece.model", "sentencepiece.bpe.model")
TEKKEN = "tekken.json"
AS_IT_IS = "PreTrainedTokenizerFast"  # the class of a tokenizer.json that no class changes
READ = ("tokenizer.json", *SENTENCEPIECE, "vocab.txt", "vocab.json", TEKKEN)  # the first that is there and is read
_SPECIAL = re.compile(rb'"special_tokens"\s*:')
_LFS = b"version https://git-lfs"
_CONVERT = "Put the model's tokenizer.json beside its weights, or convert {name} into one with transformers."


def tokenizer_file(folder: Path) -> Path | None:
    """The file that the tokenizer is read from; None where the folder has none in any form.

    Raises ExplorerError where its only form is one that is not read.
    """
    for file in (*(folder / name for name in READ), *sorted(folder.glob("*.tiktoken")), folder / "tiktoken.model"):
        if file.is_file() and _foreign(file) is None:
            return file
    for file in sorted(f for f in folder.iterdir() if f.is_file()):
        if (form := _foreign(file)) is not None:
            raise ExplorerError(
                f"The tokenizer in {folder.name} cannot be read: {file.name} is {form}.",
                _CONVERT.format(name=file.name),
            )
    return None


def _foreign(file: Path) -> str | None:
    """What form of tokenizer this is, if one that is not read; None for all other files."""
    name = file.name
    if name == TEKKEN and not _SPECIAL.search(file.read_bytes()):
        return "a tekken vocabulary of the first form, which does not list its special tokens"
    if name.startswith("rwkv_vocab") and file.suffix == ".txt":
        return "an RWKV vocabulary"
    if name.startswith("tokenization_") and file.suffix == ".py":
        return "code of the model's own"
    if name == "merges.txt" and not file.with_name("vocab.json").is_file():
        return "merges without their vocabulary"
    if name == "vocab.json" and not file.with_name("merges.txt").is_file():
        return "a vocabulary without its merges"
    ranked = is_tiktoken(file)
    if name in READ or ranked:
        start = _start(file)
        if start.startswith(_LFS):
            return "a pointer of Git LFS instead of the file"
        if name == "tokenizer.json" and start.startswith(codecs.BOM_UTF8):
            return "text with a byte order mark, which is to be saved as UTF-8 without one"
        if ranked:
            config, settings = (read_json(file.with_name(n)) for n in ("config.json", "tokenizer_config.json"))
            known = tiktoken_file.family(name, config, settings)
            return None if known else "a tiktoken vocabulary, which does not say how a text is cut into words"
        if name in SENTENCEPIECE and not start.startswith(b"\n"):  # its first field: the pieces
            return "no SentencePiece model"
    return None


def is_tiktoken(file: Path) -> bool:
    """Whether a tokenizer's file is a tiktoken vocabulary: one has the name of a SentencePiece file."""
    if file.name in SENTENCEPIECE:
        return tiktoken_file.begins_as_one(_start(file))
    return file.name in tiktoken_file.NAMES or file.suffix == tiktoken_file.SUFFIX


def _start(file: Path) -> bytes:
    with file.open("rb") as opened:
        return opened.read(200)


class Unread:
    """The tokenizer of real weights that came without one: ids are shown as numbers, and no text is read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def encode(self, text: str) -> list[int]:
        """Raises ExplorerError."""
        raise ExplorerError(
            f"{self._name} comes without a tokenizer, so its weights cannot be given a text.",
            "Put its tokenizer.json beside the weights, or give a number of prompt tokens instead of a prompt.",
        )

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(f"⟨{int(i)}⟩" for i in ids)


def check_in_table(ids: Sequence[int], spec: ModelSpec, what: str = "The text holds") -> None:
    """Raises ExplorerError for a token that the tokenizer has and the model's table has not."""
    if ids and max(ids) >= spec.vocab_size:
        raise ExplorerError(
            f"{what} a token ({max(ids)}) behind the {spec.vocab_size:,} that {spec.name} knows.",
            "Leave special tokens out of the text, or use the tokenizer that came with the model.",
        )


def check_around(session: Any, spec: ModelSpec) -> None:
    """Raises ExplorerError where what a tokenizer adds to a text is behind the model's table. session: of a text."""
    check_in_table((*session.opening, *session.closing), spec, "The tokenizer adds to every text")


def chat_templates(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Name -> template, the usual one called "default": those of files before those in tokenizer_config.json.

    settings: of tokenizer_config.json. The places are those of transformers.
    """
    found = {}
    if (file := folder / "chat_template.jinja").is_file():
        found["default"] = _read_text(file)
    for file in sorted((folder / "additional_chat_templates").glob("*.jinja")):
        found[file.stem] = _read_text(file)
    if found or (found := named(settings.get("chat_template"))):
        return found
    return named(read_json(folder / "chat_template.json").get("chat_template"))  # of processors, as older files are


def named(stored: Any) -> dict[str, str]:
    """Name -> template of what a tokenizer has stored: one, a list of named ones, or names and templates."""
    if isinstance(stored, str):
        return {"default": stored} if stored else {}
    if isinstance(stored, Mapping):
        return {str(name): template for name, template in stored.items() if isinstance(template, str)}
    listed = [t for t in stored or () if isinstance(t, Mapping)]
    return {str(t.get("name")): t["template"] for t in listed if isinstance(t.get("template"), str)}


def named_tokens(folder: Path, settings: Mapping[str, Any]) -> dict[str, str]:
    """Name ("bos_token") -> text of the special tokens. settings: of tokenizer_config.json.

    Older folders keep them in special_tokens_map.json, which counts where the settings list no added tokens. Names of a
    model's own ("image_token") are found in extra_special_tokens, too.
    """
    sources = [settings]
    if "added_tokens_decoder" not in settings:
        sources.append(read_json(folder / "special_tokens_map.json"))
    more = settings.get("extra_special_tokens")
    own = {name: token_text(token) for name, token in more.items()} if isinstance(more, Mapping) else {}
    return {
        name: token_text(token)
        for source in sources
        for name, token in source.items()
        if name.endswith("_token") and isinstance(token, str | Mapping) and token_text(token)
    } | {name: text for name, text in own.items() if text}


def template_warnings(templates: Mapping[str, str]) -> tuple[str, ...]:
    """What to say where there are templates and none that is used."""
    if not templates or "default" in templates:
        return ()
    names = ", ".join(sorted(templates))
    return (f"The model has chat templates ({names}), but none called default: none is used.",)


def end_ids(*sources: Any) -> frozenset[int]:
    """Every id that these call an end of sequence: dicts of JSON files, or objects of the same fields."""
    found: set[int] = set()
    for source in sources:
        ids = source.get("eos_token_id") if isinstance(source, Mapping) else getattr(source, "eos_token_id", None)
        for i in ids if isinstance(ids, list | tuple | set | frozenset) else (ids,):
            whole = i.is_integer() if isinstance(i, float) else isinstance(i, int) and not isinstance(i, bool)
            if whole or (isinstance(i, str) and i.isdecimal()):
                found.add(int(i))
    return frozenset(found)


def tokenizer_of(file: Path) -> Any:
    """A `tokenizers.Tokenizer` of a tokenizer.json, with the tokens that only the files beside it name, as transformers
    adds them.

    It neither cuts texts off nor fills them up: what a training or a sentence encoder left there of that is not for
    other texts. Raises what the library does.
    """
    from tokenizers import AddedToken, Tokenizer

    with without_panic():
        tokenizer = Tokenizer.from_file(str(file))
    at_rest(tokenizer)
    settings = read_json(file.with_name("tokenizer_config.json"))
    tokenizer.encode_special_tokens = bool(settings.get("split_special_tokens", False))
    there = {token.content: token for token in tokenizer.get_added_tokens_decoder().values()}
    for text, said in _named_beside(file.parent, settings):
        known, special = there.get(text), bool(said.get("special"))
        if not text or (known is not None and (known.special or not special)):
            continue
        flags = token_flags(said if known is None else known.__getstate__())
        there[text] = AddedToken(text, special=special, **flags)
        (tokenizer.add_special_tokens if special else tokenizer.add_tokens)([there[text]])
    return tokenizer


@contextmanager
def without_panic() -> Iterator[None]:
    """What panics inside `tokenizers`, which is no Exception, raises ValueError."""
    try:
        yield
    except Exception:
        raise
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise ValueError(f"its parts contradict one another ({error})") from error


def at_rest(tokenizer: Any) -> None:
    """Of a `tokenizers.Tokenizer`: what a training left in it (a length, filling, chance in merging) is off."""
    tokenizer.no_truncation()
    tokenizer.no_padding()
    if getattr(tokenizer.model, "dropout", None):
        tokenizer.model.dropout = None


def _named_beside(folder: Path, settings: Mapping[str, Any]) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """Token and what is said of it, of the files beside a tokenizer.json, in the order in which transformers adds them:
    those with an id, then those with a name ("eos_token"), then the other special ones.

    settings: of tokenizer_config.json. Older folders have no list there: added_tokens.json and special_tokens_map.json
    count instead.
    """
    listed = settings.get("added_tokens_decoder")
    older = {} if isinstance(listed, Mapping) else read_json(folder / "special_tokens_map.json")
    named = list(named_tokens(folder, settings).values())
    for source in (settings, older):
        for key in ("extra_special_tokens", "additional_special_tokens"):
            more = source.get(key) or ()
            named += map(token_text, more.values() if isinstance(more, Mapping) else more)
    if isinstance(listed, Mapping):
        found = [(i, said) for i, said in listed.items() if i.isdecimal() and isinstance(said, Mapping)]
        yield from ((token_text(said), said) for _, said in sorted(found, key=lambda entry: int(entry[0])))
    else:
        ids = {text: i for text, i in read_json(folder / "added_tokens.json").items() if isinstance(i, int)}
        for text in sorted(ids, key=ids.__getitem__):
            yield text, {"special": text in named, "normalized": text not in named}
    yield from ((text, {"special": True}) for text in named)


def is_changed(folder: Path) -> bool:
    """Whether transformers may read a tokenizer.json otherwise than it stands there: it builds the tokenizer anew, from
    the class that a folder names or, where it names none, that of its kind of model.

    One of bytes it cuts as the file says (core.tokenizers.library), but for a space in front.
    """
    settings, config = (read_json(folder / name) for name in ("tokenizer_config.json", "config.json"))
    if (settings.get("tokenizer_class") or config.get("model_type")) in (None, AS_IT_IS, "TokenizersBackend"):
        return False
    words = read_json(folder / "tokenizer.json").get("pre_tokenizer")
    return '"ByteLevel"' not in json.dumps(words) or bool(settings.get("add_prefix_space"))


def token_flags(said: Mapping[str, Any]) -> dict[str, bool]:
    """How a token that tokenizer_config.json lists is found in a text."""
    return {name: bool(said.get(name, False)) for name in ("single_word", "lstrip", "rstrip", "normalized")}


def additions(encode: Callable[[str, bool], Sequence[int]]) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The ids that a tokenizer puts before and behind a text. encode: (text, whether to add special tokens) -> ids."""
    plain, whole = list(encode("a", False)), list(encode("a", True))
    for start in range(len(whole) - len(plain) + 1):
        if plain and whole[start : start + len(plain)] == plain:
            return tuple(whole[:start]), tuple(whole[start + len(plain) :])
    return (), ()


def added(tokenizer: Any) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """What a `tokenizers.Tokenizer` puts before and behind a text.

    As in transformers, the post-processor of a tokenizer.json counts and not what tokenizer_config.json says of it.
    """
    return additions(lambda text, special: list(tokenizer.encode(text, add_special_tokens=special).ids))


def _read_text(file: Path) -> str:
    """Raises ExplorerError for what is no text."""
    try:
        return file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ExplorerError(f"{file.name} in {file.parent.name} is no UTF-8 text.", "Download it again.") from error


def token_text(token: Any) -> str:
    """A special token is stored as a string or as an object with its content."""
    return str((token.get("content") if isinstance(token, Mapping) else token) or "")


def read_json(file: Path) -> dict[str, Any]:
    """The object in a JSON file, empty where there is no such file. Raises ExplorerError for a damaged one, and for one
    that the libraries would pass over."""
    if not file.is_file():
        return {}
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise _no_json(file, error) from error
    if not isinstance(content, dict):
        raise ExplorerError(f"{file.name} in {file.parent.name} holds no JSON object.", "Download it again.")
    return content


def check_settings(folder: Path) -> None:
    """Raises ExplorerError for what transformers does not read, or passes over: a file that is no JSON, a number format
    with PyTorch's name before it."""
    for name in ("generation_config.json", "tokenizer_config.json", "special_tokens_map.json"):
        read_json(folder / name)
    config = read_json(folder / "config.json")
    for dtype in (config.get("dtype"), config.get("torch_dtype")):
        if isinstance(dtype, str) and dtype.startswith("torch."):
            raise ExplorerError(
                f"config.json in {folder.name} calls its number format '{dtype}', which transformers does not read.",
                f"Write '{dtype.removeprefix('torch.')}' there.",
            )


def _no_json(file: Path, error: Exception) -> ExplorerError:
    what = f"{file.name} in {file.parent.name}"
    if isinstance(error, UnicodeDecodeError):
        return ExplorerError(f"{what} is no UTF-8 text.", "Save it as UTF-8, or download it again.")
    if not isinstance(error, json.JSONDecodeError):
        return ExplorerError(f"{what} is not valid JSON.", "Download it again.")
    if error.doc.startswith("\ufeff"):
        return ExplorerError(
            f"{what} begins with a byte order mark, which the libraries that run models do not read.",
            "Save it as UTF-8 without a byte order mark.",
        )
    return ExplorerError(
        f"{what} is not valid JSON (line {error.lineno}: {error.msg}).", "Correct that line, or download it again."
    )
