"""Integers for PyTorch: rounding by hand, kernels against the arithmetic they stand for, folders that open."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.backends.pytorch import load, quant
from core.models import artifacts, safetensors_file
from core.plugins import settings
from core.transforms._integers import int4_groups, int8_rows
from core.transforms.torch_quantize import Quantization
from core.types import Linear, Request, Session
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder
from tests.support.workshop import make, source_of

pytestmark = pytest.mark.engine("pytorch")

plugin = plugins.get("transform", "torch_quantize")
IDS = np.random.default_rng(1).integers(33, 300, size=(1, 24))
INTEGERS = [{"method": "int8_dynamic"}, {"method": "int8"}, {"method": "int4"}, {"method": "int4", "group": 64}]


def opened(path: Path, **options: Any) -> Session:
    source = source_of(path)
    request = Request(model="tiny", backend="pytorch", threads=1, options=options)
    return plugins.get("backend", "pytorch").open(source.path, source.spec, request, lambda *_, **__: None)  # type: ignore[no-any-return]


def tied_folder(tmp_path: Path) -> Path:
    """The tiny llama with its head tied to the token table."""
    import torch
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(hf_folder(tmp_path), dtype=torch.float32)
    model.config.tie_word_embeddings = True
    model.lm_head.weight = model.model.embed_tokens.weight
    path = tmp_path / "tied"
    model.save_pretrained(path)
    for file in hf_folder(tmp_path).glob("tok*"):
        (path / file.name).write_bytes(file.read_bytes())
    return path


# ---------------------------------------------------------------- rounding


def test_int8_keeps_the_largest_of_each_row() -> None:
    import torch

    made = int8_rows(torch.tensor([[127.0, -63.5, 1.0], [0.0, 0.0, 0.0]]))
    assert made["weight_int8"].tolist() == [[127, -64, 1], [0, 0, 0]]
    assert made["weight_scale"].tolist() == [1.0, 1.0]


def test_int8_is_within_half_a_step() -> None:
    import torch

    weight = torch.randn(40, 64, generator=torch.Generator().manual_seed(0))
    made = int8_rows(weight)
    scale = made["weight_scale"].float()[:, None]
    assert made["weight_scale"].dtype == torch.bfloat16
    assert ((made["weight_int8"] * scale - weight).abs() <= scale / 2 + 1e-6).all()
    assert (scale[:, 0] <= weight.abs().amax(1) / 127 * 1.01).all(), "no coarser than bf16 makes it"


def unpacked(made: dict[str, Any], group: int) -> Any:
    import torch

    q = torch.stack((made["weight_int4"] & 15, made["weight_int4"] >> 4), -1).flatten(1).float()
    scale, zero = (part.T.repeat_interleave(group, 1) for part in made["weight_scale_zero"].float().unbind(-1))
    return (q - 8) * scale + zero


def test_int4_finds_sixteen_levels_again() -> None:
    """Weights that were 4 bits with a minimum, as a dequantized Q4_1 file has them, come back as they were."""
    import torch

    levels = torch.randint(0, 16, (32, 64), generator=torch.Generator().manual_seed(0)).float()
    levels[:, 0::32], levels[:, 1::32] = 0, 15  # both ends are there
    weight = levels * 0.25 - 1.5  # exact in bf16
    assert (unpacked(int4_groups(weight, 32), 32) == weight).all()


def test_int4_is_within_a_step() -> None:
    import torch

    weight = torch.randn(32, 128, generator=torch.Generator().manual_seed(0))
    step = (weight.reshape(32, 4, 32).amax(-1) - weight.reshape(32, 4, 32).amin(-1)) / 15
    error = (unpacked(int4_groups(weight, 32), 32) - weight).abs().reshape(32, 4, 32).amax(-1)
    assert (error <= 0.6 * step).all()


# ---------------------------------------------------------------- kernels


def mapped(tensor: Any) -> Any:
    """The same values at an address that is no multiple of 64, as in a mapped file: torch's kernels crash on it."""
    import torch

    room = torch.empty(tensor.nbytes + 128, dtype=torch.uint8)
    first = -room.data_ptr() % 64 + 8
    found = room[first : first + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
    return found.copy_(tensor)


def filled(module: Any, tensors: dict[str, Any]) -> Any:
    import torch

    for name, tensor in tensors.items():
        setattr(module, name, mapped(tensor))
    module.bias.data = torch.linspace(-1, 1, len(module.bias))
    module.prepare()
    return module


@pytest.mark.parametrize("n", [1, 5, 40])
@pytest.mark.parametrize("kind", ["dynamic", "int8", "int4"])
def test_a_kernel_computes_what_its_integers_stand_for(kind: str, n: int) -> None:
    import torch

    generator = torch.Generator().manual_seed(2)
    weight, x = torch.randn(48, 64, generator=generator), torch.randn(1, n, 64, generator=generator)
    if kind == "int4":
        made = int4_groups(weight, 32)
        module, meant = filled(quant.modules().int4(48, 64, True, 32), made), unpacked(made, 32)
    else:
        made = int8_rows(weight)
        module = filled(getattr(quant.modules(), kind)(48, 64, True), made)
        meant = made["weight_int8"] * made["weight_scale"].float()[:, None]
    with torch.inference_mode():
        got = module(mapped(x))
    if kind == "dynamic":  # the same rounding of x
        step = x.abs().amax(-1, keepdim=True) / 127
        wanted = torch.nn.functional.linear((x / step).round() * step, meant, module.bias)
        torch.testing.assert_close(got, wanted, atol=1e-4, rtol=1e-4)
    else:  # x, and what is added up, in bf16
        wanted = torch.nn.functional.linear(x.bfloat16().float(), meant, module.bias)
        torch.testing.assert_close(got, wanted, atol=0.15, rtol=0.02)
    assert got.dtype == x.dtype and got.shape == (1, n, 48)


def test_a_token_does_not_depend_on_those_beside_it() -> None:
    """One scale per token: a loud neighbour changes nothing."""
    import torch

    module = filled(quant.modules().dynamic(48, 64, True), int8_rows(torch.randn(48, 64)))
    x = torch.randn(6, 64)
    x[3] *= 100
    with torch.inference_mode():
        together, alone = module(x), torch.cat([module(row[None]) for row in x])
    assert torch.equal(together, alone)


# ---------------------------------------------------------------- folders


def meant(folder: Path, parent: Path) -> Any:
    """The parent's network in fp32 with the weights that the folder's integers stand for."""
    import torch
    from safetensors.torch import load_file
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(parent, dtype=torch.float32).eval()
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.clone())  # untied: it may have its own integers
    stored = load_file(folder / "model.safetensors")
    group = json.loads((folder / "config.json").read_text())["quantization_config"]["group"]
    weights = {}
    for name, tensor in stored.items():
        path, _, kind = name.rpartition(".")
        if kind == "weight_int8":
            weights[f"{path}.weight"] = tensor * stored[f"{path}.weight_scale"].float()[:, None]
        elif kind == "weight_int4":
            parts = {"weight_int4": tensor, "weight_scale_zero": stored[f"{path}.weight_scale_zero"]}
            weights[f"{path}.weight"] = unpacked(parts, group)
        elif kind == "weight":
            weights[name] = tensor.float()
    weights.setdefault("lm_head.weight", weights["model.embed_tokens.weight"])
    model.load_state_dict(weights)
    return model


