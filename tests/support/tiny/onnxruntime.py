from pathlib import Path

from core.models.torch_to_onnx import convert
from tests.support.tiny import hf_folder


def make(folder: Path) -> tuple[str, str]:
    out = folder / "tiny-onnx"
    if not out.exists():
        convert(hf_folder(folder), out, lambda _: None)
    return str(out), "onnx"
