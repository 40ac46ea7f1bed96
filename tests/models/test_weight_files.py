"""Each weight of a folder counts once; what is left over, missing, partial or an adapter is told apart."""

from __future__ import annotations

import itertools
import json
import struct
from collections.abc import Callable
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from core.analysis.work import kv_bytes_per_token, n_active_params
from core.models import catalogue, formats, places, weight_files
from core.models.spec import from_hf_folder
from hardware.errors import ExplorerError

CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 4,
}
SHAPES: dict[str, tuple[int, ...]] = {
    "model.embed_tokens.weight": (4, 8),
    "model.norm.weight": (8,),
    "lm_head.weight": (4, 8),
    **{f"model.layers.0.self_attn.{n}_proj.weight": (8, 8) for n in "qkvo"},
    "model.layers.0.mlp.gate_proj.weight": (16, 8),
    "model.layers.0.mlp.up_proj.weight": (16, 8),
    "model.layers.0.mlp.down_proj.weight": (8, 16),
    "model.layers.0.input_layernorm.weight": (8,),
    "model.layers.0.post_attention_layernorm.weight": (8,),
}
N = sum(map(prod, SHAPES.values()))
INDEX = "model.safetensors.index.json"


def safetensors(path: Path, shapes: dict[str, tuple[int, ...]], dtype: str = "F32") -> Path:
    size = {"F32": 4, "F16": 2}[dtype]
    header, at = {}, 0
    for name, shape in shapes.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + size * prod(shape)]}
        at += size * prod(shape)
    head = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(head)) + head + bytes(at))
    return path


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    own = tmp_path / "own"
    own.mkdir()
    (own / "config.json").write_text(json.dumps(CONFIG))
    return own


def whole(folder: Path, name: str = "model.safetensors", dtype: str = "F32") -> Path:
    return safetensors(folder / name, SHAPES, dtype)


def shards(folder: Path, n: int = 3, index: str | None = INDEX, stem: str = "model") -> list[Path]:
    names = list(SHAPES)
    own = [{name: SHAPES[name] for name in names[i::n]} for i in range(n)]
    files = [safetensors(folder / f"{stem}-{i + 1:05d}-of-{n:05d}.safetensors", part) for i, part in enumerate(own)]
    if index:
        weight_map = {name: file.name for file, part in zip(files, own, strict=True) for name in part}
        (folder / index).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return files


def heads_beside(folder: Path) -> str:
    whole(folder)
    safetensors(folder / "medusa_heads.safetensors", {"a": (4, 4)})
    return ""


def control(folder: Path) -> str:
    whole(folder)
    return ""


def stale_single(folder: Path) -> str:
    shards(folder)
    whole(folder)
    return INDEX


def stale_index(folder: Path) -> str:
    for file in shards(folder):
        file.unlink()
    whole(folder)
    return ""


def stale_shard(folder: Path) -> str:
    shards(folder)
    safetensors(folder / "model-00001-of-00002.safetensors", SHAPES)
    return ""


def consolidated(folder: Path) -> str:
    shards(folder)
    whole(folder, "consolidated.safetensors")
    return ""


def variant_beside(folder: Path) -> str:
    whole(folder)
    whole(folder, "model.fp16.safetensors", "F16")
    return ""


def adapter_beside(folder: Path) -> str:
    whole(folder)
    safetensors(folder / "adapter_model.safetensors", {"a": (4, 4)})
    return ""


def adapter_of_mlx_beside(folder: Path) -> str:
    whole(folder, "weights.safetensors")
    safetensors(folder / "adapters.safetensors", {"a": (4, 4)})
    return "weights.safetensors"


def no_index(folder: Path) -> str:
    shards(folder, index=None)
    return ""


def copied_by_a_mac(folder: Path) -> str:
    whole(folder)
    (folder / "._model.safetensors").write_bytes(b"\0" * 40)
    return ""


def variant_only(folder: Path) -> str:
    whole(folder, "model.fp32.safetensors")
    whole(folder, "model.zz.safetensors")
    return "model.fp32.safetensors"


def index_of_its_own(folder: Path) -> str:
    shards(folder, index="pytorch_model.safetensors.index.json", stem="pytorch_model")
    return "pytorch_model.safetensors.index.json"


def variant_in_shards(folder: Path) -> str:
    shards(folder, index="model.safetensors.index.fp32.json", stem="model.fp32")
    return "model.safetensors.index.fp32.json"


