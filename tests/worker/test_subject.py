"""An answer that ends by a stop text counts up to it, however many tokens a step gave."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from core.backends.fake import FakeSession
from core.types import Advance, Counts, Generation, Request
from core.worker.subject import ModelUnderTest

ANSWER = "yes\n\nQ: and then?"


class Scripted:
    """A strategy that says ANSWER after its prompt, `width` tokens per forward of as many."""

    needs: frozenset[str] = frozenset()

    def __init__(self, width: int) -> None:
        self._width = width

    def decode(self, session: Any, prompt: Any, config: Any, params: Any) -> Iterator[Advance]:
        session.reset()
        session.forward(prompt, keep=1)
        session.commit(prompt.shape[1])
        text = ANSWER.encode()
        yield Advance(phase="prefill", tokens=(tuple(text[:1]),))
        for at in range(1, len(text), self._width):
            session.forward(prompt[:, :1].repeat(self._width, axis=1))
            session.commit(1)
            yield Advance(phase="decode", tokens=(tuple(text[at : at + self._width]),))


def answer(width: int) -> Generation:
    spec: Any = SimpleNamespace(name="fake", max_context=999, vocab_size=300, layers=(), dtype="fp32", n_blocks=1)
    session: Any = FakeSession(spec, Request(model="fake", backend="fake"))
    return ModelUnderTest(session, None, Scripted(width), None).generate([1, 2, 3], 99, stop=("\n\n",))  # type: ignore[arg-type]


@pytest.mark.parametrize(("width", "forwards"), [(1, 4), (8, 1)])
def test_the_same_answer_has_the_same_number_of_tokens(width: int, forwards: int) -> None:
    """y e s and two line ends: four tokens after the first, in four forwards of one or in one of eight."""
    found = answer(width)
    assert found.text == "yes" and bytes(found.ids) == b"yes\n\n"
    assert found.counts == Counts(tokens=4, forwards=forwards, inputs=width * forwards)
