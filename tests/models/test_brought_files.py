"""Unusual files of the kinds that the cases stand for, made here from one small model: each gives the answer of that
model as it is, or one sentence with its next step. Whole ways of a run: catalogue, check, conversion, four tokens."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tarfile
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.cli import cli
from core.errors import ExplorerError
from core.models import catalogue, formats, spec
from core.types import Generate
from tests.models.test_weight_files import CONFIG, shards, whole
from tests.support.cases import asked
from tests.support.tiny import hf_folder

pytestmark = pytest.mark.engine("pytorch")

HELLO = Generate(prompt="hello", max_new_tokens=4)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The small model in a folder called own."""
    return hf_folder(tmp_path).rename(tmp_path / "own")


def change(file: Path, drop: tuple[str, ...] = (), **values: Any) -> None:
    old = json.loads(file.read_text()) if file.is_file() else {}
    file.write_text(json.dumps({key: value for key, value in (old | values).items() if key not in drop}))


_plain: dict[str, dict[str, Any]] = {}  # backend -> what the model answers as it is


def answer(backend: str, path: Path | str) -> dict[str, Any]:
    return asked(backend, path, HELLO)


# ---------------------------------------------------------------- what works


def strange_name(folder: Path) -> Path:
    return folder.rename(folder.with_name("Mein Möðel 模型 (final) #2 100% 'neu'"))


def quoted(folder: Path) -> str:
    return f'"{folder}"'


def address(folder: Path) -> str:
    return "file://" + urllib.parse.quote(str(folder.rename(folder.with_name("with space ü"))))


def hub_repository(folder: Path) -> Path:
    """Links into blobs, as huggingface_hub keeps a repository."""
    repo = folder.parent / "models--Org--My-Model"
    snapshot, blobs = repo / "snapshots" / "0a1b", repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for i, file in enumerate(sorted(folder.iterdir())):
        shutil.copyfile(file, blobs / f"{i:040x}")
        (snapshot / file.name).symlink_to(Path("..") / ".." / "blobs" / f"{i:040x}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0a1b\n")
    return repo


def link_to_a_folder(folder: Path) -> Path:
    link = folder.with_name("link")
    link.symlink_to(folder, target_is_directory=True)
    (folder / "again").symlink_to(folder)  # and one that leads back
    return link


def one_of_its_files(folder: Path) -> Path:
    return folder / "model.safetensors"


def weights_under_a_name_of_their_own(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "pytorch_model.safetensors")
    return folder


