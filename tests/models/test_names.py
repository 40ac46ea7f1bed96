"""Names that no file system, no user or no text has: skipped and reported, or refused in a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from core.models import catalogue
from core.models.spec import from_hf_folder
from core.runs.resolve import resolve
from core.types import Generate, Request, to_json
from hardware.errors import ExplorerError
from tests.models.test_weight_files import CONFIG, whole
from tests.support.gguf_bytes import file, header


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


def test_names_that_are_no_utf8_are_skipped_and_reported(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    file(mine / "good.gguf", header())
    bad = Path(os.fsdecode(os.fsencode(mine) + b"/b\xffd.gguf"))
    try:
        file(bad, header())
    except OSError:
        pytest.skip("this file system takes no such name")
    catalogue.add_folder(str(mine))
    found = catalogue.entries(refresh=True)
    assert [e.id for e in found if e.family == "local"] == ["good"]
    assert any("no UTF-8" in p for p in catalogue.problems())
    assert to_json(found) and to_json(catalogue.problems())
    with pytest.raises(ExplorerError, match="is no UTF-8") as said:
        catalogue.find(str(bad))
    assert said.value.message.encode()


@pytest.mark.parametrize(
    "name", ["", " \n", "x" * 5000, "/" + "x" * 5000, "a/" + "b" * 5000 + ".gguf", "~nobody-at-all/x", "a\0b"]
)
def test_names_that_can_be_nowhere_are_refused_in_a_sentence(name: str) -> None:
    for use in (catalogue.find, catalogue.add_folder):
        with pytest.raises(ExplorerError) as said:
            use(name)
        assert said.value.message.endswith(".") and len(said.value.message) < 400
    catalogue.remove_folder(name)


def test_a_stored_folder_of_such_a_name_stops_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stored = tmp_path / "home" / "data" / "folders.json"
    stored.parent.mkdir(parents=True, exist_ok=True)
    stored.write_text(json.dumps(["/" + "x" * 5000, "~nobody-at-all/x", "/b\udcff"]))
    monkeypatch.setenv("HF_HOME", "~nobody-at-all/cache")
    assert catalogue.entries(refresh=True)[0].family == "embedded"
    assert len(catalogue.problems()) >= 4 and to_json(catalogue.problems())


def test_a_prompt_that_is_no_utf8_is_refused() -> None:
    with pytest.raises(ExplorerError, match="no UTF-8"):
        resolve(Request(model="smollm2-135m", backend="fake", task=Generate(prompt="a\udcff")))


def test_a_hub_model_has_its_name_and_not_a_hash(machine: Path) -> None:
    folder = machine / ".cache" / "huggingface" / "hub" / "models--org--tiny" / "snapshots" / "0a1b2c"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    whole(folder)
    assert from_hf_folder(folder).name == "org/tiny"
    assert "0a1b2c" not in from_hf_folder(folder).source


def test_hub_folders_that_are_links(machine: Path, tmp_path: Path) -> None:
    repo = tmp_path / "disk" / "models--org--tiny"
    folder = repo / "snapshots" / "0a1b2c"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    weights = tmp_path / "disk" / "blob"
    whole(tmp_path / "disk", "blob")
    (folder / "model.safetensors").symlink_to(weights)
    hub = machine / ".cache" / "huggingface" / "hub"
    hub.mkdir(parents=True)
    (hub / repo.name).symlink_to(repo)
    entry = next(e for e in catalogue.entries(refresh=True) if e.id == "org/tiny")
    assert (entry.family, entry.size_bytes) == ("hub", weights.stat().st_size)
    assert catalogue.find(str(repo)) == entry  # the folder of the repository itself
    (hub / repo.name).unlink()
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "linked").symlink_to(tmp_path / "disk")
    (mine / "loop").symlink_to(mine)
    catalogue.add_folder(str(mine))
    assert [e.id for e in catalogue.entries() if e.family == "local"] == ["org/tiny"]
    assert not [p for p in catalogue.problems() if "mine" in p]


def test_ollama_models_without_a_file_are_told(machine: Path) -> None:
    root = machine / ".ollama" / "models"
    (root / "blobs").mkdir(parents=True)
    file(root / "blobs" / "sha256-1", header())
    start = "application/vnd.ollama.image"
    image, model = ({"mediaType": f"{start}.{kind}", "digest": "sha256:1"} for kind in ("tensor", "model"))
    kinds = {
        "registry.ollama.ai/library/cloud": [],
        "registry.ollama.ai/library/image": [image],
        "hf.co/org/own": [model],
    }
    for name, layers in kinds.items():
        manifest = root / "manifests" / name / "latest"
        manifest.parent.mkdir(parents=True)
        manifest.write_text(json.dumps({"layers": layers}))
    manifest = root / "manifests" / "registry.ollama.ai" / "library" / "gone" / "1b"
    manifest.parent.mkdir(parents=True)
    lost = {"mediaType": f"{start}.model", "digest": "sha256:2"}
    manifest.write_text(json.dumps({"layers": [lost]}))
    manifest.with_name("2b").write_text(json.dumps({"layers": [lost | {"digest": "sha256:3"}]}))
    (root / "blobs" / "sha256-3-partial-0").write_bytes(b"x")
    tuned = root / "manifests" / "registry.ollama.ai" / "me" / "tuned" / "latest"
    tuned.parent.mkdir(parents=True)
    file(root / "blobs" / "sha256-4", header())
    layers = [model | {"digest": "sha256:4"}, {"mediaType": f"{start}.adapter", "digest": "sha256:5"}]
    tuned.write_text(json.dumps({"layers": layers}))
    assert "ollama/hf.co/org/own:latest" in {e.id for e in catalogue.entries(refresh=True)}
    text = "\n".join(catalogue.problems())
    assert "cloud:latest (Ollama) was skipped: it runs in the cloud only." in text
    assert "image:latest (Ollama) was skipped: its weights are single tensors, not a GGUF." in text
    assert "gone:1b (Ollama) was skipped: its file is not among the blobs." in text
    assert "gone:2b (Ollama) was skipped: its download is not finished." in text
    assert "adapter (LoRA) is left out" in catalogue.find("ollama/me/tuned:latest").note


def test_a_cache_is_told_by_the_models_name(machine: Path) -> None:
    folder = machine / ".cache" / "huggingface" / "hub" / "models--org--tiny" / "snapshots" / "0a1b2c"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{")
    whole(folder)
    catalogue.entries(refresh=True)
    assert any(p.startswith("org/tiny (Hugging Face cache) was skipped:") for p in catalogue.problems())


def test_what_lm_studio_keeps_for_mlx_is_listed(machine: Path) -> None:
    folder = machine / ".lmstudio" / "models" / "mlx-community" / "tiny-4bit"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    whole(folder)
    entry = next(e for e in catalogue.entries(refresh=True) if e.id == "lmstudio/mlx-community/tiny-4bit")
    assert entry.label == "tiny-4bit (LM Studio)" and entry.files == {"hf": str(folder)}


def manifests(machine: Path) -> Path:
    return machine / ".ollama" / "models" / "manifests" / "registry.ollama.ai" / "library"


def told(name: str) -> list[str]:
    return [p for p in catalogue.problems() if p.startswith(name)]


NOWHERE = ("sha256:" + "a" * 5000, "sha256:**x", "[a-", "", "../../../..", "/etc/passwd", "a\0b", "sha256:\udcff")


@pytest.mark.parametrize("digest", [*NOWHERE, {"a": 1}])
def test_a_digest_that_names_no_file_hides_no_other_model(digest: object, machine: Path) -> None:
    blobs = machine / ".ollama" / "models" / "blobs"
    blobs.mkdir(parents=True)
    file(blobs / "sha256-good", header())
    for name, of in (("first", digest), ("second", "sha256:good")):
        manifest = manifests(machine) / name / "latest"
        manifest.parent.mkdir(parents=True)
        layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": of}]
        manifest.write_text(json.dumps({"layers": layers}))
    assert "ollama/second:latest" in {e.id for e in catalogue.entries(refresh=True)}
    assert told("first:latest (Ollama) was skipped: its file is not among the blobs.")


def test_an_ollama_name_that_is_no_utf8_is_skipped_and_the_next_is_found(machine: Path) -> None:
    blobs = machine / ".ollama" / "models" / "blobs"
    blobs.mkdir(parents=True)
    file(blobs / "sha256-good", header())
    layers = [{"mediaType": "application/vnd.ollama.image.model", "digest": "sha256:good"}]
    for name in (b"b\xff", b"second"):
        folder = os.fsencode(manifests(machine)) + b"/" + name
        try:
            os.makedirs(folder)
        except OSError:
            pytest.skip("this file system takes no such name")
        Path(os.fsdecode(folder + b"/latest")).write_text(json.dumps({"layers": layers}))
    found = catalogue.entries(refresh=True)
    assert to_json(found) and [e.id for e in found if e.id.startswith("ollama")] == ["ollama/second:latest"]
    assert told("b\ufffd:latest (Ollama) was skipped: The name ollama/b\ufffd:latest is no UTF-8.")


@pytest.mark.parametrize("ref", [b"x" * 5000, b"a\0b", b"\xff\xfe", b"", b"gone"])
def test_a_reference_that_names_no_snapshot_leaves_the_newest(ref: bytes, machine: Path) -> None:
    for name in ("models--a--odd", "models--z--good"):
        repo = machine / ".cache" / "huggingface" / "hub" / name
        folder = repo / "snapshots" / "0a"
        folder.mkdir(parents=True)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        whole(folder)
        (repo / "refs").mkdir()
        (repo / "refs" / "main").write_bytes(ref if "odd" in name else b"0a")
    assert {"a/odd", "z/good"} <= {e.id for e in catalogue.entries(refresh=True)}


def test_links_that_lead_nowhere_and_things_that_are_no_files_are_called_so(machine: Path, tmp_path: Path) -> None:
    folder = machine / ".cache" / "huggingface" / "hub" / "models--org--dead" / "snapshots" / "0a"
    folder.mkdir(parents=True)
    for name in ("config.json", "model.safetensors"):
        (folder / name).symlink_to("../../blobs/none")
    os.mkfifo(tmp_path / "pipe.gguf")
    catalogue.entries(refresh=True)
    assert told("org/dead (Hugging Face cache) was skipped: config.json in 0a is a link that leads nowhere.")
    with pytest.raises(ExplorerError, match=r"pipe\.gguf is neither a file nor a folder"):
        catalogue.find(str(tmp_path / "pipe.gguf"))
