"""ONNX Runtime's quantizers as a transform: what the file stores, that a session opens it, and what was left out."""

from __future__ import annotations

import json
import os
import resource
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.backends.onnxruntime import plugin as backend
from core.models import onnx_file
from core.models import spec as specs
from core.transforms.onnx_quantize import Quantization, plugin
from core.types import GenerationConfig, ModelEntry, Outcome, Request, Source
from hardware.errors import ExplorerError
from tests.support import elsewhere
from tests.support.embedded import embedded
from tests.support.onnx_exports import exported
from tests.support.progress import silent
from tests.support.tiny import hf_folder
from tests.transforms.test_gguf_quantize import Job, nothing_left

pytestmark = pytest.mark.engine("onnxruntime")

IDS = np.random.default_rng(3).integers(33, 120, (1, 24))
N_TABLE = 320 * 64
N_BLOCKS = 2 * (2 * 64 * 64 + 2 * 32 * 64 + 3 * 128 * 64)  # q and o, k and v, gate, up and down
N_NORM = 5 * 64
WHOLE = {"config.json", "generation_config.json", "model.onnx", "model.onnx.data", "tokenizer.json"}


@pytest.fixture(scope="module")
def tied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny llama with its head in the token table, as an ONNX export."""
    folder = tmp_path_factory.mktemp("tied")
    path = hf_folder(folder)
    elsewhere.call("pytorch", tie, path)
    return exported(path, folder / "onnx")


def tie(path: Path) -> None:
    """New weights for the llama in `path`, whose head is its token table."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(5)
    config = LlamaConfig.from_pretrained(path, tie_word_embeddings=True)
    model = LlamaForCausalLM(config).eval()
    for name, weight in model.named_parameters():
        if "norm" in name:  # equal ones would be stored once
            torch.nn.init.normal_(weight, 1.0, 0.1)
    model.save_pretrained(path)


def source_of(path: Path) -> Source:
    entry = ModelEntry(id="tiny", label="Tiny", family="local", files={"onnx": str(path)})
    return Source(entry=entry, format="onnx", path=str(path), spec=specs.read(path, "onnx"))


def quantized(path: Path, out: Path, **settings: Any) -> Outcome:
    out.mkdir()
    return plugin.run(source_of(path), Quantization(**settings), out, Job(out))


def opened(path: Path) -> Any:
    request = Request(model="x", backend="onnxruntime", threads=1)
    return backend.open(str(path), specs.read(path, "onnx"), request, silent)


def logits(path: Path) -> np.ndarray:
    session = opened(path)
    found = session.forward(IDS).numpy()[0].copy()
    session.close()
    return found


def divergence(parent: np.ndarray, child: np.ndarray) -> float:
    p, q = (np.exp(x - x.max(-1, keepdims=True)) for x in (parent, child))
    p, q = p / p.sum(-1, keepdims=True), q / q.sum(-1, keepdims=True)
    return float((p * np.log(p / q)).sum(-1).mean())


def test_an_export_says_what_it_stores(tied: Path) -> None:
    spec = specs.read(tied, "onnx")
    assert (spec.dtype, spec.n_params) == ("fp32", N_TABLE + N_BLOCKS + N_NORM)
    assert spec.weight_bytes == 4 * spec.n_params
    assert {x.name: x.weight_bytes for x in spec.layers}["blocks.1.mlp.down_proj"] == 4 * 128 * 64


# bytes per 32 weights: the weights, a fp32 scale, and a zero point where the blocks are not symmetric
BLOCKS = [
    ({"method": "weights_8bit"}, 32 + 4 + 1, "int8"),
    ({"method": "weights_8bit", "symmetric": True}, 32 + 4, "int8"),
    ({"method": "weights_4bit"}, 16 + 4 + 0.5, "int4"),
]


@pytest.mark.parametrize(("settings", "per_block", "dtype"), BLOCKS)
@pytest.mark.usefixtures("kept")
def test_the_bytes_are_those_of_the_blocks(
    settings: dict[str, Any], per_block: float, dtype: str, tied: Path, tmp_path: Path
) -> None:
    outcome = quantized(tied, tmp_path / "out", **settings)
    spec = specs.read(tmp_path / "out", "onnx")
    assert spec.n_params == 2 * N_TABLE + N_BLOCKS + N_NORM  # the head has its own matrix now
    table = N_TABLE // 32 * 36
    assert spec.weight_bytes == (N_TABLE + N_BLOCKS) / 32 * per_block + table + 4 * N_NORM
    assert spec.dtype == dtype
    assert {x.name: x.weight_dtype for x in spec.layers if x.kind == "head"} == {"lm_head": dtype}
    assert outcome.facts["quantized"] == 15 and outcome.facts["operators"]["MatMulNBits"] == 15
    assert [row["why"] for row in outcome.facts["left_out"]] == ["neither side is a stored weight"]
    stored = sum(f.stat().st_size for f in (tmp_path / "out").glob("model.onnx*"))
    assert spec.weight_bytes < stored
    assert set(os.listdir(tmp_path / "out")) >= WHOLE and "dynamic.onnx" not in os.listdir(tmp_path / "out")


