"""Early exit: a token leaves the model as soon as an early prediction is confident enough.

Schuster et al., "Confident adaptive language modeling" (CALM, 2207.07061): behind some of the blocks the final norm
(or a trained exit head) and the unembedding predict the token; where the largest probability reaches a threshold,
the rest is left out, and later tokens find keys and values made of the hidden state that left. Every test costs the
head once: with a large vocabulary few exits are better than many. The text is not the whole model's; the prompt is
read by all blocks. A batch leaves when all of its sequences are confident. Behind blocks that were never trained to be
the last, a model is confident and wrong: train exit heads first.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

from msgspec import Meta

from core.decoding._prompt import autoregressive
from core.types import Advance, GenerationConfig, Ids, Logits, Record, Session, Strategy, depths
from hardware.errors import ExplorerError


class Exits(Record):
    """When a token may leave.

    threshold: the largest probability that is confident enough. 1 hardly ever leaves.
    first_exit: blocks before the first exit; 0 takes the exits that have trained heads, else three quarters.
    every: blocks from one exit to the next, where first_exit says the first.
    prefill_chunk: prompt tokens per forward pass.
    """

    threshold: Annotated[float, Meta(ge=0, le=1)] = 0.9
    first_exit: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    every: Annotated[int, Meta(ge=1, le=1_000_000)] = 2
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class EarlyExit:
    name = "early_exit"
    label = "Early exit"
    needs = frozenset({"forward", "cache", "rollback", "depth"})
    single = False
    exact = False
    Params = Exits

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Exits) -> Iterator[Advance]:
        deep, n_blocks = depths(session), session.spec.n_blocks
        if params.first_exit >= n_blocks:
            raise ExplorerError(
                f"The first exit, behind block {params.first_exit}, leaves nothing out of {n_blocks} blocks.",
                f"Set first_exit to at most {n_blocks - 1}.",
            )
        exits: Sequence[int] = range(params.first_exit or max(1, 3 * n_blocks // 4), n_blocks, params.every)
        if deep.exit_heads and not params.first_exit:
            exits = deep.exit_heads

        def step(tokens: Ids, number: int) -> Logits:
            return deep.forward_exit(tokens, params.threshold, exits)[0]

        return autoregressive(session, prompt, config, params.prefill_chunk, step)


plugin: Strategy = EarlyExit()
