"""Writes a Hugging Face folder with seeded random weights for a config.json.

Its speed and memory are those of the architecture; its text is noise. Used where a backend needs
weights on disk (ONNX export); PyTorch instantiates the configuration itself.
"""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

from core.types import Progress
from hardware.errors import ExplorerError

VERSION = 1
_SEED = 0


def shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Parameter -> shape, of a model without storage; a tied one once."""
    import torch

    with torch.device("meta"):
        model = _model(folder)
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def output_bytes(folder: Path) -> int:
    """Size of the weights in fp32."""
    return 4 * sum(math.prod(shape) for shape in shapes(folder).values()) + (32 << 20)


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
    """An untrained model with its language head: causal, or for encoders such as BERT the masked one."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto import modeling_auto as auto

    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        encoder = config.model_type in auto.MODEL_FOR_MASKED_LM_MAPPING_NAMES and not getattr(
            config, "is_decoder", False
        )
        kind = AutoModelForMaskedLM if encoder else AutoModelForCausalLM
        return kind.from_config(config, dtype=torch.float32, trust_remote_code=False)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError, ZeroDivisionError) as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        raise ExplorerError(
            f"transformers cannot build this config.json ({reason}).", "Correct its numbers, or choose another model."
        ) from error
