"""ONNX exports for tests, made in the process that has PyTorch: it is started once, not for every export."""

from __future__ import annotations

from pathlib import Path

from core.models import torch_to_onnx
from tests.support import elsewhere


def exported(source: Path, target: Path) -> Path:
    """The Hugging Face folder `source` as an ONNX export in `target`, which nobody has compared with its model."""
    elsewhere.call("pytorch", _export, source, target)
    return target


def _export(source: Path, target: Path) -> None:
    torch_to_onnx.convert(source, target, lambda _: None)
