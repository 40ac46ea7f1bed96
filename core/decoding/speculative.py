"""Speculative decoding: a small model drafts, the large one checks the draft in one forward pass.

Leviathan et al., "Fast inference from transformers via speculative decoding" (2211.17192) and Chen et al.,
"Accelerating large language model decoding with speculative sampling" (2302.01318). Greedy decoding accepts
a draft as far as it is the large model's own choice. Sampling accepts a drafted token x with probability
min(1, p(x)/q(x)) and otherwise draws from max(0, p - q), normalised, so that the text is distributed exactly
as the large model's. p and q are those after temperature, top-k and top-p.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.decoding._draft import checked, propose
from core.decoding._prompt import first_token, prefill
from core.decoding._verify import one_sequence, within_context
from core.types import Advance, GenerationConfig, Ids, Record, Session, Strategy, Words
from hardware.errors import ExplorerError


class Draft(Record):
    """Who drafts, and how much.

    draft: id of a smaller model with the same tokenizer, opened in the same backend with the same options.
    draft_length: tokens it drafts per step. More pay when it is cheap and agrees often.
    prefill_chunk: prompt tokens per forward pass.
    """

    draft: Words = ""
    draft_length: Annotated[int, Meta(ge=1, le=256)] = 4
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class Speculative:
    name = "speculative"
    label = "Speculative, with a draft model"
    needs = frozenset({"forward", "cache", "rollback"})
    single = True
    exact = True
    Params = Draft

    def decode(
        self, session: Session, prompt: Ids, config: GenerationConfig, params: Draft, draft: Session | None = None
    ) -> Iterator[Advance]:
        assert draft is not None, "a draft model is opened where Params name one"
        one_sequence(prompt, self.label)
        within_context(session, params.draft_length + 1, "A forward with a draft")
        _fit_to_draft(draft, prompt.shape[1] + config.limit)
        n_read = draft.spec.vocab_size
        if prompt.max() >= n_read:
            raise ExplorerError(
                f"The prompt has tokens that the draft model {draft.spec.name} does not have ({n_read} tokens).",
                "Choose a draft model with the same vocabulary.",
            )
        rng = np.random.default_rng(config.seed)
        for _ in prefill(draft, prompt, params.prefill_chunk):
            yield Advance(phase="prefill")
        token, ended = yield from first_token(session, prompt, config, params.prefill_chunk, rng)
        context, left = [*prompt[0].tolist(), token], config.limit - 1
        while left and not ended:
            n = min(params.draft_length, left - 1)
            guess, q = propose(draft, context, n, session.spec.vocab_size, n_read, config.sampling, rng)
            advance, ended = checked(session, context[-1], guess, q, config, rng)
            context += advance.tokens[0]
            left -= len(advance.tokens[0])
            # the draft has read all of its guess but the last: what was not accepted must go
            draft.rewind(max(0, draft.n_committed - (len(context) - 1)))
            yield advance


def _fit_to_draft(draft: Session, n: int) -> None:
    if missing := {"forward", "cache", "rewind"} - draft.capabilities:
        raise ExplorerError(
            f"The draft model {draft.spec.name} cannot take tokens back ('{', '.join(sorted(missing))}' is missing).",
            "Choose a draft without recurrent state or sliding window.",
        )
    if n > draft.max_context:
        raise ExplorerError(
            f"Prompt and new tokens are {n}, more than the draft model's context of {draft.max_context}.",
            "Shorten them or choose another draft.",
        )


plugin: Strategy = Speculative()