def a_single_shard_without_an_index(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    return folder


def a_folder_with_a_models_ending(folder: Path) -> Path:
    (folder / "older.gguf").mkdir()
    return folder


def strange_keys(folder: Path) -> Path:
    change(
        folder / "config.json",
        **{
            "_name_or_path": 5,
            "architectures": None,
            "rope_scaling": None,
            "quantization_config": None,
            "": {"a": 1},
        },
        task_specific_params={"x": "y"},
        transformers_version="0.0.0.dev0",
        auto_map={"AutoModelForCausalLM": "modeling_own.Own"},
    )
    return folder


def dtype_by_part(folder: Path) -> Path:
    change(folder / "config.json", dtype={"": "float32"})
    return folder


def dtype_of_nothing_stored(folder: Path) -> Path:
    """config.json says bf16, the weights are fp32: what is stored counts."""
    change(folder / "config.json", dtype="bfloat16")
    return folder


def double_precision(folder: Path) -> Path:
    """Every weight in fp64, which holds fp32 without rounding."""
    from safetensors.torch import load_file, save_file

    file = folder / "model.safetensors"
    save_file({name: tensor.double() for name, tensor in load_file(file).items()}, file, metadata={"format": "pt"})
    return folder


def lines_of_windows(folder: Path) -> Path:
    for file in folder.glob("*.json"):
        file.write_bytes(file.read_bytes().replace(b"\n", b"\r\n"))
    return folder


def unknown_tokenizer_class(folder: Path) -> Path:
    change(folder / "tokenizer_config.json", tokenizer_class="NobodysTokenizerFast")
    return folder


def only_a_tokenizer_file(folder: Path) -> Path:
    """No tokenizer_config.json and no generation_config.json: what they say stands in config.json, too."""
    for name in ("tokenizer_config.json", "generation_config.json", "special_tokens_map.json"):
        (folder / name).unlink(missing_ok=True)
    return folder


def ends_as_text(folder: Path) -> Path:
    config = json.loads((folder / "config.json").read_text())
    change(folder / "generation_config.json", eos_token_id=str(config["eos_token_id"]))
    return folder


def copied_by_systems(folder: Path) -> Path:
    for name in (".DS_Store", "Thumbs.db", "._config.json", "desktop.ini"):
        (folder / name).write_bytes(b"\0\5\x16\7")
    return folder


WORKS: tuple[Callable[[Path], Path | str], ...] = (
    *(strange_name, quoted, address, hub_repository, link_to_a_folder, one_of_its_files),
    *(weights_under_a_name_of_their_own, a_single_shard_without_an_index, a_folder_with_a_models_ending),
    *(strange_keys, dtype_by_part, dtype_of_nothing_stored, double_precision),
    *(lines_of_windows, unknown_tokenizer_class, only_a_tokenizer_file, ends_as_text, copied_by_systems),
)
UNWRITTEN = {double_precision: "stored as F64, which cannot be written into a GGUF"}  # in llama.cpp


@pytest.mark.parametrize("backend", ("pytorch", "llama_cpp"))
@pytest.mark.parametrize("make", WORKS)
def test_an_unusual_folder_answers_as_the_plain_one(
    make: Callable[[Path], Path | str], backend: str, folder: Path, tmp_path: Path
) -> None:
    path = make(folder)
    if backend not in _plain:
        _plain[backend] = answer(backend, hf_folder(tmp_path))
    found = answer(backend, path)
    if backend == "llama_cpp" and make in UNWRITTEN:
        assert UNWRITTEN[make] in found["message"]
        return
    assert "refused" not in found, found
    same = ("text", "ids", "new", "ends")
    assert {key: found[key] for key in same} == {key: _plain[backend][key] for key in same} and len(found["new"]) == 4


@pytest.mark.parametrize("make", [hub_repository, weights_under_a_name_of_their_own, strange_name])
def test_and_through_an_export(make: Callable[[Path], Path], folder: Path, tmp_path: Path) -> None:
    path = make(folder)
    found, known = answer("onnxruntime", path), answer("pytorch", path)
    assert found.get("new") == known["new"], found


# ---------------------------------------------------------------- what is refused


def zipped(folder: Path) -> Path:
    with zipfile.ZipFile(folder.with_suffix(".zip"), "w") as archive:
        archive.write(folder / "config.json", "own/config.json")
    return folder.with_suffix(".zip")


def tarred(folder: Path) -> Path:
    with tarfile.open(folder.with_suffix(".tar"), "w") as archive:
        archive.add(folder, "own")
    return folder.with_suffix(".tar")


def zipped_gguf(folder: Path) -> Path:
    file = folder.with_name("m.gguf")
    file.write_bytes(gzip.compress(b"GGUF" + bytes(100)))
    return file


def one_folder_down(folder: Path) -> Path:
    outer = folder.with_name("outer")
    outer.mkdir()
    folder.rename(outer / "inner")
    return outer


def capitals(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "MODEL.SAFETENSORS")
    return folder


def capital_configuration(folder: Path) -> Path:
    (folder / "config.json").rename(folder / "Config.JSON")
    return folder


def trailing_comma(folder: Path) -> Path:
    text = (folder / "config.json").read_text().rstrip()
    (folder / "config.json").write_text(text.removesuffix("}").rstrip() + ",\n}\n")
    return folder


def commented(folder: Path) -> Path:
    (folder / "config.json").write_text("// by hand\n" + (folder / "config.json").read_text())
    return folder


def two_bytes_a_letter(folder: Path) -> Path:
    (folder / "config.json").write_bytes((folder / "config.json").read_text().encode("utf-16"))
    return folder


def marked(name: str) -> Callable[[Path], Path]:
    def byte_order_mark(folder: Path) -> Path:
        (folder / name).write_bytes(b"\xef\xbb\xbf" + (folder / name).read_bytes())
        return folder

    byte_order_mark.__name__ = f"byte_order_mark_in_{name.removesuffix('.json')}"
    return byte_order_mark


def comma_in_the_ends(folder: Path) -> Path:
    (folder / "generation_config.json").write_text('{"eos_token_id": [262, 263],}')
    return folder


def shards_without_an_index(folder: Path) -> Path:
    from safetensors.torch import load_file, save_file

    tensors = sorted(load_file(folder / "model.safetensors").items())
    (folder / "model.safetensors").unlink()
    for i in range(2):
        save_file(dict(tensors[i::2]), folder / f"model-0000{i + 1}-of-00002.safetensors", metadata={"format": "pt"})
    return folder


def larger_vocabulary(folder: Path) -> Path:
    change(folder / "config.json", vocab_size=352)
    return folder


def architecture_in_capitals(folder: Path) -> Path:
    change(folder / "config.json", model_type="Llama")
    return folder


def dtype_with_a_prefix(folder: Path) -> Path:
    change(folder / "config.json", drop=("dtype",), torch_dtype="torch.float32")
    return folder


def tie_as_text(folder: Path) -> Path:
    change(folder / "config.json", tie_word_embeddings="false")
    return folder


def positions_of_nobody(folder: Path) -> Path:
    change(folder / "config.json", rope_parameters={"rope_type": "nonsense", "rope_theta": 10000.0})
    return folder


def activation_of_nobody(folder: Path) -> Path:
    change(folder / "config.json", hidden_act="swooglu")
    return folder


def quantized_as_text(folder: Path) -> Path:
    change(folder / "config.json", quantization_config="int8")
    return folder


def pipeline_for_images(folder: Path) -> Path:
    (folder / "config.json").rename(folder / "model_index.json")
    (folder / "model.safetensors").unlink()
    return folder


def of_another(name: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        (folder / "model.safetensors").unlink()
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_bytes(b"\x89HDF")
        return folder

    make.__name__ = name
    return make


NOT_ONNX = "and only a model.onnx beside config.json is read"
REFUSED: dict[Callable[[Path], Path], str] = {
    zipped: r"own\.zip is no model file but a ZIP archive\. Unpack it",
    tarred: r"own\.tar is no model file but a tar archive\. Unpack it",
    zipped_gguf: r"m\.gguf is not a GGUF file but a gzip archive\. Unpack it",
    one_folder_down: "outer holds no model itself, but inner in it does. Choose .*/outer/inner",
    capitals: r"MODEL\.SAFETENSORS in own .* look for model\.safetensors\. Rename it to model\.safetensors",
    capital_configuration: r"Config\.JSON in own .* Rename it to config\.json",
    trailing_comma: r"config\.json in own is not valid JSON \(line \d+: .*\)\. Correct that line",
    commented: r"config\.json in own is not valid JSON \(line 1: ",
    two_bytes_a_letter: r"config\.json in own is not valid JSON\. Download it again",
    marked("config.json"): r"config\.json in own begins with a byte order mark.* Save it as UTF-8 without",
    marked("tokenizer_config.json"): r"tokenizer_config\.json in own begins with a byte order mark",
    marked("tokenizer.json"): r"tokenizer\.json is text with a byte order mark",
    comma_in_the_ends: r"generation_config\.json in own is not valid JSON \(line 1",
    shards_without_an_index: r"2 files without model\.safetensors\.index\.json.* Download the model\.safetensors",
    larger_vocabulary: "The weights of own have a table of 320 tokens, and config.json says 352",
    architecture_in_capitals: "know the architecture 'Llama', .* Did you mean llama",
    dtype_with_a_prefix: "calls its number format 'torch.float32', which .* Write 'float32' there",
    tie_as_text: "'tie_word_embeddings' is the text 'false', but must be true or false",
    positions_of_nobody: "PyTorch cannot open own: transformers knows no 'nonsense'",
    activation_of_nobody: "swooglu",
    quantized_as_text: "The quantization of this configuration is not of the form",
    pipeline_for_images: "own holds a pipeline for images, and no language model",
    of_another("weights.npz"): r"weights\.npz holds weights in NumPy's form",
    of_another("tf_model.h5"): r"tf_model\.h5 holds weights in TensorFlow's form",
    of_another("flax_model.msgpack"): r"flax_model\.msgpack holds weights in Flax's form",
    of_another("model_quantized.onnx"): f"weights as model_quantized.onnx, {NOT_ONNX}",
    of_another("onnx/model_q4.onnx"): f"weights as onnx/model_q4.onnx, {NOT_ONNX}",
}
# an exception's name is no reason, and neither is what a library writes of its insides
INSIDES = re.compile(r"\w+Error\b|Traceback|object has no attribute|NoneType|<class|line \d+, in|https?://")


@pytest.mark.parametrize("make", REFUSED)
def test_what_cannot_run_is_one_sentence_with_its_next_step(make: Callable[[Path], Path], folder: Path) -> None:
    found = answer("pytorch", make(folder))
    assert "refused" in found, found
    assert re.search(REFUSED[make], found["refused"]), found
    assert found["message"].endswith(".") and found["hint"].endswith(".") and "\n" not in found["refused"]
    assert not INSIDES.search(found["refused"]), found


def test_a_byte_order_mark_stops_no_count(folder: Path) -> None:
    """What it costs is computed from the configuration; only the libraries that run it do not read it."""
    known = spec.read(folder, "hf")
    marked("config.json")(folder)
    found = spec.read(folder, "hf")
    assert (found.n_params, found.weight_bytes) == (known.n_params, known.weight_bytes)


def test_a_path_that_is_there_is_taken_as_it_is(tmp_path: Path) -> None:
    """Quotes can be part of a name."""
    own = tmp_path / '"own"'
    own.mkdir()
    (own / "config.json").write_text(json.dumps(CONFIG))
    whole(own)
    assert formats.files_of(own) == {"hf": str(own)}
    assert formats.place_of(str(own)) == own and formats.place_of(f" '{own}' ") == own
    assert formats.place_of(f"file://localhost{own}") == own
    with pytest.raises(ExplorerError, match="There is no file or folder"):
        catalogue.find("file:///nowhere/at/all")


def test_a_tool_folder_in_which_models_lie_is_searched_all_the_same(tmp_path: Path) -> None:
    """A folder that is called like a file hides neither what is in it nor what is beside it."""
    inner = tmp_path / "mine" / "nice.gguf"
    inner.mkdir(parents=True)
    (inner / "config.json").write_text(json.dumps(CONFIG))
    shards(inner)
    catalogue.add_folder(str(tmp_path / "mine"))
    assert [entry.label for entry in catalogue.found_in(str(tmp_path / "mine"))[0]] == ["nice.gguf"]
    os.mkfifo(tmp_path / "mine" / "pipe.gguf")
    catalogue.entries(refresh=True)
    assert [entry.label for entry in catalogue.found_in(str(tmp_path / "mine"))[0]] == ["nice.gguf"]


@pytest.mark.parametrize("command", [["work"], ["predict", "--device", "A100 SXM4 80GB"], ["run", "--prompt", "x"]])
@pytest.mark.parametrize("make", [zipped, capitals, trailing_comma, one_folder_down])
def test_the_command_line_says_the_same(make: Callable[[Path], Path], command: list[str], folder: Path) -> None:
    from click.testing import CliRunner

    done = CliRunner().invoke(cli, [*command, "--model", str(make(folder))], prog_name="python -m core")
    assert done.exit_code == 2 and re.search(REFUSED[make], " ".join(done.stderr.split())), done.output
    assert done.stdout == ""
