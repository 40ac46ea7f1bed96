"""A model's own answers to many prompts, in batches: what a student learns from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np


def answers(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end: frozenset[int],
    limit: int,
    batch: int = 32,
    temperature: float = 0.0,
    seed: int = 0,
    done: Callable[[int], None] = lambda n: None,
) -> list[tuple[int, ...]]:
    """The continuation of every prompt: up to `limit` tokens, with the token that ended it.

    temperature 0 is greedy. done: told after every batch how many prompts are answered. Prompts of similar length
    share a batch, padded on the left.
    """
    import torch

    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: list[tuple[int, ...]] = [()] * len(prompts)
    generator = torch.Generator().manual_seed(seed)
    for start in range(0, len(order), batch):
        part = order[start : start + batch]
        with torch.no_grad():
            texts = _continue(model, [prompts[i] for i in part], end, limit, temperature, generator)
        for i, text in zip(part, texts, strict=True):
            found[i] = text
        done(start + len(part))
    return found


def _continue(
    model: Any,
    prompts: Sequence[Sequence[int]],
    end: frozenset[int],
    limit: int,
    temperature: float,
    generator: Any,
) -> list[tuple[int, ...]]:
    import torch
    from transformers import DynamicCache

    width = max(map(len, prompts))
    ids, real = np.zeros((len(prompts), width), np.int64), np.zeros((len(prompts), width), bool)
    for row, prompt in enumerate(prompts):
        ids[row, width - len(prompt) :], real[row, width - len(prompt) :] = prompt, True
    mask = torch.from_numpy(real)
    positions = (mask.long().cumsum(-1) - 1).clamp(min=0)
    cache = DynamicCache(config=model.config)
    fed = torch.from_numpy(ids)
    texts: list[list[int]] = [[] for _ in prompts]
    going = np.ones(len(prompts), bool)
    for _ in range(limit):
        logits = model(
            fed,
            attention_mask=mask.long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        ).logits[:, -1]
        if temperature > 0:
            chances = torch.softmax(logits.float() / temperature, -1)
            chosen = torch.multinomial(chances, 1, generator=generator)
        else:
            chosen = logits.float().argmax(-1, keepdim=True)
        for row, token in enumerate(chosen[:, 0].tolist()):
            if going[row]:
                texts[row].append(token)
                going[row] = token not in end
        if not going.any():
            break
        fed, positions = chosen, positions[:, -1:] + 1
        mask = torch.cat([mask, torch.ones_like(mask[:, :1])], dim=1)
    return [tuple(text) for text in texts]
