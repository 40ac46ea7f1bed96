"""Unusual files of the kinds that the cases stand for, made here from one small model: each gives the answer of that
model as it is, or one sentence with its next step. Whole ways of a run: catalogue, check, conversion, four tokens."""

from __future__ import annotations

import gzip
import json
import os
import re
import shutil
import signal
import tarfile
import urllib.parse
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.cli import cli
from core.models import catalogue, formats, hf_to_gguf, spec
from core.runs.exit_reason import explained
from core.types import Generate, Request
from hardware.errors import ExplorerError
from tests.models.test_weight_files import CONFIG, shards, whole
from tests.support import elsewhere
from tests.support.cases import answered, asked
from tests.support.gguf_bytes import edited
from tests.support.gguf_models import tiny_gguf
from tests.support.progress import silent
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


def stored(folder: Path, changed: Callable[[dict[str, Any]], dict[str, Any]], metadata: dict[str, str] | None) -> Path:
    """The folder with its weights changed. metadata: of the file."""
    from safetensors.numpy import load_file, save_file

    file = folder / "model.safetensors"
    save_file(changed(load_file(file)), file, metadata=metadata)
    return folder


def no_word_of_its_writer(folder: Path) -> Path:
    return stored(folder, dict, None)


def written_by_mlx(folder: Path) -> Path:
    return stored(folder, dict, {"format": "mlx"})


def frequencies_beside(folder: Path) -> Path:
    """The first LLaMA stored what its rotation computes."""
    import numpy as np

    more = {f"model.layers.{i}.self_attn.rotary_emb.inv_freq": np.ones(8, np.float32) for i in range(2)}
    return stored(folder, lambda tensors: tensors | more, {"format": "pt"})


def an_adapter_beside(folder: Path) -> Path:
    """A model that adapters were trained for, with one of them in its folder and one below."""
    (folder / "checkpoint-7").mkdir()
    for place in (folder, folder / "checkpoint-7"):
        change(place / "adapter_config.json", base_model_name_or_path="own/own", modules_to_save=["lm_head"])
        (place / "adapter_model.safetensors").write_bytes(bytes(8))
    return folder


def its_makers_copy_beside(folder: Path) -> Path:
    shutil.copyfile(folder / "model.safetensors", folder / "consolidated.safetensors")
    (folder / "original").mkdir()
    (folder / "original" / "consolidated.00.pth").write_bytes(b"PK")
    change(folder / "params.json", dim=64)
    return folder


