"""On a processor with AMX: a model's divergence from a reference in another engine is what it is without AMX.

AMX keeps its tiles' form per thread, and two engines on one thread leave it configured for each other: llama.cpp dies
of an illegal instruction after PyTorch's bf16 products, and is wrong without a word after ONNX Runtime's int8 ones.
So each engine has a process of its own; here the runs are compared with rows that each engine computed alone, and
against a run whose kernels keep away from AMX.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from core import plugins
from core.evals._texts import windows
from core.evals.divergence import compare
from core.runs.runner import Runner
from core.types import Derive, Evaluate, Item, Request, Scalar
from core.worker.subject import ModelUnderTest
from hardware.detect import machine
from tests.support.beside import beside

MODEL, CONTEXT = "smollm2-135m", 64
WITHOUT_AMX = {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE_BF16"}  # of PyTorch's products
TEXTS = (
    "The old lighthouse keeper climbed the stairs every evening, lit the lamp, and wrote the weather into his book.",
    "A cell copies its DNA before it divides: two strands part, and each serves as the pattern for a new one.",
)

pytestmark = [
    pytest.mark.model,
    pytest.mark.skipif(
        "amx" not in machine().isa, reason="this processor has no AMX, so its engines cannot spoil each other's tiles"
    ),
]


@pytest.fixture
def texts(tmp_path: Path) -> str:
    file = tmp_path / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return str(file)


def made(runner: Runner, backend: str, transform: str, settings: dict[str, Scalar]) -> str:
    """The id of a model that a transform makes of the embedded one."""
    task = Derive(transform=transform, settings=settings)
    run = runner.wait(runner.start(Request(model=MODEL, backend=backend, task=task, threads=1, profilers=())))
    model = run.result().made
    assert model is not None, run.failure()
    return model.model


def divergence(runner: Runner, request: Request, **settings: Scalar) -> list[dict[str, float]]:
    """What a run says of every text."""
    task = Evaluate(eval="divergence", settings={"context": CONTEXT, **settings})
    run = runner.wait(
        runner.start(
            Request(
                model=request.model,
                backend=request.backend,
                task=task,
                threads=1,
                profilers=(),
                options=request.options,
            )
        )
    )
    assert run.status() == "done", run.failure()
    return [event.values for event in run.events() if isinstance(event, Item)]


def alone(model: str, backend: str, **options: Any) -> list[tuple[list[int], list[NDArray[np.float32]]]]:
    """The ids of every text and the rows of its windows, in a process that has nothing else in it."""
    found = []
    with beside(model, backend, **options) as session:
        subject = ModelUnderTest(session, None, plugins.get("strategy", "autoregressive"), None)
        for text in TEXTS:
            ids = session.encode(text)
            cut = windows(len(ids), CONTEXT, CONTEXT // 2)
            parts = [subject.logprobs(session, ids[w.begin : w.end], w.first - w.begin) for w in cut]
            found.append((ids, [row for part in parts for chunk in part for row in chunk]))
    return found


def kl_of(ours: Any, theirs: Any) -> list[float]:
    """KL, summed over the tokens, of every text."""
    found = []
    for (ids, q), (same, p) in zip(ours, theirs, strict=True):
        assert ids == same and len(q) == len(p) == len(ids) - 1
        found.append(math.fsum(compare(a, b, token)[0] for a, b, token in zip(p, q, ids[1:], strict=True)))
    return found


def test_a_llama_cpp_model_from_a_pytorch_bf16_reference(
    runner: Runner, texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product in bf16 by oneDNN between two forwards of llama.cpp: once an illegal instruction."""
    reference = made(runner, "pytorch", "torch_quantize", {"method": "bf16"})
    asked: dict[str, Scalar] = {"reference": reference, "reference_backend": "pytorch", "text": texts}
    found = divergence(runner, Request(model=MODEL, backend="llama_cpp"), **asked)
    rows = alone(MODEL, "llama_cpp"), alone(reference, "pytorch")
    assert [v["kl"] for v in found] == pytest.approx(kl_of(*rows), rel=1e-9), "as each engine alone"
    for name, value in WITHOUT_AMX.items():
        monkeypatch.setenv(name, value)
    plain = divergence(runner, Request(model=MODEL, backend="llama_cpp", options={"use_extra_bufts": False}), **asked)
    # the same numbers but for the order of sums, of which bf16 rounds some the other way
    assert [v["kl"] for v in found] == pytest.approx([v["kl"] for v in plain], rel=0.15)
    assert [v["nll"] for v in found] == pytest.approx([v["nll"] for v in plain], rel=0.02)


def test_an_onnx_int8_model_from_a_llama_cpp_reference(runner: Runner, texts: str) -> None:
    """A product in int8 by ONNX Runtime between two forwards of llama.cpp: once silently wrong tokens."""
    model = made(runner, "onnxruntime", "onnx_quantize", {"method": "dynamic_int8"})
    found = divergence(
        runner, Request(model=model, backend="onnxruntime"), reference=MODEL, reference_backend="llama_cpp", text=texts
    )
    int8, quantized = alone(model, "onnxruntime"), alone(MODEL, "llama_cpp")
    assert [v["kl"] for v in found] == pytest.approx(kl_of(int8, quantized), rel=1e-9), "as each engine alone"
    plain = alone(MODEL, "llama_cpp", use_extra_bufts=False)
    assert [v["kl"] for v in found] == pytest.approx(kl_of(int8, plain), rel=0.15)
