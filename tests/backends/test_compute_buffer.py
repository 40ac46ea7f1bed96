"""The buffers of llama.cpp: ggml's allocator by hand, and what is foretold beside what llama.cpp's log says.

The log is asked for every preset at its full size, from files that hold no weights, and for small files of families
without a preset.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from core import plugins
from core.backends.llama_cpp import compute_buffer, reserve
from core.backends.llama_cpp.compute_buffer import Shape, compute_bytes
from core.backends.llama_cpp.options import Options
from core.models.presets import presets
from core.models.spec import from_config, from_gguf
from core.types import Generate, ModelSpec, Request
from hardware.errors import ExplorerError
from tests.models import test_gguf_families, test_spec
from tests.models.test_gguf_of_presets import NOT_IN_LLAMA_CPP
from tests.support import llama_buffers
from tests.support.llama_buffers import MIB
from tests.support.progress import silent

pytestmark = pytest.mark.engine("llama_cpp")

CLOSE = 0.10
STEP = 0.006 * MIB  # the log has two digits of MiB


# ---------------------------------------------------------------- by hand


def node(n_bytes: int, *reads: int, over: tuple[int, ...] = (), given: bool = False) -> compute_buffer._Node:
    return compute_buffer._Node(n_bytes, reads, over, given)


def test_what_is_read_for_the_last_time_leaves_a_hole() -> None:
    # 0: 64 bytes, 1: 32 behind them, 2 fits the 64 that 0 left, 3 the 32 behind it
    assert compute_buffer._laid_out([node(64), node(32, 0), node(32, 1), node(32, 2)]) == 96


def test_the_smallest_hole_that_fits_is_taken_and_neighbours_join() -> None:
    arena = compute_buffer._Arena()
    a, b, c, d, _ = (arena.take(n) for n in (96, 32, 64, 32, 32))
    arena.give(a, 96)
    arena.give(c, 64)
    assert arena.take(64) == c and arena.take(64) == a  # 64 of 64, then 64 of 96
    arena.give(b, 32)
    arena.give(d, 32)
    assert arena.take(64) == 64  # what was left of the first hole and the one behind it
    assert arena.highest == 256


def test_a_result_is_written_over_an_operand_that_nothing_else_reads() -> None:
    alone = [node(64), node(64, 0, over=(0,)), node(32, 1)]
    shared = [node(64), node(64, 0, over=(0,)), node(32, 0, 1)]
    assert (compute_buffer._laid_out(alone), compute_buffer._laid_out(shared)) == (96, 160)


def test_inputs_lie_first_and_unread_ones_stay() -> None:
    assert compute_buffer._laid_out([node(32), node(64, given=True), node(32, 0)]) == 128


def test_a_network_of_one_block_by_hand() -> None:
    """d 8, one head of 8, feed-forward of 16, 16 words; 2 tokens, 256 places in the cache."""
    config = {
        "model_type": "llama", "hidden_size": 8, "intermediate_size": 16, "num_hidden_layers": 1, "vocab_size": 16,
        "num_attention_heads": 1, "num_key_value_heads": 1, "max_position_embeddings": 64, "tie_word_embeddings": True,
    }  # fmt: skip
    # tokens, embeddings, positions, two lists of places, the mask in fp16, outputs; each in whole steps of 32
    inputs = 32 + 64 + 32 + 32 + 32 + 1024 + 32
    # beside them at the highest: embedding, norm, queries, turned queries, and values where the queries were
    # (64 each), keys, which turned take the norm's place; the logits (128) lie in the place of the mask
    spec = from_config(config)
    assert compute_bytes(spec, Shape(n_tokens=2, n_outputs=2, n_cells=256)) == inputs + 5 * 64
    # of keys and values in fp32 copies in fp16, of all places of three sequences, and the result where the keys were
    floats = Shape(n_tokens=2, n_outputs=2, n_cells=256, n_sequences=3, floats=True)
    assert compute_bytes(spec, floats) == inputs + 4 * 64 + 2 * (2 * 3 * 256 * 8)


# ---------------------------------------------------------------- beside llama.cpp's log


def told(spec: ModelSpec, options: Options, batch: int) -> dict[str, int]:
    request = Request(model="x", backend="llama_cpp", task=Generate(prompt_tokens=8), profilers=(), batch=batch)
    return reserve.reserve(spec, request, options, 16).buffers_bytes


def check(path: Path, shapes: list[tuple[dict[str, Any], int]], close: float = CLOSE) -> None:
    spec = from_gguf(path)
    for given, batch in shapes:
        options = Options(**given)
        seen, ours = llama_buffers.reserved(path, options, batch), told(spec, options, batch)
        assert ours["compute"] == pytest.approx(seen["compute"] * MIB, rel=close, abs=STEP), (given, batch)
        for use in ("KV", "RS"):
            assert ours[use] == pytest.approx(seen[use] * MIB, rel=0.01, abs=2 * STEP), (use, given, batch)


SHAPES: list[tuple[dict[str, Any], int]] = [
    ({"n_ctx": 4096}, 1),
    ({"n_ctx": 4096, "flash_attn": "off"}, 1),
    ({"n_ctx": 2048}, 4),
    ({"n_ctx": 32768}, 1),
    ({"n_ctx": 131072}, 1),
    ({"n_ctx": 90}, 1),
    ({"n_ctx": 2048, "kv_dtype": "f32"}, 2),
]
QUANTIZED: tuple[dict[str, Any], int] = ({"n_ctx": 4096, "kv_dtype": "q8_0"}, 1)
ODD_HEADS = ("phi-2",)  # of 80 elements, which no block of a quantized cache divides
EXACT = 0.001
WITH_EXPERTS = ("deepseek-v2-lite", "deepseek-v3", "gpt-oss-20b", "mixtral-8x7b", "qwen3-30b-a3b")
SCALED = {"granite-3.0-1b-a400m"}  # llama.cpp aborts on its file without weights; a small one is below
TEXT = [e for e in presets() if e.id not in NOT_IN_LLAMA_CPP | SCALED and "bert" not in e.id]


@pytest.mark.parametrize("preset", [e.id for e in TEXT])
def test_every_preset_at_its_full_size(preset: str, tmp_path: Path) -> None:
    file = Path(next(e for e in TEXT if e.id == preset).files["config"])
    shapes = SHAPES if preset in ODD_HEADS else [*SHAPES, QUANTIZED]
    check(llama_buffers.of_preset(preset, file, tmp_path), shapes, EXACT if preset in WITH_EXPERTS else CLOSE)


SMALL: list[tuple[dict[str, Any], int]] = [
    ({"n_ctx": 512}, 1),
    ({"n_ctx": 4096}, 1),
    ({"n_ctx": 1024, "flash_attn": "off"}, 1),
    ({"n_ctx": 1024}, 3),
    ({"n_ctx": 1024, "kv_dtype": "f32"}, 2),
    ({"n_ctx": 1024, "kv_dtype": "f32", "flash_attn": "off"}, 2),
]
WITHOUT_PRESET = [name for name in test_gguf_families.FILES if name != "rwkv7"]


@pytest.mark.parametrize("architecture", WITHOUT_PRESET)
def test_small_files_of_hybrid_families(architecture: str, tmp_path: Path) -> None:
    check(test_gguf_families._written(architecture, tmp_path), SMALL)


@pytest.mark.parametrize("name", [name for name in test_spec.FILES if name != "bert"])
def test_small_files_of_other_families(name: str, tmp_path: Path) -> None:
    architecture, values, tensors = test_spec.FILES[name]
    check(test_spec.write_gguf(tmp_path / "m.gguf", architecture, values, tensors), SMALL)


def test_masks_lie_in_the_order_of_the_blocks_that_read_them_first(tmp_path: Path) -> None:
    """Of gemma-3-27b at a long context: the mask of the windows comes first and goes last, so that the logits cannot
    lie where both were. llama.cpp allocates 702 MB."""
    file = Path(next(e for e in TEXT if e.id == "gemma-3-27b").files["config"])
    path = llama_buffers.of_preset("gemma-3-27b", file, tmp_path)
    check(path, [({"n_ctx": 131072}, 1)], 0.001)
    assert round(told(from_gguf(path), Options(n_ctx=131072), 1)["compute"] / 1e6) == 702


def test_some_families_compute_every_position_of_the_last_block(tmp_path: Path) -> None:
    """They keep what it gives for all of them, from which the tokens after next are foretold."""
    file = Path(next(e for e in TEXT if e.id == "gpt-oss-20b").files["config"])
    whole = from_gguf(llama_buffers.of_preset("gpt-oss-20b", file, tmp_path))
    for spec in (whole, from_gguf(test_gguf_families._written("qwen3next", tmp_path))):
        assert not compute_buffer.prunes_last_block(spec), spec.architecture
    for name in ("cohere2", "lfm2"):
        assert compute_buffer.prunes_last_block(from_gguf(test_gguf_families._written(name, tmp_path)))


def test_a_context_beyond_a_table_of_positions_is_refused(tmp_path: Path) -> None:
    """ggml ends the process where a position has no row in the table."""
    architecture, values, tensors = test_spec.FILES["gpt2"]
    path = test_spec.write_gguf(tmp_path / "m.gguf", architecture, values, tensors)
    spec, backend = from_gguf(path), plugins.get("backend", "llama_cpp")
    task = Generate(prompt_tokens=8)
    request = Request(model=str(path), backend="llama_cpp", task=task, profilers=(), threads=1, options={"n_ctx": 65})
    with pytest.raises(ExplorerError, match="65 tokens is longer than the table of 64 positions"):
        backend.open(str(path), spec, request, silent)
