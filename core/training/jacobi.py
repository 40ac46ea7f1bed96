"""Sliding Jacobi decoding of many prompts at once: how fast and how good a model is, seen on the way of its training.

The same windows as core.decoding.jacobi, in batches, as a probe of one prompt after the other would take as long as
the training. Rejected tokens stay in the cache and are masked.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from core.training.packing import bias


class Decoded(NamedTuple):
    """ids: the answer, with the token that ended it. n_forward: decode forwards, after the prompt's."""

    ids: tuple[int, ...]
    n_forward: int


def decode(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end: frozenset[int],
    limit: int,
    window: int,
    fill: int | None = None,
    batch: int = 32,
) -> list[Decoded]:
    """Greedy answers of up to `limit` tokens. fill: as in core.training.states.rollout.

    Prompts of similar length share a batch, padded on the left.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: list[Decoded] = [Decoded((), 0)] * len(prompts)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        with torch.no_grad():
            rows = _decode(model, [_Row(prompts[i], end, limit, window, fill) for i in part])
        for i, row in zip(part, rows, strict=True):
            found[i] = row
    return found


class _Row:
    """One prompt's decoding: what it has accepted, and what it guesses next."""

    def __init__(self, prompt: Sequence[int], end: frozenset[int], limit: int, window: int, fill: int | None) -> None:
        self.context, self.n_prompt, self.end = list(prompt), len(prompt), end
        self.limit, self.window, self.fill = limit, window, fill
        self.noise = np.random.default_rng([0, 1])
        self.guess: list[int] = []
        self.n_forward = 0
        self.ended = False

    def feed(self) -> list[int]:
        """The next window: the last accepted token and the guesses after it, up to the end that is foreseen."""
        stop = next((i for i, token in enumerate(self.guess) if token in self.end), None)
        if stop is None:
            places = self.noise.integers(len(self.context), size=self.window - 1 - len(self.guess))
            self.guess += [self.context[place] if self.fill is None else self.fill for place in places]
        left = self.limit - (len(self.context) - self.n_prompt)
        self.guess = self.guess[:stop][: left - 1]
        return [self.context[-1], *self.guess]

    def take(self, best: list[int]) -> int:
        """Accept what agrees of the last window and the token after it; returns how many of it stay in the cache."""
        best = best[: len(self.guess) + 1]
        agreed = next((i for i, token in enumerate(self.guess) if token != best[i]), len(self.guess))
        accepted = best[: agreed + 1]
        stop = next((i + 1 for i, token in enumerate(accepted) if token in self.end), None)
        accepted = accepted[:stop]
        self.context += accepted
        self.guess = best[len(accepted) :]
        self.n_forward += 1
        self.ended = stop is not None or len(self.context) - self.n_prompt >= self.limit
        return len(accepted)


def _decode(model: Any, rows: Sequence[_Row]) -> list[Decoded]:
    from transformers import DynamicCache

    cache = DynamicCache(config=model.config)
    window, width = rows[0].window, max(row.n_prompt for row in rows)
    ids, real = np.zeros((len(rows), width), np.int64), np.zeros((len(rows), width), bool)
    for i, row in enumerate(rows):
        ids[i, width - row.n_prompt :], real[i, width - row.n_prompt :] = row.context, True
    positions = np.maximum(real.cumsum(1) - 1, 0)
    seen = np.zeros((len(rows), 0), bool)
    best = _forward(model, ids, positions, seen, real, cache)
    seen = real
    for i, row in enumerate(rows):
        row.context.append(int(best[i, -1]))
        row.ended = row.context[-1] in row.end or row.limit == 1
    while not all(row.ended for row in rows):
        ids = np.zeros((len(rows), window), np.int64)
        positions = np.zeros_like(ids)
        for i, row in enumerate(rows):
            if not row.ended:
                fed = row.feed()
                ids[i, : len(fed)] = fed
                positions[i] = len(row.context) - 1 + np.arange(window)
        best = _forward(model, ids, positions, seen, np.ones_like(ids, dtype=bool), cache)
        kept = np.zeros_like(ids, dtype=bool)
        for i, row in enumerate(rows):
            if not row.ended:
                kept[i, : row.take(best[i].tolist())] = True
        seen = np.concatenate([seen, kept], axis=1)
    return [Decoded(tuple(row.context[row.n_prompt :]), row.n_forward) for row in rows]


def _forward(model: Any, ids: Any, positions: Any, seen: Any, real: Any, cache: Any) -> Any:
    """The model's choice after each of `ids`, which see what is `seen` of the cache and each other causally.

    real: which of them are no padding. Padding sees itself, as softmax over nothing gives NaN.
    """
    import torch

    n = ids.shape[1]
    past = np.broadcast_to(seen[:, None, :], (len(ids), n, seen.shape[1]))
    own = (np.tri(n, dtype=bool) & real[:, None, :]) | np.eye(n, dtype=bool)
    mask = bias(np.concatenate([past, own], axis=2)[:, None], model)
    logits = model(
        torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        attention_mask=mask,
        past_key_values=cache,
        use_cache=True,
        logits_to_keep=1 if not seen.shape[1] else 0,
    ).logits
    return logits.float().argmax(-1).numpy()
