"""Shared by the strategies that own their loop: reading the prompt, choosing a token, and decoding autoregressively."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator, Sequence

import numpy as np
from numpy.typing import NDArray

from core.types import Advance, GenerationConfig, Ids, Logits, Sampling, Session
from hardware.errors import ExplorerError

Step = Callable[[Ids, int], Logits]


def prefill(session: Session, prompt: Ids, chunk: int, guess: Sequence[int] = ()) -> Generator[Advance, None, Logits]:
    """Read the prompt into an empty cache, `chunk` tokens at a time, and return the last logits.

    guess: tokens of one sequence that stand behind the prompt in the last chunk and do not stay; the logits then are
    those of the last prompt token and of each guess. Every chunk is yielded, so that a long prefill shows its
    progress. Models that cannot continue with several tokens (no "rollback") get the prompt in one piece.
    """
    session.reset()
    n = prompt.shape[1]
    step = chunk if "rollback" in session.capabilities else n
    for start in range(0, n, step):
        part = prompt[:, start : start + step]
        behind = np.array([guess if start + step >= n else ()], dtype=np.int64)
        logits = session.forward(np.concatenate([part, behind], axis=1) if behind.size else part, keep=1 + behind.size)
        session.commit(part.shape[1])
        yield Advance(phase="prefill")
    return logits


def first_token(
    session: Session, prompt: Ids, config: GenerationConfig, chunk: int, rng: np.random.Generator
) -> Generator[Advance, None, tuple[int, bool]]:
    """Read the prompt of one sequence; the token behind it, which is not in the cache yet, and whether it is the last.

    Chunks and token are yielded.
    """
    logits = yield from prefill(session, prompt, chunk)
    token = int(_first(logits, config.sampling, rng)[0, 0])
    yield Advance(phase="prefill", tokens=((token,),))
    return token, token in config.stop


def autoregressive(
    session: Session, prompt: Ids, config: GenerationConfig, chunk: int, step: Step
) -> Iterator[Advance]:
    """Read the prompt, then one token of each sequence per forward, until all have stopped.

    step: (tokens of shape (batch, 1), number of the step from 0) -> their logits, not yet committed.
    """
    rng = np.random.default_rng(config.seed)
    logits = yield from prefill(session, prompt, chunk)
    tokens = _first(logits, config.sampling, rng)
    yield Advance(phase="prefill", tokens=tuple(map(tuple, tokens.tolist())))
    done = np.zeros(len(prompt), dtype=bool)
    for number in range(config.limit - 1):
        done |= [int(t) in config.stop for t in tokens[:, 0]]
        if done.all():
            return
        logits = step(tokens, number)
        session.commit(1)
        tokens = choose(logits, config.sampling, rng)
        yield Advance(phase="decode", tokens=tuple(map(tuple, tokens.tolist())))


def _first(logits: Logits, sampling: Sampling, rng: np.random.Generator) -> Ids:
    """As `choose`, behind the prompt. Raises ExplorerError where the model computes no numbers.

    The best of such a row is the first token of all, so that other greedy answers cost no look at the logits.
    """
    best = logits.argmax()[:, -1]
    if not best.all() and np.isnan(logits.numpy()[:, -1]).any():
        raise ExplorerError(
            "The model computes no numbers from this prompt (NaN): its answer would be its first token, over and over.",
            "Try fp32 or bf16 instead of fp16; if that changes nothing, its weights or its config.json are damaged.",
        )
    return best[:, None] if sampling.temperature <= 0 else choose(logits, sampling, rng)


def choose(logits: Logits, sampling: Sampling, rng: np.random.Generator, row: int = -1) -> Ids:
    """The next token of each sequence from a kept position, the last by default; shape (batch, 1)."""
    if sampling.temperature <= 0:
        return logits.argmax()[:, row, None]
    rows = probabilities(logits.numpy()[:, row], sampling)
    return np.array([[rng.choice(len(p), p=p)] for p in rows], dtype=np.int64)


def probabilities(logits: NDArray[np.float32], sampling: Sampling) -> NDArray[np.float64]:
    """Softmax at a temperature after top-k, then top-p (nucleus) filtering, row by row; shape (batch, vocab)."""
    x = logits.astype(np.float64) / sampling.temperature
    if sampling.top_k:
        kth = np.partition(x, -min(sampling.top_k, x.shape[-1]), axis=-1)[:, -min(sampling.top_k, x.shape[-1]), None]
        x = np.where(x < kth, -np.inf, x)
    p: NDArray[np.float64] = np.exp(x - x.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    if sampling.top_p is not None and sampling.top_p < 1:
        order = np.argsort(-p, axis=-1)
        ranked = np.take_along_axis(p, order, axis=-1)
        outside = np.cumsum(ranked, axis=-1) - ranked >= sampling.top_p
        np.put_along_axis(p, order, np.where(outside, 0.0, ranked), axis=-1)
        p /= p.sum(axis=-1, keepdims=True)
    return p
