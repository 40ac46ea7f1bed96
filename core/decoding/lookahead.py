"""Lookahead decoding: n-grams that a window of Jacobi guesses passes through become the next guesses.

Fu et al., "Break the sequential dependency of LLM inference using lookahead decoding" (2402.02057). With tree
attention it is the paper's: one forward holds the two-dimensional window and every n-gram of the pool that begins
with the known token. Equal beginnings are fed once, and what the window's own rows say of the next tokens is
verified too, since it is in the forward anyway.

A session without tree attention sees one line of tokens. There a step verifies one n-gram of the pool, which
stands at the head of a one-dimensional window, and a window token sees the window's latest state before it and
not its own column: window + ngram - 1 tokens where the paper has up to (window + candidates)(ngram - 1).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated

import numpy as np
from msgspec import Meta

from core.decoding._lookahead_window import LookaheadWindow
from core.decoding._pool import Pool, diagonals
from core.decoding._prompt import first_token
from core.decoding._tree import Tree
from core.decoding._verify import accept, one_sequence, until_stop, within_context
from core.types import Advance, GenerationConfig, Ids, Record, Session, Strategy


class Window(Record):
    """The paper's W, N and G.

    window: columns of guesses that converge by Jacobi iteration (W).
    ngram: tokens of an n-gram, the first of which is its key (N). A step takes up to N - 1 from the pool.
    candidates: n-grams kept per key (G); without tree attention the one closest to the window is tried.
    pool_from_prompt: the n-grams of the prompt, and then of the text as it grows, go into the pool too.
    prefill_chunk: prompt tokens per forward pass.
    """

    window: Annotated[int, Meta(ge=1, le=512)] = 7
    ngram: Annotated[int, Meta(ge=2, le=64)] = 5
    candidates: Annotated[int, Meta(ge=1, le=64)] = 7
    pool_from_prompt: bool = True
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class Lookahead:
    name = "lookahead"
    label = "Lookahead"
    needs = frozenset({"forward", "cache", "rollback"})
    single = True
    exact = True
    Params = Window

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Window) -> Iterator[Advance]:
        one_sequence(prompt, self.label)
        within_context(session, params.window + params.ngram - 1, "A window with its n-gram")
        rng, noise = np.random.default_rng(config.seed), np.random.default_rng([config.seed, 1])
        token, ended = yield from first_token(session, prompt, config, params.prefill_chunk, rng)
        context, pool = [*prompt[0].tolist(), token], Pool(params.candidates)
        if params.pool_from_prompt:
            pool.add_all(context, params.ngram)
        form = _paper if "tree" in session.capabilities else _line
        if not ended:
            yield from form(session, context, pool, config, params, rng, noise)


def _paper(
    session: Session,
    context: list[int],
    pool: Pool,
    config: GenerationConfig,
    params: Window,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> Iterator[Advance]:
    """Window and n-grams side by side in one tree. context: the text so far, its last token not yet in the cache."""
    left, ended = config.limit - 1, False
    # tokens of the context are likelier to come again than any others
    window = LookaheadWindow(params.window, params.ngram, context[-1], lambda: context[noise.integers(len(context))])
    while left and not ended:
        tree = Tree(context[-1])
        for tail in pool.tails(context[-1]):
            tree.extend(tail[: left - 1])
        newest = window.put(tree, left - 1)
        step = tree.verify(session, config, rng)
        yield step.advance
        context += step.tokens
        left, ended = left - len(step.tokens), step.ended
        if params.pool_from_prompt:
            pool.add_all(context[-(params.ngram - 1 + len(step.tokens)) :], params.ngram)
        for ngram in window.step(step.best[newest].tolist(), step.tokens, config.stop):
            pool.add(ngram)


def _line(
    session: Session,
    context: list[int],
    pool: Pool,
    config: GenerationConfig,
    params: Window,
    rng: np.random.Generator,
    noise: np.random.Generator,
) -> Iterator[Advance]:
    """The n-gram closest to the window at the window's head, over plain forwards."""
    left, ended = config.limit - 1, False
    width = params.window + params.ngram - 2  # guesses per step
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
        yield Advance(phase="decode", tokens=(tuple(tokens),), guess=tuple(guess))
        rows.appendleft((len(context) - 1, row))
        for ngram in diagonals(context, rows, better, params.ngram):
            pool.add(ngram)
        context += tokens
        left -= len(tokens)
        if params.pool_from_prompt:
            pool.add_all(context[-(params.ngram - 1 + len(tokens)) :], params.ngram)
        guess = better[len(tokens) :]


plugin: Strategy = Lookahead()
