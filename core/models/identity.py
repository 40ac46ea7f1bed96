"""Which file a model is: its name, size and date. Reads no content."""

from __future__ import annotations

from pathlib import Path

from core.types import ModelFile


def identity(path: str) -> ModelFile:
    """Of a folder, all its files together; of a file, with the weights that lie beside it (`model.onnx.data`)."""
    own = Path(path)
    parts = own.rglob("*") if own.is_dir() else (own, *own.parent.glob(f"{own.name}*data"))
    found = [part.stat() for part in parts if part.is_file()]
    return ModelFile(
        name=own.name,
        size_bytes=sum(s.st_size for s in found),
        modified_s=max((s.st_mtime for s in found), default=0.0),
    )
