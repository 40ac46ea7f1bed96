"""Tree attention over a DynamicCache: which pending token sees which, where it stands, and how a path is kept.

Knows masks, positions and cache layers. Knows nothing of the Session. Miao et al., "SpecInfer" (2305.09781,
section 4.2); Cai et al., "Medusa" (2401.10774, section 2.1.2).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray


def possible(cache: Any, parameters: Any) -> bool:
    """Whether a mask and positions alone make a tree for a model of such a cache, whose forward has these parameters.

    A window's cache drops rows by their order, which in a tree is not their position.
    """
    from transformers.cache_utils import DynamicLayer

    plain = cache is not None and bool(cache.layers) and all(type(layer) is DynamicLayer for layer in cache.layers)
    return plain and {"position_ids", "attention_mask"} <= set(parameters)


def layout(parents: Sequence[int]) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Who sees whom, shape (n, n), itself included, and the depth of each token from 0.

    parents[i] < i, and -1 for a root.
    """
    n = len(parents)
    sees, depth = np.eye(n, dtype=np.bool_), np.zeros(n, dtype=np.int64)
    for i, parent in enumerate(parents):
        assert -1 <= parent < i, "a token's parent comes before it"
        if parent >= 0:
            sees[i] |= sees[parent]
            depth[i] = depth[parent] + 1
    return sees, depth


def attention(sees: NDArray[np.bool_], n_past: int, dtype: Any, device: str) -> Any:
    """The additive mask, shape (1, 1, n, n_past + n): eager attention adds it, and sdpa takes it as well as bools."""
    import torch

    mask = torch.zeros(1, 1, len(sees), n_past + len(sees), dtype=dtype, device=device)
    mask[..., n_past:].masked_fill_(torch.from_numpy(~sees).to(device), -torch.inf)
    return mask


def keep(cache: Any, n_past: int, indices: Sequence[int]) -> None:
    """Move the rows of the path `indices`, ascending, to the front of the pending ones; the rest is still there."""
    import torch

    if list(indices) == list(range(len(indices))):
        return
    end = n_past + len(indices)
    for layer in cache.layers:
        rows = torch.tensor(indices, device=layer.keys.device) + n_past
        for stored in (layer.keys, layer.values):
            stored[..., n_past:end, :] = stored.index_select(-2, rows)
