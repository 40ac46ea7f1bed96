"""Text to ids and back, and the special tokens, from the files beside a model.onnx.

Reads tokenizer.json with the `tokenizers` library, and the small JSON files as they are. Opening an ONNX model does
not import transformers: where that would read a folder's tokenizer in a way of its own, it is asked in another process.
"""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from core.paths import cache_dir
from core.tokenizer_folder import (
    Unread,
    added,
    chat_templates,
    check_around,
    check_in_table,
    end_ids,
    is_changed,
    named_tokens,
    read_json,
    template_warnings,
    tokenizer_file,
    tokenizer_of,
)
from core.types import ModelSpec
from hardware.child import Child
from hardware.errors import ExplorerError
from hardware.files import write_whole

_READER = "core.library_tokenizer"
_OF_TOKENIZER = (".json", ".txt", ".model", ".tiktoken", ".jinja")


class Text:
    """encode, decode, chat templates, special tokens, eos_ids, opening and closing of the model in `folder`.

    Without a tokenizer, random weights read every byte of UTF-8 as a token, and `warnings` says so; real weights are
    given no text. Raises ExplorerError for a tokenizer in a form that is not read.
    """

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        self._tokenizer, self._spec = _tokenizer(folder), spec
        self._unread = None if spec.random_weights else Unread(folder.name)
        config = read_json(folder / "tokenizer_config.json")
        self.chat_templates = templates = chat_templates(folder, config)
        self.chat_template = templates.get("default")
        self.special_tokens = named_tokens(folder, config)
        self.bos_token, self.eos_token = (self.special_tokens.get(f"{name}_token", "") for name in ("bos", "eos"))
        self.eos_ids = end_ids(
            read_json(folder / "generation_config.json"),
            read_json(folder / "config.json"),
            {"eos_token_id": self._end()},
        )
        self.opening, self.closing = ((), ()) if self._tokenizer is None else added(self._tokenizer)
        check_around(self, spec)
        self.warnings = template_warnings(templates)
        if self._tokenizer is None and self._unread is None:
            self.warnings += ("The model comes without tokenizer.json: each byte of the text is one token.",)

    def encode(self, text: str) -> list[int]:
        if self._tokenizer is None:
            return self._unread.encode(text) if self._unread else list(text.encode())
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        check_in_table(ids, self._spec)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        if self._tokenizer is None:
            return (
                self._unread.decode(ids) if self._unread else bytes(int(i) % 256 for i in ids).decode(errors="replace")
            )
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def _end(self) -> int | None:
        """The id of the token that the tokenizer calls its end."""
        if self._tokenizer is None or not self.eos_token:
            return None
        found: int | None = self._tokenizer.token_to_id(self.eos_token)
        return found


def _tokenizer(folder: Path) -> Any:
    file = tokenizer_file(folder)
    if file is None:
        return None
    try:
        if (file.name != "tokenizer.json" or is_changed(folder)) and (release := _release()):
            return _as_in_transformers(folder, release)
        if file.name != "tokenizer.json":
            raise ExplorerError(
                f"The tokenizer in {folder.name} is {file.name}, which transformers reads, and that is not installed.",
                "Put its tokenizer.json beside model.onnx.",
            )
        return tokenizer_of(file)
    except ExplorerError:
        raise
    except Exception as error:  # tokenizers raises plain Exception
        raise ExplorerError(
            f"The {file.name} in {folder.name} cannot be read: {error}.", "Export or download the model again."
        ) from error


def _release() -> str:
    """Of transformers; "" where it is not installed."""
    try:
        return version("transformers")
    except PackageNotFoundError:
        return ""


def _as_in_transformers(folder: Path, release: str) -> Any:
    """The tokenizer that transformers makes of a folder, asked of it in another process and kept.

    Raises ExplorerError.
    """
    from tokenizers import Tokenizer

    files = sorted(f for f in folder.iterdir() if f.suffix in _OF_TOKENIZER and f.is_file())
    key = sha256(repr([release, *((f.name, f.read_bytes()) for f in files)]).encode()).hexdigest()[:20]
    kept = cache_dir() / "tokenizers" / f"{key}.json"
    if not kept.is_file():
        with TemporaryDirectory() as made, Child(_READER, [str(folder.absolute()), made], hush=True) as child:
            said = next((m for m in child.messages() if m and m.keys() & {"values", "reason"}), {})
            if "values" not in said:
                reason = said.get("reason") or f"The tokenizer in {folder.name} cannot be read: {child.last_error}"
                raise ExplorerError(reason, "Export or download the model again.")
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_whole(kept, (Path(made) / "tokenizer.json").read_bytes())
    tokenizer = Tokenizer.from_file(str(kept))
    tokenizer.encode_special_tokens = bool(
        read_json(folder / "tokenizer_config.json").get("split_special_tokens", False)
    )
    return tokenizer
