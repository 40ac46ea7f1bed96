"""One forward pass over the prompt and no generation: what an encoder does, and a pure prefill measurement."""

from __future__ import annotations

from collections.abc import Iterator

from core.types import Advance, GenerationConfig, Ids, Record, Session, Strategy


class NoParams(Record):
    """Nothing to set."""


class Encode:
    name = "encode"
    label = "Encode (one forward, no generation)"
    needs = frozenset({"forward"})
    single = False
    exact = True
    Params = NoParams

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: NoParams) -> Iterator[Advance]:
        session.reset()
        session.forward(prompt, keep=1 if "cache" in session.capabilities else None)
        yield Advance(phase="prefill")


plugin: Strategy = Encode()
