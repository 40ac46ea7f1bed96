"""What cannot run, made here from one small model: one sentence with its next step, on every way to it."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.cli import cli
from core.models import catalogue, formats, hf_to_gguf, spec
from core.types import Request
from hardware.errors import ExplorerError
from tests.models.test_weight_files import CONFIG, shards, whole
from tests.support import elsewhere
from tests.support.brought import HELLO, answer, change, stored
from tests.support.cases import answered
from tests.support.progress import silent

pytestmark = pytest.mark.engine("pytorch")


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


def stray_tensor(folder: Path) -> Path:
    """In a shard that was used again, under the name of one that the index puts elsewhere."""
    from safetensors.torch import load_file, save_file

    shards_without_an_index(folder)
    files = sorted(folder.glob("*.safetensors"))
    parts = [load_file(file) for file in files]
    places = {name: file.name for file, part in zip(files, parts, strict=True) for name in part}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": places}))
    name = next(name for name in parts[0] if name.endswith("up_proj.weight"))
    save_file(parts[1] | {name: parts[0][name] * 2}, files[1], metadata={"format": "pt"})
    return folder


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


def named_by(words: str) -> Callable[[Path], Path]:
    def make(folder: Path) -> Path:
        return stored(folder, lambda tensors: {words + n: t for n, t in tensors.items()}, {"format": "pt"})

    make.__name__ = f"named_{words.strip('._').replace('.', '_')}"
    return make


def integers_without_a_word(folder: Path) -> Path:
    name = "model.layers.0.mlp.up_proj.weight"
    return stored(folder, lambda tensors: tensors | {name: tensors[name].astype("int8")}, {"format": "pt"})


def scales_without_a_word(folder: Path) -> Path:
    """Quantized weights whose configuration was lost (AutoFP8, issue 11122 of llama.cpp)."""
    import torch
    from safetensors.torch import load_file, save_file

    tensors, name = load_file(folder / "model.safetensors"), "model.layers.0.mlp.up_proj.weight"
    tensors |= {name: tensors[name].to(torch.float8_e4m3fn), f"{name}_scale": torch.tensor(0.5)}
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def other_heads(folder: Path) -> Path:
    change(folder / "config.json", num_key_value_heads=4)
    return folder


def of_class(name: str) -> Callable[[Path], Path]:
    """A model that judges or embeds: no head."""

    def make(folder: Path) -> Path:
        change(folder / "config.json", architectures=[name])
        return stored(folder, lambda ts: {n: t for n, t in ts.items() if n != "lm_head.weight"}, {"format": "pt"})

    make.__name__ = name
    return make


def no_factor(folder: Path) -> Path:
    change(folder / "config.json", rope_parameters={"rope_type": "yarn", "rope_theta": 10000.0})
    return folder


def output_of_a_trainer(folder: Path) -> Path:
    for name in ("checkpoint-90", "checkpoint-1000"):
        shutil.copytree(folder, folder.with_name(name)).rename(folder / name)
    (folder / "model.safetensors").unlink()
    (folder / "training_args.bin").write_bytes(b"PK")
    return folder


def adapter_with_its_configuration(folder: Path) -> Path:
    """As unsloth saves it, and with modules that were trained whole."""
    change(folder / "adapter_config.json", base_model_name_or_path="own/base", modules_to_save=["lm_head"])
    (folder / "model.safetensors").rename(folder / "adapter_model.safetensors")
    return folder


def head_that_drafts(folder: Path) -> Path:
    """Of EAGLE: a block and a matrix, with a configuration of the whole model's class."""

    def block(tensors: dict[str, Any]) -> dict[str, Any]:
        own = {n.removeprefix("model."): t for n, t in tensors.items() if ".layers.0." in n}
        return own | {"fc.weight": tensors["lm_head.weight"]}

    change(folder / "config.json", num_hidden_layers=1)
    return stored(folder, block, {"format": "pt"})


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
    stray_tensor: r"up_proj\.weight lies in several files of own, .* from model-00002-of-00002\.safetensors instead of",
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
    named_by(
        "_orig_mod."
    ): r"finds 21 weights of own under no name .*: _orig_mod\.lm_head\.weight is to be called lm_h",
    named_by("module."): r"module\.lm_head\.weight is to be called lm_head\.weight\. Rename the tensors",
    named_by("base_model.model."): r"base_model\.model\.lm_head\.weight is to be called",
    named_by("language_model."): r"language_model\.lm_head\.weight is to be called",
    integers_without_a_word: r"up_proj\.weight in own is stored in integers \(I8\), and config\.json does not say",
    scales_without_a_word: r"leaves 1 of their scales unread \(model\.layers\.0\.mlp\.up_proj\.weight_scale\)",
    other_heads: r"do not fit its config\.json: blocks\.0\.attn\.k_proj has 2,048 numbers, and 4,096 by what that says",
    of_class("LlamaForSequenceClassification"): "are a LlamaForSequenceClassification, which has no head that writes",
    of_class("LlamaModel"): "are a LlamaModel, which has no head that writes text",
    no_factor: r"PyTorch cannot open own: Missing required keys in `rope_parameters` .*'factor'",
    output_of_a_trainer: r"no weights, and checkpoint-1000 in it has both\. Choose .*/own/checkpoint-1000",
    adapter_with_its_configuration: "own holds an adapter of own/base: it changes a base model",
    head_that_drafts: "The weights of 3 layers of own are missing, the first is embed",
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


def test_a_model_that_embeds_is_counted_and_not_run(tmp_path: Path) -> None:
    """EmbeddingGemma: Gemma 3 that reads both ways, without a head; run as a writer, it would answer with noise."""
    import transformers

    kinds = ["sliding_attention", "full_attention"]
    config = transformers.Gemma3TextConfig(
        hidden_size=32, intermediate_size=64, num_hidden_layers=2, num_attention_heads=2, num_key_value_heads=1,
        head_dim=16, vocab_size=320, sliding_window=8, layer_types=kinds, use_bidirectional_attention=True,
    )  # fmt: skip
    folder = tmp_path / "encoder"
    transformers.Gemma3TextModel(config).save_pretrained(folder)
    found = spec.read(folder, "hf")
    assert not found.causal and found.layers[-1].name == "final_norm"
    assert found.n_params == sum(p.numel() for p in transformers.Gemma3TextModel(config).parameters())
    for backend in ("pytorch", "llama_cpp"):
        assert answer(backend, folder)["message"] == "Autoregressive needs 'cache', which an encoder cannot do."
    request = Request(model=str(folder), backend="pytorch", task=HELLO)
    found = elsewhere.call("pytorch", answered, "pytorch", str(folder), "hf", request)
    assert found["message"] == "encoder embeds texts: it reads them both ways and writes none."
    with pytest.raises(ExplorerError, match="attention to what follows a token"):
        hf_to_gguf.convert(folder, tmp_path / "m.gguf", "Encoder", silent)


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
