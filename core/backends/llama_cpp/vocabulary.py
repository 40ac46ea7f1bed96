"""The tokenizer inside a GGUF file. It knows nothing of contexts or of weights."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any

END_IDS = b"roofscope.end_token_ids"  # as core.models.gguf_tokenizer writes it


class Vocabulary:
    def __init__(self, model: Any) -> None:
        import llama_cpp

        self._lib = llama_cpp
        self._vocab = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self._vocab)
        self.bos_token = self._text(llama_cpp.llama_vocab_bos(self._vocab))
        self.eos_token = self._text(llama_cpp.llama_vocab_eos(self._vocab))
        self.eos_ids = _said(llama_cpp, model) or frozenset(
            i for i in range(self.size) if llama_cpp.llama_vocab_is_eog(self._vocab, i)
        )
        self.opening, self.closing = self._additions()

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
        data = text.encode()
        room = len(data) + 4  # no token is shorter than a byte; some vocabularies add a space in front
        tokens = (self._lib.llama_token * room)()
        n = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, room, False, True)
        if n < 0:  # the room it wants
            tokens = (self._lib.llama_token * -n)()
            n = self._lib.llama_tokenize(self._vocab, data, len(data), tokens, -n, False, True)
        assert n >= 0, "llama_tokenize did not say how much room it needs"
        return list(tokens[:n])

    def decode(self, ids: Sequence[int]) -> str:
        tokens = (self._lib.llama_token * len(ids))(*ids)
        room = 16 * len(ids) + 16
        for _ in range(2):
            buffer = ctypes.create_string_buffer(room)
            n = self._lib.llama_detokenize(self._vocab, tokens, len(ids), buffer, room, False, False)
            if n >= 0:
                return buffer.raw[:n].decode(errors="replace")
            room = -n
        raise AssertionError("llama_detokenize did not say how much room it needs")

    def _text(self, token: int) -> str:
        if token < 0:
            return ""
        return str(self._lib.llama_vocab_get_text(self._vocab, token).decode(errors="replace"))


def _said(lib: Any, model: Any) -> frozenset[int]:
    """The ids that end a text as a file written by this app names them, which are more than llama.cpp's keys hold."""
    buffer = ctypes.create_string_buffer(4096)
    n = lib.llama_model_meta_val_str(model, END_IDS, buffer, len(buffer))
    return frozenset(int(i) for i in buffer.value.decode().split(",")) if n > 0 else frozenset()
