"""Text to ids and back, and the special tokens, from the files beside a model.onnx.

Reads tokenizer.json with the `tokenizers` library, and the small JSON files as they are. Knows
nothing of transformers, so that opening an ONNX model does not import it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.errors import ExplorerError


class Text:
    """encode, decode, chat_template, bos_token, eos_token, eos_ids of the model in `folder`.

    Without a tokenizer.json every byte of UTF-8 is a token, and `warnings` says so.
    """

    def __init__(self, folder: Path) -> None:
        self._tokenizer = _tokenizer(folder / "tokenizer.json")
        config = _json(folder / "tokenizer_config.json")
        self.chat_template = _template(folder / "chat_template.jinja", config.get("chat_template"))
        self.bos_token, self.eos_token = _content(config.get("bos_token")), _content(config.get("eos_token"))
        self.eos_ids = self._ends(_json(folder / "generation_config.json"), _json(folder / "config.json"))
        self.warnings: tuple[str, ...] = ()
        if self._tokenizer is None:
            self.warnings = ("The model comes without tokenizer.json: each byte of the text is one token.",)

    def encode(self, text: str) -> list[int]:
        if self._tokenizer is None:
            return list(text.encode())
        ids: list[int] = self._tokenizer.encode(text, add_special_tokens=False).ids
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        if self._tokenizer is None:
            return bytes(int(i) % 256 for i in ids).decode(errors="replace")
        text: str = self._tokenizer.decode([int(i) for i in ids], skip_special_tokens=True)
        return text

    def _ends(self, *configs: dict[str, Any]) -> frozenset[int]:
        """Every id that the model's own files call an end of sequence."""
        found: set[int] = set()
        for config in configs:
            ids = config.get("eos_token_id")
            found |= {ids} if isinstance(ids, int) else set(ids or ())
        if self._tokenizer is not None and self.eos_token:
            found |= {self._tokenizer.token_to_id(self.eos_token)} - {None}
        return frozenset(found)


def _tokenizer(file: Path) -> Any:
    if not file.is_file():
        return None
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(file))
    except Exception as error:  # tokenizers raises plain Exception
        raise ExplorerError(
            f"The tokenizer.json in {file.parent.name} cannot be read: {error}.", "Export or download the model again."
        ) from error


def _json(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {}
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ExplorerError(
            f"{file.name} in {file.parent.name} is not JSON: {error}.", "Export or download the model again."
        ) from error
    return found if isinstance(found, dict) else {}


def _template(file: Path, stored: Any) -> str | None:
    """The chat template: a file of its own since transformers 4.50, before that a string or a list of named ones."""
    if file.is_file():
        return file.read_text(encoding="utf-8")
    if isinstance(stored, list):
        stored = next((t.get("template") for t in stored if t.get("name") == "default"), None)
    return stored or None


def _content(token: Any) -> str:
    """A special token is stored as a string or as an object with its content."""
    return (token.get("content") if isinstance(token, dict) else token) or ""
