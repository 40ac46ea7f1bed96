"""Unusual folders of the kinds that the cases stand for, made here from one small model: each answers as that model
as it is."""

from __future__ import annotations

import json
import shutil
import urllib.parse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from core.models import spec
from tests.support.brought import answer, change, stored
from tests.support.gguf_models import tiny_gguf
from tests.support.tiny import hf_folder

pytestmark = pytest.mark.engine("pytorch")

_plain: dict[str, dict[str, Any]] = {}  # backend -> what the model answers as it is


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
