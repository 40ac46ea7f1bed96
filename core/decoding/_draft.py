"""Shared by the strategies whose drafts have a distribution: drafting, and speculative sampling."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from core.decoding._prompt import probabilities
from core.decoding._verify import accept, until_stop
from core.types import Advance, GenerationConfig, Ids, Logits, Sampling, Session

Row = NDArray[np.float64]  # probabilities, shape (vocab,)


class Drafter(Protocol):
    """What of a Session drafting needs."""

    @property
    def n_committed(self) -> int: ...

    def forward(self, ids: Ids, keep: int | None = None) -> Logits: ...

    def commit(self, n: int) -> None: ...


def propose(
    draft: Drafter,
    context: Sequence[int],
    n: int,
    n_vocab: int,
    n_read: int,
    sampling: Sampling,
    rng: np.random.Generator,
    confidence: float = 0.0,
) -> tuple[list[int], list[Row]]:
    """Up to n tokens after the context, the distributions they were drawn from (sampling only).

    n_vocab: tokens that the large model knows; n_read: those that the draft knows. Vocabularies are often padded to
    different sizes: a draft says no token that the large model cannot read, and none behind one that it cannot read.
    confidence: a token whose distribution has no larger probability than this is the last (Zhang et al., "Draft &
    verify", 2309.08168). The stop looks at nothing but the draft, so sampling stays exact.
    """
    unread, guess, q = list(context[draft.n_committed :]), list[int](), list[Row]()
    if max(unread) >= n_read:
        return guess, q
    for _ in range(n):
        logits = draft.forward(np.array([unread], dtype=np.int64), keep=1)
        if sampling.temperature <= 0:
            token = int(logits.argmax()[0, -1])
            draft.commit(len(unread))
            if token >= n_vocab:
                return guess, q
        else:
            q.append(probabilities(logits.numpy()[:, -1, :n_vocab], sampling)[0])
            token = int(rng.choice(len(q[-1]), p=q[-1]))
            draft.commit(len(unread))
        guess.append(token)
        unread = [token]
        if confidence and _largest(logits) < confidence:
            return guess, q
    return guess, q


def checked(
    session: Session,
    last: int,
    guess: Sequence[int],
    q: Sequence[Row],
    config: GenerationConfig,
    rng: np.random.Generator,
) -> tuple[Advance, bool]:
    """One forward of the large model over a draft, committed as far as it is accepted; and whether the text ends.

    last: the token before the draft. q: as `propose` gives it.
    """
    logits = session.forward(np.array([[last, *guess]], dtype=np.int64))
    if config.sampling.temperature <= 0:
        found = accept(logits, guess, config.sampling, rng)
    else:
        found = accept_sampled(logits, guess, q, config.sampling, rng)
    tokens, ended = until_stop(found, config)
    session.commit(len(tokens))
    return Advance(phase="decode", tokens=(tuple(tokens),), guess=tuple(guess)), ended


def accept_sampled(
    logits: Logits, guess: Sequence[int], q: Sequence[Row], sampling: Sampling, rng: np.random.Generator
) -> list[int]:
    """Speculative sampling (Leviathan, algorithm 1): the accepted part of the guess and one more token."""
    rows, accepted = logits.numpy()[0], list[int]()
    for row, token, drafted in zip(rows, guess, q, strict=False):  # rows has one more
        p = probabilities(row[None], sampling)[0]
        if rng.random() * drafted[token] < p[token]:
            accepted.append(token)
            continue
        rest = p.copy()
        rest[: len(drafted)] = np.maximum(0.0, p[: len(drafted)] - drafted)
        # rounding may leave nothing where p and q are equal
        rest = rest / rest.sum() if rest.any() else p
        return [*accepted, int(rng.choice(len(rest), p=rest))]
    p = probabilities(rows[len(guess)][None], sampling)[0]
    return [*accepted, int(rng.choice(len(p), p=p))]


def _largest(logits: Logits) -> float:
    """The largest probability at the last position, before temperature and filters."""
    row = logits.numpy()[0, -1].astype(np.float64)
    return float(1.0 / np.exp(row - row.max()).sum())
