"""Converted files: the right route, made once, whole or not at all."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.models import artifact_cache, artifacts, catalogue, gguf_file, gguf_to_hf, hf_to_gguf, spec
from core.models.spec import from_gguf
from core.runs.resolve import resolve
from core.types import Generate, ModelEntry, Request
from hardware.errors import ExplorerError
from tests.support.gguf_models import tiny_gguf
from tests.support.progress import silent
from tests.support.reference import logits_of_gguf

pytestmark = pytest.mark.engine("pytorch")

CONFIG = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
    "max_position_embeddings": 64,
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def gguf(tmp_path: Path) -> ModelEntry:
    path = tiny_gguf(tmp_path / "tiny.gguf", "llama")
    return ModelEntry(id="tiny", label="Tiny", family="local", files={"gguf": str(path)})


@pytest.fixture
def config(tmp_path: Path) -> ModelEntry:
    path = tmp_path / "mine" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG))
    return ModelEntry(id="mine", label="Mine", family="local", files={"config": str(path)}, random_weights=True)


def artifacts_left() -> list[str]:
    return sorted(p.name for p in artifact_cache.folder().iterdir() if p.is_dir())


def test_what_is_there_is_taken_as_it_is(gguf: ModelEntry) -> None:
    assert artifacts.provide(gguf, ("gguf",), silent) == ("gguf", gguf.files["gguf"])
    assert artifacts.provide(gguf, ("hf", "gguf"), silent) == ("gguf", gguf.files["gguf"])
    assert not artifact_cache.folder().exists()


def test_made_once_and_found_again(gguf: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    kind, path = artifacts.provide(gguf, ("hf",), silent)
    assert kind == "hf"
    assert {"config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"} <= set(os.listdir(path))
    monkeypatch.setattr(gguf_to_hf, "convert", None)
    assert artifacts.provide(gguf, ("hf",), silent) == ("hf", path)
    monkeypatch.setattr(gguf_to_hf, "VERSION", 999)
    with pytest.raises(TypeError):  # another converter: made anew
        artifacts.provide(gguf, ("hf",), silent)


def test_the_key_is_the_content(gguf: ModelEntry, tmp_path: Path) -> None:
    _, path = artifacts.provide(gguf, ("hf",), silent)
    copy = tmp_path / "copy.gguf"
    shutil.copyfile(gguf.files["gguf"], copy)
    entry = ModelEntry(id="copy", label="Copy", family="local", files={"gguf": str(copy)})
    assert artifacts.provide(entry, ("hf",), silent)[1] == path
    data = bytearray(copy.read_bytes())
    data[-1] ^= 1
    copy.write_bytes(data)
    assert artifacts.provide(entry, ("hf",), silent)[1] != path


def test_large_files_are_sampled_to_the_last_byte(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(artifact_cache, "_BLOCK", 16)
    monkeypatch.setattr(artifact_cache, "_N_BLOCKS", 4)
    file = tmp_path / "weights"

    def name(data: bytes) -> str:
        file.write_bytes(data)
        os.utime(file, ns=(0, 0))
        artifact_cache._hashed.cache_clear()
        return artifact_cache.fingerprint(file)

    zeros = bytes(1000)
    assert len({name(zeros), name(b"\1" + zeros[1:]), name(zeros[1:] + b"\1"), name(zeros + b"\0")}) == 4


@pytest.mark.parametrize("error", [RuntimeError("broken"), KeyboardInterrupt(), OSError(errno.EIO, "bad disk")])
def test_a_crash_leaves_nothing(gguf: ModelEntry, error: BaseException, monkeypatch: pytest.MonkeyPatch) -> None:
    def halfway(path: Path, out: Path, progress: Any) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(gguf_to_hf, "convert", halfway)
    with pytest.raises(type(error)):
        artifacts.provide(gguf, ("hf",), silent)
    assert artifacts_left() == []


@pytest.mark.parametrize(
    "error",
    [
        OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)),
        RuntimeError("I/O error: No space left on device (os error 28)"),
    ],
)
def test_a_full_disk_is_said_and_cleaned_up(
    gguf: ModelEntry, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(path: Path, out: Path, progress: Any) -> None:
        (out / "model.safetensors").write_bytes(b"half")
        raise error

    monkeypatch.setattr(gguf_to_hf, "convert", full)
    with pytest.raises(
        ExplorerError, match=r"disk is too full .* Tiny: 0\.03 GB are needed and .* GB are free"
    ) as said:
        artifacts.provide(gguf, ("hf",), silent)
    assert str(artifact_cache.folder()) in said.value.hint
    assert artifacts_left() == []


def test_too_small_a_disk_is_said_before(gguf: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(100, 95, 5))
    monkeypatch.setattr(gguf_to_hf, "convert", None)  # would raise TypeError
    with pytest.raises(ExplorerError, match="too full"):
        artifacts.provide(gguf, ("hf",), silent)


def test_too_little_memory_is_said_before_anything_is_made(config: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    """Four bytes a parameter for random weights in fp32, and twice that for a trace of them."""
    n = spec.read(config.files["config"], "config").n_params
    for free, wanted, what in ((4 * n - 1, "hf", "random weights"), (8 * n - 1, "onnx", "an ONNX export")):
        monkeypatch.setattr(artifacts, "available_bytes", lambda free=free: free)
        with pytest.raises(ExplorerError, match=f"Making {what} of Mine needs at least .* GB of memory") as said:
            artifacts.provide(config, (wanted,), silent)
        assert "smaller model" in said.value.hint
        made = [artifact_cache.about(artifact_cache.folder() / name).get("what") for name in artifacts_left()]
        assert made == ["a tokenizer"], "nothing large was made on the way"


def test_a_killed_build_is_swept_away_and_done_again(gguf: ModelEntry, home: Path, tmp_path: Path) -> None:
    script = f"""
