"""Writes a Hugging Face folder with seeded random weights for a config.json.

Its speed and memory are those of the architecture; its text is noise. Used where a backend needs
weights on disk (ONNX export); PyTorch instantiates the configuration itself.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from core.errors import ExplorerError
from core.types import Progress

VERSION = 1
_SEED = 0


def output_bytes(folder: Path) -> int:
    """Size of the weights in fp32, counted on a model without storage."""
    import torch

    with torch.device("meta"):
        model = _model(folder)
    n: int = sum(math.prod(p.shape) for p in model.parameters())
    return n * 4 + (32 << 20)


def write(folder: Path, out: Path, progress: Progress) -> None:
    """Copy `folder` (config.json and tokenizer) to `out` and add model.safetensors in fp32."""
    import torch

    progress("Making random weights")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(_SEED)
        model = _model(folder)
    progress("Writing random weights")
    model.save_pretrained(out, max_shard_size="1000GB")
    for file in folder.iterdir():
        if file.name.startswith("tokenizer") or file.suffix == ".jinja":
            shutil.copyfile(file, out / file.name)


def _model(folder: Path) -> Any:
    """An untrained model: with a language head where the architecture has one, else the bare network."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForCausalLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

    try:
        config = AutoConfig.from_pretrained(folder)
        stated = (config.architectures or [""])[0]
        causal = config.model_type in MODEL_FOR_CAUSAL_LM_MAPPING_NAMES and "MaskedLM" not in stated
        kind = AutoModelForCausalLM if causal else AutoModel
        return kind.from_config(config, dtype=torch.float32)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise ExplorerError(f"transformers cannot build this config.json ({reason}).", "Correct the file.") from error
