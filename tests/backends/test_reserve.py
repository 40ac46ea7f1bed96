"""What each backend says it will hold, beside what was measured.

Buffers are what llama.cpp's own log says, to the byte. Totals are resident memory of a process of its own that opened
the embedded model, read a prompt of random tokens and made eight more, on 2026-11-26 (AMD EPYC with AVX2, one thread);
of PyTorch without the pages of the file that it read its weights from, unless it computes with them.
"""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

import core.backends.llama_cpp.reserve as llama
from core import plugins
from core.analysis.work import kv_cache_bytes
from core.backends._reserve import cache_elements, state_bytes
from core.runs import check as checking
from core.runs.check import check, estimate
from core.runs.resolve import resolve
from core.types import Generate, Request, Reserve
from hardware.errors import ExplorerError

MIB = 2**20


def told(backend: str, n_prompt: int = 512, **changes: Any) -> Reserve:
    task = Generate(prompt_tokens=n_prompt, max_new_tokens=8)
    request = Request(model="smollm2-135m", backend=backend, task=task, profilers=(), threads=1)
    request = msgspec.structs.replace(request, **changes)
    found = resolve(request)
    return found.backend.reserve(found.spec, request, n_prompt + 8)


@pytest.mark.parametrize(
    ("changes", "mib"),
    [
        ({"options": {"n_ctx": 4096}}, 90.0),
        ({"options": {"n_ctx": 8192, "flash_attn": "off"}}, 180.0),
        ({"options": {"n_ctx": 32768, "kv_dtype": "q8_0"}}, 382.5),
        ({"options": {"n_ctx": 4096}, "batch": 4}, 360.0),
        ({}, 90.0),
    ],
)
def test_llama_cpp_keeps_its_whole_context_from_the_start(changes: dict[str, Any], mib: float) -> None:
    assert told("llama_cpp", **changes).kv_bytes == mib * MIB


def test_a_second_context_for_a_profiler_that_looks_into_forwards() -> None:
    plain, traced = told("llama_cpp"), told("llama_cpp", profilers=("memory", "layers"))
    assert traced.kv_bytes == 2 * plain.kv_bytes and told("llama_cpp", profilers=("memory",)) == plain


def test_the_caches_elements_are_those_of_the_computed_work() -> None:
    for model in ("smollm2-135m", "gpt2", "gemma-3-1b", "mistral-7b", "jamba-v0.1", "deepseek-v2-lite"):
        spec = resolve(Request(model=model, backend="fake")).spec
        for n in (1, 700, 9000):
            assert 2 * cache_elements(spec, n) + state_bytes(spec) == kv_cache_bytes(spec, n, kv_dtype="fp16")


def test_what_kernels_pack_is_a_second_copy(monkeypatch: pytest.MonkeyPatch) -> None:
    class With:
        def __init__(self, *isa: str) -> None:
            self.isa = isa

    monkeypatch.setattr(llama, "machine", lambda: With("avx2"))
    assert told("llama_cpp").packed_bytes == 0, "Q4_1 has no kernel of its own there"
    monkeypatch.setattr(llama, "machine", lambda: With("avx2", "amx"))
    packed = told("llama_cpp")
    assert 0.5 * packed.weights_bytes < packed.packed_bytes <= packed.weights_bytes
    assert told("llama_cpp", options={"use_extra_bufts": False}).packed_bytes == 0


MEASURED = [
    # backend, changes, prompt, resident MB, tolerance
    ("llama_cpp", {"options": {"n_ctx": 4096}}, 8, 270.0, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 4096, "use_mmap": False}}, 512, 285.0, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 32768, "kv_dtype": "q8_0"}}, 512, 593.3, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 8192, "flash_attn": "off"}}, 512, 385.9, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 4096}, "batch": 4}, 512, 571.5, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 4096}}, 256, 278.9, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 32768}}, 64, 935.9, 0.10),
    ("llama_cpp", {"options": {"n_ctx": 131072}}, 64, 3206.0, 0.10),
    ("onnxruntime", {}, 64, 668.6, 0.10),
    ("onnxruntime", {}, 256, 722.8, 0.10),
    ("pytorch", {"dtype": "fp32", "options": {"fused": False}}, 512, 1018.6, 0.10),
    ("pytorch", {"dtype": "bf16", "options": {"fused": False}}, 512, 728.6, 0.10),
]


@pytest.mark.parametrize(("backend", "changes", "n_prompt", "mb", "tolerance"), MEASURED)
def test_the_total_is_what_was_measured(
    backend: str, changes: dict[str, Any], n_prompt: int, mb: float, tolerance: float
) -> None:
    reserve = told(backend, n_prompt, **changes)
    other = backend == "llama_cpp" or changes.get("dtype") == "bf16"  # what only other processors pack
    foretold = reserve.total_bytes - (reserve.packed_bytes if other else 0)
    assert foretold == pytest.approx(mb * 1e6, rel=tolerance)


def test_a_context_of_a_million_is_refused_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "available_bytes", lambda: 20_000_000_000)
    task = Generate(prompt="Hello", max_new_tokens=4)
    request = Request(model="smollm2-135m", backend="llama_cpp", task=task, options={"n_ctx": 1_048_576}, profilers=())
    assert estimate(resolve(request)).kv_bytes == 23_040 * 1_048_576
    with pytest.raises(ExplorerError, match=r"24\.2 GB of it for the KV cache, and 20\.0 GB are free") as refused:
        check(request)
    assert "context" in refused.value.hint
    assert check(msgspec.structs.replace(request, options={"n_ctx": 32768}))


@pytest.mark.parametrize("backend", [n for n in plugins.names("backend") if n != "endpoint"])
def test_every_backend_tells_and_more_tokens_need_no_less(backend: str) -> None:
    few, many = told(backend, 16), told(backend, 4000)
    assert few.weights_bytes > 50e6 and few.runtime_bytes > 10e6
    assert many.kv_bytes >= few.kv_bytes > 0 and many.workspace_bytes >= few.workspace_bytes
    two = told(backend, 16, batch=2)
    assert two.kv_bytes == 2 * few.kv_bytes and two.weights_bytes == few.weights_bytes
