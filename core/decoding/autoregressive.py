"""One token per forward, our own loop over forward and commit."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from core.decoding._prompt import choose, prefill
from core.types import Advance, GenerationConfig, Ids, Record, Session


class Prefill(Record):
    """prefill_chunk: prompt tokens per forward."""

    prefill_chunk: int = 512


class Autoregressive:
    name = "autoregressive"
    label = "Autoregressive"
    needs = frozenset({"forward", "cache"})
    single = False
    exact = True
    Params = Prefill

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Prefill) -> Iterator[Advance]:
        rng = np.random.default_rng(config.seed)
        logits = yield from prefill(session, prompt, params.prefill_chunk)
        tokens = choose(logits, config.sampling, rng)
        yield Advance(phase="prefill", tokens=tuple(map(tuple, tokens.tolist())), n_forward=0, n_input=0)
        done = np.zeros(len(prompt), dtype=bool)
        for _ in range(config.limit - 1):
            done |= [int(t) in config.stop for t in tokens[:, 0]]
            if done.all():
                return
            logits = session.forward(tokens, keep=1)
            session.commit(1)
            tokens = choose(logits, config.sampling, rng)
            yield Advance(phase="decode", tokens=tuple(map(tuple, tokens.tolist())))


plugin = Autoregressive()
