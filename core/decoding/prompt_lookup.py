"""Prompt lookup: what followed the last words earlier in the context is likely to follow them again.

Saxena, "Prompt lookup decoding" (2023); in transformers as `prompt_lookup_num_tokens`. Of several places
the latest is taken, where transformers takes the first. Where nothing matches, a step is one token.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.decoding._prompt import first_token
from core.decoding._verify import accept, one_sequence, until_stop, within_context
from core.types import Advance, GenerationConfig, Ids, Record, Session, Strategy
from hardware.errors import ExplorerError


class Lookup(Record):
    """How to find a draft in the context.

    max_ngram: the longest run of last tokens to look for; shorter ones are tried after it.
    min_ngram: the shortest. 1 finds drafts often, and wrong ones too.
    draft_length: tokens to take from behind the place found.
    prefill_chunk: prompt tokens per forward pass.
    """

    max_ngram: Annotated[int, Meta(ge=1, le=64)] = 3
    min_ngram: Annotated[int, Meta(ge=1, le=64)] = 1
    draft_length: Annotated[int, Meta(ge=1, le=1023)] = 8
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


def find(context: Sequence[int], max_ngram: int, min_ngram: int, n: int) -> list[int]:
    """Up to n tokens that followed the latest earlier place of the longest last n-gram; empty without one."""
    ids = np.asarray(context)
    for size in range(min(max_ngram, len(ids) - 1), min_ngram - 1, -1):
        earlier = np.lib.stride_tricks.sliding_window_view(ids[:-1], size)
        places = np.flatnonzero((earlier == ids[-size:]).all(axis=1))
        if places.size:
            start = int(places[-1]) + size
            return [int(token) for token in ids[start : start + n]]
    return []


class PromptLookup:
    name = "prompt_lookup"
    label = "Prompt lookup"
    needs = frozenset({"forward", "cache", "rollback"})
    single = True
    exact = True
    Params = Lookup

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Lookup) -> Iterator[Advance]:
        one_sequence(prompt, self.label)
        within_context(session, params.draft_length + 1, "A forward with a draft")
        if params.min_ngram > params.max_ngram:
            raise ExplorerError(
                "The shortest n-gram is longer than the longest.", "Lower min_ngram or raise max_ngram."
            )
        rng = np.random.default_rng(config.seed)
        token, ended = yield from first_token(session, prompt, config, params.prefill_chunk, rng)
        context, left = [*prompt[0].tolist(), token], config.limit - 1
        while left and not ended:
            guess = find(context, params.max_ngram, params.min_ngram, min(params.draft_length, left - 1))
            logits = session.forward(np.array([[context[-1], *guess]], dtype=np.int64))
            tokens, ended = until_stop(accept(logits, guess, config.sampling, rng), config)
            session.commit(len(tokens))
            yield Advance(phase="decode", tokens=(tuple(tokens),), guess=tuple(guess))
            context += tokens
            left -= len(tokens)


plugin: Strategy = PromptLookup()
