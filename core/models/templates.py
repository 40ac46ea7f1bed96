"""The chat templates of a model, from its files and without opening it.

Knows where each format keeps them. Renders nothing (core.tokenizers.chat does).
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from core.models import gguf_file
from core.models.identity import stamp
from core.tokenizers import from_gguf
from core.tokenizers.folder import chat_templates, read_json
from core.types import ModelEntry
from hardware.errors import ExplorerError


def templates_of(entry: ModelEntry) -> dict[str, str]:
    """Name -> template, the usual one called "default"; empty where there is none, or none that can be read."""
    fmt, place = next(iter(entry.files.items()))
    path = Path(place)
    try:
        if fmt == "gguf":
            return dict(_of_gguf(path, stamp({fmt: place})))
        folder = path if path.is_dir() else path.parent
        return chat_templates(folder, read_json(folder / "tokenizer_config.json"))
    except (ExplorerError, OSError, ValueError):
        return {}


@lru_cache(maxsize=32)
def _of_gguf(path: Path, written: str) -> dict[str, str]:
    """written: the stamp of the file, whose whole vocabulary is read on the way to the templates."""
    return from_gguf.chat_templates(gguf_file.read(path).metadata)
