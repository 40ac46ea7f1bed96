"""Well-known architectures without their weights: facts from public configurations.

Opened with random weights, a preset's speed and memory are real and its text is noise. Which of them
fit a machine follows from their size. Knows the files in presets/, nothing of backends.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path

from core.dtypes import BITS_PER_WEIGHT
from core.models.spec import plain_dtype
from core.types import ModelEntry

NOTE = "Random weights: speed and memory are real, the text is noise."

_FOLDER = Path(__file__).parent / "presets"


@cache
def presets() -> tuple[ModelEntry, ...]:
    """One entry per architecture, smallest first. size_bytes: of the weights in the configuration's dtype."""
    rows = json.loads((_FOLDER / "index.json").read_text(encoding="utf-8"))
    return tuple(_entry(row) for row in sorted(rows, key=lambda row: int(row["n_params"])))


def n_params(preset_id: str) -> int:
    """Parameters that transformers instantiates for the preset."""
    return next(int(entry.lineage["n_params"]) for entry in presets() if entry.id == preset_id)


def _entry(row: dict[str, str | int]) -> ModelEntry:
    path = _FOLDER / f"{row['id']}.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    bits = BITS_PER_WEIGHT[plain_dtype(config)]
    lineage = {"n_params": row["n_params"], "architecture": config["model_type"]}
    if "source" in row:
        lineage["config_of"] = row["source"]
    return ModelEntry(
        id=str(row["id"]),
        label=str(row["label"]),
        family="preset",
        files={"config": str(path)},
        size_bytes=round(int(row["n_params"]) * bits / 8),
        note=" ".join(n for n in (NOTE, str(row.get("note", ""))) if n),
        random_weights=True,
        lineage=lineage,
    )