import os, signal
from pathlib import Path
from core.models import artifacts, gguf_to_hf
from core.types import ModelEntry
def convert(path, out, progress):
    (out / "model.safetensors").write_bytes(b"half")
    os.kill(os.getpid(), signal.SIGKILL)
gguf_to_hf.convert = convert
entry = ModelEntry(id="tiny", label="Tiny", family="local", files={gguf.files!r})
artifacts.provide(entry, ("hf",), print)
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", script], cwd=root, env=os.environ | {"ROOFSCOPE_HOME": str(home)})
    assert done.returncode == -9
    assert [name.split("-")[0] for name in artifacts_left()] == ["part"]
    (artifact_cache.folder() / "part-ffffffffffffffffffff-12345678").mkdir()
    _, path = artifacts.provide(gguf, ("hf",), silent)
    assert artifacts_left() == [Path(path).name]


def test_two_builders_build_once(gguf: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    calls, waiting = [], threading.Event()
    convert = gguf_to_hf.convert

    def slow(path: Path, out: Path, progress: Any) -> None:
        calls.append(out)
        assert waiting.wait(60), "the second builder says that it waits"
        convert(path, out, progress)

    def tell(note: str, *_: Any, **__: Any) -> None:
        if note.startswith("Waiting for another process"):
            waiting.set()

    monkeypatch.setattr(gguf_to_hf, "convert", slow)
    paths: list[str] = []
    threads = [
        threading.Thread(target=lambda: paths.append(artifacts.provide(gguf, ("hf",), tell)[1])) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(calls) == 1 and len(set(paths)) == 1 and len(paths) == 2


def test_a_half_deleted_artifact_is_made_again(gguf: ModelEntry) -> None:
    _, path = artifacts.provide(gguf, ("hf",), silent)
    (Path(path) / "artifact.json").unlink()
    (Path(path) / "config.json").unlink()
    assert artifacts.provide(gguf, ("hf",), silent)[1] == path
    assert (Path(path) / "config.json").is_file()


def test_a_config_becomes_a_folder_with_a_tokenizer(config: ModelEntry) -> None:
    from transformers import AutoTokenizer

    kind, path = artifacts.provide(config, ("hf", "config"), silent)
    assert kind == "config"
    assert CONFIG.items() <= json.loads((Path(path) / "config.json").read_text()).items()
    assert AutoTokenizer.from_pretrained(path).encode("Hi") == [72, 105]
    assert not list(Path(path).glob("*.safetensors"))


def test_a_config_keeps_its_own_tokenizer(config: ModelEntry) -> None:
    own = Path(config.files["config"]).with_name("tokenizer.json")
    own.write_text("{}")
    _, path = artifacts.provide(config, ("config",), silent)
    assert (Path(path) / "tokenizer.json").read_text() == "{}"


def test_random_weights_are_seeded(config: ModelEntry) -> None:
    from safetensors.numpy import load_file
    from transformers import AutoModelForCausalLM, AutoTokenizer

    kind, path = artifacts.provide(config, ("hf",), silent)
    assert kind == "hf"
    first = load_file(Path(path) / "model.safetensors")
    shutil.rmtree(artifact_cache.folder())
    second = load_file(Path(artifacts.provide(config, ("hf",), silent)[1]) / "model.safetensors")
    assert first.keys() == second.keys() and all((first[k] == second[k]).all() for k in first)
    assert AutoModelForCausalLM.from_pretrained(path).config.num_hidden_layers == 2
    assert AutoTokenizer.from_pretrained(path).encode("Hi") == [72, 105]


def test_an_encoder_gets_its_masked_head(tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    numbers = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1, "num_attention_heads": 4}
    path.write_text(json.dumps({"model_type": "bert", "vocab_size": 300, **numbers}))
    entry = ModelEntry(id="b", label="B", family="local", files={"config": str(path)})
    from safetensors.numpy import load_file
    from transformers import AutoTokenizer

    _, folder = artifacts.provide(entry, ("hf",), silent)
    assert any(name.startswith("cls.predictions") for name in load_file(Path(folder) / "model.safetensors"))
    assert AutoTokenizer.from_pretrained(folder).encode("Hi") == [72, 105]


def test_an_impossible_config_is_said(config: ModelEntry) -> None:
    Path(config.files["config"]).write_text(json.dumps(CONFIG | {"num_attention_heads": 0}))
    with pytest.raises(ExplorerError, match="'num_attention_heads' is 0"):
        artifacts.provide(config, ("hf",), silent)
    Path(config.files["config"]).write_text(json.dumps({"model_type": "no-such-type"}))
    with pytest.raises(ExplorerError, match="'no-such-type' is not known"):
        artifacts.provide(config, ("hf",), silent)


def test_the_chain_to_onnx(gguf: ModelEntry, monkeypatch: pytest.MonkeyPatch) -> None:
    from core.models import onnx_export

    seen: list[str] = []

    def export(hf_folder: str, out_dir: str, progress: Any, alone: bool) -> None:
        seen.append(hf_folder)
        (Path(out_dir) / "model.onnx").write_bytes(Path(hf_folder, "model.safetensors").read_bytes()[:8])

    monkeypatch.setattr(onnx_export, "export", export)
    kind, path = artifacts.provide(gguf, ("onnx",), silent)
    assert kind == "onnx" and (Path(path) / "model.onnx").is_file()
    assert seen == [artifacts.provide(gguf, ("hf",), silent)[1]]
    assert artifacts.provide(gguf, ("onnx",), silent)[1] == path and len(seen) == 1
    hf = ModelEntry(id="h", label="H", family="local", files={"hf": seen[0]})
    assert artifacts.provide(hf, ("onnx",), silent)[1] == path  # opened as a folder it is the same artifact


def test_no_route_is_said(config: ModelEntry) -> None:
    place = Path(config.files["config"])
    place.write_text(json.dumps(json.loads(place.read_text()) | {"model_type": "gpt2"}))
    words = "Mine is there as an architecture without weights, from which a GGUF cannot be made"
    with pytest.raises(ExplorerError, match=words):
        artifacts.provide(config, ("gguf",), silent)


def test_a_bare_architecture_of_a_family_that_can_be_written_becomes_a_gguf(config: ModelEntry) -> None:
    assert json.loads(Path(config.files["config"]).read_text())["model_type"] in hf_to_gguf.ARCHITECTURES
    assert artifacts.route(config, ("gguf",)) == "gguf"
    assert artifacts.route(config, ("onnx", "gguf")) == "onnx"


@pytest.mark.parametrize(
    ("model_type", "says", "dtype"),
    [
        ("llama", {"torch_dtype": "float16", "quantization": {"group_size": 64, "bits": 4}}, "F16"),
        ("qwen2", {"dtype": "bfloat16"}, "BF16"),
        ("gemma3_text", {"head_dim": 8, "query_pre_attn_scalar": 8, "num_hidden_layers": 6}, "F32"),
    ],
)
def test_random_weights_become_a_gguf_at_once_in_their_own_format(
    model_type: str, says: dict[str, Any], dtype: str, tmp_path: Path
) -> None:
    path = tmp_path / "bare" / "config.json"
    path.parent.mkdir()
    path.write_text(json.dumps(CONFIG | {"model_type": model_type, "tie_word_embeddings": False} | says))
    entry = ModelEntry(id="bare", label="Bare", family="local", files={"config": str(path)}, random_weights=True)
    request = Request(model=str(path), backend="llama_cpp", task=Generate(prompt_tokens=8), profilers=())
    wanted = resolve(request)
    kind, made = artifacts.provide(entry, ("gguf",), silent)
    found = from_gguf(Path(made))
    assert kind == "gguf" and len(artifacts_left()) == 2, "a folder of weights was written besides"
    assert {t.type_name for t in gguf_file.read(Path(made)).tensors if len(t.shape) > 1} == {dtype}
    assert wanted.spec.n_params == found.n_params and wanted.spec.dtype == found.dtype
    assert wanted.spec.weight_bytes == pytest.approx(found.weight_bytes, rel=0.02)  # its vectors are fp32
    logits = logits_of_gguf(Path(made), list(range(20)))
    assert np.isfinite(logits).all() and logits.std() > 0 and len({row.tobytes() for row in logits}) > 10


def test_damage_is_said_before_building(gguf: ModelEntry) -> None:
    path = Path(gguf.files["gguf"])
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ExplorerError, match="cut off or damaged"):
        artifacts.provide(gguf, ("hf",), silent)


@pytest.mark.model
def test_the_embedded_model_through_the_cache() -> None:
    notes: list[tuple[str, Any, Any, str]] = []
    entry = catalogue.find(catalogue.EMBEDDED)
    _, path = artifacts.provide(
        entry, ("hf",), lambda note, done=None, total=None, unit="": notes.append((note, done, total, unit))
    )
    assert notes[-1] == ("Converting weights to a Hugging Face folder", 538_060_032, 538_060_032, "bytes")
    assert (Path(path) / "model.safetensors").stat().st_size > 538_060_032
    assert artifacts.provide(entry, ("hf",), silent) == ("hf", path)
