"""The tokenizer inside a GGUF file. It knows nothing of contexts or of weights."""

from __future__ import annotations

import ctypes
import json
import re
import unicodedata
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from core.tokenizers.folder import Unread
from core.tokenizers.from_gguf import AROUND, COMPOSED, END_IDS, NAMED, WHOLE
from hardware.errors import ExplorerError


class Vocabulary:
    """Text to ids and back by llama.cpp; by the `tokenizers` library where a file of this app brings a tokenizer.json,
    which it does when llama.cpp would read some texts otherwise.

    special_tokens: by the names that chat templates use. name: the model's. A file without a vocabulary reads no text.
    """

    def __init__(self, model: Any, name: str) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        kind = llama_cpp.llama_vocab_type(self._vocab)
        self._name = name
        self._unread = Unread(name) if kind == llama_cpp.LLAMA_VOCAB_TYPE_NONE else None
        self._by_bytes = kind == llama_cpp.LLAMA_VOCAB_TYPE_SPM
        self._by_pieces = kind == llama_cpp.LLAMA_VOCAB_TYPE_BPE
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self._pieces: dict[int, bytes] = {}
        said = {key: _said(llama_cpp, model, key) for key in (END_IDS, NAMED, AROUND, COMPOSED, WHOLE)}
        named, around = _json(said[NAMED]), _json(said[AROUND])
        self.special_tokens: dict[str, str] = named if isinstance(named, dict) else self._named()
        self.bos_token = self.special_tokens.get("bos_token", "")
        self.eos_token = self.special_tokens.get("eos_token", "")
        self.eos_ids = frozenset(int(i) for i in said[END_IDS].split(",") if i.isdecimal()) or frozenset(
            i for i in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, i)
        )
        self.opening, self.closing = self._additions()
        if isinstance(around, list) and len(around) == 2:
            self.opening, self.closing = (
                tuple(i for i in ids if isinstance(i, int) and 0 <= i < self.size) for ids in around
            )
        self._composed = said[COMPOSED] == "NFC"
        self._whole = _tokenizer(said[WHOLE]) if isinstance(named, dict) and said[WHOLE] else None

    def _named(self) -> dict[str, str]:
        lib = self._lib
        ids = {
            "bos_token": lib.llama_vocab_bos,
            "eos_token": lib.llama_vocab_eos,
            "pad_token": lib.llama_vocab_pad,
            "sep_token": lib.llama_vocab_sep,
        }
        texts = {name: self._text(of(self._vocab)) for name, of in ids.items()}
        return {name: text for name, text in texts.items() if text}

    def _additions(self) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """The ids that llama_tokenize puts before and behind a text, by its own rules.

        They are not tried on a text: llama.cpp aborts where a vocabulary has no token for it, nor for its bytes.
        """
        lib, vocab = self._lib, self._vocab
        words = lib.llama_vocab_type(vocab) == lib.LLAMA_VOCAB_TYPE_WPM  # BERT's, whatever the file says
        before = lib.llama_vocab_bos(vocab) if words or lib.llama_vocab_get_add_bos(vocab) else -1
        behind = lib.llama_vocab_eos(vocab) if lib.llama_vocab_get_add_eos(vocab) else -1
        if words:
            behind = lib.llama_vocab_sep(vocab)
        return (before,) if before >= 0 else (), (behind,) if behind >= 0 else ()

    def encode(self, text: str) -> list[int]:
        if self._unread is not None:
            return self._unread.encode(text)
        if self._whole is not None:
            ids: list[int] = self._whole.encode(text, add_special_tokens=False).ids
            return ids
        if self._lacks_bytes and (lost := self._lost(text)):
            raise ExplorerError(
                f"The tokenizer in {self._name} has no token for {lost!r} nor for its bytes, at which llama.cpp stops.",
                "Leave the character out, or give a number of prompt tokens instead of a prompt.",
            )
        data = (unicodedata.normalize("NFC", text) if self._composed else text).encode()
        room = len(data) + 4  # no token is shorter than a byte; some vocabularies add a space in front
        tokens = (self._lib.llama_token * room)()
        n = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, True)
        if n < 0:  # the room it wants
            tokens = (self._lib.llama_token * -n)()
            n = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, -n, False, True)
        assert n >= 0, "llama_tokenize did not say how much room it needs"
        return list(tokens[:n])

    @cached_property
    def _lacks_bytes(self) -> bool:
        """Whether it is a SentencePiece vocabulary without a token for each byte."""
        of_type, byte = self._lib.llama_vocab_get_attr, self._lib.LLAMA_TOKEN_ATTR_BYTE
        return self._by_bytes and sum(bool(of_type(self._vocab, i) & byte) for i in range(self.size)) < 256

    @cached_property
    def _tokens(self) -> tuple[frozenset[str], re.Pattern[str]]:
        """All tokens, and what finds those that are cut out of a text as they are."""
        lib = self._lib
        texts = [self._text(i) for i in range(self.size)]
        whole = lib.LLAMA_TOKEN_ATTR_CONTROL | lib.LLAMA_TOKEN_ATTR_USER_DEFINED | lib.LLAMA_TOKEN_ATTR_UNKNOWN
        marks = [t for i, t in enumerate(texts) if t and lib.llama_vocab_get_attr(self._vocab, i) & whole]
        return frozenset(texts), re.compile("|".join(map(re.escape, sorted(marks, key=len, reverse=True))) or "(?!)")

    def _lost(self, text: str) -> str:
        """The first character that has neither a token nor bytes that have one; "" where there is none."""
        tokens, marks = self._tokens
        for char in dict.fromkeys(marks.sub("", text)):
            is_there = char.replace(" ", "▁") in tokens
            if not is_there and not all(f"<0x{byte:02X}>" in tokens for byte in char.encode()):
                return char
        return ""

    def decode(self, ids: Sequence[int]) -> str:
        if self._unread is not None:
            return self._unread.decode(ids)
        if self._by_pieces:  # llama_detokenize takes the spaces before punctuation away, for some vocabularies
            return b"".join(self._piece(i) for i in ids).decode(errors="replace")
        tokens = (self._lib.llama_token * len(ids))(*ids)

        def fill(buffer: Any, room: int) -> int:
            return int(self._lib.llama_detokenize(self._vocab, tokens, len(ids), buffer, room, False, False))

        return _filled(fill, 16 * len(ids) + 16).decode(errors="replace")

    def _piece(self, token: int) -> bytes:
        """A token's bytes; none for those that stand for no text."""
        token = int(token)
        if token not in self._pieces:

            def fill(buffer: Any, room: int) -> int:
                return int(self._lib.llama_token_to_piece(self._vocab, token, buffer, room, 0, False))

            self._pieces[token] = _filled(fill, 64)
        return self._pieces[token]

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._lib.llama_vocab_get_text(self._vocab, token).decode(errors="replace"))


def _filled(fill: Any, room: int) -> bytes:
    """What `fill` puts into a buffer. It returns how much that was, or minus the room that it wants."""
    for _ in range(2):
        buffer = ctypes.create_string_buffer(room)
        n = int(fill(buffer, room))
        if n >= 0:
            return buffer.raw[:n]
        room = -n
    raise AssertionError("llama.cpp did not say how much room it needs")


def _said(lib: Any, model: Any, key: str) -> str:
    """A text of the file's header; empty where it has none under this key."""
    n = lib.llama_model_meta_val_str(model, key.encode(), None, 0)
    if n <= 0:
        return ""
    buffer = ctypes.create_string_buffer(n + 1)
    lib.llama_model_meta_val_str(model, key.encode(), buffer, n + 1)
    return buffer.value.decode(errors="replace")


def _json(text: str) -> Any:
    """None where it is no JSON: anybody can write into a header."""
    try:
        return json.loads(text or "null")
    except (ValueError, RecursionError):
        return None


def _tokenizer(content: str) -> Any:
    from tokenizers import Tokenizer

    return Tokenizer.from_str(content)
