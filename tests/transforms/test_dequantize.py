"""Stored matrices against numbers worked out by hand, and folders of each form against what was put into them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from core import plugins
from core.backends.pytorch.load import _neutral
from core.models import spec as specs
from core.models.precision import declared, support
from core.runs.resolve import resolve
from core.transforms import _stored_matrix as stored
from core.types import Derive, Generate, Request
from hardware.errors import ExplorerError
from tests.support.cases import CASES, needed
from tests.support.progress import silent
from tests.support.tiny import hf_folder
from tests.support.workshop import make

pytestmark = pytest.mark.engine("pytorch")


def words(values: Sequence[int], bits: int) -> list[int]:
    """A stream of bits in 32-bit words, lowest bits first, as signed integers: by arithmetic on one big number."""
    stream = sum(value << (bits * i) for i, value in enumerate(values))
    n = math.ceil(len(values) * bits / 32)
    found = [(stream >> (32 * i)) & 0xFFFFFFFF for i in range(n)]
    return [word - (1 << 32) if word >= 1 << 31 else word for word in found]


# ---------------------------------------------------------------- by hand


@pytest.mark.parametrize("bits", [2, 3, 4, 5, 6, 8])
def test_a_stream_of_bits_in_words(bits: int) -> None:
    values = [(7 * i + 3) % (1 << bits) for i in range(32)]
    packed = torch.tensor([words(values, bits)], dtype=torch.int32)
    assert stored.integers(packed, bits).tolist() == [values]
    assert stored.integers(packed.view(torch.uint32), bits).tolist() == [values]


def test_gptq_by_hand() -> None:
    """Two rows of eight columns in two groups: column c of row r is q[r][c], zeros stored less one."""
    q = [[0, 1, 2, 3, 4, 5, 6, 7], [15, 14, 13, 12, 11, 10, 9, 8]]
    qweight = torch.tensor([[words(row, 4)[0] for row in q]], dtype=torch.int32)
    qzeros = torch.tensor([words([7, 3], 4), words([0, 15], 4)], dtype=torch.int32)  # of group 0 and 1, by row
    scales = torch.tensor([[0.5, 2.0], [1.0, 0.25]], dtype=torch.float16)
    expected = [
        [0.5 * (v - 8) for v in (0, 1, 2, 3)] + [1.0 * (v - 1) for v in (4, 5, 6, 7)],
        [2.0 * (v - 4) for v in (15, 14, 13, 12)] + [0.25 * (v - 0) for v in (11, 10, 9, 8)],
    ]
    assert stored.gptq(qweight, qzeros, scales, None, 4, 4, True).tolist() == expected
    by_index = stored.gptq(qweight, qzeros, scales, torch.tensor([1, 0, 0, 0, 0, 1, 1, 1]), 4, 4, False)
    assert by_index[0].tolist() == [0.0, -3.0, -2.5, -2.0, -1.5, 5.0, 6.0, 7.0]


def test_awq_by_hand() -> None:
    """One column of eight rows: the nibbles of a word hold rows 0, 2, 4, 6, 1, 3, 5, 7."""
    q, zeros = [3, 1, 4, 1, 5, 9, 2, 6], [8, 0, 8, 0, 8, 0, 8, 0]
    order = (0, 2, 4, 6, 1, 3, 5, 7)
    qweight = torch.tensor([words([q[i] for i in order], 4)], dtype=torch.int32)
    qzeros = torch.tensor([words([zeros[i] for i in order], 4)], dtype=torch.int32)
    scales = torch.tensor([[0.5, 1, 2, 4, 0.5, 1, 2, 4]], dtype=torch.float16)
    made = stored.awq(qweight, qzeros, scales, 128)
    assert made.tolist() == [[-2.5], [1.0], [-8.0], [4.0], [-1.5], [9.0], [-12.0], [24.0]]


def test_packed_integers_by_hand() -> None:
    """compressed-tensors: integers with a sign, moved up by half their range before they are packed."""
    q = [[-8, 7, 0, -1, 3, 5, -3], [1, 2, 3, 4, 5, 6, 7]]
    packed = torch.tensor([words([v + 8 for v in row], 4) for row in q], dtype=torch.int32)
    scale = torch.tensor([[0.5, 2.0], [1.0, 0.25]], dtype=torch.bfloat16)
    plain = stored.packed_integers(packed, scale, None, None, (2, 7), 4, 4)
    assert plain.tolist() == [[-4.0, 3.5, 0.0, -0.5, 6.0, 10.0, -6.0], [1.0, 2.0, 3.0, 4.0, 1.25, 1.5, 1.75]]
    zero = torch.tensor([words([1 + 8, -2 + 8], 4), words([0 + 8, 3 + 8], 4)], dtype=torch.int32).T  # by group
    shifted = stored.packed_integers(packed, scale, zero, None, (2, 7), 4, 4)
    assert shifted.tolist() == [[-4.5, 3.0, -0.5, -1.0, 6.0, 10.0, -6.0], [3.0, 4.0, 5.0, 6.0, 0.5, 0.75, 1.0]]


def test_scales_reach_their_tiles_and_no_further() -> None:
    weight = torch.full((3, 5), 2.0).to(torch.float8_e4m3fn)
    tiles = torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]])
    assert stored.scaled(weight, tiles, (2, 2)).tolist() == [
        [2.0, 2.0, 4.0, 4.0, 6.0],
        [2.0, 2.0, 4.0, 4.0, 6.0],
        [8.0, 8.0, 10.0, 10.0, 12.0],
    ]
    assert stored.scaled(weight, torch.tensor([1.0, 2.0, 3.0]))[:, 0].tolist() == [2.0, 4.0, 6.0]
    assert stored.scaled(weight, torch.tensor([[1.0], [2.0], [3.0]]))[:, 4].tolist() == [2.0, 4.0, 6.0]
    assert stored.scaled(weight, torch.tensor(0.5)).unique().tolist() == [1.0]
    experts = torch.ones(2, 3, 4).to(torch.float8_e4m3fn)
    assert stored.scaled(experts, torch.tensor([2.0, 3.0]))[:, 2, 3].tolist() == [2.0, 3.0]
    with pytest.raises(ValueError, match="scales of shape"):
        stored.scaled(weight, tiles)


def test_a_byte_is_a_power_of_two() -> None:
    bytes_ = torch.tensor([0, 126, 127, 128, 254], dtype=torch.uint8)
    expected = [2.0**-127, 0.5, 1.0, 2.0, 2.0**127]
    assert stored.numbers(bytes_).tolist() == expected
    assert stored.numbers(bytes_.view(torch.float8_e8m0fnu)).tolist() == expected


def test_halves_by_hand() -> None:
    """E2M1, the lower half of a byte first: 0x2f is 15 (-6) and 2 (1)."""
    packed = torch.tensor([[0x2F, 0x71]], dtype=torch.uint8)
    assert stored.halves(packed, torch.tensor([[128]], dtype=torch.uint8)).tolist() == [[-12.0, 2.0, 1.0, 12.0]]
    scale = torch.tensor([[1.5, 2.0]]).to(torch.float8_e4m3fn)
    assert stored.halves(packed, scale, torch.tensor(0.5)).tolist() == [[-4.5, 0.75, 0.5, 6.0]]


def test_mlx_by_hand() -> None:
    packed = torch.tensor([words([0, 15, 7, 1, 2, 3, 4, 5], 4)], dtype=torch.int32).view(torch.uint32)
    scales, biases = torch.tensor([[0.5, 2.0]]).bfloat16(), torch.tensor([[-1.0, 0.25]]).bfloat16()
    assert stored.mlx(packed, scales, biases, 4, "affine").tolist() == [[-1.0, 6.5, 2.5, -0.5, 4.25, 6.25, 8.25, 10.25]]
    micro = stored.mlx(packed, torch.tensor([[127]], dtype=torch.uint8), None, 4, "mxfp4")
    assert micro.tolist() == [[0.0, -6.0, 6.0, 0.5, 1.0, 1.5, 2.0, 3.0]]
    eights = torch.tensor([[1.0, -2.0, 448.0, 0.5]]).to(torch.float8_e4m3fn).view(torch.int32)
    assert stored.mlx(eights, torch.tensor([[128]], dtype=torch.uint8), None, 8, "mxfp8").tolist() == [
        [2.0, -4.0, 896.0, 1.0]
    ]


def test_bitsandbytes_by_hand() -> None:
    """The upper half of a byte first; a block's largest may itself be a code."""
    values = torch.arange(16.0) / 15
    packed = torch.tensor([[0xF0], [0x3C]], dtype=torch.uint8)
    made = stored.bnb_halves(packed, torch.tensor([3.0, 15.0]), values, 2, (1, 4))
    assert made.tolist()[0] == pytest.approx([3.0, 0.0, 3.0, 12.0])
    largest = stored.bnb_absmax(
        torch.tensor([255, 0, 128], dtype=torch.uint8), torch.tensor([2.0, 4.0]), torch.arange(256.0), 2, 0.5
    )
    assert largest.tolist() == [510.5, 0.5, 512.5]