def in_a_folder(folder: Path) -> str:
    """Which transformers' get_checkpoint_shard_files joins to the model's own."""
    names = [f"./{file.name}" for file in shards(folder)[:2]]
    (folder / "more").mkdir()
    (folder / "model-00003-of-00003.safetensors").rename(folder / "more" / "model-00003-of-00003.safetensors")
    index = json.loads((folder / INDEX).read_text())
    places = dict(zip(SHAPES, itertools.cycle([*names, "more/model-00003-of-00003.safetensors"]), strict=False))
    (folder / INDEX).write_text(json.dumps(index | {"weight_map": places}))
    return ""


LAYOUTS = (
    *(control, in_a_folder, stale_single, stale_index, stale_shard, consolidated, variant_beside, adapter_beside),
    *(
        adapter_of_mlx_beside,
        heads_beside,
        no_index,
        copied_by_a_mac,
        variant_only,
        variant_in_shards,
        index_of_its_own,
    ),
)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_weight_counts_once(layout: Callable[[Path], str], folder: Path) -> None:
    explicit = layout(folder)
    spec = from_hf_folder(folder)
    assert (spec.n_params, spec.weight_bytes) == (N, 4 * N)
    entry = catalogue.find(str(folder))
    weights = weight_files.of(folder)
    stored = (*weights.files, *weights.heads)
    assert entry.size_bytes == sum(f.stat().st_size for f in stored) < 4 * N + 4096
    if layout is no_index:
        with pytest.raises(ExplorerError, match=r"3 files without model\.safetensors\.index\.json"):
            weight_files.told(SimpleNamespace(), folder)
        return
    config = weight_files.told(SimpleNamespace(), folder)
    assert getattr(config, "transformers_weights", "") == explicit


def test_what_lies_beside_is_told(folder: Path) -> None:
    whole(folder)
    assert catalogue.find(str(folder)).note == ""
    heads_beside(folder)
    whole(folder, "model.fp16.safetensors", "F16")
    assert catalogue.find(str(folder)).note == "Not read, beside the weights: model.fp16.safetensors."
    assert "Not read, beside the weights: model.fp16.safetensors." in from_hf_folder(folder).source
    (folder / "model.safetensors").unlink()
    assert "model.fp16.safetensors is read" in weight_files.of(folder).note or not weight_files.of(folder).note


def test_a_chosen_variant_is_named(folder: Path) -> None:
    variant_only(folder)
    assert "Of several variants of the weights, model.fp32.safetensors is read." in weight_files.of(folder).note


def test_a_tensor_that_two_shards_repeat_counts_once(folder: Path) -> None:
    files = shards(folder)
    safetensors(files[2], SHAPES)
    assert from_hf_folder(folder).weight_bytes == 4 * N


@pytest.mark.parametrize("whose", [0, 2])
def test_a_tensor_is_where_the_index_puts_it(whose: int, folder: Path) -> None:
    """vLLM's pull request 54230: a shard that was used again holds others' tensors, in another number format."""
    files = shards(folder)
    stray = next(name for name in list(SHAPES)[1::3] if len(SHAPES[name]) == 2)
    own = {name: SHAPES[name] for name in list(SHAPES)[whose::3]}
    safetensors(files[whose], own | {stray: SHAPES[stray]} | {"model.layers.9.mlp.up_proj.weight": (4, 4)}, "F16")
    spec = from_hf_folder(folder)
    right = {name: 2 if name in own else 4 for name in SHAPES}
    assert (spec.n_params, spec.weight_bytes) == (N, sum(right[n] * prod(shape) for n, shape in SHAPES.items()))


def dangling(folder: Path) -> Path:
    shards(folder)[1].unlink()
    (folder / "model-00002-of-00003.safetensors").symlink_to(folder / "gone")
    return folder


def dangling_single(folder: Path) -> Path:
    (folder / "model.safetensors").symlink_to(folder.parent / "blobs" / "gone")
    return folder


def pointer(folder: Path) -> Path:
    text = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n"
    (folder / "model.safetensors").write_text(text)
    return folder


def pointer_gguf(folder: Path) -> Path:
    (folder / "m.gguf").write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 5\n")
    return folder / "m.gguf"


def missing(folder: Path) -> Path:
    shards(folder)[1].unlink()
    return folder


def missing_without_index(folder: Path) -> Path:
    shards(folder, index=None)[2].unlink()
    return folder


