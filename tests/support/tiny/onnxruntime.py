"""The tiny llama as an ONNX export."""

import hashlib
from pathlib import Path

from core.models import torch_to_onnx
from tests.support import elsewhere
from tests.support.shared import once
from tests.support.tiny import hf_folder
from tests.support.traced import once_each


def make(folder: Path) -> tuple[str, str]:
    """The export of what lies in `folder`; it is made once per session in a shared place, and nobody changes it."""
    source = hf_folder(folder)
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()[:12]
    return str(once(f"tiny-onnx-{digest}", lambda out: elsewhere.call("pytorch", _export, source, out))), "onnx"


def _export(source: Path, out: Path) -> None:
    with once_each():
        torch_to_onnx.convert(source, out, lambda _: None)
