"""On a processor with AMX: a model's divergence from a reference in another engine is what it is without AMX.

AMX keeps its tiles' form per thread, and two engines on one thread leave it configured for each other: llama.cpp dies
of an illegal instruction after PyTorch's bf16 products, and is wrong without a word after ONNX Runtime's int8 ones.
So each engine has a process of its own; here the runs are held against rows that each engine computed alone, and
against a run whose kernels keep away from AMX.
"""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.evals._texts import windows
from core.evals.divergence import compare
from core.runs.runner import Runner
from core.types import Derive, Evaluate, Item, Request, Scalar
from hardware.detect import machine

ROOT = Path(__file__).parents[2]
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

ALONE = """
import json, sys
import numpy as np
from core import plugins
from core.evals._texts import documents, windows
from core.types import Request
from core.worker.sessions import load
from core.worker.subject import ModelUnderTest

class Quiet:
    def phase(self, *_, **__):
        pass

model, backend, options, text, context, out = sys.argv[1:]
session, _ = load(Request(model=model, backend=backend, threads=1, options=json.loads(options)), Quiet())
subject = ModelUnderTest(session, None, plugins.get("strategy", "autoregressive"), None)
rows = {}
for document in documents(text):
    ids = session.encode(document.text)
    for w in windows(len(ids), int(context), int(context) // 2):
        parts = subject.logprobs(session, ids[w.begin : w.end], w.first - w.begin)
        rows[f"{document.id}/{w.begin}"] = np.concatenate([part.copy() for part in parts])
    rows[f"{document.id}/ids"] = np.array(ids)
np.savez(out, **rows)
"""


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


def alone(folder: Path, model: str, backend: str, text: str, **options: Any) -> dict[str, Any]:
    """The rows of a model in a process that has nothing else in it."""
    out = folder / f"{backend}.npz"
    command = [sys.executable, "-c", ALONE, model, backend, json.dumps(options), text, str(CONTEXT), str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    with np.load(out) as arrays:
        return dict(arrays)


def kl_of(ours: dict[str, Any], theirs: dict[str, Any]) -> list[float]:
    """KL, summed over the tokens, of every text."""
    found = []
    for number in range(1, len(TEXTS) + 1):
        ids = ours[f"{number}/ids"]
        assert ids.tolist() == theirs[f"{number}/ids"].tolist()
        tokens = [
            compare(p, q, token)[0]
            for w in windows(len(ids), CONTEXT, CONTEXT // 2)
            for p, q, token in zip(
                theirs[f"{number}/{w.begin}"], ours[f"{number}/{w.begin}"], ids[w.first : w.end], strict=True
            )
        ]
        found.append(math.fsum(tokens))
    return found


def test_a_llama_cpp_model_from_a_pytorch_bf16_reference(
    runner: Runner, tmp_path: Path, texts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A product in bf16 by oneDNN between two forwards of llama.cpp: once an illegal instruction."""
    reference = made(runner, "pytorch", "torch_quantize", {"method": "bf16"})
    asked: dict[str, Scalar] = {"reference": reference, "reference_backend": "pytorch", "text": texts}
    found = divergence(runner, Request(model=MODEL, backend="llama_cpp"), **asked)
    rows = alone(tmp_path, MODEL, "llama_cpp", texts), alone(tmp_path, reference, "pytorch", texts)
    assert [v["kl"] for v in found] == pytest.approx(kl_of(*rows), rel=1e-9), "as each engine alone"
    for name, value in WITHOUT_AMX.items():
        monkeypatch.setenv(name, value)
    plain = divergence(runner, Request(model=MODEL, backend="llama_cpp", options={"use_extra_bufts": False}), **asked)
    # the same numbers but for the order of sums, of which bf16 rounds some the other way
    assert [v["kl"] for v in found] == pytest.approx([v["kl"] for v in plain], rel=0.15)
    assert [v["nll"] for v in found] == pytest.approx([v["nll"] for v in plain], rel=0.02)


def test_an_onnx_int8_model_from_a_llama_cpp_reference(runner: Runner, tmp_path: Path, texts: str) -> None:
    """A product in int8 by ONNX Runtime between two forwards of llama.cpp: once silently wrong tokens."""
    model = made(runner, "onnxruntime", "onnx_quantize", {"method": "dynamic_int8"})
    found = divergence(
        runner, Request(model=model, backend="onnxruntime"), reference=MODEL, reference_backend="llama_cpp", text=texts
    )
    int8, quantized = alone(tmp_path, model, "onnxruntime", texts), alone(tmp_path, MODEL, "llama_cpp", texts)
    assert [v["kl"] for v in found] == pytest.approx(kl_of(int8, quantized), rel=1e-9), "as each engine alone"
    plain = alone(tmp_path, MODEL, "llama_cpp", texts, use_extra_bufts=False)
    assert [v["kl"] for v in found] == pytest.approx(kl_of(int8, plain), rel=0.15)
