"""Medusa heads beside a model: small networks that guess the tokens after the next from the last hidden state.

Head k says x_k = h + SiLU(W_k h), and the model's own unembedding turns x_k into logits (Cai et al., "Medusa",
2401.10774, section 2.1.1, with one shared unembedding: a matrix per head would be a fifth of a small model).
The weights, (n_heads, d, d), lie in medusa_heads.safetensors as medusa_heads.weight; how often each ranked guess was
right on held-out text lies in config.json under medusa_heads. Knows nothing of the Session.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from core.backends.pytorch.load import DAMAGED, explained

FILE, KEY = "medusa_heads.safetensors", "medusa_heads"


class Heads:
    """weight: (n_heads, d, d) in the model's dtype and on its device. accuracy[k][r]: of head k's guess of rank r."""

    def __init__(self, model: Any, weight: Any, accuracy: tuple[tuple[float, ...], ...]) -> None:
        self.accuracy = accuracy
        self._weight, self._unembed = weight, model.get_output_embeddings()
        self._hidden: Any = None  # what the unembedding was last given, (batch, n_kept, d)
        self._unembed.register_forward_pre_hook(self._remember)

    def _remember(self, module: Any, inputs: tuple[Any, ...]) -> None:
        self._hidden = inputs[0]

    def guesses(self, index: int) -> NDArray[np.float32]:
        """Logits of every head at row `index` of the last forward, shape (n_heads, vocab)."""
        import torch

        assert self._hidden is not None, "the heads guess after a forward"
        with torch.inference_mode():
            held = self._hidden
            h = held[0, index]
            logits = self._unembed(h + torch.nn.functional.silu(self._weight @ h))
            self._hidden = held  # the unembedding has just remembered the heads' own states
            return np.asarray(logits.float().cpu().numpy(), dtype=np.float32)


def load(folder: Path, model: Any, device: str) -> Heads | None:
    """The heads that lie in the folder, or None. Raises ExplorerError for damaged ones or another model's."""
    if not (folder / FILE).exists():
        return None
    from safetensors.torch import load_file

    with explained(f"The Medusa heads in {folder.name} cannot be used", DAMAGED):
        weight = load_file(str(folder / FILE))[f"{KEY}.weight"]
        accuracy = tuple(tuple(map(float, row)) for row in getattr(model.config, KEY)["accuracy"])
        n_heads, d = len(accuracy), model.config.get_text_config().hidden_size
        if weight.shape != (n_heads, d, d):
            raise ValueError(f"their shape is {tuple(weight.shape)}, and this model's is {(n_heads, d, d)}")
        return Heads(model, weight.to(device=device, dtype=model.dtype), accuracy)
