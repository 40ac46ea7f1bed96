"""Names that no file system, no user or no text has: skipped and reported, or refused in a sentence."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from core.cli import cli
from core.labels import one_line
from core.models import catalogue
from core.models.spec import from_hf_folder
from core.runs.resolve import resolve
from core.types import Generate, Request, to_json
from hardware.errors import ExplorerError
from tests.models.test_gguf_file import split
from tests.models.test_weight_files import CONFIG, safetensors, whole
from tests.support.gguf_bytes import LLAMA, file, header


@pytest.fixture(autouse=True)
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("HF_HOME", "HF_HUB_CACHE", "XDG_CACHE_HOME", "OLLAMA_MODELS", "LLAMA_CACHE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path / "user"))
    monkeypatch.setenv("ROOFSCOPE_HOME", str(tmp_path / "home"))
    (tmp_path / "user").mkdir()
    return tmp_path / "user"


def test_what_a_mac_puts_beside_a_model_is_none(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    file(tmp_path / "mine" / "m.gguf", header())
    (tmp_path / "mine" / "._m.gguf").write_bytes(b"\0\5\x16\7" + bytes(60))
    catalogue.add_folder(str(tmp_path / "mine"))
    assert [e.id for e in catalogue.entries() if e.family == "local"] == ["m"] and not told(str(tmp_path))
    assert catalogue.find(str(tmp_path / "mine")).files == {"gguf": str(tmp_path / "mine" / "m.gguf")}


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


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/Qwen/Qwen3-0.6B/tree/main?not-for-all-audiences=true", "Qwen/Qwen3-0.6B"),
        ("hf.co/unsloth/X-GGUF:Q4_K_M", "unsloth/X-GGUF"),
        ("unsloth/X-GGUF:Q8_0", "unsloth/X-GGUF"),
        ("hf://Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("https://hf-mirror.com/Qwen/Qwen3-0.6B", "Qwen/Qwen3-0.6B"),
        ("Qwen/Qwen3-0.6B@main", "Qwen/Qwen3-0.6B"),
        ("https://huggingface.co/unsloth/X-GGUF/resolve/main/Q4/X%20a.gguf?download=true",
         "unsloth/X-GGUF --gguf 'Q4/X a.gguf'"),
    ],
)  # fmt: skip
def test_a_name_of_the_hub_is_understood_as_its_users_write_it(name: str, command: str, machine: Path) -> None:
    """As llama.cpp (-hf), Ollama and a browser have it."""
    with pytest.raises(ExplorerError) as said:
        catalogue.find(name)
    assert said.value.hint.endswith(f"python -m core.models.hub download {command}")


def test_a_page_of_the_hub_is_the_model_in_its_cache(machine: Path) -> None:
    file(snapshot(machine, "org/one") / "m-Q8_0.gguf", header())
    several = snapshot(machine, "org/several")
    for kind in ("Q4_0", "Q8_0"):
        file(several / f"m-{kind}.gguf", header())
    catalogue.entries(refresh=True)
    assert catalogue.find("https://huggingface.co/org/one").id == "org/one"
    with pytest.raises(ExplorerError) as said:
        catalogue.find("hf.co/org/several:Q8_0")
    assert said.value.hint == "Did you mean org/several/m-Q4_0 or org/several/m-Q8_0?"


def test_a_path_of_windows_is_the_one_that_wsl_has(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match=r"no file or folder .*\(/mnt/c/Users/me/m\.gguf\)"):
        catalogue.find('"C:\\Users\\me\\m.gguf"')
    place = file(tmp_path / "m.gguf", header())
    for share in ("\\\\wsl.localhost\\Ubuntu", "//wsl$/Ubuntu"):
        assert catalogue.find(share + str(place).replace("/", "\\")).files == {"gguf": str(place)}


@pytest.mark.parametrize(
    ("written", "to"),
    [
        ("$DISK/m m", "m m"),
        ("${DISK}/m m", "m m"),
        ("$DISK/m\\ m", "m m"),
        ("$DISK/m\\ m/../m\\ m/", "m m"),
        ("$DISK/a\\b", "a\\b"),
        ("'$DISK/m m'", "m m"),
        ("“$DISK/m m”", "m m"),
        ("`$DISK/m m`", "m m"),
        ("\u202a$DISK/m m\u200b\n", "m m"),
    ],
)
def test_a_path_is_understood_as_a_terminal_has_it(
    written: str, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DISK", str(tmp_path))
    (tmp_path / to).mkdir()
    place = file(tmp_path / to / "m.gguf", header())
    assert catalogue.find(written.replace("$DISK/a", f"{tmp_path}/a")).files == {"gguf": str(place)}
    catalogue.add_folder(written.replace("$DISK/a", f"{tmp_path}/a"))
    catalogue.add_folder(str(place.parent))
    assert catalogue.folders() == (str(place.parent),)


@pytest.mark.parametrize("name", ["Org/Tiny", "org/tiny", "hf.co/org/TINY", "models--Org--Tiny", "ORG/tiny@main"])
def test_to_the_hub_capitals_are_nothing(name: str, machine: Path) -> None:
    """And the folder of its cache is a name, too."""
    file(snapshot(machine, "Org/Tiny") / "m.gguf", header())
    catalogue.entries(refresh=True)
    assert catalogue.find(name).id == "Org/Tiny"
    file(snapshot(machine, "org/tiny") / "n.gguf", header())
    catalogue.entries(refresh=True)
    assert catalogue.find("org/tiny").id == "org/tiny" and catalogue.find("Org/Tiny").id == "Org/Tiny"


@pytest.mark.parametrize("name", ["models/m.safetensors", "m.onnx", "D:/m.gguf"])
def test_a_file_that_is_not_there_is_no_name_of_the_hub(name: str) -> None:
    with pytest.raises(ExplorerError, match="There is no file or folder"):
        catalogue.find(name)


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


@pytest.mark.parametrize("how", ["pointer", "setting"])
def test_lm_studios_models_are_found_where_it_was_told_to_keep_them(how: str, machine: Path, tmp_path: Path) -> None:
    """Its bug tracker's issues 2015 and 1601."""
    home = tmp_path / "disk" / "lms"
    folder = home / "models" / "org" / "tiny"
    folder.mkdir(parents=True)
    file(folder / "t.gguf", header())
    if how == "pointer":
        (machine / ".lmstudio-home-pointer").write_text(f"{home}\n")
    else:
        (machine / ".lmstudio").mkdir()
        (machine / ".lmstudio" / "settings.json").write_text(json.dumps({"downloadsFolder": str(home / "models")}))
    assert "lmstudio/org/t" in {e.id for e in catalogue.entries(refresh=True)}


