"""Layer skipping by position: the further into the answer, the fewer blocks a token runs through.

Del Corro et al., "SkipDecode: Autoregressive skip decoding with batching and caching" (2307.02628): the number of
blocks falls linearly with the position; the bottom blocks and the last ones run, those between are skipped. Since
no later token runs through a block that an earlier one skipped, no keys or values are ever missing, and a batch
stays together. The text is not the whole model's; the prompt is read by all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.decoding._prompt import choose, prefill
from core.types import Advance, GenerationConfig, Ids, Record, Session


class Schedule(Record):
    """How the number of blocks falls.

    last_share: share of the blocks that the last token runs through; the first runs through all.
    bottom: first blocks that always run.
    over_tokens: tokens over which the number falls, constant after them; 0 takes the new tokens asked for.
    prefill_chunk: prompt tokens per forward.
    """

    last_share: Annotated[float, Meta(ge=0, le=1)] = 0.75
    bottom: Annotated[int, Meta(ge=1)] = 2
    over_tokens: Annotated[int, Meta(ge=0)] = 0
    prefill_chunk: Annotated[int, Meta(ge=1)] = 512


class LayerSkip:
    name = "layer_skip"
    label = "Layer skipping by position"
    needs = frozenset({"forward", "cache", "rollback", "depth"})
    single = False
    exact = False
    Params = Schedule

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Schedule) -> Iterator[Advance]:
        n_blocks = session.spec.n_blocks
        over = params.over_tokens or config.limit - 1
        rng = np.random.default_rng(config.seed)
        logits = yield from prefill(session, prompt, params.prefill_chunk)
        tokens = choose(logits, config.sampling, rng)
        yield Advance(phase="prefill", tokens=tuple(map(tuple, tokens.tolist())), n_forward=0, n_input=0)
        done = np.zeros(len(prompt), dtype=bool)
        for place in range(config.limit - 1):
            done |= [int(t) in config.stop for t in tokens[:, 0]]
            if done.all():
                return
            blocks = that_run(n_blocks, place / max(1, over - 1), params.last_share, params.bottom)
            logits = session.forward_through(tokens, blocks, keep=1)
            session.commit(1)
            tokens = choose(logits, config.sampling, rng)
            yield Advance(phase="decode", tokens=tuple(map(tuple, tokens.tolist())), depth=len(blocks) / n_blocks)


def that_run(n_blocks: int, progress: float, last_share: float, bottom: int) -> list[int]:
    """The blocks of a token this far on the way (0 to 1; beyond 1 as at 1): the bottom ones, and the last ones."""
    fewest = max(min(bottom + 1, n_blocks), round(last_share * n_blocks))
    n = round(n_blocks - (n_blocks - fewest) * min(1.0, progress))
    first = min(bottom, n)
    return [*range(first), *range(n_blocks - (n - first), n_blocks)]


plugin = LayerSkip()
