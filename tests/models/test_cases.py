"""What the small files that broke other programs must say without being run: the table of `../shared/data/cases`.

Each kind has tests of its own elsewhere, on files made for them; these hold the table's figures. Runs of the cases are
in test_case_answers.py and test_case_runs.py.
"""

from __future__ import annotations

import pytest

from core.analysis.work import LayerWork, kv_bytes_per_token, total, work
from core.models import catalogue, formats, spec
from core.models.templates import templates_of
from core.tokenizers.chat import thinks
from core.types import Attention, ModelSpec
from hardware.errors import ExplorerError
from tests.support.cases import CASES, needed

pytestmark = needed


def read(case: str) -> ModelSpec:
    path = CASES / case
    fmt, place = next(iter(formats.files_of(path).items()))
    return spec.read(place, fmt)


def decode(found: ModelSpec, past: int = 0) -> LayerWork:
    return total(work(found, n_new=1, n_past=past, batch=1, activation_dtype="fp16", kv_dtype="fp16"))


@pytest.mark.parametrize("which", ["control", "stale-single", "variant"])
def test_weights_count_once(which: str) -> None:
    assert decode(read(f"two-copies/{which}")).weight_bytes == 363_264
    size = catalogue.find(str(CASES / "two-copies" / which)).size_bytes
    assert size == catalogue.find(str(CASES / "two-copies" / "control")).size_bytes or which == "stale-single"
    assert size is not None and size < 440_000


@pytest.mark.parametrize("file", ["text.gguf", "with-vision.gguf"])
def test_vision_in_a_gguf_is_shown_apart(file: str) -> None:
    found = read(f"vision-in-gguf/{file}")
    assert decode(found).weight_bytes == 631_296
    assert bool(found.aside) == (file == "with-vision.gguf")
    assert found.n_params == read("vision-in-gguf/text.gguf").n_params


@pytest.mark.parametrize("file", ["olmo3.gguf", "config.json"])
def test_a_window_is_the_same_from_both(file: str) -> None:
    assert decode(read(f"sliding-window-gguf/{file}"), past=1000).kv_read_bytes == (6 * 32 + 2 * 1001) * 256 == 561_664


def test_values_per_layer() -> None:
    found = read("per-layer-arrays/jamba.gguf")
    attending = [layer for layer in found.layers if isinstance(layer.op, Attention)]
    assert 0 < len(attending) < found.n_blocks
    assert kv_bytes_per_token(found) == sum(
        2 * layer.op.n_kv_heads * (layer.op.qk_dim + layer.op.v_dim)
        for layer in attending
        if isinstance(layer.op, Attention)
    )


@pytest.mark.parametrize(
    ("file", "gigabytes"), [("gpt-oss-20b", 13.76), ("llama-3.3-70b-fp8", 72.7), ("qwen2.5-7b-mlx-4bit", 4.28)]
)
def test_declared_precision_counts(file: str, gigabytes: float) -> None:
    found = read(f"quantized-config/{file}.json")
    assert (found.weight_bytes or 0) / 1e9 == pytest.approx(gigabytes, rel=0.003)
    assert "Declared precision" in found.source


def test_a_nested_configuration_is_completed() -> None:
    llava = read("nested-config/llava-1.5-7b.json")
    assert llava.n_params / 1e9 == pytest.approx(6.739, abs=0.001) and kv_bytes_per_token(llava) == 524_288
    assert read("nested-config/gemma-3-4b.json").n_params / 1e9 == pytest.approx(3.88, abs=0.01)


@pytest.mark.parametrize(
    ("file", "words"),
    [
        ("align0", "alignment"),
        ("align-arr", "alignment"),
        ("bigendian", "big-endian|byte order"),
        ("v1", "version 1"),
    ],
)
def test_a_header_that_cannot_be_read_says_why(file: str, words: str) -> None:
    with pytest.raises(ExplorerError, match=words):
        read(f"gguf-header/{file}.gguf")


@pytest.mark.parametrize(("case", "words"), [("gptq", "GPTQ, 4 bits"), ("mxfp8", "MXFP8, 8 bits")])
def test_quantized_folders_have_their_layers_and_sizes(case: str, words: str) -> None:
    config = spec.read_config(CASES / "quantized-folders" / case)
    plain = spec.from_config({key: value for key, value in config.items() if key != "quantization_config"})
    found = read(f"quantized-folders/{case}")
    assert words in found.source and found.n_params == plain.n_params and found.n_blocks == plain.n_blocks
    stored = (CASES / "quantized-folders" / case / "model.safetensors").stat().st_size
    assert 0.9 * stored < (found.weight_bytes or 0) < stored


@pytest.mark.parametrize("which", ["list", "files"])
def test_named_templates_are_found_without_opening_the_model(which: str) -> None:
    found = templates_of(catalogue.find(str(CASES / "named-templates" / which)))
    assert found.keys() == {"default", "tool_use"} and found["tool_use"].count("TOOL") == 1
    only = templates_of(catalogue.find(str(CASES / "named-templates" / "string")))
    assert only == {"default": found["default"]} and not any(map(thinks, found.values()))
    assert templates_of(catalogue.find(str(CASES / "generation-tag" / "gen.gguf"))).keys() == {"default"}
