"""A model behind a server as far as the server tells it: names and sizes, and no layers."""

from __future__ import annotations

from pathlib import Path

from core.dtypes import canonical_dtype
from core.endpoints import store
from core.types import ModelSpec
from hardware.errors import ExplorerError

N_WORDS = 128  # of the words that stand for random tokens where a server does not tokenize
UNKNOWN = "unknown"


def read(path: Path) -> ModelSpec:
    """The architecture without its layers. Raises ExplorerError for a file that cannot be read."""
    served = store.read(path)
    model = served.model
    return ModelSpec(
        name=store.short(model.id),
        architecture=model.architecture,
        d_model=model.d_model or 0,
        n_blocks=model.n_blocks or 0,
        vocab_size=(model.vocab_size if served.endpoint.tokenizes else None) or N_WORDS,
        max_context=model.context or model.trained_context,
        layers=(),
        dtype=dtype_of(model.quantization),
        source=f"As {store.LABELS[served.endpoint.flavour]} at {served.endpoint.url} tells it.",
    )


def dtype_of(quantization: str) -> str:
    """The number format behind a server's word for it ("Q4_K - Medium", "BF16"); "unknown" where there is none."""
    word, _, kind = quantization.lower().partition(" - ")
    for name in (f"{word}_{kind[:1]}", word, word[:-2]):
        try:
            return canonical_dtype(name)
        except ExplorerError:
            continue
    return UNKNOWN
