"""Clean sequences and many half-decoded states of them in one forward.

A row is [prompt and answer | guess | guess | ...]. A guess stands for the tokens from its `start` on, has their
positions, and sees the clean tokens before `start` and itself causally: exactly what a Jacobi decoder feeds after
`start` committed tokens. So one forward gives the autoregressive logits and those of every state. The layout is
Jacobi forcing's (arXiv 2512.14681, section 3), with the guesses behind the clean text instead of in it, so
that they may overlap and begin anywhere.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.training.examples import Example

Ints = NDArray[np.int64]


@dataclass(frozen=True)
class State:
    """A decoder's window after `start` committed tokens: guess[i] stands for the sequence's token start + i.

    The output at guess[i] is a prediction of token start + i + 1.
    """

    start: int
    guess: tuple[int, ...]

    def wrong_from(self, ids: Sequence[int]) -> int:
        """How many guesses from the first on are right; outputs before that are those of clean text."""
        pairs = enumerate(zip(self.guess, ids[self.start :], strict=False))
        return next((i for i, (a, b) in pairs if a != b), len(self.guess))


@dataclass(frozen=True)
class Packed:
    """Arrays of (rows, width), padded. mask: (rows, 1, width, width), True where a query (first) sees a key.

    answers, guesses: (rows, columns) of the outputs that predict answer tokens from clean text, and of those that
    predict from a guess that is already wrong. *_targets: the tokens they should predict. behind: how many guesses
    lie between such a guess and the first wrong one of its window.
    """

    ids: Ints
    positions: Ints
    mask: NDArray[np.bool_]
    answers: tuple[Ints, Ints]
    answer_targets: Ints
    guesses: tuple[Ints, Ints]
    guess_targets: Ints
    behind: Ints


def pack(examples: Sequence[Example], states: Sequence[Sequence[State]]) -> Packed:
    """One row per example, with its states behind it. The last token of a sequence is a target only, never fed."""
    assert len(examples) == len(states)
    widths = [len(e) - 1 + sum(len(s.guess) for s in own) for e, own in zip(examples, states, strict=True)]
    shape = (len(examples), max(widths))
    ids, positions = np.zeros(shape, np.int64), np.zeros(shape, np.int64)
    group, sees = np.full(shape, -1), np.zeros(shape, np.int64)  # sees: clean tokens before this index
    answers: list[tuple[int, int, int]] = []
    guesses: list[tuple[int, int, int]] = []
    behind: list[int] = []
    for row, (example, own) in enumerate(zip(examples, states, strict=True)):
        text = example.ids
        n, first = len(text) - 1, len(example.prompt)
        ids[row, :n], positions[row, :n], group[row, :n], sees[row, :n] = text[:-1], range(n), 0, range(1, n + 1)
        answers += [(row, i - 1, text[i]) for i in range(first, len(text))]
        at = n
        for number, state in enumerate(own, 1):
            m = len(state.guess)
            assert first <= state.start and state.start + m < len(text), "a guess has no target"
            ids[row, at : at + m], positions[row, at : at + m] = state.guess, range(state.start, state.start + m)
            group[row, at : at + m], sees[row, at : at + m] = number, state.start
            wrong = state.wrong_from(text)
            guesses += [(row, at + i, text[state.start + i + 1]) for i in range(wrong, m)]
            behind += range(m - wrong)
            at += m
    rows_a, columns_a, targets_a = _columns(answers)
    rows_g, columns_g, targets_g = _columns(guesses)
    return Packed(
        ids,
        positions,
        visible(group, sees, group),
        (rows_a, columns_a),
        targets_a,
        (rows_g, columns_g),
        targets_g,
        np.array(behind, dtype=np.int64),
    )


def visible(query: Ints, sees: Ints, key: Ints) -> NDArray[np.bool_]:
    """Mask (rows, 1, queries, keys) from the groups of queries and keys (0 clean, 1.. a guess, -1 padding).

    The queries are the last of the keys. sees: how many clean tokens a query sees, which stand first.
    """
    n_keys, n_past = key.shape[1], key.shape[1] - query.shape[1]
    place = np.arange(n_keys)
    clean = (key == 0)[:, None, :] & (place[None, None, :] < sees[:, :, None])
    causal = place[None, None, :] <= (n_past + np.arange(query.shape[1]))[None, :, None]
    own = (query[:, :, None] == key[:, None, :]) & (query > 0)[:, :, None] & causal
    itself = np.broadcast_to(place[None, :] == (n_past + np.arange(query.shape[1]))[:, None], own.shape[1:])
    return np.asarray((clean | own | itself)[:, None])  # itself: padding must see something, or softmax gives NaN


def _columns(rows: list[tuple[int, int, int]]) -> tuple[Ints, Ints, Ints]:
    table = np.array(rows, dtype=np.int64).reshape(-1, 3)
    return table[:, 0], table[:, 1], table[:, 2]


def tensors(packed: Packed, model: Any) -> dict[str, Any]:
    """What a transformers model takes."""
    import torch

    return {
        "input_ids": torch.from_numpy(packed.ids),
        "position_ids": torch.from_numpy(packed.positions),
        "attention_mask": bias(packed.mask, model),
    }


def bias(mask: NDArray[np.bool_], model: Any) -> Any:
    """The mask as what is added to the scores, in the dtype they will have: every attention kernel takes it so."""
    import torch

    dtype = torch.get_autocast_dtype("cpu") if torch.is_autocast_enabled("cpu") else model.dtype
    return torch.zeros(mask.shape, dtype=dtype).masked_fill_(torch.from_numpy(~mask), -1e9)


def plain_attention(model: Any) -> None:
    """Switch to plain matrix products: with a mask, on short rows, fused kernels take four times as long on a CPU."""
    model.set_attn_implementation("eager")
