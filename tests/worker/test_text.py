"""Text out of token ids: whole characters only, however a step cuts them, and none of them late."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from core.worker.text import TextStream

BYTES: Any = SimpleNamespace(decode=lambda ids: bytes(ids).decode(errors="replace"))
TEXT = "Größe, 😀🧪 and \ufffd, naïve " * 9


@pytest.mark.parametrize("size", [1, 2, 3, 7, 40, 1000])
def test_pieces_are_the_text_whatever_the_steps(size: int) -> None:
    stream, ids = TextStream(BYTES), TEXT.encode()
    assert "".join(stream.add(tuple(ids[i : i + size])) for i in range(0, len(ids), size)) == TEXT


def test_half_a_character_holds_nothing_back_but_itself() -> None:
    """An answer of Jacobi's that ended so lost all words of its last step."""
    stream = TextStream(BYTES)
    assert stream.add(tuple("party 🎉".encode()[:-2])) == "party "
    assert stream.add(tuple("party 🎉".encode()[-2:])) == "🎉"
