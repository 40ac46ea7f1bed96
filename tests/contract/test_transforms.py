"""What every transform must do, on a tiny random llama (core.types.Transform is the contract).

All transforms are found by the registry. One whose defaults are too much for a model of four blocks, or that
trains, has its settings here.
"""

from __future__ import annotations

import hashlib
import importlib
import json
import shutil
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from core import plugins
from core.models import derived
from core.plugins import settings
from core.types import Outcome, Request, Source
from tests.support import elsewhere, engines
from tests.support.tiny import hf_folder
from tests.support.workshop import Job, Stopped, source_of

TRANSFORMS = [engines.param(name, plugins.get("transform", name).backend) for name in plugins.names("transform")]
SHORT: dict[str, Any] = {"minutes": None, "steps": 2, "batch": 2}
SETTINGS: dict[str, dict[str, Any]] = {
    "consistency": {
        **SHORT,
        "probe_questions": 1,
        "domain": "arithmetic",
        "examples": 8,
        "window": 4,
        "probe_minutes": 0.05,
    },
    "cut": {"blocks": 1, "d_ff": 64},
    "distill": {**SHORT, "domain": "arithmetic", "texts": 16, "length": 8, "keep_layers": 1, "probe_minutes": 0.05},
    "drop_layers": {"n": 1},
    "exit_heads": {**SHORT, "domain": "arithmetic", "questions": 8, "answer_tokens": 8, "rank": 4},
    "finetune": {**SHORT, "probe_questions": 1, "domain": "arithmetic", "examples": 8, "probe_minutes": 0.05},
    "medusa_heads": {"domain": "arithmetic", "questions": 8, "answer_tokens": 8, "epochs": 1, "batch": 8},
}
IDS = np.random.default_rng(5).integers(33, 120, size=(1, 12))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("transforms")


@pytest.fixture(scope="module", params=TRANSFORMS)
def name(request: pytest.FixtureRequest) -> str:
    if reason := plugins.get("transform", request.param).unavailable():
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture(scope="module")
def source(name: str, folder: Path) -> Source:
    """The tiny llama with four blocks and room for a prompt, in the first format that the transform reads; an ONNX
    export has two blocks, since tracing four takes seven seconds."""
    roomy = folder / "roomy"
    if not roomy.exists():
        shutil.copytree(hf_folder(folder), roomy / "tiny-llama")
        elsewhere.call("pytorch", four_blocks, roomy / "tiny-llama")
    backend = {"hf": "pytorch", "gguf": "llama_cpp", "onnx": "onnxruntime"}[plugins.get("transform", name).formats[0]]
    if name == "dequantize":
        elsewhere.call("pytorch", quantized_folder, roomy / "tiny-llama", folder / "int8")
        return source_of(folder / "int8")
    if backend == "pytorch":
        return source_of(roomy / "tiny-llama")
    place = folder if backend == "onnxruntime" else roomy
    path, _ = importlib.import_module(f"tests.support.tiny.{backend}").make(place)
    return source_of(Path(path))


def four_blocks(path: Path) -> None:
    """Gives the model in `path` four blocks and room for a prompt."""
    import torch
    from transformers import AutoConfig, LlamaForCausalLM

    config = AutoConfig.from_pretrained(path)
    config.num_hidden_layers, config.max_position_embeddings = 4, 2048
    torch.manual_seed(7)
    LlamaForCausalLM(config).eval().save_pretrained(path)