@pytest.mark.usefixtures("kept")
def test_dynamic_int8_has_a_scale_per_output(tied: Path, tmp_path: Path) -> None:
    outcome = quantized(tied, tmp_path / "out", method="dynamic_int8", table=False)
    spec = specs.read(tmp_path / "out", "onnx")
    outputs = 320 + 2 * (64 + 32 + 32 + 64 + 128 + 128 + 64)
    # per output a fp32 scale and a zero point
    assert spec.weight_bytes == N_TABLE + N_BLOCKS + 5 * outputs + 4 * (N_TABLE + N_NORM)
    assert outcome.facts["operators"]["MatMulInteger"] == 15
    assert "with the number of tokens" in outcome.note and "table left as it was" in outcome.note
    assert 0 < divergence(logits(tied), logits(tmp_path / "out")) < 1.0


@pytest.mark.usefixtures("kept")
def test_a_shared_head_stays_when_it_is_not_asked_for(tied: Path, tmp_path: Path) -> None:
    outcome = quantized(tied, tmp_path / "out", head=False, table=False)
    assert outcome.facts["quantized"] == 14
    left = {row["node"]: row["why"] for row in outcome.facts["left_out"]}
    assert left["lm_head"] == "its matrix is a view of the token table" and "left out: lm_head" in outcome.note
    spec = specs.read(tmp_path / "out", "onnx")
    assert spec.n_params == N_TABLE + N_BLOCKS + N_NORM
    assert spec.weight_bytes == N_BLOCKS / 32 * 37 + 4 * (N_TABLE + N_NORM)


@pytest.mark.usefixtures("kept")
def test_the_closer_the_more_bits(tied: Path, tmp_path: Path) -> None:
    parent = logits(tied)
    kl = {}
    for name, settings in {
        "8 bits, fp32 product": {"accuracy_level": 0},
        "8 bits": {},
        "4 bits": {"method": "weights_4bit"},
    }.items():
        quantized(tied, tmp_path / name, **settings)
        kl[name] = divergence(parent, logits(tmp_path / name))
    assert 0 < kl["8 bits, fp32 product"] < 0.03
    assert max(kl["8 bits, fp32 product"], kl["8 bits"]) < 0.3 * kl["4 bits"]


@pytest.mark.usefixtures("kept")
def test_the_table_is_rounded_to_the_nearest_step(tied: Path, tmp_path: Path) -> None:
    import onnx
    from onnx import numpy_helper

    quantized(tied, tmp_path / "out")
    stored = {t.name: numpy_helper.to_array(t) for t in onnx.load(str(tmp_path / "out/model.onnx")).graph.initializer}
    data = next(x for name, x in stored.items() if name.endswith("table_8bit"))
    scales = next(x for name, x in stored.items() if name.endswith("table_scales"))
    before = [numpy_helper.to_array(t) for t in onnx.load(str(tied / "model.onnx")).graph.initializer]
    table = next(x for x in before if x.shape == (320, 64))
    blocks = (data.reshape(320, 2, 32).astype(np.float32) - 128) * scales[..., None]
    assert (np.abs(blocks.reshape(320, 64) - table) <= 0.5001 * scales.repeat(32, axis=1)).all()


@pytest.mark.parametrize("method", ["weights_8bit", "dynamic_int8"])
@pytest.mark.usefixtures("kept")
def test_layers_and_flops_keep_their_names(method: str, tied: Path, tmp_path: Path) -> None:
    """The quantizers drop the metadata by which a node is found again."""
    quantized(tied, tmp_path / "out", method=method)
    session, parent = opened(tmp_path / "out"), opened(tied)
    trace = session.trace()
    trace.phase("prefill")
    session.forward(IDS)
    session.commit(24)
    timed = {row.name for row in trace.finish()["prefill"]}
    assert timed >= {layer.name for layer in session.spec.layers if layer.n_params}
    assert timed - {"other"} <= {layer.name for layer in session.spec.layers}

    def products(opened_one: Any) -> dict[str, float | None]:
        return {op.layer: op.flops for op in opened_one.count(3, 5).ops if op.product and op.layer != "other"}

    counted = products(session)
    assert counted == products(parent) and counted["blocks.0.mlp.up_proj"] == 2 * 3 * 64 * 128
    assert all(op.flops is not None for op in session.count(3, 5).ops)
    session.close()
    parent.close()


