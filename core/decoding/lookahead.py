"""Lookahead decoding over plain forwards: n-grams that the Jacobi window passed through become its next guess.

Fu et al., "Break the sequential dependency of LLM inference using lookahead decoding" (2402.02057). As there:
a window of Jacobi guesses, n-grams read off its trajectory diagonally (a token and, one iteration later, its
successor), and a pool of a few n-grams per first token, the oldest leaving first. Other than there: a session
without tree attention sees one line of tokens, so a step verifies one n-gram of the pool and not all at once,
that n-gram stands at the head of the window, and a window token sees the window's latest state before it and
not its own diagonal. A step is window + ngram - 1 tokens where the paper's is (window + candidates)(ngram - 1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Sequence
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.decoding._prompt import choose, prefill
from core.decoding._verify import accept, one_sequence, until_stop, within_context
from core.types import Advance, GenerationConfig, Ids, Record, Session


class Window(Record):
    """The paper's W, N and G.

    window: guesses that converge by Jacobi iteration behind the n-gram (W).
    ngram: tokens of an n-gram, the first of which is its key (N). A step takes up to N - 1 from the pool.
    candidates: n-grams kept per key (G). The one closest to the window is tried, the newest of equals.
    pool_from_prompt: fill the pool with the prompt's own n-grams first.
    prefill_chunk: prompt tokens per forward.
    """

    window: Annotated[int, Meta(ge=1, le=512)] = 7
    ngram: Annotated[int, Meta(ge=2, le=64)] = 5
    candidates: Annotated[int, Meta(ge=1, le=64)] = 7
    pool_from_prompt: bool = True
    prefill_chunk: Annotated[int, Meta(ge=1)] = 512


class Pool:
    """N-grams by their first token, at most `most` each."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._tails: dict[int, list[tuple[int, ...]]] = {}  # newest last

    def add(self, ngram: Sequence[int]) -> None:
        first, *tail = ngram
        known = self._tails.setdefault(first, [])
        if tuple(tail) in known:
            known.remove(tuple(tail))
        known.append(tuple(tail))
        del known[: -self._most]

    def closest(self, first: int, guess: Sequence[int]) -> tuple[int, ...]:
        """The tail that agrees longest with the guess, the newest of equals; empty without any."""

        def agreement(tail: tuple[int, ...]) -> int:
            same = [a == b for a, b in zip(tail, guess, strict=False)]
            return same.index(False) if False in same else len(same)

        return max(reversed(self._tails.get(first, [])), key=agreement, default=())


class Lookahead:
    name = "lookahead"
    label = "Lookahead"
    needs = frozenset({"forward", "cache", "rollback"})
    single = True
    exact = True
    Params = Window

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Window) -> Iterator[Advance]:
        one_sequence(prompt, self.label)
        width = params.window + params.ngram - 2  # guesses per step
        within_context(session, width + 1, "A window with its n-gram")
        rng, noise = np.random.default_rng(config.seed), np.random.default_rng([config.seed, 1])
        logits = yield from prefill(session, prompt, params.prefill_chunk)
        tokens, ended = until_stop(choose(logits, config.sampling, rng)[0].tolist(), config)
        yield Advance(phase="prefill", tokens=(tuple(tokens),), n_forward=0, n_input=0)
        context, left = [*prompt[0].tolist(), *tokens], config.limit - 1
        pool = Pool(params.candidates)
        if params.pool_from_prompt:
            for start in range(len(context) - params.ngram + 1):
                pool.add(context[start : start + params.ngram])
        rows: deque[tuple[int, list[int]]] = deque(maxlen=params.ngram - 1)  # newest first: position, tokens
        guess: list[int] = []
        while left and not ended:
            tail = pool.closest(context[-1], guess)
            guess = [*tail, *guess[len(tail) :]]
            guess += [context[place] for place in noise.integers(len(context), size=max(0, width - len(guess)))]
            guess = guess[: min(width, left - 1)]
            row = [context[-1], *guess]
            logits = session.forward(np.array([row], dtype=np.int64))
            better = logits.argmax()[0].tolist()
            tokens, ended = until_stop(accept(logits, guess, config.sampling, rng), config)
            session.commit(len(tokens))
            yield Advance(phase="decode", tokens=(tuple(tokens),), n_input=len(row), guess=tuple(guess))
            rows.appendleft((len(context) - 1, row))
            for ngram in diagonals(context, rows, better, params.ngram):
                pool.add(ngram)
            context += tokens
            left -= len(tokens)
            guess = better[len(tokens) :]


def diagonals(
    context: Sequence[int], rows: Sequence[tuple[int, list[int]]], better: Sequence[int], n: int
) -> Iterator[list[int]]:
    """N-grams that end in the newest predictions, each token one iteration older than its successor.

    rows: what the last forwards were fed, newest first, and where each began. better[j] was predicted
    after the newest row's token j. What lies before a row is the context.
    """
    for j, last in enumerate(better):
        ngram = [last]
        for place, (start, row) in zip(range(rows[0][0] + j, -1, -1), rows, strict=False):
            if place >= start + len(row):
                break
            ngram.append(context[place] if place < start else row[place - start])
        if len(ngram) == n:
            yield ngram[::-1]


plugin = Lookahead()
