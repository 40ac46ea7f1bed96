"""Small files of hybrid and recurrent families in llama.cpp: opened, run, looked into, their memory foretold."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from core import plugins
from core.analysis.memory_seen import by_purpose
from core.layer_names import fit
from core.models.spec import from_gguf
from core.types import Generate, GenerationConfig, Request
from hardware.errors import ExplorerError
from tests.support import hybrids
from tests.support.progress import silent

pytestmark = pytest.mark.engine("llama_cpp")

STEP = 2**20 / 100  # the log has two digits of MiB


@pytest.mark.parametrize("name", hybrids.FAMILIES)
def test_a_hybrid_is_opened_run_and_looked_into(name: str, tmp_path: Path) -> None:
    path = hybrids.write(tmp_path / "small.gguf", hybrids.FAMILIES[name])
    spec, backend = from_gguf(path), plugins.get("backend", "llama_cpp")
    task = Generate(prompt_tokens=8, max_new_tokens=4)
    request = Request(
        model=str(path), backend="llama_cpp", task=task, profilers=(), threads=1, batch=2, options={"n_ctx": 512}
    )
    session = backend.open(str(path), spec, request, silent)
    try:
        ids = np.random.default_rng(0).integers(0, spec.vocab_size, (2, 9))
        whole = session.forward(ids, keep=1).numpy().copy()
        session.reset()
        session.forward(ids[:, :8], keep=1)
        session.commit(8)
        step = session.forward(ids[:, 8:], keep=1).numpy().copy()
        session.commit(1)
        assert np.isfinite(whole).all() and np.abs(whole).max() > 1e-3
        assert step == pytest.approx(whole, abs=0.02 * float(np.abs(whole).max()))
        trace = session.trace()
        session.forward(ids[:, :1], keep=1)
        session.commit(1)
        names = {layer.name for layer in spec.layers}
        rows = [row.name for phase in trace.finish().values() for row in phase]
        assert rows and {fit(row, names) for row in rows} <= names
        ops = session.count(4, 8).ops
        assert {fit(op.layer, names) for op in ops} <= names
        told = backend.reserve(spec, request, 12).buffers_bytes
        seen = session.setup.buffers_bytes
        assert told["compute"] == pytest.approx(seen["CPU compute"], rel=0.10, abs=STEP)
        assert by_purpose(told)["KV cache"] == pytest.approx(by_purpose(seen)["KV cache"], rel=0.01, abs=3 * STEP)
        made = list(session.stream(ids[:, :8], GenerationConfig(limit=4)))
        assert len(made) == 4 and all(tokens.shape == (2, 1) for tokens in made)
    finally:
        session.close()


def test_heads_over_whose_end_llama_cpp_would_read_are_refused(tmp_path: Path) -> None:
    family = hybrids.FAMILIES["rwkv7"]
    narrow = replace(family, values=family.values | {"wkv.head_size": hybrids.HEAD})
    path = hybrids.write(tmp_path / "narrow.gguf", narrow)
    request = Request(model=str(path), backend="llama_cpp", task=Generate(prompt_tokens=8, max_new_tokens=4))
    with pytest.raises(ExplorerError, match="divides by 64, and this model's have 16"):
        plugins.get("backend", "llama_cpp").open(str(path), from_gguf(path), request, silent)
