"""Shared by the strategies that guess: what the model itself says about a guess, and where to stop.

One forward pass over [current token, guess...] gives the model's own choice after each of them. The agreeing
part of the guess is accepted, and the first choice that differs comes free, so a step yields at least
one token and the text is that of autoregressive decoding. That holds for sampling too: every accepted token
is drawn from the model's own distribution, in order and with the same random numbers.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from core.decoding._prompt import probabilities
from core.types import GenerationConfig, Ids, Logits, Sampling, Session
from hardware.errors import ExplorerError


def one_sequence(prompt: Ids, label: str) -> None:
    """Sequences of a batch would accept different numbers of tokens, and a cache has one length."""
    if len(prompt) != 1:
        raise ExplorerError(f"{label} runs one sequence at a time.", "Set batch to 1.")


def within_context(session: Session, n: int, what: str) -> None:
    """Raises ExplorerError when a forward of n tokens could never fit."""
    if n > session.max_context:
        raise ExplorerError(
            f"{what} of {n} tokens is larger than the context of {session.max_context} tokens.", "Make it smaller."
        )


def accept(logits: Logits, guess: Sequence[int], sampling: Sampling, rng: np.random.Generator) -> list[int]:
    """The model's choices after [current, *guess] as far as the guess agrees, and the first that differs.

    logits: of those 1 + len(guess) positions. Between 1 and 1 + len(guess) tokens.
    """
    if sampling.temperature <= 0:
        best = logits.argmax()[0].tolist()
        n = next((i for i, token in enumerate(guess) if token != best[i]), len(guess))
        return list(best[: n + 1])
    accepted: list[int] = []
    for row, guessed in zip(logits.numpy()[0], [*guess, None], strict=True):
        p = probabilities(row[None], sampling)[0]
        accepted.append(int(rng.choice(len(p), p=p)))
        if accepted[-1] != guessed:
            break
    return accepted


def until_stop(tokens: Sequence[int], config: GenerationConfig) -> tuple[list[int], bool]:
    """The tokens up to and with the first stop token, and whether there was one."""
    for i, token in enumerate(tokens):
        if token in config.stop:
            return list(tokens[: i + 1]), True
    return list(tokens), False