@pytest.mark.parametrize("params", INTEGERS)
@pytest.mark.parametrize("tied", [True, False])
def test_a_quantized_folder_computes_what_its_integers_stand_for(
    tmp_path: Path, params: dict[str, Any], tied: bool
) -> None:
    import torch

    path = tied_folder(tmp_path) if tied else hf_folder(tmp_path)
    made, _ = make("torch_quantize", path, tmp_path / "out", **params)
    session = opened(tmp_path / "out")
    assert made.format == "torch-int"
    assert set(session.warnings) <= {*quant.warnings(), *load.cpu_warnings("bf16")}, "what this processor lacks"
    with torch.no_grad():
        wanted = meant(tmp_path / "out", path)(torch.tensor(IDS)).logits.numpy()
    got = session.forward(IDS).numpy()
    assert np.abs(got - wanted).mean() < 0.08 * np.abs(wanted).mean(), "activations in 8 bits, or in bf16"
    assert np.corrcoef(got.ravel(), wanted.ravel())[0, 1] > 0.995


@pytest.mark.parametrize("params", INTEGERS)
@pytest.mark.parametrize("table", ["int8", "bf16"])
def test_every_byte_of_the_file_belongs_to_a_layer(tmp_path: Path, params: dict[str, Any], table: str) -> None:
    path = tied_folder(tmp_path)
    made, _ = make("torch_quantize", path, tmp_path / "out", table=table, **params)
    header = safetensors_file.header(tmp_path / "out" / "model.safetensors")
    stored = sum(t["data_offsets"][1] - t["data_offsets"][0] for t in header.values())
    assert made.spec.weight_bytes == stored
    dtypes = {layer.name: layer.weight_dtype for layer in made.spec.layers}
    wanted = "int4" if params["method"] == "int4" else "int8"
    assert {dtypes[f"blocks.{i}.mlp.{m}_proj"] for i in (0, 1) for m in ("gate", "up", "down")} == {wanted}
    assert dtypes["embed"] == table and dtypes["final_norm"] == "fp32"
    head = next(layer for layer in made.spec.layers if layer.name == "lm_head")
    assert isinstance(head.op, Linear)
    if wanted == "int8" and table == "int8":
        assert head.op.tied_to == "embed" and not head.n_params, "one table serves both"
    else:
        assert head.op.tied_to is None and head.weight_dtype == wanted, "the head has a copy of its own"
    groups = 64 // params.get("group", 32)
    down = next(layer for layer in made.spec.layers if layer.name == "blocks.0.mlp.up_proj")
    assert down.weight_bytes == 128 * (64 // 2 + 4 * groups if wanted == "int4" else 64 + 2)


def test_what_the_int4_kernel_cannot_take_is_int8_and_said_so(tmp_path: Path) -> None:
    _, outcome = make("torch_quantize", hf_folder(tmp_path), tmp_path / "out", method="int4", group=128)
    assert set(outcome.facts["in_int8"]) == {
        "embed",
        "lm_head",
        *(f"blocks.{i}.attn.{m}_proj" for i in (0, 1) for m in "qkvo"),
        *(f"blocks.{i}.mlp.{m}_proj" for i in (0, 1) for m in ("gate", "up")),
    }, "they are 64 wide; only down_proj has 128 columns"
    assert np.isfinite(opened(tmp_path / "out").forward(IDS).numpy()).all()


def test_bf16_is_an_ordinary_folder(tmp_path: Path) -> None:
    made, _ = make("torch_quantize", tied_folder(tmp_path), tmp_path / "out", method="bf16")
    assert made.format == "hf" and made.spec.dtype == "bf16"
    assert made.spec.weight_bytes == 2 * made.spec.n_params
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"


def test_other_backends_and_devices_say_no_in_one_sentence(tmp_path: Path) -> None:
    make("torch_quantize", hf_folder(tmp_path), tmp_path / "out")
    entry = source_of(tmp_path / "out").entry
    for wanted, words in (("onnx", "an ONNX export"), ("gguf", "a GGUF"), ("hf", "a Hugging Face folder")):
        found = f"there as a folder of PyTorch's integers, from which {words} cannot be made"
        with pytest.raises(ExplorerError, match=found):
            artifacts.provide(entry, (wanted,), lambda *_, **__: None)
    assert artifacts.provide(entry, ("hf", "torch-int"), lambda *_, **__: None)[0] == "torch-int"
    with pytest.raises(ExplorerError, match="on the processor only"):
        opened(tmp_path / "out", device="mps")


def test_a_missing_tensor_is_told(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    make("torch_quantize", hf_folder(tmp_path), tmp_path / "out")
    file = tmp_path / "out" / "model.safetensors"
    tensors = load_file(file)
    del tensors["model.layers.1.mlp.up_proj.weight_int8"], tensors["model.layers.1.mlp.up_proj.weight_scale"]
    save_file(tensors, file)
    with pytest.raises(ExplorerError, match=r"blocks\.1\.mlp\.up_proj"):
        source_of(tmp_path / "out")


def test_its_layers_are_timed_and_counted(tmp_path: Path) -> None:
    make("torch_quantize", tied_folder(tmp_path), tmp_path / "out", method="int8_dynamic")
    session = opened(tmp_path / "out")
    ops = {(op.layer, op.op): op for op in session.count(8, 4).ops}
    assert ops["blocks.0.mlp.up_proj", "aten::_int_mm"].flops == 2 * 8 * 64 * 128
    assert ops["lm_head", "aten::_int_mm"].flops == 2 * 1 * 64 * 320, "of the last position"
    assert not [op for op in ops.values() if op.flops is None], "nothing is uncounted"
    trace = session.trace()
    trace.phase("prefill")
    session.forward(IDS, keep=1)
    rows = {row.name: row for row in trace.finish()["prefill"]}
    assert rows["lm_head"].op == "aten::_int_mm" and rows["blocks.1.attn.q_proj"].seconds > 0


def test_what_cannot_be_quantized_is_told() -> None:
    from core.models import spec as specs

    with pytest.raises(ExplorerError, match="group"):
        settings(plugin.Params, {"method": "int4", "group": 48}, plugin.label)
    widths = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
    bert = specs.from_config({"model_type": "bert", "vocab_size": 320, **widths})
    with pytest.raises(ExplorerError, match="write text"):
        plugin.check(bert, Quantization())
    plugin.check(bert, Quantization(method="bf16"))


@pytest.mark.model
def test_int8_of_the_embedded_model_agrees_with_it(home: Path) -> None:
    from core.models import catalogue

    _, path = artifacts.provide(catalogue.find("smollm2-135m"), ("hf",), lambda *_, **__: None)
    made, _ = make("torch_quantize", Path(path), home / "int8", method="int8")
    assert 8 * made.spec.weight_bytes / made.spec.n_params < 8.2  # type: ignore[operator]
    text = (
        "A glass prism splits white light because each colour is bent by a different angle. Newton saw in this that "
        "white light is a mixture, and proved it by letting a single colour through a second prism, which bent it "
        "further but did not split it again."
    )
    choices = []
    for folder in (Path(path), home / "int8"):
        session = opened(folder)
        choices.append(session.forward(np.array([session.encode(text)])).argmax())
        session.close()
    assert (choices[0] == choices[1]).mean() > 0.9
