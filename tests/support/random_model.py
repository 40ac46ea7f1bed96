"""Random models of any architecture, saved by PyTorch, and their ONNX exports."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tests.support import elsewhere
from tests.support.onnx_exports import exported
from tests.support.shared import once

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def random_model(folder: Path, model_type: str, **sizes: Any) -> Any:
    """A random model whose logits are spread over a few units, saved in `folder`; loads PyTorch."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING as ENCODERS

    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **(SIZES | sizes))
    kind = AutoModelForMaskedLM if type(config) in ENCODERS else AutoModelForCausalLM
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    return model


def saved(folder: Path, model_type: str, **sizes: Any) -> int:
    """The same, saved by a process that may load PyTorch; how many parameters it has."""
    return elsewhere.call("pytorch", _saved, folder, model_type, sizes)


def _saved(folder: Path, model_type: str, sizes: dict[str, Any]) -> int:
    return sum(parameter.numel() for parameter in random_model(folder, model_type, **sizes).parameters())


def random_onnx(model_type: str, **sizes: Any) -> Path:
    """Its export, made by other processes once per session; the model is beside it, in `hf`. Nobody changes them."""

    def make(out: Path) -> None:
        saved(out / "hf", model_type, **sizes)
        exported(out / "hf", out / "onnx")

    name = "-".join((model_type, *(f"{size}-{n}" for size, n in sorted(sizes.items()))))
    return once(f"random-{name}", make) / "onnx"