def adapter_of_mlx_with_a_configuration(folder: Path) -> Path:
    """Trained into the folder of a model whose weights are elsewhere."""
    config = (folder / "config.json").read_text()
    adapter_of_mlx(folder)
    (folder / "adapters.safetensors").rename(folder / "0000100_adapters.safetensors")
    (folder / "config.json").write_text(config)
    return folder


def missing_of_many(folder: Path) -> Path:
    """DeepSeek's shards: five digits of six."""
    for file in shards(folder, index=None):
        file.rename(folder / file.name.replace("of-00003", "of-000003"))
    (folder / "model-00002-of-000003.safetensors").unlink()
    return folder


def missing_unpadded(folder: Path) -> Path:
    """Kimi's shards."""
    for i, file in enumerate(shards(folder, index=None)):
        file.rename(folder / f"model-{i + 1}-of-3.safetensors")
    (folder / "model-3-of-3.safetensors").unlink()
    return folder


def pointer_index(folder: Path) -> Path:
    pointer(folder).joinpath("model.safetensors").rename(folder / INDEX)
    return folder


def pointer_configuration(folder: Path) -> Path:
    pointer(folder).joinpath("model.safetensors").replace(folder / "config.json")
    whole(folder)
    return folder


def distributed(folder: Path) -> Path:
    """A checkpoint of a training on several processors."""
    (folder / "__0_0.distcp").write_bytes(b"PK")
    return folder


def in_progress(folder: Path) -> Path:
    """As llama.cpp calls what it downloads."""
    (folder / "model.safetensors.downloadInProgress").write_bytes(b"")
    return folder


def adapter_of_mlx(folder: Path) -> Path:
    """mlx-lm's issue 1119: a base and weights by other names."""
    (folder / "config.json").unlink()
    about = {"fine_tune_type": "lora", "num_layers": 16, "lora_parameters": {"rank": 8}, "model": "org/base-4bit"}
    (folder / "adapter_config.json").write_text(json.dumps(about))
    safetensors(folder / "adapters.safetensors", {"a": (4, 4)})
    return folder


def partial(folder: Path) -> Path:
    shards(folder)[1].rename(folder / "model-00002-of-00003.safetensors.incomplete")
    return folder


def partial_by_the_hub(folder: Path) -> Path:
    shards(folder)[1].unlink()
    begun = folder / ".cache" / "huggingface" / "download" / "x.incomplete"
    begun.parent.mkdir(parents=True)
    begun.write_bytes(b"")
    return folder


def only_begun(folder: Path) -> Path:
    (folder / "model.safetensors.part").write_bytes(b"")
    return folder


def empty(folder: Path) -> Path:
    (folder / "model.safetensors").write_bytes(b"")
    return folder


def no_configuration(folder: Path) -> Path:
    (folder / "config.json").unlink()
    whole(folder, "consolidated.safetensors")
    return folder


def adapter_in_a_pickle(folder: Path) -> Path:
    adapter(folder)
    (folder / "adapter_model.safetensors").rename(folder / "adapter_model.bin")
    return folder


def adapter(folder: Path) -> Path:
    (folder / "config.json").unlink()
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": "org/base"}))
    safetensors(folder / "adapter_model.safetensors", {"a": (4, 4)})
    return folder


def adapter_with_a_configuration(folder: Path) -> Path:
    config = (folder / "config.json").read_text()
    adapter(folder)
    (folder / "config.json").write_text(config)
    return folder


def odd_index(folder: Path) -> Path:
    whole(folder)
    (folder / INDEX).write_text(json.dumps({"weight_map": {"w": "../../model.safetensors"}}))
    return folder


