"""Text to ids and back, and the special tokens, from the files beside a model.onnx.

Reads tokenizer.json with the `tokenizers` library, and the small JSON files as they are. Opening an ONNX model does
not import transformers.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.tokenizers.folder import (
    Unread,
    added,
    chat_templates,
    check_around,
    check_in_table,
    end_ids,
    named_tokens,
    read_json,
    template_warnings,
    tokenizer_file,
)
from core.tokenizers.library import fast_tokenizer
from core.types import ModelSpec


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
    return None if tokenizer_file(folder) is None else fast_tokenizer(folder)
