"""Jacobi decoding: guess a window of tokens, and let one forward pass correct all of them at once.

Song et al., "Accelerating feedforward computation via parallel nonlinear equation solving" (2002.03820);
Santilli et al., "Accelerating transformer inference for translation via parallel decoding" (2305.10427);
with a cache and on blocks as in Consistency LLMs (2403.00835, section 3.1). The sliding form, where the
window never shrinks, is that of Jacobi forcing (2512.14681). With a pool, n-grams that the window passed through are
verified beside it in the same forward, as Consistency LLMs combine it with lookahead decoding (appendix); it
takes tree attention.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator
from typing import Annotated, Literal

import numpy as np
from msgspec import Meta

from core.decoding._pool import Pool, diagonals
from core.decoding._prompt import choose, prefill
from core.decoding._tree import Tree
from core.decoding._verify import accept, one_sequence, until_stop, within_context
from core.types import Advance, GenerationConfig, Ids, Record, Session, Strategy
from hardware.errors import ExplorerError


class Window(Record):
    """What one forward guesses.

    window: tokens per forward: the known one and the guesses after it. More need more convergence to pay.
    fill: what stands where nothing is guessed yet: tokens of the context, which are likelier to come again than any
    others, or the token that ends a turn (the start of Santilli et al.), for models trained to go on from it.
    early: guess the first window behind the prompt, in the forward that reads it. Its step is saved, the prompt takes
    that little longer.
    form: sliding keeps the window full after every step; block is the paper's, which finishes a block first.
    pool: n-grams kept per first token and verified beside the window; 0 for none.
    ngram: tokens of such an n-gram, the first of which is its key.
    prefill_chunk: prompt tokens per forward pass.
    """

    window: Annotated[int, Meta(ge=1, le=1024)] = 16
    fill: Literal["context", "end"] = "context"
    early: bool = False
    form: Literal["sliding", "block"] = "sliding"
    pool: Annotated[int, Meta(ge=0, le=64)] = 0
    ngram: Annotated[int, Meta(ge=2, le=64)] = 5
    prefill_chunk: Annotated[int, Meta(ge=1, le=1_000_000)] = 512


class Jacobi:
    name = "jacobi"
    label = "Jacobi"
    needs = frozenset({"forward", "cache", "rollback"})
    single = True
    exact = True
    Params = Window

    def decode(self, session: Session, prompt: Ids, config: GenerationConfig, params: Window) -> Iterator[Advance]:
        one_sequence(prompt, self.label)
        within_context(session, params.window, "A window")
        if params.pool and "tree" not in session.capabilities:
            raise ExplorerError(
                "Jacobi's pool needs tree attention, which this model has not in this backend.",
                "Set pool to 0, choose lookahead, or run it in PyTorch.",
            )
        rng, noise = np.random.default_rng(config.seed), np.random.default_rng([config.seed, 1])
        context, left, guess = prompt[0].tolist(), config.limit - 1, list[int]()
        end = _end(session) if params.fill == "end" else None

        def filled(n: int) -> list[int]:
            return [context[place] if end is None else end for place in noise.integers(len(context), size=n)]

        if params.early:
            guess = filled(min(params.window - 1, left))
        logits = yield from prefill(session, prompt, params.prefill_chunk, guess)
        tokens, ended = until_stop(choose(logits, config.sampling, rng, row=0)[0].tolist(), config)
        yield Advance(phase="prefill", tokens=(tuple(tokens),))
        context += tokens
        guess = logits.argmax()[0].tolist()[1:] if guess else []
        pool = Pool(params.pool) if params.pool else None
        rows: deque[tuple[int, list[int]]] = deque(maxlen=params.ngram - 1)  # what was fed, for the pool
        room = True
        while left and not ended:
            guess, closed = until_stop(guess, config)
            if closed:
                guess.pop()  # behind the end that the model foresees nothing is worth a guess
            elif room:
                guess += filled(params.window - 1 - len(guess))
            guess = guess[: left - 1]  # what could not be accepted any more is not computed
            row = [context[-1], *guess]
            if pool is None:
                logits = session.forward(np.array([row], dtype=np.int64))
                better = logits.argmax()[0].tolist()
                tokens, ended = until_stop(accept(logits, guess, config.sampling, rng), config)
                session.commit(len(tokens))
                yield Advance(phase="decode", tokens=(tuple(tokens),), guess=tuple(guess))
            else:
                tree = Tree(context[-1])
                nodes = [0, *tree.extend(guess)]
                for tail in pool.tails(context[-1]):
                    tree.extend(tail[: left - 1])
                step = tree.verify(session, config, rng)
                tokens, ended, better = step.tokens, step.ended, step.best[nodes].tolist()
                yield step.advance
                rows.appendleft((len(context) - 1, row))
                for ngram in diagonals(context, rows, better, params.ngram):
                    pool.add(ngram)
            context += tokens
            left -= len(tokens)
            room = params.form == "sliding" or len(tokens) > len(guess)  # a block that has converged makes room
            guess = better[len(tokens) :] if params.form == "sliding" else better[len(tokens) : -1]


def _end(session: Session) -> int:
    """The id of the token that ends a turn. Raises ExplorerError when the model has none."""
    ids = session.encode(session.eos_token) if session.eos_token else []
    if len(ids) != 1:
        ids = sorted(session.eos_ids)
    if not ids:
        raise ExplorerError("This model has no token that ends a turn.", "Fill the window from the context.")
    return ids[0]


plugin: Strategy = Jacobi()
