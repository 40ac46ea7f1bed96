"""The ONNX export: the same numbers as PyTorch for every shape, a lean file, and plain refusals."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.errors import ExplorerError
from core.models import onnx_check, onnx_export, torch_to_onnx
from core.models.onnx_export import export
from core.models.torch_to_onnx import convert
from tests.support.tiny import hf_folder

SIZES = {
    "vocab_size": 320,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def quiet(note: str, *_: object, **__: object) -> None:
    assert note


def random_model(folder: Path, model_type: str, **sizes: Any) -> Any:
    """A random model whose logits are spread over a few units, saved in `folder`."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForMaskedLM
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING as ENCODERS

    torch.manual_seed(1)
    config = AutoConfig.for_model(model_type, **(SIZES | sizes))
    kind = AutoModelForMaskedLM if type(config) in ENCODERS else AutoModelForCausalLM
    model = kind.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(5 if parameter.dim() > 1 else 1)
    model.save_pretrained(folder)
    return model


def open_file(folder: Path) -> Any:
    import onnxruntime

    return onnxruntime.InferenceSession(str(folder / "model.onnx"), providers=["CPUExecutionProvider"])


def logits_of(session: Any, ids: Any, past: int, kept: int) -> Any:
    """Logits of the last `kept` of `ids`, the first `past` of which come from the cache of an earlier run."""
    cache = {}
    for value in session.get_inputs():
        if "past_key_values" in value.name:
            _, heads, _, width = value.shape
            cache[value.name] = np.zeros((len(ids), heads, 0, width), np.float32)
    names = [value.name for value in session.get_outputs()]
    logits = None
    for start, stop, k in ((0, past, 1), (past, ids.shape[1], kept)):
        if stop == start:
            continue
        found = session.run(
            None,
            {
                "input_ids": ids[:, start:stop],
                "position_ids": np.tile(np.arange(start, stop), (len(ids), 1)),
                "logits_to_keep": np.arange(stop - start - k, stop - start),
                **cache,
            },
        )
        results = dict(zip(names, found, strict=True))
        cache = {name: results[name.replace("input.", "output.")] for name in cache}
        logits = results["logits"]
    return logits


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Any, Any]]:
    """(PyTorch model, ONNX session) of the same tiny llama with grouped queries."""
    from transformers import AutoModelForCausalLM

    folder = tmp_path_factory.mktemp("llama")
    source = hf_folder(folder)
    convert(source, folder / "onnx", quiet)
    yield AutoModelForCausalLM.from_pretrained(source).eval(), open_file(folder / "onnx")


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("past", [0, 1, 33])
@pytest.mark.parametrize("n", [1, 4, 16])
def test_logits_equal_pytorch(llama: tuple[Any, Any], n: int, past: int, batch: int) -> None:
    import torch

    model, session = llama
    ids = np.random.default_rng(n + past).integers(0, 320, (batch, past + n))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()[:, past:]
    assert np.ptp(wanted) > 1, "flat logits would prove nothing"
    np.testing.assert_allclose(logits_of(session, ids, past, n), wanted, atol=1e-4, rtol=0)


def test_only_the_kept_positions_reach_the_head(llama: tuple[Any, Any]) -> None:
    _, session = llama
    ids = np.random.default_rng(0).integers(0, 320, (1, 12))
    every, last = logits_of(session, ids, 0, 12), logits_of(session, ids, 0, 1)
    assert every.shape == (1, 12, 320) and last.shape == (1, 1, 320)
    np.testing.assert_allclose(last, every[:, -1:], atol=1e-5)


def test_a_sliding_window_slides(tmp_path: Path) -> None:
    import torch

    model = random_model(tmp_path / "hf", "mistral", num_key_value_heads=2, sliding_window=6)
    convert(tmp_path / "hf", tmp_path / "onnx", quiet)
    ids = np.random.default_rng(2).integers(0, 320, (2, 24))
    with torch.no_grad():
        wanted = model(torch.from_numpy(ids)).logits.numpy()
        model.config.sliding_window = None
        unlimited = model(torch.from_numpy(ids)).logits.numpy()
    found = logits_of(open_file(tmp_path / "onnx"), ids, 20, 4)
    np.testing.assert_allclose(found, wanted[:, 20:], atol=1e-4, rtol=0)
    assert np.abs(found - unlimited[:, 20:]).max() > 1e-2, "the window must matter here"


def test_an_encoder_has_no_cache(tmp_path: Path) -> None:
    import torch

    model = random_model(tmp_path / "hf", "bert")
    convert(tmp_path / "hf", tmp_path / "onnx", quiet)
    session = open_file(tmp_path / "onnx")
    assert [value.name for value in session.get_inputs()] == ["input_ids"]
    for batch, n in ((1, 1), (3, 9), (1, 64)):
        ids = np.random.default_rng(n).integers(0, 320, (batch, n))
        with torch.no_grad():
            wanted = model(torch.from_numpy(ids)).logits.numpy()
        np.testing.assert_allclose(session.run(["logits"], {"input_ids": ids})[0], wanted, atol=1e-4, rtol=0)