def test_mxfp4_and_fp8_are_what_transformers_makes_of_them() -> None:
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize
    from transformers.integrations.mxfp4 import convert_moe_packed_tensors

    numbers = torch.Generator().manual_seed(1)
    blocks = torch.randint(0, 256, (2, 6, 2, 16), dtype=torch.uint8, generator=numbers)
    scales = torch.randint(118, 132, (2, 6, 2), dtype=torch.uint8, generator=numbers)
    theirs = convert_moe_packed_tensors(blocks.clone(), scales.clone(), dtype=torch.bfloat16)
    assert torch.equal(stored.stacked_halves(blocks, scales).bfloat16(), theirs)
    weight = torch.randn(256, 128, generator=numbers).to(torch.float8_e4m3fn)
    tiles = torch.rand(2, 1, generator=numbers)
    ours = stored.scaled(weight, tiles, (128, 128))
    assert torch.equal(ours, Fp8Dequantize(None)._dequantize_one(weight, tiles, torch.float32))


# ---------------------------------------------------------------- folders


def gptq_form(values: Any) -> tuple[dict[str, Any], Any]:
    n_out, n_in = values.shape
    numbers = np.random.default_rng(0)
    q, zeros = numbers.integers(0, 16, (n_out, n_in)), numbers.integers(1, 16, (n_in // 32, n_out))
    scales = torch.rand(n_in // 32, n_out).half() / 8
    of = numbers.permutation(np.arange(n_in) // 32)
    qweight = [words([int(v) for v in row], 4) for row in q]
    qzeros = [words([int(v) - 1 for v in row], 4) for row in zeros]
    plain = (torch.tensor(q) - torch.tensor(zeros).T[:, of]) * scales.float().T[:, of]
    parts = {
        "qweight": torch.tensor(qweight, dtype=torch.int32).T.contiguous(),
        "qzeros": torch.tensor(qzeros, dtype=torch.int32),
        "scales": scales,
        "g_idx": torch.tensor(of, dtype=torch.int32),
    }
    return parts, plain


def fp8_form(values: Any) -> tuple[dict[str, Any], Any]:
    n_out, n_in = values.shape
    scale = torch.rand(math.ceil(n_out / 48), math.ceil(n_in / 48)) / 4
    weight = values.to(torch.float8_e4m3fn)
    whole = scale.repeat_interleave(48, 0)[:n_out].repeat_interleave(48, 1)[:, :n_in]
    return {"weight": weight, "weight_scale_inv": scale}, weight.float() * whole


def mxfp8_form(values: Any) -> tuple[dict[str, Any], Any]:
    n_out, n_in = values.shape
    exponents = torch.randint(120, 130, (n_out, n_in // 32), dtype=torch.uint8)
    weight = values.to(torch.float8_e4m3fn)
    plain = weight.float() * (2.0 ** (exponents.float() - 127)).repeat_interleave(32, 1)
    return {"weight": weight, "weight_scale": exponents.view(torch.float8_e8m0fnu)}, plain


def packed_form(values: Any) -> tuple[dict[str, Any], Any]:
    n_out, n_in = values.shape
    q = np.random.default_rng(0).integers(-8, 8, (n_out, n_in))
    scale = (torch.rand(n_out, n_in // 32) / 8).bfloat16()
    parts = {
        "weight_packed": torch.tensor([words([int(v) + 8 for v in row], 4) for row in q], dtype=torch.int32),
        "weight_scale": scale,
        "weight_shape": torch.tensor([n_out, n_in]),
    }
    return parts, torch.tensor(q) * scale.float().repeat_interleave(32, 1)


def nvfp4_form(values: Any) -> tuple[dict[str, Any], Any]:
    n_out, n_in = values.shape
    codes = torch.randint(0, 16, (n_out, n_in), dtype=torch.uint8)
    scale = torch.rand(n_out, n_in // 16).to(torch.float8_e4m3fn)
    levels = torch.tensor([0, 0.5, 1, 1.5, 2, 3, 4, 6, -0.0, -0.5, -1, -1.5, -2, -3, -4, -6])
    plain = levels[codes.long()] * scale.float().repeat_interleave(16, 1) / 4
    packed = codes[:, ::2] | (codes[:, 1::2] << 4)
    return {"weight_packed": packed, "weight_scale": scale, "weight_global_scale": torch.tensor([4.0])}, plain


def mlx_form(values: Any) -> tuple[dict[str, Any], Any]:
    n_out, n_in = values.shape
    q = np.random.default_rng(0).integers(0, 64, (n_out, n_in))
    scales, biases = (torch.rand(n_out, n_in // 64) / 64).bfloat16(), (-torch.rand(n_out, n_in // 64)).bfloat16()
    packed = torch.tensor([words([int(v) for v in row], 6) for row in q], dtype=torch.int32).view(torch.uint32)
    plain = torch.tensor(q).float() * scales.float().repeat_interleave(64, 1) + biases.float().repeat_interleave(64, 1)
    return {"weight": packed, "scales": scales, "biases": biases}, plain


def nf4_in_words_form(values: Any) -> tuple[dict[str, Any], Any]:
    """Kept in words of bf16, two bytes each, as a model that many processes train has it."""
    n_out, n_in = values.shape
    codes = torch.randint(0, 16, (n_out * n_in,), dtype=torch.uint8)
    levels, largest = torch.linspace(-1, 1, 16), torch.rand(n_out * n_in // 64)
    packed = ((codes[::2] << 4) | codes[1::2]).view(torch.bfloat16)[:, None]
    state = json.dumps({"quant_type": "nf4", "blocksize": 64, "dtype": "float16", "shape": [n_out, n_in]}).encode()
    parts = {
        "weight": packed,
        "weight.absmax": largest,
        "weight.quant_map": levels,
        "weight.quant_state.bitsandbytes__nf4": torch.tensor(list(state), dtype=torch.uint8),
    }
    return parts, (levels[codes.long()] * largest.repeat_interleave(64)).reshape(n_out, n_in)


def int8_form(values: Any) -> tuple[dict[str, Any], Any]:
    q = torch.randint(-127, 128, values.shape, dtype=torch.int8)
    rows = torch.rand(len(q))
    return {"weight": q, "SCB": rows}, q.float() * rows[:, None] / 127


GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group"}}}
FLOATS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float", "strategy": "tensor_group"}}}
_OF_MODULES = {  # which stand alone: they are affine
    f"model.layers.{i}.{part}_proj": {"group_size": 64, "bits": 6}
    for i in range(2)
    for part in (*(f"self_attn.{n}" for n in "qkvo"), "mlp.gate", "mlp.up", "mlp.down")
}
FORMS: dict[str, tuple[Callable[[Any], tuple[dict[str, Any], Any]], dict[str, Any], str]] = {
    "gptq": (gptq_form, {"quant_method": "gptq", "bits": 4, "group_size": 32, "desc_act": True}, "fp32"),
    "fp8": (fp8_form, {"quant_method": "fp8", "weight_block_size": [48, 48]}, "fp32"),
    "mxfp8": (mxfp8_form, {"quant_method": "mxfp8"}, "bf16"),
    "pack-quantized": (packed_form, {"quant_method": "compressed-tensors", "config_groups": GROUPS}, "fp32"),
    "nvfp4-pack-quantized": (nvfp4_form, {"quant_method": "compressed-tensors", "config_groups": FLOATS}, "fp32"),
    "mlx": (mlx_form, {"group_size": 64, "bits": 6}, "fp32"),
    "mlx by module": (mlx_form, {"group_size": 32, "bits": 4, "mode": "mxfp4", **_OF_MODULES}, "fp32"),
    "int8": (int8_form, {"quant_method": "bitsandbytes", "load_in_8bit": True}, "fp32"),
    "nf4 in words": (
        nf4_in_words_form,
        {
            "quant_method": "bitsandbytes",
            "load_in_4bit": True,
            "bnb_4bit_quant_type": "nf4",
            "bnb_4bit_quant_storage": "bfloat16",
        },
        "fp32",
    ),
}


def quantized(folder: Path, form: Any, quantization: dict[str, Any]) -> tuple[Path, dict[str, Any]]:
    """The tiny llama in bf16 with its blocks' matrices in a form of its own, and what they are in plain numbers."""
    torch.manual_seed(3)
    path, tensors, plain = hf_folder(folder), dict[str, Any](), dict[str, Any]()
    for name, tensor in load_file(path / "model.safetensors").items():
        if not name.endswith("_proj.weight"):
            tensors[name] = plain[name] = tensor.bfloat16()
            continue
        parts, plain[name] = form(tensor)
        tensors |= {f"{name.removesuffix('weight')}{part}": values.contiguous() for part, values in parts.items()}
    save_file(tensors, path / "model.safetensors")
    config = json.loads((path / "config.json").read_text())
    key = "quantization_config" if "quant_method" in quantization else "quantization"
    (path / "config.json").write_text(json.dumps(config | {key: quantization, "dtype": "bfloat16"}))
    return path, plain


@pytest.mark.parametrize("form", FORMS)
def test_a_folder_becomes_the_plain_numbers_that_it_stores(form: str, tmp_path: Path) -> None:
    writer, quantization, exact = FORMS[form]
    path, plain = quantized(tmp_path, writer, quantization)
    made, outcome = make("dequantize", path, tmp_path / "out")
    found = load_file(Path(made.path) / "model.safetensors")
    assert found.keys() == plain.keys()
    assert all(torch.equal(found[name].float(), plain[name].float()) for name in plain)
    config = json.loads((Path(made.path) / "config.json").read_text())
    assert config["dtype"] == {"fp32": "float32", "bf16": "bfloat16"}[exact] and outcome.facts["dtype"] == exact
    assert not config.keys() & {"quantization_config", "quantization"} and made.spec.dtype == exact
    assert outcome.facts["rounded"] == 0 and "Every weight is" in outcome.note


def test_what_a_file_of_its_own_declares_is_read_and_left_behind(tmp_path: Path) -> None:
    """AutoGPTQ's quantize_config.json: beside plain weights it would say that they are quantized."""
    path, plain = quantized(tmp_path, gptq_form, FORMS["gptq"][1])
    config = json.loads((path / "config.json").read_text())
    own = config.pop("quantization_config")
    (path / "config.json").write_text(json.dumps(config))
    own.pop("quant_method")
    (path / "quantize_config.json").write_text(json.dumps(own))
    made, outcome = make("dequantize", path, tmp_path / "out")
    found = load_file(Path(made.path) / "model.safetensors")
    assert all(torch.equal(found[name].float(), plain[name].float()) for name in plain)
    assert outcome.facts["from"].startswith("GPTQ") and made.spec.dtype == "fp32"
    assert not (Path(made.path) / "quantize_config.json").exists()
    assert declared(specs.read_config(Path(made.path))) is None


def test_another_number_format_says_what_it_rounded(tmp_path: Path) -> None:
    path, _ = quantized(tmp_path, gptq_form, FORMS["gptq"][1])
    made, outcome = make("dequantize", path, tmp_path / "out", dtype="bf16")
    assert made.spec.dtype == "bf16" and 0 < outcome.facts["rounded"] < 1 and "were rounded to bf16" in outcome.note


def test_what_is_not_read_is_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ExplorerError, match="nothing to dequantize"):
        make("dequantize", hf_folder(tmp_path / "plain"), tmp_path / "out-plain")
    path, _ = quantized(tmp_path / "hqq", mxfp8_form, {"quant_method": "hqq"})
    with pytest.raises(ExplorerError, match=r"HQQ.*cannot be read here"):
        make("dequantize", path, tmp_path / "out-hqq")
    path, _ = quantized(tmp_path / "awq", gptq_form, {"quant_method": "awq", "version": "gemv"})
    with pytest.raises(ExplorerError, match=r"_proj\.qweight.*version gemv"):
        make("dequantize", path, tmp_path / "out-awq")
    path, _ = quantized(tmp_path / "more", fp8_form, FORMS["fp8"][1])
    tensors = load_file(path / "model.safetensors")
    tensors["model.layers.0.mlp.up_proj.pre_quant_scale"] = torch.ones(64)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ExplorerError, match="pre_quant_scale"):
        make("dequantize", path, tmp_path / "out-more")


def logits(path: str) -> Any:
    """Of a question, by the model in this folder."""
    request = Request(model="m", backend="pytorch", threads=1)
    session = plugins.get("backend", "pytorch").open(path, specs.read(path, "hf"), request, silent)
    assert not session.warnings, "no weight was made up"
    found = session.forward(np.array([session.encode("hello")])).numpy()
    session.close()
    return found


@needed
@pytest.mark.parametrize(("case", "form"), [("gptq", "GPTQ, 4 bits in groups of 128"), ("mxfp8", "MXFP8, 8 bits")])
def test_the_cases_are_refused_with_the_way_out_and_answer_after_it(
    case: str, form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = CASES / "quantized-folders" / case
    found = declared(specs.read_config(path))
    runs = found is not None and found.lacking == ()  # transformers has all that it needs
    made, outcome = make("dequantize", path, tmp_path / "out")
    assert outcome.facts["from"].startswith(form) and made.spec.n_params == specs.read(path, "hf").n_params
    answer = logits(made.path)
    assert np.isfinite(answer).all() and answer.std() > 0
    if runs:
        assert np.abs(logits(str(path)) - answer).max() < 1e-5
    monkeypatch.setitem(support.NEEDS, case, ("not_here",))
    with pytest.raises(ExplorerError, match=form) as refused:
        resolve(Request(model=str(path), backend="pytorch", task=Generate()))
    assert "roofscope transform dequantize --model" in refused.value.hint
    derive = Request(model=str(path), backend="pytorch", task=Derive(transform="dequantize"))
    assert resolve(derive).format == "hf"


@needed
def test_scales_that_the_library_leaves_unread_are_not_left_out_in_silence(tmp_path: Path) -> None:
    """Those of the case are all one, so that the library's answer is right; one that is not makes it another model."""
    path = tmp_path / "doubled"
    shutil.copytree(CASES / "quantized-folders" / "mxfp8", path)
    tensors = load_file(path / "model.safetensors")
    name = "model.layers.1.mlp.up_proj.weight_scale"
    tensors[name] = (tensors[name].view(torch.uint8) + 1).view(tensors[name].dtype)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ExplorerError, match=r"leaves 14 of their scales unread .*not be itself"):
        logits(str(path))
    plain = hf_folder(tmp_path) / "model.safetensors"
    assert not _neutral([plain], {"a.name.of.no.tensor.weight_scale"}), "nothing is known of what is not found"