@pytest.mark.parametrize("place", ["models/org/name/Q4_0", ".internal/bundled-models/org/name"])
def test_lm_studios_models_are_found_in_a_folder_of_theirs_and_among_those_it_brings(place: str, machine: Path) -> None:
    folder = machine / ".lmstudio" / place
    folder.mkdir(parents=True)
    file(folder / "t.gguf", header())
    (machine / ".lmstudio" / "models" / "org" / "begun").mkdir(parents=True)
    (machine / ".lmstudio" / "models" / "org" / "begun" / "downloading_b.gguf.part").write_bytes(b"GGUF")
    assert "lmstudio/org/t" in {e.id for e in catalogue.entries(refresh=True)}
    assert told("") == ["b.gguf (LM Studio) was skipped: its download is not finished."]


@pytest.mark.parametrize("place", [".cache/modelscope/hub/models", ".cache/modelscope/hub", "disk/models"])
def test_what_modelscope_keeps_is_listed_by_its_name(
    place: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dot is "___" in its folders."""
    if place.startswith("disk"):
        monkeypatch.setenv("MODELSCOPE_CACHE", str(machine / "disk"))
    folder = machine / place / "Qwen" / "Qwen2___5-0___5B"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(CONFIG))
    whole(folder)
    (machine / place / "._____temp" / "Qwen" / "begun").mkdir(parents=True)
    (entry,) = (e for e in catalogue.entries(refresh=True) if e.family == "local")
    assert (entry.id, entry.label) == ("modelscope/Qwen/Qwen2.5-0.5B", "Qwen/Qwen2.5-0.5B (ModelScope)")
    assert catalogue.find("Qwen/Qwen2.5-0.5B") == entry and entry.files == {"hf": str(folder)} and not told("")
    (folder.parent / "begun").mkdir()
    (folder.parent / "begun" / "model.safetensors.incomplete").write_bytes(b"x")
    catalogue.entries(refresh=True)
    assert told("") == ["model.safetensors (ModelScope) was skipped: its download is not finished."]


@pytest.mark.parametrize("content", [b"", b"\xff\0", b"[", b"[]", b'{"downloadsFolder": 5}', b"x" * 5000])
def test_what_lm_studio_says_of_its_folders_may_be_anything(content: bytes, machine: Path) -> None:
    (machine / ".lmstudio").mkdir()
    (machine / ".lmstudio" / "settings.json").write_bytes(content)
    (machine / ".lmstudio-home-pointer").write_bytes(content)
    assert catalogue.entries(refresh=True)[0].family == "embedded" and not told("")


def test_what_llama_cpp_has_begun_to_download_is_told(machine: Path) -> None:
    cache = machine / ".cache" / "llama.cpp"
    cache.mkdir(parents=True)
    (cache / "org_m.gguf.downloadInProgress").write_bytes(b"GGUF")
    catalogue.entries(refresh=True)
    assert told("") == ["org_m.gguf (llama.cpp) was skipped: its download is not finished."]


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


# ---------------------------------------------------------------- as Ollama keeps and calls them


@pytest.fixture
def blobs(machine: Path) -> Path:
    """Of Ollama, with a whole model called sha256-good."""
    place = machine / ".ollama" / "models" / "blobs"
    place.mkdir(parents=True)
    file(place / "sha256-good", header())
    return place


def manifest(machine: Path, name: str, *layers: tuple[str, str], **more: object) -> Path:
    """Of layers (kind, digest); name: registry/namespace/model/tag. more: of each layer."""
    place = machine / ".ollama" / "models" / "manifests" / name
    place.parent.mkdir(parents=True, exist_ok=True)
    start = "application/vnd.ollama.image"
    found = [{"mediaType": f"{start}.{kind}", "digest": f"sha256:{of}", **more} for kind, of in layers]
    place.write_text(json.dumps({"schemaVersion": 2, "layers": found}))
    return place


@pytest.mark.parametrize(
    ("place", "name"),
    [
        ("registry.ollama.ai/library/qwen3/0.6b", "qwen3:0.6b"),
        ("registry.ollama.ai/me/qwen3/latest", "me/qwen3:latest"),
        ("registry.company.com/team/qwen3/latest", "registry.company.com/team/qwen3:latest"),
        ("registry.company.com/library/qwen3/latest", "registry.company.com/library/qwen3:latest"),
        ("localhost:5000/library/qwen3/latest", "localhost:5000/library/qwen3:latest"),
        ("hf.co/Qwen/Qwen3-0.6B-GGUF/Q8_0", "hf.co/Qwen/Qwen3-0.6B-GGUF:Q8_0"),
        ("Registry.Ollama.AI/Library/qwen3/latest", "qwen3:latest"),
    ],
)
def test_an_ollama_model_is_called_as_ollama_calls_it(place: str, name: str, machine: Path, blobs: Path) -> None:
    """Name.DisplayShortest of Ollama: only its own registry is left out, and only there the namespace library."""
    manifest(machine, place, ("model", "good"))
    assert [e.label for e in catalogue.entries(refresh=True) if e.family == "local"] == [f"{name} (Ollama)"]


def test_an_ollama_model_is_found_by_the_name_that_ollama_runs_it_by(machine: Path, blobs: Path) -> None:
    manifest(machine, "registry.ollama.ai/library/llama3.2/latest", ("model", "good"))
    catalogue.entries(refresh=True)
    for name in ("llama3.2", "llama3.2:latest", "Llama3.2", "LLAMA3.2:Latest"):
        assert catalogue.find(name).id == "ollama/llama3.2:latest"


def test_a_blob_of_an_older_ollama_has_a_colon_in_its_name(machine: Path, blobs: Path) -> None:
    (blobs / "sha256-good").rename(blobs / "sha256:good")
    manifest(machine, "registry.ollama.ai/library/m/latest", ("model", "good"))
    assert [e.id for e in catalogue.entries(refresh=True) if e.family == "local"] == ["ollama/m:latest"]


def test_llama_cpps_cache_on_a_mac(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """fs_get_cache_directory of llama.cpp."""
    place = machine / "Library" / "Caches" / "llama.cpp"
    place.mkdir(parents=True)
    file(place / "m.gguf", header())
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "local"]
    monkeypatch.setattr("core.models.places.sys.platform", "darwin")
    assert [e.id for e in catalogue.entries(refresh=True) if e.family == "local"] == ["llama.cpp/m"]


def test_two_names_of_one_ollama_model_both_find_it(machine: Path, blobs: Path) -> None:
    for tag in ("1b", "latest"):
        manifest(machine, f"registry.ollama.ai/library/m/{tag}", ("model", "good"))
    listed = [e for e in catalogue.entries(refresh=True) if e.family == "local"]
    assert [e.id for e in listed] == ["ollama/m:1b"]
    assert catalogue.find("ollama/m:latest") == catalogue.find("ollama/m:1b") == listed[0]
    assert catalogue.find(str(blobs / "sha256-good")) == listed[0]
    (blobs / "sha256-good").unlink()
    with pytest.raises(ExplorerError, match="There is no model called 'ollama/m:latest'"):
        catalogue.find("ollama/m:latest")


@pytest.mark.parametrize(
    ("kinds", "why"),
    [
        (("adapter", "template"), "it is an adapter (LoRA), without the model that it changes"),
        (("tensor; name=blk.0.attn_q; dtype=F16",), "its weights are single tensors, not a GGUF"),
        (("license; name=a.model", "params"), "it runs in the cloud only"),
    ],
)
def test_what_of_ollama_is_no_model_is_told(kinds: tuple[str, ...], why: str, machine: Path, blobs: Path) -> None:
    """A kind of layer may have parameters (server/internal/manifest of Ollama)."""
    manifest(machine, "registry.ollama.ai/library/m/latest", *((kind, "good") for kind in kinds))
    manifest(machine, "hf.co/o/m/Q4/x", ("model", "good"))  # a level too deep, which Ollama passes over
    catalogue.entries(refresh=True)
    assert told("") == [f"m:latest (Ollama) was skipped: {why}."]


@pytest.mark.parametrize("beside", ["good", "clip"])
def test_a_projector_or_the_same_file_beside_an_ollama_model_is_no_second_one(
    beside: str, machine: Path, blobs: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(blobs / "sha256-clip", header({**LLAMA, "general.architecture": "clip"}))
    manifest(machine, "registry.ollama.ai/library/m/latest", ("model", beside), ("model", "good"))
    monkeypatch.setenv("OLLAMA_MODELS", f' "{blobs.parent}"')  # as Ollama reads it, without the quotes
    (entry,) = (e for e in catalogue.entries(refresh=True) if e.family == "local")
    assert entry.files == {"gguf": str(blobs / "sha256-good")} and not told("")


def test_what_ollama_did_not_keep_whole_is_told(machine: Path, blobs: Path) -> None:
    n = (blobs / "sha256-good").stat().st_size
    (blobs / "sha256-cut").write_bytes((blobs / "sha256-good").read_bytes()[:-1000])
    (blobs / "sha256-gone").symlink_to("nowhere")
    library = "registry.ollama.ai/library"
    manifest(machine, f"{library}/whole/latest", ("model", "good"), size=n)
    manifest(machine, f"{library}/cut/latest", ("model", "cut"), size=n)
    manifest(machine, f"{library}/many/latest", ("model", "good"), ("model", "cut"))
    manifest(machine, f"{library}/gone/latest", ("model", "gone"))
    manifest(machine, f"{library}/whole/.DS_Store")
    for i, part in enumerate(split(machine)):
        part.rename(blobs / f"sha256-part{i}")
        manifest(machine, f"{library}/part/{i}", ("model", f"part{i}"))
    assert [e.id for e in catalogue.entries(refresh=True) if e.family == "local"] == ["ollama/whole:latest"]
    assert told("") == [
        f"cut:latest (Ollama) was skipped: its file has {n - 1000:,} bytes instead of {n:,}.",
        "gone:latest (Ollama) was skipped: its file is not among the blobs.",
        "many:latest (Ollama) was skipped: its weights are in 2 files, whose names say no order.",
        "part:0 (Ollama) was skipped: its file is part 1 of 3 of a split model, without the others.",
        "part:1 (Ollama) was skipped: its file is part 2 of 3 of a split model, without the others.",
        "part:2 (Ollama) was skipped: its file is part 3 of 3 of a split model, without the others.",
    ]


# ---------------------------------------------------------------- as the hub's library keeps them


def snapshot(machine: Path, repo: str, revision: str = "0a") -> Path:
    folder = machine / ".cache" / "huggingface" / "hub" / f"models--{repo.replace('/', '--')}" / "snapshots" / revision
    folder.mkdir(parents=True)
    return folder


def test_a_gguf_whose_file_is_gone_is_a_link_that_leads_nowhere(machine: Path) -> None:
    (snapshot(machine, "org/one") / "m.gguf").symlink_to("../../blobs/none")
    parts = snapshot(machine, "org/two")
    file(parts / "m-00001-of-00002.gguf", header({**LLAMA, "split.no": 0, "split.count": 2}))
    (parts / "m-00002-of-00002.gguf").symlink_to("../../blobs/none")
    catalogue.entries(refresh=True)
    assert told("org/") == [
        "org/one (Hugging Face cache) was skipped: m.gguf is a link that leads nowhere.",
        "org/two (Hugging Face cache) was skipped: m-00002-of-00002.gguf is a link that leads nowhere.",
    ]


@pytest.mark.parametrize("begun", ["f" * 64 + ".incomplete", "f" * 64 + ".1a2b3c4d.incomplete", "f.chunked.part"])
def test_shards_that_are_still_to_come_are_told_so(begun: str, machine: Path) -> None:
    """The cache keeps what has begun among its blobs, huggingface_hub and hf-hub under names of their own."""
    folder = snapshot(machine, "org/m")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    safetensors(folder / shards[0], {"a": (2, 2)})
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict(zip("ab", shards, strict=True))})
    )
    (folder.parents[1] / "blobs").mkdir()
    (folder.parents[1] / "blobs" / begun).write_bytes(b"x")
    catalogue.entries(refresh=True)
    (line,) = told("org/m")
    assert "lacks 1 of 2 weight files" in line and line.endswith("and a download into it is not finished.")


def test_a_projector_alone_is_called_one(machine: Path) -> None:
    file(snapshot(machine, "org/m") / "mmproj-F16.gguf", header({**LLAMA, "general.architecture": "clip"}))
    catalogue.entries(refresh=True)
    (line,) = told("org/m")
    assert line.endswith("mmproj-F16.gguf holds a projector (vision or audio) and no language model.")


def test_a_revision_without_weights_does_not_hide_the_one_that_has_them(machine: Path) -> None:
    for revision in ("old", "new"):
        folder = snapshot(machine, "org/m", revision)
        (folder / "config.json").write_text(json.dumps(CONFIG))
    whole(folder.with_name("old"))
    (folder.parents[1] / "refs").mkdir()
    (folder.parents[1] / "refs" / "main").write_text("new")
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "hub"]
    assert told("org/m") == [
        "org/m (Hugging Face cache) was skipped: its current revision has no weights here, and old has."
    ]
    assert catalogue.find(str(folder.with_name("old"))).files == {"hf": str(folder.with_name("old"))}


def test_a_tokenizer_that_was_fetched_alone_is_no_model_and_no_trouble(machine: Path) -> None:
    folder = snapshot(machine, "org/m")
    (folder / "config.json").write_text(json.dumps(CONFIG))
    (folder / "tokenizer.json").write_text("{}")
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "hub"] and not told("org/m")


def test_files_below_and_exports_are_found_in_a_repository(machine: Path) -> None:
    below = snapshot(machine, "org/deep") / "quantized" / "Q8_0"
    below.mkdir(parents=True)
    file(below / "m.gguf", header())
    for repo, name in (("org/onnx", "model.onnx"), ("org/web", "onnx/model_q4.onnx")):
        folder = snapshot(machine, repo)
        (folder / "config.json").write_text(json.dumps(CONFIG))
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"x")
    hub = {e.id: e.files for e in catalogue.entries(refresh=True) if e.family == "hub"}
    assert hub == {
        "org/deep": {"gguf": str(below / "m.gguf")},
        "org/onnx": {"onnx": str(folder.parents[2] / "models--org--onnx/snapshots/0a")},
    }
    assert told("org/web")[0].endswith(
        "its weights as onnx/model_q4.onnx, and only a model.onnx beside config.json is read."
    )


def sentence_encoder(folder: Path, inside: str) -> Path:
    """A model of sentence-transformers. inside: the folder of its transformer, "" where it is the model's own."""
    place = folder / inside
    place.mkdir(parents=True, exist_ok=True)
    (place / "config.json").write_text(json.dumps(CONFIG))
    whole(place)
    steps = {inside: "Transformer", "1_Pooling": "Pooling", "2_Dense": "Dense"}
    listed = [{"path": path, "type": f"sentence_transformers.models.{kind}"} for path, kind in steps.items()]
    (folder / "modules.json").write_text(json.dumps(listed))
    for step in ("1_Pooling", "2_Dense"):
        (folder / step).mkdir()
        (folder / step / "config.json").write_text(json.dumps({"in_features": 8}))
    safetensors(folder / "2_Dense" / "model.safetensors", {"linear.weight": (16, 8)})
    return folder


@pytest.mark.parametrize("inside", ["", "0_Transformer"])
def test_the_steps_behind_a_sentence_encoder_are_no_models(inside: str, machine: Path, tmp_path: Path) -> None:
    """EmbeddingGemma's 2_Dense has a config.json and weights, too; older ones have the model itself in a folder."""
    model = sentence_encoder(tmp_path / "mine" / "encoder", inside)
    sentence_encoder(snapshot(machine, "org/encoder"), inside)
    catalogue.add_folder(str(tmp_path / "mine"))
    assert not [p for p in catalogue.problems() if "encoder" in p]
    found = {e.id: e.files for e in catalogue.entries()}
    assert found[f"encoder/{inside}".rstrip("/")] == {"hf": str(model / inside)}
    assert found["org/encoder"]["hf"].endswith(f"snapshots/0a/{inside}".rstrip("/"))


def test_a_repository_with_weights_in_its_folders_alone_is_told(machine: Path) -> None:
    pipeline = snapshot(machine, "org/pictures")
    (pipeline / "model_index.json").write_text("{}")
    (pipeline / "unet").mkdir()
    safetensors(pipeline / "unet" / "diffusion_pytorch_model.safetensors", {"a": (4, 4)})
    catalogue.entries(refresh=True)
    assert told("org/pictures")[0].endswith("holds a pipeline for images, and no language model.")


@pytest.mark.parametrize("name", ["HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE"])
def test_the_caches_place_is_read_as_the_hubs_library_reads_it(
    name: str, machine: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file(snapshot(machine, "org/m") / "m.gguf", header())
    monkeypatch.setenv("DISK", str(machine / ".cache"))
    monkeypatch.setenv("HF_HOME", "/nowhere")
    monkeypatch.setenv(name, "$DISK/huggingface/hub")
    assert "org/m" in {e.id for e in catalogue.entries(refresh=True)}


# ---------------------------------------------------------------- in a list


@pytest.mark.parametrize(
    "name",
    ["a\nb", "a\rb", "a\vb", "a\u2028b", "a\u202eb", "**a** [b](http://c) `d`", "<img src=x>", "$x$", "-x", "#1"],
)
def test_a_name_of_strange_characters_is_one_line_of_every_list(name: str, tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    file(mine / f"{name.replace('/', ':')}.gguf", header())
    (mine / f"{name.replace('/', ':')}-bad.gguf").write_bytes(b"no model of any kind, but words")
    catalogue.add_folder(str(mine))
    (entry,) = (e for e in catalogue.entries(refresh=True) if e.family == "local")
    assert catalogue.find(entry.id) == entry and entry.label == name.replace("/", ":")
    (trouble,) = (p for p in catalogue.problems() if str(mine) in p)
    done = CliRunner().invoke(cli, ["models"])
    lines = [line for line in done.stdout.splitlines() if line.startswith(entry.id[:1])]
    shown = one_line(entry.id)
    assert len(shown.splitlines()) == 1
    assert done.exit_code == 0 and any(line.startswith(f"{shown}  ") for line in lines), done.stdout
    assert f"skipped: {trouble}" in done.stderr.splitlines()


BARE = json.dumps({"model_type": "llama"}).encode()
INDEX = json.dumps({"weight_map": {"lm_head.weight": "model-00001-of-00001.safetensors"}}).encode()
FOREIGN = {  # what a repository holds -> what is told of it
    "OpenVINO": {"config.json": BARE, "openvino_model.xml": b"<net/>", "openvino_model.bin": bytes(64)},
    "CTranslate2": {"config.json": b"{}", "model.bin": b"\x06\0\0\0\x10\0TransformerSpec\0" + bytes(64)},
    "MLC LLM": {"mlc-chat-config.json": b"{}", "params_shard_0.bin": bytes(64), "ndarray-cache.json": b"{}"},
    "NumPy": {"config.json": BARE, "weights.npz": b"PK\3\4"},
    "TensorFlow": {"config.json": BARE, "tf_model.h5": b"\x89HDF"},
    "Flax": {"config.json": BARE, "flax_model.msgpack": b"\x80"},
    "ExecuTorch": {"config.json": BARE, "model.pte": b"x"},
    "Core ML": {"config.json": BARE, "model.mlpackage/Manifest.json": b"{}"},
    "LiteRT-LM": {"model.litertlm": b"LITERTLM"},
    "MediaPipe": {"gemma.task": b"PK\3\4"},
    "RKLLM": {"model.rkllm": b"x"},
    "NeMo": {"model.nemo": b"x"},
    "llamafile": {"model.llamafile": b"MZqFpD"},
    "ONNX Runtime GenAI": {"cpu/int4/genai_config.json": b"{}", "cpu/int4/model.onnx": b"\x08"},
    "a GGML file of 2023": {"ggml-model-q4_0.bin": b"tjgg" + bytes(64)},
    "a pickle checkpoint": {"original/consolidated.00.pth": b"PK\3\4", "original/params.json": b"{}"},
    "lacks 1 of 1 weight files": {"config.json": BARE, "model.safetensors.index.json": INDEX},
}


@pytest.mark.parametrize("words", FOREIGN)
def test_weights_of_another_program_are_told_as_whose_they_are(words: str, machine: Path) -> None:
    """Not every .bin is a pickle, and a repository of the cache is never passed over without a word."""
    folder = snapshot(machine, "org/name")
    for name, content in FOREIGN[words].items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "hub"]
    (line,) = told("org/name")
    assert line.startswith("org/name (Hugging Face cache) was skipped: ") and words in line
    assert ("pickle" in line) == (words == "a pickle checkpoint")


@pytest.mark.parametrize("link", [b"../../blobs/" + b"b" * 64, b"!<symlink>\xff\xfe.\0.\0"], ids=["text", "Cygwin"])
def test_a_link_that_was_copied_as_text_is_called_so(link: bytes, machine: Path) -> None:
    """What a cache holds after it was copied to a file system, or by a program, that knows no links."""
    for repo, name in (("org/one", "m.gguf"), ("org/two", "model.safetensors")):
        folder = snapshot(machine, repo)
        (folder / "config.json").write_bytes(BARE)
        (folder / name).write_bytes(link)
    assert not [e for e in catalogue.entries(refresh=True) if e.family == "hub"]
    for line, name in zip(told("org/"), ("m.gguf", "model.safetensors"), strict=True):
        assert line.endswith(f"was skipped: {name} in 0a is a link that was copied as text, not the file itself.")
    (folder / "config.json").write_bytes(link)
    with pytest.raises(ExplorerError, match=r"config\.json in 0a is a link that was copied as text"):
        catalogue.find(str(folder / "config.json"))


@pytest.mark.parametrize(
    ("blob", "empty", "why"),
    [
        ("a" * 64, True, "its files are there, but no snapshot that links to them"),
        ("a" * 64, False, "its files are there, but no snapshot that links to them"),
        ("a" * 64 + ".incomplete", False, "its download is not finished"),
    ],
)
def test_a_repository_without_a_snapshot_is_told(blob: str, empty: bool, why: str, machine: Path) -> None:
    """Issue 10 of hfhub, where links could not be made; and a first file that has not arrived yet."""
    folder = snapshot(machine, "org/name")
    if not empty:
        folder.rmdir()
    place = folder.parent.parent / "blobs"
    place.mkdir()
    (place / blob).write_bytes(b"x")
    catalogue.entries(refresh=True)
    assert told("org/name") == [f"org/name (Hugging Face cache) was skipped: {why}."]
