"""What is foretold of llama.cpp's memory, beside what it allocates, over small models of every kind of cache.

Each is opened in a process of its own (tests/support/held.py).
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from core.models import catalogue
from core.transforms.gguf_quantize import Recipe, plugin
from tests.support.cases import CASES
from tests.support.gguf_models import tiny_gguf
from tests.support.workshop import Job, source_of

pytestmark = pytest.mark.engine("llama_cpp")

ROOT = Path(__file__).parents[2]
CLOSE = 0.10
KV_STEP = 2**20 / 100  # the log has two digits of MiB


def quantized(folder: Path) -> Path:
    """A small model in Q4_0, which most processors lay out anew."""
    out, job = folder / "q4_0", folder / "job"
    out.mkdir()
    job.mkdir()
    plugin.run(source_of(tiny_gguf(folder / "m.gguf", "llama")), Recipe(type="Q4_0"), out, Job(job))
    return out / "model.gguf"


def asked(folder: Path) -> dict[str, dict[str, Any]]:
    def of(path: object, n_ctx: int, batch: int = 1, n_prompt: int = 200, **options: Any) -> dict[str, Any]:
        return {"path": str(path), "options": {"n_ctx": n_ctx, **options}, "batch": batch, "n_prompt": n_prompt}

    embedded = catalogue.find(catalogue.EMBEDDED).files["gguf"]
    wanted = {
        "embedded": of(embedded, 512),
        "embedded, q8_0": of(embedded, 2048, kv_dtype="q8_0"),
        "embedded, four": of(embedded, 700, batch=4, n_prompt=32),
        "embedded, not mapped": of(embedded, 512, use_mmap=False, n_prompt=32),
        "packed": of(quantized(folder), 90, n_prompt=40),
    }
    if CASES.is_dir():
        wanted |= {
            "bos": of(CASES / "bos" / "base-addbos.gguf", 512),
            "padded": of(CASES / "padded-vocabulary" / "t384.gguf", 512, batch=2),
            "state and attention": of(CASES / "per-layer-arrays" / "jamba.gguf", 512, batch=2),
            "window": of(CASES / "sliding-window-gguf" / "olmo3.gguf", 4096, batch=4),
            "window, f32": of(CASES / "sliding-window-gguf" / "olmo3.gguf", 4096, kv_dtype="f32"),
            "text": of(CASES / "vision-in-gguf" / "text.gguf", 4096, kv_dtype="q8_0"),
            "no flash attention": of(CASES / "vision-in-gguf" / "text.gguf", 1024, flash_attn="off"),
        }
    return wanted


def test_what_llama_cpp_allocates_was_foretold(tmp_path: Path) -> None:
    wanted = asked(tmp_path)
    command = [sys.executable, "-m", "tests.support.held", json.dumps(list(wanted.values()))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True, timeout=300)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(lines) == len(wanted), done.stderr[-2000:]
    for name, seen in zip(wanted, lines, strict=True):
        told = seen["told"]
        assert told["kv_bytes"] == pytest.approx(seen["kv"], rel=0.01, abs=2 * KV_STEP), name
        assert told["packed_bytes"] == pytest.approx(seen["packed"], rel=CLOSE, abs=2 * KV_STEP), name
        buffers = told.pop("buffers_bytes")
        assert buffers["compute"] == pytest.approx(seen["compute"], rel=CLOSE, abs=KV_STEP), name
        assert buffers["KV"] + buffers["RS"] == told["kv_bytes"], name
        assert sum(told.values()) == pytest.approx(seen["resident"], rel=CLOSE), name
