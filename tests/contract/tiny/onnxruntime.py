from pathlib import Path

from core.models.onnx_export import export
from tests.contract.tiny import hf_folder


def make(folder: Path) -> tuple[str, str]:
    out = folder / "tiny-onnx"
    if not out.exists():
        export(str(hf_folder(folder)), str(out), lambda *_, **__: None)
    return str(out), "onnx"
