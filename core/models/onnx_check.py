"""Compares an ONNX export with what PyTorch computed, in a process that has ONNX Runtime alone.

    python -m core.models.onnx_check MODEL.ONNX SAMPLES.NPZ     prints progress as JSON lines

The samples are torch_to_onnx's: inputs of the graph, and PyTorch's logits for them.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

from core import engine
from core.models.torch_to_onnx import WANTED, telling
from hardware.errors import ExplorerError

LARGEST_ERROR = 1e-3  # of the file's logits, relative to the largest
QUIET = 3  # ONNX Runtime's severity: errors only


def main(file: str, samples: str) -> int:
    def work(tell: Callable[[str], None]) -> None:
        engine.claim("onnxruntime")
        tell("Comparing the ONNX export with PyTorch")
        check(Path(file), Path(samples))

    return telling(work)


def check(file: Path, samples: Path) -> None:
    """Raises ExplorerError when the file's logits are not those of the samples."""
    import numpy as np
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = QUIET
    session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])
    with np.load(samples) as arrays:
        numbers = sorted({name.split("/")[0] for name in arrays.files if "/" in name})
        assert numbers, "a file of samples without samples"
        for number in numbers:
            feeds = {value.name: arrays[f"{number}/{value.name}"] for value in session.get_inputs()}
            got, wanted = session.run(["logits"], feeds)[0], arrays[f"{number}/{WANTED}"]
            error = float(np.abs(got - wanted).max() / max(1.0, np.abs(wanted).max()))
            if not error < LARGEST_ERROR:
                raise ExplorerError(
                    f"The ONNX export of '{arrays['architecture']}' is off by {error:.1g} of its largest logit.",
                    "Choose the PyTorch backend for this model.",
                )


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