def quantized_folder(path: Path, out: Path) -> None:
    """The model in `path` with the matrices of its blocks in int8, as compressed-tensors stores them."""
    import torch
    from safetensors.torch import load_file, save_file

    shutil.copytree(path, out)
    tensors = {}
    for name, tensor in load_file(path / "model.safetensors").items():
        if name.endswith("_proj.weight"):
            scale = tensor.abs().amax(1, keepdim=True) / 127
            tensors[name], tensors[f"{name}_scale"] = (tensor / scale).round().to(torch.int8), scale
        else:
            tensors[name] = tensor
    save_file(tensors, out / "model.safetensors")
    weights = {"num_bits": 8, "type": "int", "strategy": "channel", "symmetric": True}
    groups = {"group_0": {"targets": ["Linear"], "weights": weights}}
    config = json.loads((path / "config.json").read_text())
    config["quantization_config"] = {
        "quant_method": "compressed-tensors",
        "format": "int-quantized",
        "config_groups": groups,
        "ignore": ["lm_head"],
    }
    (out / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def made(name: str, source: Source, folder: Path) -> tuple[Path, Outcome, Job, dict[str, str], dict[str, str]]:
    """(the new folder, its outcome, what was told, the source's files before and after)."""
    transform, out, job = plugins.get("transform", name), folder / "out" / name, folder / "job" / name
    out.mkdir(parents=True)
    job.mkdir(parents=True)
    before = fingerprint(Path(source.path))
    told = Job(job)
    outcome = transform.run(source, params_of(name), out, told)
    return out, outcome, told, before, fingerprint(Path(source.path))


def params_of(name: str) -> Any:
    transform = plugins.get("transform", name)
    return settings(transform.Params, SETTINGS.get(name, {}), transform.label)


def fingerprint(path: Path) -> dict[str, str]:
    """File -> hash of its content, of a file or a folder."""
    files = sorted(path.rglob("*")) if path.is_dir() else [path]
    return {str(file): hashlib.sha256(file.read_bytes()).hexdigest() for file in files if file.is_file()}


# ---------------------------------------------------------------- what it says about itself


def test_plugin_is_named_after_its_file(name: str) -> None:
    transform = plugins.get("transform", name)
    assert transform.name == name and transform.label and isinstance(transform.trains, bool)
    assert plugins.about("transform", name).endswith(".")
    backend = plugins.get("backend", transform.backend)
    assert transform.formats and set(transform.formats) <= {"hf", "gguf", "onnx"} and backend.unavailable() is None


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_is_missing_is_a_sentence(name: str) -> None:
    reason = plugins.get("transform", name).unavailable()
    assert reason is None or len(reason) > 10


def test_settings_have_defaults_and_a_name(name: str, source: Source) -> None:
    transform = plugins.get("transform", name)
    params = msgspec.convert({}, transform.Params)
    assert settings(transform.Params, {}, transform.label) == params
    for one in (params, params_of(name)):
        derived.check_name(f"parent-{transform.suffix(one)}")
    text = msgspec.json.encode(params)
    assert msgspec.json.decode(text, type=transform.Params) == params, "settings survive JSON"


def test_a_model_it_can_change_passes(name: str, source: Source) -> None:
    plugins.get("transform", name).check(source.spec, params_of(name))


# ---------------------------------------------------------------- what it makes


def test_the_new_model_opens_and_runs(name: str, made: Any) -> None:
    out, _, _, _, _ = made
    transform, found = plugins.get("transform", name), source_of(out)
    backend = plugins.get("backend", transform.backend)
    assert found.format in backend.formats and found.spec.weight_bytes
    session = backend.open(
        found.path, found.spec, Request(model="made", backend=transform.backend, threads=1), lambda *_, **__: None
    )
    logits = session.forward(IDS).numpy()
    session.close()
    assert logits.shape == (1, IDS.shape[1], found.spec.vocab_size) and np.isfinite(logits).all()


def test_it_keeps_the_tokenizer(name: str, source: Source, made: Any, folder: Path) -> None:
    out, _, _, _, _ = made
    if name == "dequantize":  # whose source no backend opens
        source = source_of(folder / "roomy" / "tiny-llama")
    transform, found = plugins.get("transform", name), source_of(out)
    backend = plugins.get("backend", transform.backend)
    texts = []
    for model in (source, found):
        session = backend.open(
            model.path, model.spec, Request(model="x", backend=transform.backend, threads=1), lambda *_, **__: None
        )
        texts.append((session.encode("the end, in <|im_end|>"), session.chat_template, session.eos_ids))
        session.close()
    assert texts[0] == texts[1]


def test_it_says_what_it_did(name: str, made: Any) -> None:
    _, outcome, told, _, _ = made
    assert outcome.note.endswith(".") and told.notes
    json.dumps(msgspec.to_builtins(outcome.facts))
    assert bool(told.curves) == plugins.get("transform", name).trains


def test_the_source_stays_as_it_was(made: Any) -> None:
    _, _, _, before, after = made
    assert before == after


# ---------------------------------------------------------------- and when it is stopped


def test_a_stop_leaves_nothing_behind(name: str, source: Source, folder: Path, tmp_path: Path) -> None:
    transform = plugins.get("transform", name)
    out, job = tmp_path / "stopped", tmp_path / "stopped-job"
    out.mkdir()
    job.mkdir()
    before = fingerprint(folder)
    with pytest.raises(Stopped):
        transform.run(source, params_of(name), out, Job(job, stop_at=1))
    assert fingerprint(folder) == before
    outside = [path for path in tmp_path.iterdir() if path not in (out, job) and path.name != "home"]
    assert not outside, "files belong into `out` and the job folder"
