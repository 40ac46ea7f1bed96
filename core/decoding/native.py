"""The library's own generate loop, as its users run it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from core.types import Advance, GenerationConfig, Ids, Record, Session, Strategy


class NoParams(Record):
    """Nothing to set."""


class Native:
    name = "native"
    label = "Native (the library's own loop)"
    needs = frozenset({"stream"})
    single = False
    exact = True
    Params = NoParams

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: NoParams) -> Iterator[Advance]:
        phase: Literal["prefill", "decode"] = "prefill"
        for tokens in session.stream(prompt, config):
            yield Advance(phase=phase, tokens=tuple(map(tuple, tokens.tolist())))
            phase = "decode"


plugin: Strategy = Native()
