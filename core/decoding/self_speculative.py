"""Self-speculative decoding: the model's first blocks draft, the whole model checks the draft in one forward pass.

Elhoushi et al., "LayerSkip: Enabling early exit inference and self-speculative decoding" (2404.16710, section 4.3);
when to stop drafting follows Zhang et al., "Draft & verify" (2309.08168). The draft reads the cache of
the blocks it runs, so it needs neither weights nor a cache of its own; the check runs those blocks again. The final
norm and the head cost a draft forward as much as any other: with a large vocabulary that is its floor. Models that
were not trained to leave early, and have no exit heads, agree rarely.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.decoding._draft import checked, propose
from core.decoding._prompt import first_token
from core.decoding._verify import one_sequence, within_context
from core.types import Advance, Depths, GenerationConfig, Ids, Logits, Record, Session, Strategy, depths
from hardware.errors import ExplorerError


class FirstBlocks(Record):
    """Which blocks draft, and how much.

    exit_layer: blocks that draft; fewer are cheaper and agree less often. 0 takes those before the first trained
    exit head, else three quarters.
    draft_length: tokens drafted per step, at most.
    stop_confidence: the draft ends with a token whose distribution has no larger probability; 0 never ends it early.
    prefill_chunk: prompt tokens per forward pass.
    """

    exit_layer: Annotated[int, Meta(ge=0, le=1_000_000)] = 0
    draft_length: Annotated[int, Meta(ge=1, le=256)] = 4
    stop_confidence: Annotated[float, Meta(ge=0, le=1)] = 0.0
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class Early:
    """The first blocks of a session as a model that drafts."""

    def __init__(self, session: Depths, depth: int) -> None:
        self._session, self._depth = session, depth

    @property
    def n_committed(self) -> int:
        return self._session.n_committed

    def forward(self, ids: Ids, keep: int | None = None) -> Logits:
        return self._session.forward_to(ids, self._depth, keep)

    def commit(self, n: int) -> None:
        self._session.commit(n)


class SelfSpeculative:
    name = "self_speculative"
    label = "Self-speculative, drafting with the first blocks"
    needs = frozenset({"forward", "cache", "rollback", "rewind", "depth"})
    single = True
    exact = True
    Params = FirstBlocks

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: FirstBlocks) -> Iterator[Advance]:
        one_sequence(prompt, self.label)
        within_context(session, params.draft_length + 1, "A forward with a draft")
        deep, n_blocks = depths(session), session.spec.n_blocks
        if params.exit_layer >= n_blocks:
            raise ExplorerError(
                f"The draft cannot leave after block {params.exit_layer} of {n_blocks}.",
                f"Set exit_layer to at most {n_blocks - 1}.",
            )
        first = deep.exit_heads[0] if deep.exit_heads else max(1, 3 * n_blocks // 4)
        draft = Early(deep, params.exit_layer or first)
        rng = np.random.default_rng(config.seed)
        token, ended = yield from first_token(session, prompt, config, params.prefill_chunk, rng)
        n_vocab = session.spec.vocab_size
        context, left = [*prompt[0].tolist(), token], config.limit - 1
        while left and not ended:
            n = min(params.draft_length, left - 1)
            known = session.n_committed
            guess, q = propose(draft, context, n, n_vocab, n_vocab, config.sampling, rng, params.stop_confidence)
            session.rewind(session.n_committed - known)  # the later blocks have not seen the draft
            advance, ended = checked(session, context[-1], guess, q, config, rng)
            context += advance.tokens[0]
            left -= len(advance.tokens[0])
            yield advance


plugin: Strategy = SelfSpeculative()
