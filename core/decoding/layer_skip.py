"""Layer skipping by position: the further into the answer, the fewer blocks a token runs through.

Del Corro et al., "SkipDecode: Autoregressive skip decoding with batching and caching" (2307.02628): the number of
blocks falls linearly with the position; the bottom blocks and the last ones run, those between are skipped. Since
no later token runs through a block that an earlier one skipped, no keys or values are ever missing, and a batch
stays together. The text is not the whole model's; the prompt is read by all blocks.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from msgspec import Meta

from core.decoding._prompt import autoregressive
from core.types import Advance, GenerationConfig, Ids, Logits, Record, Session, Strategy, depths


class Schedule(Record):
    """How the number of blocks falls.

    last_share: share of the blocks that the last token runs through; the first runs through all.
    bottom: first blocks that always run.
    over_tokens: tokens over which the number falls, constant after them; 0 takes the new tokens asked for.
    prefill_chunk: prompt tokens per forward pass.
    """

    last_share: Annotated[float, Meta(ge=0, le=1)] = 0.75
    bottom: Annotated[int, Meta(ge=1, le=1_000_000)] = 2
    over_tokens: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class LayerSkip:
    name = "layer_skip"
    label = "Layer skipping by position"
    needs = frozenset({"forward", "cache", "rollback", "depth"})
    single = False
    exact = False
    Params = Schedule

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Schedule) -> Iterator[Advance]:
        deep, n_blocks = depths(session), session.spec.n_blocks
        over = params.over_tokens or config.limit - 1

        def step(tokens: Ids, number: int) -> Logits:
            blocks = that_run(n_blocks, number / max(1, over - 1), params.last_share, params.bottom)
            return deep.forward_through(tokens, blocks, keep=1)

        return autoregressive(session, prompt, config, params.prefill_chunk, step)


def that_run(n_blocks: int, progress: float, last_share: float, bottom: int) -> list[int]:
    """The blocks of a token this far on the way (0 to 1; beyond 1 as at 1): the bottom ones, and the last ones."""
    fewest = max(min(bottom + 1, n_blocks), round(last_share * n_blocks))
    n = round(n_blocks - (n_blocks - fewest) * min(1.0, progress))
    first = min(bottom, n)
    return [*range(first), *range(n_blocks - (n - first), n_blocks)]


plugin: Strategy = LayerSkip()
