"""The tiny llama as an ONNX export."""

import hashlib
from pathlib import Path

from tests.support.onnx_exports import exported
from tests.support.shared import once
from tests.support.tiny import hf_folder


def make(folder: Path) -> tuple[str, str]:
    """The export of what lies in `folder`; it is made once per session in a shared place, and nobody changes it."""
    source = hf_folder(folder)
    digest = hashlib.sha256((source / "model.safetensors").read_bytes()).hexdigest()[:12]
    return str(once(f"tiny-onnx-{digest}", lambda out: exported(source, out))), "onnx"
