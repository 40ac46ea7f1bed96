"""What the header of a GGUF says or leaves unsaid is read as llama.cpp reads it, or refused in a sentence."""

from __future__ import annotations

import re
import signal
from pathlib import Path
from typing import Any

import pytest

from core.runs.exit_reason import explained
from core.types import Generate
from tests.support.brought import answer
from tests.support.cases import asked
from tests.support.gguf_bytes import edited
from tests.support.gguf_models import tiny_gguf

pytestmark = pytest.mark.engine("pytorch")

LONG = Generate(prompt="hello there, this is a text of more than eight tokens", max_new_tokens=12)
# of small files whose answers these change: architecture, entries without its name
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a factor without a kind is a linear one": ("llama", {"rope.scaling.factor": 4.0}),
    "and by its older name": ("qwen2", {"rope.scale_linear": 4.0}),
    "a kind that scales nothing": ("qwen3", {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}),
    "another window": ("gemma3", {"attention.sliding_window": 4}),
    "no window": ("gemma3", {"attention.sliding_window": None}),
    "a window of nothing": ("gemma3", {"attention.sliding_window": 0}),
    "every third block sees all": ("gemma3", {"attention.sliding_window_pattern": 3}),
    "no block sees all": ("gemma3", {"attention.sliding_window_pattern": 0}),
    "one by one": ("gemma3", {"attention.sliding_window_pattern": [i % 2 == 0 for i in range(7)]}),
    "a base of its own in windows": ("gemma3", {"rope.freq_base_swa": 500.0}),
    "no bounds of scores": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "no base": ("qwen3", {"rope.freq_base": None}),
    "no width of heads": ("qwen2", {"attention.key_length": None, "attention.value_length": None}),
}


def with_header(folder: Path, arch: str, entries: dict[str, Any]) -> Path:
    file = tiny_gguf(folder / "m.gguf", arch)
    file.write_bytes(edited(file.read_bytes(), {f"{arch}.{key}": value for key, value in entries.items()}))
    return file


@pytest.mark.parametrize("name", HEADERS)
def test_what_a_header_says_or_leaves_unsaid_is_what_llama_cpp_reads(name: str, tmp_path: Path) -> None:
    file = with_header(tmp_path, *HEADERS[name])
    here, there = asked("pytorch", file, LONG), asked("llama_cpp", file, LONG)
    assert here.get("new") == there.get("new") and len(there["new"]) == 12, (here, there)


ALONE = {  # what transformers has no word for
    "rope.scaling.attn_factor": ("llama", 1.5, "1.5"),
    "attention.causal": ("qwen3", False, "False"),
    "rope.dimension_count": ("gemma3", 8, "8"),
    "rope.freq_base_swa": ("gemma2", 500.0, "500.0"),
}


@pytest.mark.parametrize("key", ALONE)
def test_what_llama_cpp_alone_computes_is_left_to_it(key: str, tmp_path: Path) -> None:
    arch, value, shown = ALONE[key]
    file = with_header(tmp_path, arch, {key: value})
    here, there = asked("pytorch", file, LONG), asked("llama_cpp", file, LONG)
    words = (
        f"The file's '{arch}.{key}' is {shown}, which PyTorch and ONNX Runtime do not compute. Run it with llama.cpp."
    )
    assert here.get("refused") == words and len(there["new"]) == 12


def test_heads_for_keys_are_as_many_as_heads_where_no_entry_says_it(tmp_path: Path) -> None:
    """As in llama.cpp, and not the 32 of transformers' configuration of the family."""
    file = with_header(tmp_path, "qwen2", {"attention.head_count_kv": None})
    for backend in ("pytorch", "llama_cpp"):
        assert re.search(r"do not fit its header: .*k_proj has 2,080 .* 4,096", answer(backend, file)["refused"])


def test_an_entry_of_another_type_is_told_by_its_name(tmp_path: Path) -> None:
    found = answer("llama_cpp", with_header(tmp_path, "llama", {"rope.freq_base": 10000}))
    assert found["message"] == "m.gguf stores 'llama.rope.freq_base' as u32, and llama.cpp reads it only as f32."


ENDS = {  # what llama.cpp ends its process at
    "half of a head rotated": (
        "qwen2",
        {"rope.dimension_count": 8},
        "that a head rotates 8 numbers ('qwen2.rope.dimension_count'), but a head has 16, which qwen2 rotates as a "
        "whole",
    ),
    "half of a head of its own width": (
        "qwen3",
        {"rope.dimension_count": 16},
        "that a head rotates 16 numbers ('qwen3.rope.dimension_count'), but a head has 32, which qwen3 rotates as a "
        "whole",
    ),
    "more than a head has": (
        "gemma3",
        {"rope.dimension_count": 64},
        "that a head rotates 64 numbers ('gemma3.rope.dimension_count'), but a head has 32, which rotate in pairs",
    ),
    "an odd number": (
        "gemma2",
        {"rope.dimension_count": 7},
        "that a head rotates 7 numbers ('gemma2.rope.dimension_count'), but a head has 32, which rotate in pairs",
    ),
    "a window and a period of one": (
        "gemma3",
        {"attention.sliding_window_pattern": 1},
        "that blocks see a window of 8 tokens, but that none of them does",
    ),
    "a window and a list of none": (
        "gemma3",
        {"attention.sliding_window_pattern": [False] * 7},
        "that blocks see a window of 8 tokens, but that none of them does",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_llama_cpp_ends_itself_at_is_refused_before(name: str, tmp_path: Path) -> None:
    arch, entries, words = ENDS[name]
    found = answer("llama_cpp", with_header(tmp_path, arch, entries))
    hint = "llama.cpp cannot run it: choose another conversion of the model."
    assert (found.get("message"), found.get("hint")) == (f"m.gguf says {words}.", hint)


def test_an_engine_that_ends_itself_is_no_reason_to_run_again() -> None:
    message, hint = explained(-signal.SIGABRT, "llama_cpp")
    assert message.startswith("llama.cpp ended itself") and "another backend" in hint