FAULTS: dict[Callable[[Path], Path], str] = {
    dangling: r"model-00002-of-00003\.safetensors in own is a link to a file that is gone",
    dangling_single: r"model\.safetensors in own is a link to a file that is gone",
    pointer: r"model\.safetensors in own is a pointer of Git LFS",
    pointer_gguf: r"m\.gguf in own is a pointer of Git LFS",
    missing: r"lacks 1 of 3 weight files \(model-00002-of-00003\.safetensors \.\.\.\)\. Download the missing",
    missing_without_index: r"lacks 1 of 3 weight files \(model-00003",
    partial: r"lacks 1 of 3 weight files .*, and a download into it is not finished",
    partial_by_the_hub: r"lacks 1 of 3 weight files .*, and a download into it is not finished",
    only_begun: "a download into it is not finished",
    adapter: "holds an adapter of org/base: it changes a base model and is none itself",
    adapter_with_a_configuration: "holds an adapter of org/base",
    odd_index: "index.json in own is damaged",
    empty: r"model\.safetensors in own is empty",
    no_configuration: r"own holds weights \(consolidated\.safetensors\) but no config\.json",
    adapter_in_a_pickle: "holds an adapter of org/base",
    adapter_of_mlx: "holds an adapter of org/base-4bit",
    adapter_of_mlx_with_a_configuration: "holds an adapter of org/base-4bit",
    missing_of_many: r"lacks 1 of 3 weight files \(model-00002-of-000003\.safetensors",
    missing_unpadded: r"lacks 1 of 3 weight files \(model-3-of-3\.safetensors",
    pointer_index: r"model\.safetensors\.index\.json in own is a pointer of Git LFS",
    pointer_configuration: r"config\.json in own is a pointer of Git LFS",
    distributed: r"__0_0\.distcp holds weights in torch\.distributed's form",
    in_progress: "a download into it is not finished",
}


@pytest.mark.parametrize("fault", FAULTS)
def test_what_is_no_whole_model_is_told_apart(fault: Callable[[Path], Path], folder: Path) -> None:
    path = fault(folder)
    with pytest.raises(ExplorerError, match=FAULTS[fault]) as said:
        catalogue.find(str(path))
    assert said.value.message.endswith(".") and said.value.hint.endswith(".")
    troubles: list[str] = []
    assert not list(places._walk(folder, folder, 1, [9], troubles)) and len(troubles) == 1
    if path == folder:
        assert said.value.message in troubles[0]


def test_other_forms_of_the_model_do_not_suffer(folder: Path) -> None:
    missing(folder)
    (folder / "model.onnx").write_bytes(b"x")
    assert formats.files_of(folder) == {"onnx": str(folder)}


def test_a_table_of_three_names_counts_once(tmp_path: Path) -> None:
    """T5 ties its table to both sides and its head; some files store each of them."""
    config = {
        "model_type": "t5", "d_model": 32, "d_ff": 64, "d_kv": 8, "num_heads": 4, "num_layers": 1, "vocab_size": 50,
        "relative_attention_num_buckets": 8, "architectures": ["T5ForConditionalGeneration"],
    }  # fmt: skip
    shapes: dict[str, tuple[int, ...]] = {"shared.weight": (50, 32)}
    for side, last in (("encoder", 1), ("decoder", 2)):
        block = f"{side}.block.0.layer"
        attends = ["0.SelfAttention"] + (["1.EncDecAttention"] if last == 2 else [])
        shapes |= {f"{block}.{part}.{n}.weight": (32, 32) for part in attends for n in "qkvo"}
        shapes |= {f"{block}.{i}.layer_norm.weight": (32,) for i in range(last + 1)}
        shapes[f"{block}.0.SelfAttention.relative_attention_bias.weight"] = (8, 4)
        shapes[f"{block}.{last}.DenseReluDense.wi.weight"] = (64, 32)
        shapes[f"{block}.{last}.DenseReluDense.wo.weight"] = (32, 64)
        shapes[f"{side}.final_layer_norm.weight"] = (32,)
    folder = tmp_path / "t5"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(config))
    copies = {f"{name}.weight": (50, 32) for name in ("encoder.embed_tokens", "decoder.embed_tokens", "lm_head")}
    safetensors(folder / "model.safetensors", shapes | copies)
    spec = from_hf_folder(folder)
    n = sum(map(prod, shapes.values()))
    assert (spec.n_params, spec.weight_bytes) == (n, 4 * n)


def test_vision_in_a_folder_is_shown_apart(folder: Path) -> None:
    more: dict[str, tuple[int, ...]] = {
        "vision_tower.layers.0.self_attn.q_proj.weight": (64, 64),
        "visual.blocks.0.attn.q_proj.weight": (64, 64),
        "multi_modal_projector.linear.weight": (8, 64),
        "connector.perceiver_resampler.layers.0.self_attn.q_proj.weight": (64, 64),
        "qformer.encoder.layer.0.attention.attention.query.weight": (8, 8),
        "video_tower.encoder.layers.0.self_attn.q_proj.weight": (8, 8),
        "audio_tower.layers.0.fc1.weight": (8, 8),
        "mtp.layers.0.mlp.up_proj.weight": (8, 8),
    }
    safetensors(folder / "model.safetensors", {**SHAPES, **more})
    spec = from_hf_folder(folder)
    found: dict[str, Any] = {a.name: (a.n_params, a.weight_bytes) for a in spec.aside}
    assert (spec.n_params, spec.weight_bytes) == (N, 4 * N)
    assert found == {"vision": (12928, 51712), "audio": (64, 256), "mtp": (64, 256)}


