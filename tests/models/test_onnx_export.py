"""The ONNX export: the same numbers as PyTorch for every shape, a lean file, and plain refusals."""

from __future__ import annotations

import functools
import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.models import onnx_check, onnx_export, torch_to_onnx
from core.models.onnx_export import export
from hardware.errors import ExplorerError
from tests.support import elsewhere
from tests.support.onnx_exports import exported
from tests.support.random_model import random_onnx, saved
from tests.support.tiny import hf_folder
from tests.support.tiny import onnxruntime as tiny_onnx

pytestmark = pytest.mark.engine("onnxruntime")


def quiet(note: str, *_: object, **__: object) -> None:
    assert note


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


# ---------------------------------------------------------------- what the process with PyTorch does


@functools.cache
def model_of(folder: Path) -> Any:
    import torch
    from transformers import AutoConfig
    from transformers.models.auto import modeling_auto as auto

    masked = type(AutoConfig.from_pretrained(folder)) in auto.MODEL_FOR_MASKED_LM_MAPPING
    kind = auto.AutoModelForMaskedLM if masked else auto.AutoModelForCausalLM
    return kind.from_pretrained(folder, dtype=torch.float32).eval()


def wanted_logits(folder: Path, ids: Any, **changed: Any) -> Any:
    """PyTorch's, with changes of its configuration."""
    return elsewhere.call("pytorch", _wanted_logits, folder, ids, changed)


def _wanted_logits(folder: Path, ids: Any, changed: dict[str, Any]) -> Any:
    import torch

    model = model_of(folder)
    kept = {key: getattr(model.config, key) for key in changed}
    for key, value in changed.items():
        setattr(model.config, key, value)
    with torch.no_grad():
        logits = model(torch.from_numpy(ids)).logits.numpy()
    for key, value in kept.items():
        setattr(model.config, key, value)
    return logits


def write_samples(folder: Path, file: Path, head: float) -> None:
    """What the exporter compares with, of a model whose head is `head` times the stored one."""
    import torch

    model = model_of(folder)
    kept = model.lm_head.weight.clone()
    with torch.no_grad():
        model.lm_head.weight.mul_(head)
        torch_to_onnx.write_samples(model, file)
        model.lm_head.weight.copy_(kept)


# ---------------------------------------------------------------- the numbers


