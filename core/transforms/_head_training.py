"""What Medusa heads learn from and how they are judged, over the frozen model's last hidden states.

Cai et al., "Medusa" (2401.10774, section 2.2.1, Medusa-1): head k learns the token k + 2 behind the one whose
hidden state it reads, and a wrong far token weighs less. The base never changes, so its states are computed once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

DECAY = 0.8  # of a head's loss from one head to the next (section 2.2.1)
NOTHING = -100  # the label where the text has ended
ROWS = 512  # hidden states whose logits are held at once when heads are judged


class States(NamedTuple):
    """hidden: (n, d), what the model's unembedding reads. labels: (n, n_heads), NOTHING behind the end."""

    hidden: Any
    labels: Any


def states(
    model: Any, texts: Sequence[tuple[list[int], list[int]]], n_heads: int, tell: Callable[[int], None]
) -> States:
    """Of texts (prompt, answer) in ids: one row for each token whose next one is of the answer."""
    import torch

    body, hidden, labels = model.base_model, [], []
    for done, (prompt, answer) in enumerate(texts):
        tell(done)
        text = [*prompt, *answer]
        first, rows = len(prompt) - 1, len(answer)
        with torch.inference_mode():
            hidden.append(body(torch.tensor([text]), use_cache=False).last_hidden_state[0, first : first + rows])
        padded = torch.tensor(text + [NOTHING] * (n_heads + 1))
        at = torch.arange(first, first + rows)[:, None] + torch.arange(n_heads) + 2
        labels.append(padded[at])
    return States(torch.cat(hidden).clone(), torch.cat(labels))


def logits(weight: Any, hidden: Any, unembed: Any) -> Any:
    """(n, n_heads, vocab): h + SiLU(W_k h) through the unembedding."""
    import torch

    return unembed(hidden[:, None] + torch.nn.functional.silu(torch.einsum("hij,nj->nhi", weight, hidden)))


def loss(weight: Any, part: States, unembed: Any) -> tuple[Any, Any]:
    """The sum over heads of 0.8^k times the mean cross-entropy in nats, and those means, shape (n_heads,)."""
    import torch

    scores = logits(weight, part.hidden, unembed).float()
    each = torch.nn.functional.cross_entropy(
        scores.transpose(1, 2), part.labels, ignore_index=NOTHING, reduction="none"
    )
    known = (part.labels != NOTHING).sum(0).clamp(min=1)
    means = each.sum(0) / known
    return (means * DECAY ** torch.arange(len(means))).sum(), means.detach()


def batch(n: int, step: int, size: int, seed: int) -> list[int]:
    """The row numbers of a step, a function of (seed, step) alone; every pass over the n rows has its own order."""
    rows: list[int] = []
    while len(rows) < size:
        turn, place = divmod(step * size + len(rows), n)
        order = np.random.default_rng([seed, turn]).permutation(n)
        rows += order[place : place + size - len(rows)].tolist()
    return rows


def accuracy(weight: Any, held_out: States, unembed: Any, k: int) -> list[list[float]]:
    """[head][rank]: the share of tokens that the head's guess of this rank got right."""
    import torch

    right = torch.zeros(len(weight), k)
    with torch.inference_mode():
        for start in range(0, len(held_out.hidden), ROWS):
            labels = held_out.labels[start : start + ROWS]
            best = logits(weight, held_out.hidden[start : start + ROWS], unembed).topk(k, dim=-1).indices
            right += (best == labels[..., None]).sum(0)
    known = (held_out.labels != NOTHING).sum(0).clamp(min=1)
    found: list[list[float]] = (right / known[:, None]).tolist()
    return found
