"""A network that several tests export is traced once per session: what they change is its tokenizer, its files or their
names, and tracing takes five seconds of a processor. All else of an export is done each time."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from core.models import torch_to_onnx
from tests.support.shared import once

_PLACES = ("_name_or_path", "transformers_weights")  # of a folder, and of the files in it
_trace = torch_to_onnx._program


@contextmanager
def once_each() -> Iterator[None]:
    """Inside, this process traces no network that any process of the session has traced so."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torch_to_onnx, "_program", _program)
        yield


def _program(model: Any, tell: Callable[[str], None]) -> Any:
    import onnx_ir
    import torch

    def make(out: Path) -> None:
        out.mkdir()
        _trace(model, tell).save(out / "model.onnx", external_data=True)

    return torch.onnx.ONNXProgram(onnx_ir.load(once(f"traced-{_identity(model)}", make) / "model.onnx"), None)


def _identity(model: Any) -> str:
    """What determines the graph: the configuration, wherever it and the weights were read, and every weight."""
    numbers = {key: value for key, value in model.config.to_dict().items() if key not in _PLACES}
    digest = hashlib.sha256(repr((type(model), sorted(numbers.items()))).encode())
    for name, tensor in sorted((*model.named_parameters(), *model.named_buffers())):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().numpy().tobytes())
    return digest.hexdigest()[:16]