def test_the_file_is_lean(tmp_path: Path) -> None:
    """A tied table is stored once, and the nodes tell their module but not where the source code lies."""
    import onnx

    model = random_model(tmp_path / "hf", "llama", vocab_size=4000, tie_word_embeddings=True)
    (tmp_path / "hf" / "tokenizer_config.json").write_text("{}")
    convert(tmp_path / "hf", tmp_path / "onnx", quiet)
    names = {file.name for file in (tmp_path / "onnx").iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "config.json", "generation_config.json", "tokenizer_config.json"}
    n_bytes = 4 * sum(parameter.numel() for parameter in model.parameters())
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size == pytest.approx(n_bytes, rel=0.05)

    assert b"site-packages" not in (tmp_path / "onnx" / "model.onnx").read_bytes()
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    scopes = " ".join(entry.value for node in graph.node for entry in node.metadata_props)
    assert "'model.layers.0.self_attn.q_proj'" in scopes and "apply_rotary_pos_emb" in scopes
    assert {"Attention", "RMSNormalization", "RotaryEmbedding"} <= {node.op_type for node in graph.node}


def test_a_wrong_export_is_noticed(llama: tuple[Any, Any], tmp_path: Path) -> None:
    import torch

    model, session = llama
    file, samples = Path(session._model_path), tmp_path / "samples.npz"
    torch_to_onnx.write_samples(model, samples)
    onnx_check.check(file, samples)
    kept = model.lm_head.weight.clone()
    try:
        with torch.no_grad():
            model.lm_head.weight.mul_(1.01)
        torch_to_onnx.write_samples(model, samples)
    finally:
        with torch.no_grad():
            model.lm_head.weight.copy_(kept)
    with pytest.raises(ExplorerError, match="off by"):
        onnx_check.check(file, samples)


# ---------------------------------------------------------------- what cannot be exported


def recurrent(folder: Path) -> None:
    random_model(folder, "mamba", state_size=4)


def without_weights(folder: Path) -> None:
    random_model(folder, "llama")
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    random_model(folder, "llama")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:5000])


def unknown_architecture(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "nobody_made_this"}))


def sequence_to_sequence(folder: Path) -> None:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "t5"}))


def empty(folder: Path) -> None:
    folder.mkdir()


@pytest.mark.parametrize(
    "make", [recurrent, without_weights, cut_short, unknown_architecture, sequence_to_sequence, empty]
)
def test_what_cannot_be_exported_is_said_plainly(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "hf")
    with pytest.raises(ExplorerError) as refused:
        convert(tmp_path / "hf", tmp_path / "onnx", quiet)
    assert refused.value.message.endswith(".") and "\n" not in refused.value.message
    assert refused.value.hint
    shutil.rmtree(tmp_path / "hf")


# ---------------------------------------------------------------- the process it runs in


def test_the_export_tells_its_steps_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    random_model(tmp_path / "hf", "gpt2", n_embd=32, n_layer=1, n_head=4)
    capfd.readouterr()
    notes: list[str] = []
    export(str(tmp_path / "hf"), str(tmp_path / "onnx"), lambda note, *_, **__: notes.append(note))
    assert capfd.readouterr().out == ""
    assert len(set(notes)) >= 5, "starting, loading, tracing, writing and comparing are told"
    assert open_file(tmp_path / "onnx")


def test_a_refusal_comes_out_of_the_process(tmp_path: Path) -> None:
    empty(tmp_path / "hf")
    with pytest.raises(ExplorerError, match=r"no config\.json") as refused:
        export(str(tmp_path / "hf"), str(tmp_path / "onnx"), quiet)
    assert refused.value.hint


class StopAskedError(Exception):
    pass


def test_a_stop_ends_the_process_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    started = []
    popen = subprocess.Popen

    def keep(*args: Any, **kwargs: Any) -> Any:
        started.append(popen(*args, **kwargs))
        return started[-1]

    monkeypatch.setattr(onnx_export.subprocess, "Popen", keep)

    def stop(note: str, *_: object, **__: object) -> None:
        if started[0].poll() is None:
            raise StopAskedError

    with pytest.raises(StopAskedError):
        export(str(tmp_path), str(tmp_path / "onnx"), stop)
    assert started[0].returncode == -signal.SIGKILL


@pytest.mark.parametrize(
    ("code", "words"), [("os.kill(os.getpid(), 9)", "memory ran out"), ("sys.exit(3)", "status 3")]
)
def test_a_process_that_dies_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    popen = subprocess.Popen
    program = [sys.executable, "-c", f"import os, sys; {code}"]
    monkeypatch.setattr(onnx_export.subprocess, "Popen", lambda _, **kwargs: popen(program, **kwargs))
    with pytest.raises(ExplorerError, match=words):
        export(str(tmp_path), str(tmp_path / "onnx"), quiet)
