"""One token per forward pass, our own loop over forward and commit."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.decoding._prompt import autoregressive
from core.types import Advance, GenerationConfig, Ids, Logits, Record, Session, Strategy


class Prefill(Record):
    """prefill_chunk: prompt tokens per forward pass."""

    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class Autoregressive:
    name = "autoregressive"
    label = "Autoregressive"
    needs = frozenset({"forward", "cache"})
    single = False
    exact = True
    Params = Prefill

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Prefill) -> Iterator[Advance]:
        def step(tokens: Ids, number: int) -> Logits:
            return session.forward(tokens, keep=1)

        return autoregressive(session, prompt, config, params.prefill_chunk, step)


plugin: Strategy = Autoregressive()