# ---------------------------------------------------------------- what goes wrong


@pytest.mark.usefixtures("kept")
def test_what_is_quantized_already_is_refused(tied: Path, tmp_path: Path) -> None:
    plugin.check(specs.read(tied, "onnx"), Quantization())
    quantized(tied, tmp_path / "out")
    with pytest.raises(ExplorerError, match="quantized already"):
        plugin.check(specs.read(tmp_path / "out", "onnx"), Quantization())


def test_a_file_that_cannot_grow_is_a_full_disk(tied: Path, tmp_path: Path) -> None:
    source = source_of(tied)
    (tmp_path / "out").mkdir()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (60_000, limits[1]))
    try:
        with pytest.raises(ExplorerError, match="could not be written: it needs") as caught:
            plugin.run(source, Quantization(), tmp_path / "out", Job(tmp_path))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert str(tmp_path / "out") in caught.value.hint and nothing_left(tmp_path / "out")


def test_a_damaged_file_is_one_sentence(tied: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(tied, copy)
    source = source_of(copy)
    (copy / "model.onnx").write_bytes((copy / "model.onnx").read_bytes()[:5000])
    with pytest.raises(ExplorerError, match="damaged or not an ONNX file"):
        onnx_file.tensors(copy / "model.onnx", "llama")
    (tmp_path / "out").mkdir()
    with pytest.raises(ExplorerError, match="quantizer failed") as caught:
        plugin.run(source, Quantization(), tmp_path / "out", Job(tmp_path))
    assert caught.value.hint and nothing_left(tmp_path / "out")


def test_a_tensor_that_two_layers_read_counts_once(tied: Path, tmp_path: Path) -> None:
    import onnx

    copy = tmp_path / "copy"
    shutil.copytree(tied, copy)
    model = onnx.load(str(copy / "model.onnx"), load_external_data=False)
    norms = [node for node in model.graph.node if node.op_type == "RMSNormalization"]
    lost = [t for t in model.graph.initializer if t.name == norms[3].input[1]]
    norms[3].input[1] = norms[0].input[1]
    model.graph.initializer.remove(lost[0])
    onnx.save_model(model, str(copy / "model.onnx"))
    spec = specs.read(copy, "onnx")
    assert spec.weight_bytes == 4 * (N_TABLE + N_BLOCKS + N_NORM - 64)
    assert {x.name: x.weight_bytes for x in spec.layers}["blocks.1.mlp_norm"] == 0


def test_an_export_without_names_is_taken_for_what_it_was(tied: Path, tmp_path: Path) -> None:
    import onnx

    copy = tmp_path / "copy"
    shutil.copytree(tied, copy)
    model = onnx.load(str(copy / "model.onnx"), load_external_data=False)
    for i, node in enumerate(model.graph.node):
        del node.metadata_props[:]
        node.name = f"n{i}"
    onnx.save_model(model, str(copy / "model.onnx"))
    assert specs.read(copy, "onnx").weight_bytes == specs.read(tied, "onnx").weight_bytes


def test_settings_as_text_and_their_suffixes() -> None:
    from core.plugins import settings

    asked = settings(Quantization, {"method": "weights_4bit", "block_size": "128", "head": "false"}, "x")
    assert (asked.block_size, asked.head) == (128, False)
    assert plugin.suffix(asked) == "w4-b128-no-head"
    assert plugin.suffix(Quantization(method="dynamic_int8", block_size=64)) == "dynamic-int8"
    with pytest.raises(ExplorerError):
        settings(Quantization, {"block_size": 48}, "x")


# ---------------------------------------------------------------- the real model


@pytest.mark.model
def test_the_embedded_model_in_eight_bits(tmp_path: Path) -> None:
    from core.tokenizers.chat import render

    parent = Path(embedded("onnx")[1])
    outcome = quantized(parent, tmp_path / "out")
    spec = specs.read(tmp_path / "out", "onnx")
    assert outcome.facts["quantized"] == 211 and spec.n_params == 134_515_008 + 49_152 * 576
    assert spec.weight_bytes == pytest.approx(187_483_392, rel=1e-4)
    assert json.loads((tmp_path / "out/config.json").read_text())["tie_word_embeddings"] is False
    assert divergence(logits(parent), logits(tmp_path / "out")) < 0.05
    session = opened(tmp_path / "out")
    prompt = np.array([session.encode(render(session.chat_template, "What is the capital of France?"))])
    answer = [int(t[0, 0]) for t in session.stream(prompt, GenerationConfig(limit=16, stop=session.eos_ids))]
    assert session.decode(answer) == "The capital of France is Paris."
    session.close()