@pytest.fixture(scope="module")
def llama(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    """(the folder, its ONNX session) of the tiny llama with grouped queries."""
    folder = tmp_path_factory.mktemp("llama")
    return hf_folder(folder), open_file(Path(tiny_onnx.make(folder)[0]))


@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("past", [0, 1, 33])
@pytest.mark.parametrize("n", [1, 4, 16])
def test_logits_equal_pytorch(llama: tuple[Path, Any], n: int, past: int, batch: int) -> None:
    folder, session = llama
    ids = np.random.default_rng(n + past).integers(0, 320, (batch, past + n))
    wanted = wanted_logits(folder, ids)[:, past:]
    assert np.ptp(wanted) > 1, "flat logits would prove nothing"
    np.testing.assert_allclose(logits_of(session, ids, past, n), wanted, atol=1e-4, rtol=0)


def test_only_the_kept_positions_reach_the_head(llama: tuple[Path, Any]) -> None:
    _, session = llama
    ids = np.random.default_rng(0).integers(0, 320, (1, 12))
    every, last = logits_of(session, ids, 0, 12), logits_of(session, ids, 0, 1)
    assert every.shape == (1, 12, 320) and last.shape == (1, 1, 320)
    np.testing.assert_allclose(last, every[:, -1:], atol=1e-5)


def test_a_sliding_window_slides(tmp_path: Path) -> None:
    saved(tmp_path / "hf", "mistral", num_key_value_heads=2, sliding_window=6)
    exported(tmp_path / "hf", tmp_path / "onnx")
    ids = np.random.default_rng(2).integers(0, 320, (2, 24))
    wanted, unlimited = (wanted_logits(tmp_path / "hf", ids, sliding_window=window) for window in (6, None))
    found = logits_of(open_file(tmp_path / "onnx"), ids, 20, 4)
    np.testing.assert_allclose(found, wanted[:, 20:], atol=1e-4, rtol=0)
    assert np.abs(found - unlimited[:, 20:]).max() > 1e-2, "the window must matter here"


def test_an_encoder_has_no_cache() -> None:
    folder = random_onnx("bert")
    session = open_file(folder)
    assert [value.name for value in session.get_inputs()] == ["input_ids"]
    for batch, n in ((1, 1), (3, 9), (1, 64)):
        ids = np.random.default_rng(n).integers(0, 320, (batch, n))
        wanted = wanted_logits(folder.with_name("hf"), ids)
        np.testing.assert_allclose(session.run(["logits"], {"input_ids": ids})[0], wanted, atol=1e-4, rtol=0)


def test_the_file_is_lean(tmp_path: Path) -> None:
    """A tied table is stored once, and the nodes tell their module but not where the source code lies."""
    import onnx

    n_params = saved(tmp_path / "hf", "llama", vocab_size=4000, tie_word_embeddings=True)
    (tmp_path / "hf" / "tokenizer_config.json").write_text("{}")
    exported(tmp_path / "hf", tmp_path / "onnx")
    names = {file.name for file in (tmp_path / "onnx").iterdir()}
    assert names == {"model.onnx", "model.onnx.data", "config.json", "generation_config.json", "tokenizer_config.json"}
    assert (tmp_path / "onnx" / "model.onnx.data").stat().st_size == pytest.approx(4 * n_params, rel=0.05)

    assert b"site-packages" not in (tmp_path / "onnx" / "model.onnx").read_bytes()
    graph = onnx.load(tmp_path / "onnx" / "model.onnx", load_external_data=False).graph
    scopes = " ".join(entry.value for node in graph.node for entry in node.metadata_props)
    assert "'model.layers.0.self_attn.q_proj'" in scopes and "apply_rotary_pos_emb" in scopes
    assert {"Attention", "RMSNormalization", "RotaryEmbedding"} <= {node.op_type for node in graph.node}


def test_a_wrong_export_is_noticed(llama: tuple[Path, Any], tmp_path: Path) -> None:
    folder, session = llama
    file, samples = Path(session._model_path), tmp_path / "samples.npz"
    elsewhere.call("pytorch", write_samples, folder, samples, 1.0)
    onnx_check.check(file, samples)
    elsewhere.call("pytorch", write_samples, folder, samples, 1.01)
    with pytest.raises(ExplorerError, match="off by"):
        onnx_check.check(file, samples)


# ---------------------------------------------------------------- what cannot be exported


def recurrent(folder: Path) -> None:
    saved(folder, "mamba", state_size=4)


def without_weights(folder: Path) -> None:
    saved(folder, "llama")
    (folder / "model.safetensors").unlink()


def cut_short(folder: Path) -> None:
    saved(folder, "llama")
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
        exported(tmp_path / "hf", tmp_path / "onnx")
    assert refused.value.message.endswith(".") and "\n" not in refused.value.message
    assert refused.value.hint
    shutil.rmtree(tmp_path / "hf")


# ---------------------------------------------------------------- the process it runs in


def test_the_export_tells_its_steps_and_prints_nothing(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    saved(tmp_path / "hf", "gpt2", n_embd=32, n_layer=1, n_head=4)
    capfd.readouterr()
    notes: list[str] = []
    export(str(tmp_path / "hf"), str(tmp_path / "onnx"), lambda note, *_, **__: notes.append(note))
    assert capfd.readouterr().out == ""
    assert len(set(notes)) >= 5, "starting, loading, tracing, writing and comparing are told"
    assert open_file(tmp_path / "onnx")


def test_a_process_that_is_there_for_it_traces_itself_and_tells_its_steps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """What libraries print must not come between the lines that the parent reads."""

    def convert(source: Path, target: Path, tell: Callable[[str], None], samples: Path) -> None:
        print("a library's words")
        tell("Tracing")

    monkeypatch.setattr(onnx_export, "convert", convert)
    monkeypatch.setattr(onnx_export, "_run", lambda *_: None)
    export("hf", str(tmp_path / "onnx"), lambda note, *_, **__: print(note), alone=True)
    assert capsys.readouterr() == ("Starting the ONNX export\nTracing\n", "a library's words\n")


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

    monkeypatch.setattr("hardware.child.subprocess.Popen", keep)

    def stop(note: str, *_: object, **__: object) -> None:
        if started[0].poll() is None:
            raise StopAskedError

    with pytest.raises(StopAskedError):
        export(str(tmp_path), str(tmp_path / "onnx"), stop)
    assert started[0].returncode < 0


@pytest.mark.parametrize(
    ("code", "words"), [("os.kill(os.getpid(), 9)", "memory ran out"), ("sys.exit(3)", "status 3")]
)
def test_a_process_that_dies_is_explained(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, words: str
) -> None:
    popen = subprocess.Popen
    program = [sys.executable, "-c", f"import os, sys; {code}"]
    monkeypatch.setattr("hardware.child.subprocess.Popen", lambda _, **kwargs: popen(program, **kwargs))
    with pytest.raises(ExplorerError, match=words):
        export(str(tmp_path), str(tmp_path / "onnx"), quiet)
