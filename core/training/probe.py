"""The model as it decodes freely: the losses of training do not show a collapse, this does."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from core.backends.pytorch import TorchSession
from core.decoding import jacobi
from core.training import greedy
from core.types import GenerationConfig, ModelSpec


def free_running(
    model: Any,
    tokenizer: Any,
    spec: ModelSpec,
    prompts: Sequence[Sequence[int]],
    judge: Callable[[int, str], bool],
    end: frozenset[int],
    limit: int,
    window: int | None,
) -> dict[str, float]:
    """accuracy, and with a window tokens_per_forward of real Jacobi decoding, over the prompts, in bf16.

    judge: (index of the prompt, answer) -> whether it is right. Works on a copy: the weights in training stay fp32.
    """
    import torch

    twin = copy.deepcopy(model).to(torch.bfloat16).eval().requires_grad_(False)
    values: dict[str, float] = {}
    if window is None:
        found = greedy.answers(twin, prompts, end, limit)
    else:
        session = TorchSession(twin, tokenizer, spec, "cpu")
        n_tokens = n_forward = 0
        found = []
        for prompt in prompts:
            config = GenerationConfig(limit=limit, stop=end)
            steps = jacobi.plugin.decode(session, np.array([prompt]), config, jacobi.Window(window=window))
            tokens: list[int] = []
            for step in steps:
                tokens += step.tokens[0] if step.tokens else ()
                if step.phase == "decode":
                    n_tokens, n_forward = n_tokens + len(step.tokens[0]), n_forward + step.n_forward
            found.append(tuple(tokens))
        session.close()
        values["tokens_per_forward"] = n_tokens / n_forward if n_forward else 1.0
    texts = [tokenizer.decode(list(ids), skip_special_tokens=True) for ids in found]
    values["accuracy"] = float(np.mean([judge(i, text) for i, text in enumerate(texts)]))
    return values
