"""Formats and mixes: what a whole model takes when llama.cpp's quantize is asked for a mix."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from core.dtypes import (
    BITS_PER_WEIGHT,
    MIX_BITS_PER_WEIGHT,
    bytes_per_element,
    canonical_dtype,
    is_quantized,
    mix_note,
    retype,
)
from core.models.presets import presets
from core.models.spec import from_config
from core.types import ModelSpec
from hardware.errors import ExplorerError


def llama() -> ModelSpec:
    path = next(e for e in presets() if e.id == "llama-3.1-8b").files["config"]
    return from_config(json.loads(Path(path).read_text()), name="llama-3.1-8b")


@pytest.mark.parametrize(
    ("mix", "size_gib"), [("q2_k", 2.95), ("iq4_xs", 4.17), ("Q4_K_M", 4.58), ("q5_k_m", 5.33), ("q6_k", 6.14)]
)
def test_the_published_sizes_of_llama_3_1_8b(mix: str, size_gib: float) -> None:
    """The table of tools/quantize/README.md in llama.cpp: GiB beside bits per weight."""
    found = retype(llama(), mix).weight_bytes
    assert found is not None and found / 2**30 == pytest.approx(size_gib, rel=0.005)


def test_a_mix_is_larger_than_the_tensor_format_of_its_name() -> None:
    for name in BITS_PER_WEIGHT.keys() & MIX_BITS_PER_WEIGHT.keys():
        assert MIX_BITS_PER_WEIGHT[name] > BITS_PER_WEIGHT[name], name
    assert bytes_per_element("q2_k") == 2.625 / 8, "a tensor of a file"
    assert bytes_per_element("q4_k_m") == 4.8944 / 8, "no tensor has this format"


def test_a_mix_is_named_as_typical() -> None:
    assert canonical_dtype("Q4_K_M") == "q4_k_m" and is_quantized("q4_k_m")
    assert "4.89" in mix_note("q4_k_m") and "not exact" in mix_note("q4_k_m")
    assert mix_note("q4_0") == mix_note("fp16") == ""


def test_an_unknown_format_names_the_mixes_too() -> None:
    with pytest.raises(ExplorerError, match="q4_k_x") as caught:
        canonical_dtype("q4_k_x")
    assert "q4_k_m" in caught.value.hint