def names_of_nobody_in_the_index(folder: Path) -> Path:
    (folder / "model.safetensors").rename(folder / "model-00001-of-00001.safetensors")
    index = {"weight_map": {"model.of.old": "model-00001-of-00001.safetensors"}, "metadata": {"total_size": 1}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def tied_by_its_word_alone(folder: Path) -> Path:
    """It says that its head is its table, and stores another (transformers' pull request 42612): both count."""
    change(folder / "config.json", tie_word_embeddings=True)
    return folder


def ends_in_a_list_in_a_list(folder: Path) -> Path:
    change(folder / "generation_config.json", eos_token_id=[262, [263]])
    return folder


def sampling_in_its_settings(folder: Path) -> Path:
    change(folder / "generation_config.json", do_sample=True, temperature=0.6, top_k=20, repetition_penalty=1.3)
    return folder


def cache_quantized(folder: Path) -> Path:
    """Its cache alone, by compressed-tensors, with the scales of keys and values (its pull request 135)."""
    import numpy as np

    scheme = {"num_bits": 8, "type": "float", "strategy": "tensor"}
    groups = {"group_0": {"targets": [], "weights": None}}
    declared = {"quant_method": "compressed-tensors", "kv_cache_scheme": scheme, "config_groups": groups}
    change(folder / "config.json", quantization_config=declared)
    names = [f"model.layers.{i}.self_attn.{scale}" for i in range(2) for scale in ("k_scale", "v_proj.output_scale")]
    return stored(folder, lambda ts: ts | {n: np.ones(1, np.float32) for n in names}, {"format": "pt"})


def texts_cut_off(folder: Path) -> Path:
    """By what a training left in its tokenizer.json."""
    content = json.loads((folder / "tokenizer.json").read_text())
    content["truncation"] = {"direction": "Right", "max_length": 2, "strategy": "LongestFirst", "stride": 0}
    content["padding"] = {"strategy": {"Fixed": 32}, "direction": "Right", "pad_to_multiple_of": None, "pad_id": 0}
    content["padding"] |= {"pad_type_id": 0, "pad_token": "<|endoftext|>"}
    (folder / "tokenizer.json").write_text(json.dumps(content))
    return folder


WORKS: tuple[Callable[[Path], Path | str], ...] = (
    *(strange_name, quoted, address, hub_repository, link_to_a_folder, one_of_its_files),
    *(weights_under_a_name_of_their_own, a_single_shard_without_an_index, a_folder_with_a_models_ending),
    *(strange_keys, dtype_by_part, dtype_of_nothing_stored, double_precision),
    *(lines_of_windows, unknown_tokenizer_class, only_a_tokenizer_file, ends_as_text, copied_by_systems),
    *(no_word_of_its_writer, written_by_mlx, frequencies_beside, an_adapter_beside, its_makers_copy_beside),
    *(names_of_nobody_in_the_index, tied_by_its_word_alone, ends_in_a_list_in_a_list, sampling_in_its_settings),
    *(cache_quantized, texts_cut_off),
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


def scaled_by_its_older_name(folder: Path) -> Path:
    rope = {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0}
    change(folder / "config.json", drop=("rope_parameters",), **rope)
    return folder


def head_of_its_own_table(folder: Path) -> Path:
    """A head that is stored again and is the table."""

    def copied(tensors: dict[str, Any]) -> dict[str, Any]:
        return tensors | {"lm_head.weight": tensors["model.embed_tokens.weight"].copy()}

    change(folder / "config.json", tie_word_embeddings=True)
    return stored(folder, copied, {"format": "pt"})


@pytest.mark.parametrize("make", [scaled_by_its_older_name, head_of_its_own_table])
def test_another_model_is_the_same_in_both(make: Callable[[Path], Path], folder: Path, tmp_path: Path) -> None:
    path = make(folder)
    here, there = answer("pytorch", path), answer("llama_cpp", path)
    assert here.get("new") == there.get("new") != answer("pytorch", hf_folder(tmp_path))["new"] and here["new"]
    tied = make is head_of_its_own_table
    assert spec.read(path, "hf").n_params == spec.read(hf_folder(tmp_path), "hf").n_params - 320 * 64 * tied


def test_blocks_that_the_configuration_does_not_count_are_told(folder: Path) -> None:
    change(folder / "config.json", num_hidden_layers=1)
    assert answer("pytorch", folder)["warnings"] == (
        "The files hold 1 block more than config.json counts, which does not run.",
    )


@pytest.mark.parametrize(
    "make", [hub_repository, weights_under_a_name_of_their_own, strange_name, cache_quantized, texts_cut_off]
)
def test_and_through_an_export(make: Callable[[Path], Path], folder: Path, tmp_path: Path) -> None:
    path = make(folder)
    found, known = answer("onnxruntime", path), answer("pytorch", path)
    assert found.get("new") == known["new"], found


TOOL = [{"name": name, "template": "{{ messages[0]['content'] }}"} for name in ("rag", "tool_use")]


@pytest.mark.parametrize("backend", ("pytorch", "llama_cpp"))
def test_templates_of_which_none_is_the_usual_one_are_told(backend: str, tmp_path: Path) -> None:
    found = answer(backend, tiny_gguf(tmp_path / "m.gguf", "llama", template=TOOL))
    assert found["text"] == "hello"
    assert (
        found["warnings"][0] == "The model has chat templates (rag, tool_use), but none called default: none is used."
    )


def test_equal_values_listed_for_every_block_are_one_value(tmp_path: Path) -> None:
    listed, plain = (tiny_gguf(tmp_path / f"{n}.gguf", "llama", per_block=n) for n in (True, False))
    known = answer("llama_cpp", plain)
    for backend in ("pytorch", "llama_cpp"):
        found = answer(backend, listed)
        assert (found.get("ids"), found.get("new")) == (known["ids"], known["new"]), found


def test_a_file_that_names_no_end_has_that_of_llama_cpp_in_every_backend(tmp_path: Path) -> None:
    """GPT-2's 11, whatever that token is; and the markers by their names."""
    file = tiny_gguf(tmp_path / "m.gguf", "llama", endless=True)
    here, there = answer("pytorch", file), answer("llama_cpp", file)
    assert here["ends"] == there["ends"] == [11, 256] and here["new"] == there["new"]


# ---------------------------------------------------------------- what a header says

LONG = Generate(prompt="hello there, this is a text of more than eight tokens", max_new_tokens=12)
# of small files whose answers these change: architecture, entries without its name
HEADERS: dict[str, tuple[str, dict[str, Any]]] = {
    "a factor without a kind is a linear one": ("llama", {"rope.scaling.factor": 4.0}),
    "and by its older name": ("qwen2", {"rope.scale_linear": 4.0}),
    "a kind that scales nothing": ("qwen3", {"rope.scaling.type": "none", "rope.scaling.factor": 4.0}),
    "another window": ("gemma3", {"attention.sliding_window": 4}),
    "no window": ("gemma3", {"attention.sliding_window": None}),
    "a window of nothing": ("gemma3", {"attention.sliding_window": 0}),
    "every third block sees all": ("gemma3", {"attention.sliding_window_pattern": 3}),
    "no block sees all": ("gemma3", {"attention.sliding_window_pattern": 0}),
    "one by one": ("gemma3", {"attention.sliding_window_pattern": [i % 2 == 0 for i in range(7)]}),
    "a base of its own in windows": ("gemma3", {"rope.freq_base_swa": 500.0}),
    "no bounds of scores": ("gemma2", {"attn_logit_softcapping": None, "final_logit_softcapping": None}),
    "no base": ("qwen3", {"rope.freq_base": None}),
    "no width of heads": ("qwen2", {"attention.key_length": None, "attention.value_length": None}),
}


def with_header(folder: Path, arch: str, entries: dict[str, Any]) -> Path:
    file = tiny_gguf(folder / "m.gguf", arch)
    file.write_bytes(edited(file.read_bytes(), {f"{arch}.{key}": value for key, value in entries.items()}))
    return file


@pytest.mark.parametrize("name", HEADERS)
def test_what_a_header_says_or_leaves_unsaid_is_what_llama_cpp_reads(name: str, tmp_path: Path) -> None:
    file = with_header(tmp_path, *HEADERS[name])
    here, there = asked("pytorch", file, LONG), asked("llama_cpp", file, LONG)
    assert here.get("new") == there.get("new") and len(there["new"]) == 12, (here, there)


ALONE = {  # what transformers has no word for
    "rope.scaling.attn_factor": ("llama", 1.5, "1.5"),
    "attention.causal": ("qwen3", False, "False"),
    "rope.dimension_count": ("gemma3", 8, "8"),
    "rope.freq_base_swa": ("gemma2", 500.0, "500.0"),
}


@pytest.mark.parametrize("key", ALONE)
def test_what_llama_cpp_alone_computes_is_left_to_it(key: str, tmp_path: Path) -> None:
    arch, value, shown = ALONE[key]
    file = with_header(tmp_path, arch, {key: value})
    here, there = asked("pytorch", file, LONG), asked("llama_cpp", file, LONG)
    words = (
        f"The file's '{arch}.{key}' is {shown}, which PyTorch and ONNX Runtime do not compute. Run it with llama.cpp."
    )
    assert here.get("refused") == words and len(there["new"]) == 12


def test_heads_for_keys_are_as_many_as_heads_where_no_entry_says_it(tmp_path: Path) -> None:
    """As in llama.cpp, and not the 32 of transformers' configuration of the family."""
    file = with_header(tmp_path, "qwen2", {"attention.head_count_kv": None})
    for backend in ("pytorch", "llama_cpp"):
        assert re.search(r"do not fit its header: .*k_proj has 2,080 .* 4,096", answer(backend, file)["refused"])


def test_an_entry_of_another_type_is_told_by_its_name(tmp_path: Path) -> None:
    found = answer("llama_cpp", with_header(tmp_path, "llama", {"rope.freq_base": 10000}))
    assert found["message"] == "m.gguf stores 'llama.rope.freq_base' as u32, and llama.cpp reads it only as f32."


ENDS = {  # what llama.cpp ends its process at
    "half of a head rotated": (
        "qwen2",
        {"rope.dimension_count": 8},
        "that a head rotates 8 numbers ('qwen2.rope.dimension_count'), but a head has 16, which qwen2 rotates as a "
        "whole",
    ),
    "half of a head of its own width": (
        "qwen3",
        {"rope.dimension_count": 16},
        "that a head rotates 16 numbers ('qwen3.rope.dimension_count'), but a head has 32, which qwen3 rotates as a "
        "whole",
    ),
    "more than a head has": (
        "gemma3",
        {"rope.dimension_count": 64},
        "that a head rotates 64 numbers ('gemma3.rope.dimension_count'), but a head has 32, which rotate in pairs",
    ),
    "an odd number": (
        "gemma2",
        {"rope.dimension_count": 7},
        "that a head rotates 7 numbers ('gemma2.rope.dimension_count'), but a head has 32, which rotate in pairs",
    ),
    "a window and a period of one": (
        "gemma3",
        {"attention.sliding_window_pattern": 1},
        "that blocks see a window of 8 tokens, but that none of them does",
    ),
    "a window and a list of none": (
        "gemma3",
        {"attention.sliding_window_pattern": [False] * 7},
        "that blocks see a window of 8 tokens, but that none of them does",
    ),
}


@pytest.mark.parametrize("name", ENDS)
def test_what_llama_cpp_ends_itself_at_is_refused_before(name: str, tmp_path: Path) -> None:
    arch, entries, words = ENDS[name]
    found = answer("llama_cpp", with_header(tmp_path, arch, entries))
    hint = "llama.cpp cannot run it: choose another conversion of the model."
    assert (found.get("message"), found.get("hint")) == (f"m.gguf says {words}.", hint)


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


def test_an_engine_that_ends_itself_is_no_reason_to_run_again() -> None:
    message, hint = explained(-signal.SIGABRT, "llama_cpp")
    assert message.startswith("llama.cpp ended itself") and "another backend" in hint


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