@pytest.mark.parametrize("kind", ["llama", "invented"])
@pytest.mark.parametrize("block", ["model.mtp_layers.0.", "model.mtp_block.0.", "mtp.layers.0."])
def test_blocks_that_foretell_tokens_are_shown_apart_by_any_name(block: str, kind: str, folder: Path) -> None:
    """MiMo, ERNIE 4.5 and Qwen3-Next: blocks with names of their own, which are no blocks of the model."""
    config = CONFIG | {"model_type": kind, "num_key_value_heads": 2, "num_nextn_predict_layers": 1}
    (folder / "config.json").write_text(json.dumps(config))
    own = {name: shape for name, shape in SHAPES.items() if ".layers.0." in name}
    more = {name.replace("model.layers.0.", block): shape for name, shape in own.items()}
    start = block.removesuffix("layers.0.").removesuffix("_block.0.").removesuffix("_")
    more[f"{start}{'' if start.endswith('.') else '_'}linear_proj.0.weight"] = (8, 16)
    safetensors(folder / "model.safetensors", SHAPES | more)
    spec = from_hf_folder(folder)
    n = sum(map(prod, more.values()))
    assert (spec.n_params, spec.weight_bytes, spec.n_blocks) == (N, 4 * N, 1)
    assert [(a.name, a.n_params, a.weight_bytes) for a in spec.aside] == [("mtp", n, 4 * n)]
    assert kv_bytes_per_token(spec, "fp16") == 2 * 2 * 4 * 2


def test_a_makers_own_names_are_counted_and_not_run(folder: Path) -> None:
    """Mistral's consolidated file alone, beside the configuration for the other one."""
    own = {"tok_embeddings": "model.embed_tokens", "norm": "model.norm", "output": "lm_head"}
    own |= {f"layers.0.attention.w{n}": f"model.layers.0.self_attn.{n}_proj" for n in "qkvo"}
    own |= {
        f"layers.0.feed_forward.w{i + 1}": f"model.layers.0.mlp.{n}_proj" for i, n in enumerate(("gate", "down", "up"))
    }
    own |= {"layers.0.attention_norm": "model.layers.0.input_layernorm"}
    own |= {"layers.0.ffn_norm": "model.layers.0.post_attention_layernorm"}
    shapes = {f"{name}.weight": SHAPES[f"{theirs}.weight"] for name, theirs in own.items()}
    safetensors(folder / "consolidated.safetensors", shapes)
    spec = from_hf_folder(folder)
    assert (spec.n_params, spec.weight_bytes) == (N, 4 * N)
    with pytest.raises(ExplorerError, match="names of its maker's own"):
        weight_files.told(SimpleNamespace(), folder)


def test_an_architecture_of_nobody_is_told_by_its_tensors(tmp_path: Path) -> None:
    """Experts one by one, two of four used: heads from the configuration, all else from the shapes."""
    folder = tmp_path / "m"
    folder.mkdir()
    (folder / "config.json").write_text(
        json.dumps(CONFIG | {"model_type": "invented", "num_key_value_heads": 1, "num_experts_per_tok": 2})
    )
    shapes = {name: shape for name, shape in SHAPES.items() if ".mlp." not in name}
    shapes |= {f"model.layers.0.self_attn.{n}_proj.weight": (4, 8) for n in "kv"}
    shapes["model.layers.0.mlp.gate.weight"] = (4, 8)
    for i in range(4):
        for name in ("gate", "up", "down"):
            shapes[f"model.layers.0.mlp.experts.{i}.{name}_proj.weight"] = (8, 16) if name == "down" else (16, 8)
    safetensors(folder / "model.safetensors", shapes)
    spec = from_hf_folder(folder)
    assert spec.n_params == sum(map(prod, shapes.values())) and spec.weight_bytes == 4 * spec.n_params
    assert n_active_params(spec) == spec.n_params - 2 * 3 * 8 * 16
    assert kv_bytes_per_token(spec, "fp16") == 2 * 2 * 4
    assert "as its tensors tell them" in spec.source and "assumed" in spec.doubts
