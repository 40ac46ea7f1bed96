"""The model as it decodes freely: the losses of training do not show a collapse, this does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.training import greedy, jacobi


def free_running(
    model: Any,
    prompts: Sequence[Sequence[int]],
    decode: Callable[[Sequence[int]], str],
    judge: Callable[[int, str], bool | None],
    end: frozenset[int],
    limit: int,
    window: int | None,
    fill: int | None,
) -> dict[str, float]:
    """accuracy, and with a window tokens_per_forward of Jacobi decoding, over the prompts, in bf16.

    fill: as in core.training.states.rollout. decode: ids -> text. judge: (index of the prompt, answer) -> whether it
    is right, None where nobody can tell; without any that can be judged there is no accuracy. Works on a copy: the
    weights in training stay fp32.
    """
    import torch

    twin = copy.deepcopy(model).to(torch.bfloat16).eval().requires_grad_(False)
    values: dict[str, float] = {}
    if window is None:
        found = greedy.answers(twin, prompts, end, limit)
    else:
        decoded = jacobi.decode(twin, prompts, end, limit, window, fill)
        found = [d.ids for d in decoded]
        n_forward = sum(d.n_forward for d in decoded)
        values["tokens_per_forward"] = sum(len(d.ids) - 1 for d in decoded) / n_forward if n_forward else 1.0
    judged = [right for i, ids in enumerate(found) if (right := judge(i, decode(ids))) is not None]
    return values | ({"accuracy": float(np.mean(judged))} if judged else {})
