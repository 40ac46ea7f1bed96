"""Counting tokens with a tokenizer of ours, where a server counts none: the last of the sources, and named as such.

Right only if the model behind the server has the same tokenizer, which the user says by naming one of the catalogue.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from pathlib import Path

from core.models import catalogue, gguf_file
from core.tokenizers import from_gguf
from core.tokenizers.folder import tokenizer_file
from core.tokenizers.library import fast_tokenizer
from hardware.errors import ExplorerError

Counter = Callable[[str], int]


def counter(model: str) -> Counter:
    """What counts the tokens of a text with the tokenizer of a model of the catalogue. Raises ExplorerError."""
    entry = catalogue.find(model)
    given = entry.files.get("hf") or entry.files.get("config")
    if given is not None:
        folder = Path(given) if Path(given).is_dir() else Path(given).parent
        if tokenizer_file(folder) is not None:
            return _counting(folder)
    if "gguf" in entry.files:
        with tempfile.TemporaryDirectory() as place:
            from_gguf.write(gguf_file.read(Path(entry.files["gguf"])).metadata, Path(place))
            return _counting(Path(place))
    raise ExplorerError(
        f"{entry.label} has no tokenizer that could count.", "Name a model with one, or leave the option out."
    )


def _counting(folder: Path) -> Counter:
    tokenizer = fast_tokenizer(folder)
    return lambda text: len(tokenizer.encode(text, add_special_tokens=False).ids)
