"""The windows that the model itself runs into when it decodes: the noise of consistency training, on-policy.

Stored trajectories go stale as the model learns, and their windows stand at multiples of n; a sliding decoder's stand
anywhere. Here the current model decodes a few steps from noise, and every window on its way is a state to learn from.
What is committed is the known sequence, so a state's target is known too.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from core.training.examples import Example
from core.training.packing import State, bias, visible


def rollout(
    model: Any,
    examples: Sequence[Example],
    rng: np.random.Generator,
    window: int,
    trajectories: int,
    steps: int,
    fill: int | None = None,
) -> list[list[State]]:
    """Every window that Jacobi decoding passes in `steps` steps, per example.

    fill: the token where nothing is guessed yet; None draws one of those before. A constant is learned far sooner:
    drawn tokens look like guesses. The first trajectory begins at the first answer token or the one after it, the
    others anywhere in the answer. Run it without gradients. Windows whose guesses are all right are left out.
    """
    from transformers import DynamicCache

    found: list[list[State]] = [[] for _ in examples]
    cache = DynamicCache(config=model.config)
    clean = _read(model, examples, cache)
    at = [
        [_begin(e, None if number else int(rng.integers(2)), rng, window, fill) for number in range(trajectories)]
        for e in examples
    ]
    for step in range(steps):
        for own, kept, example in zip(at, found, examples, strict=True):
            kept += [s for s in own if s and s.wrong_from(example.ids) < len(s.guess)]
        if step == steps - 1 or not any(s for own in at for s in own):
            break
        best = _outputs(model, at, cache, clean)
        at = [
            [s and advance(s, row, e, rng, window, fill) for s, row in zip(own, rows, strict=True)]
            for own, rows, e in zip(at, best, examples, strict=True)
        ]
    return found


def thinned(states: Sequence[Sequence[State]], rng: np.random.Generator, room: int) -> list[list[State]]:
    """States drawn from each example's, up to `room` guessed tokens: rows are padded to the longest."""
    kept: list[list[State]] = []
    for own in states:
        left, chosen = room, list[int]()
        for i in rng.permutation(len(own)).tolist():
            if len(own[i].guess) <= left:
                left -= len(own[i].guess)
                chosen.append(i)
        kept.append([own[i] for i in sorted(chosen)])
    return kept


def advance(
    state: State,
    best: Sequence[int],
    example: Example,
    rng: np.random.Generator,
    window: int,
    fill: int | None = None,
) -> State | None:
    """The window after one sliding step with outputs `best`; None at the end of the answer."""
    agreed = state.wrong_from(example.ids)
    return _window(example, state.start + agreed + 1, best[agreed:], rng, window, fill)


def _begin(
    example: Example, offset: int | None, rng: np.random.Generator, window: int, fill: int | None
) -> State | None:
    n = len(example.answer)
    start = len(example.prompt) + (offset if offset is not None else int(rng.integers(max(1, n - 1))))
    return _window(example, start, (), rng, window, fill)


def _window(
    example: Example, start: int, guess: Sequence[int], rng: np.random.Generator, window: int, fill: int | None
) -> State | None:
    """The decoder's window: what is left of the last outputs, filled up."""
    size = min(window - 1, len(example) - 1 - start)
    if size < 1:
        return None
    kept = tuple(int(token) for token in guess[:size])
    text = example.ids
    drawn = [text[i] if fill is None else fill for i in rng.integers(start, size=size - len(kept))]
    return State(start, kept + tuple(drawn))


def _read(model: Any, examples: Sequence[Example], cache: Any) -> Any:
    """Feed the clean sequences; returns their groups (0, -1 for padding), shape (rows, width)."""
    import torch

    width = max(len(e) - 1 for e in examples)
    ids, group = np.zeros((len(examples), width), np.int64), np.full((len(examples), width), -1)
    for row, e in enumerate(examples):
        ids[row, : len(e) - 1], group[row, : len(e) - 1] = e.ids[:-1], 0
    sees = np.broadcast_to(np.arange(1, width + 1), group.shape)
    mask = visible(group, np.where(group == 0, sees, 0), group)
    positions = np.broadcast_to(np.arange(width), ids.shape).copy()
    model.base_model(
        torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        attention_mask=bias(mask, model),
        past_key_values=cache,
        use_cache=True,
    )
    return group


def _outputs(model: Any, at: Sequence[Sequence[State | None]], cache: Any, clean: Any) -> list[list[list[int]]]:
    """The model's choice after every guess of every state; the cache stays as it was."""
    import torch

    width = max(sum(len(s.guess) for s in own if s) for own in at)
    shape = (len(at), width)
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    group, sees = np.full(shape, -1), np.zeros(shape, np.int64)
    for row, own in enumerate(at):
        place = 0
        for number, s in enumerate(own, 1):
            if s:
                here = slice(place, place + len(s.guess))
                ids[row, here], positions[row, here] = s.guess, range(s.start, s.start + len(s.guess))
                group[row, here], sees[row, here] = number, s.start
                place += len(s.guess)
    mask = visible(group, sees, np.concatenate([clean, group], axis=1))
    hidden = model.base_model(
        torch.from_numpy(ids),
        position_ids=torch.from_numpy(positions),
        attention_mask=bias(mask, model),
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    cache.crop(-width)
    used = torch.from_numpy(group > 0)
    choices = iter(model.get_output_embeddings()(hidden[used]).float().argmax(-1).tolist())
    return [[[next(choices) for _ in s.guess] if s else [] for s in own] for own in at]
