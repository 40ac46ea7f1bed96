"""Stored matrices against numbers worked out by hand, and folders of each form against what was put into them."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
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
from core.transforms._stored_forms import forms
from core.types import Derive, Generate, Request
from hardware.errors import ExplorerError
from tests.support import stored_forms as writers
from tests.support.cases import CASES, needed
from tests.support.progress import silent
from tests.support.stored_forms import words
from tests.support.tiny import hf_folder
from tests.support.workshop import make

pytestmark = pytest.mark.engine("pytorch")


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


def test_hqq_by_hand() -> None:
    """Groups of two numbers as rows: a word of ten groups' first numbers, in three bits the first one highest."""
    q = [[i % 8, (3 * i + 1) % 8] for i in range(12)]  # twelve groups, so that the second of ten lies half empty
    rows = [q[i : i + 10] + [[0, 0]] * (10 - len(q[i : i + 10])) for i in (0, 10)]
    packed = torch.tensor(  # row r of the words holds groups r, r + 2, r + 4 ...
        [
            [sum(([*rows[0], *rows[1]][r + 2 * i])[c] << (27 - 3 * i) for i in range(10)) for c in range(2)]
            for r in (0, 1)
        ],
        dtype=torch.int32,
    )
    scale, zero = torch.arange(1.0, 13.0)[:, None], torch.full((12, 1), 0.5)
    made = stored.hqq(packed, scale, zero, 3, (4, 6))
    assert made.flatten().tolist() == [(v - 0.5) * (i + 1) for i, group in enumerate(q) for v in group]
    ones = stored.hqq(torch.tensor([[0b10000001]], dtype=torch.uint8), torch.ones(8, 1), torch.zeros(8, 1), 1, (1, 8))
    assert ones.tolist() == [[1.0, 0, 0, 0, 0, 0, 0, 1.0]]


def test_floats_of_six_bits_by_hand() -> None:
    """Codes 0 to 31 without and with a sign: E2M3 goes to 7.5, E3M2 to 28 (OCP Microscaling Formats 1.0)."""
    packed = torch.tensor([words(range(64), 6)], dtype=torch.int32).view(torch.uint8)
    one = torch.full((1, 2), 127, dtype=torch.uint8)
    assert stored.sixes(packed, one, 2)[0].tolist() == writers.E2M3
    e3m2 = [m / 16 for m in range(4)] + [(1 + m / 4) * 2.0 ** (e - 2) for e in range(7) for m in range(4)]
    assert stored.sixes(packed, one, 3)[0].tolist() == [*e3m2, *(-v for v in e3m2)]


@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("n_groups", [1, 4])
def test_two_of_four_in_the_order_of_a_kernel(bits: int, n_groups: int) -> None:
    numbers = np.random.default_rng(bits)
    rows, columns = 64, 128
    kept = np.array([numbers.choice(4, 2, replace=False) for _ in range(rows * columns // 4)])
    q = np.zeros((rows * columns // 4, 4), dtype=np.int64)
    np.put_along_axis(
        q, kept, numbers.integers(1, 1 << (bits - 1), kept.shape) * numbers.choice([1, -1], kept.shape), 1
    )
    q = q.reshape(rows, columns)
    scale = torch.rand(n_groups, rows).half()
    packed, meta = writers.marlin24(torch.tensor(q), bits)
    order = [8 * i + j for i in range(8) for j in (0, 4, 1, 5, 2, 6, 3, 7)] if n_groups > 1 else range(64)
    made = stored.marlin24(packed, scale[:, list(order)], meta, bits)
    assert torch.equal(made, torch.tensor(q) * scale.T.float().repeat_interleave(columns // n_groups, 1))


def test_halves_in_integers_beside_powers_of_two_are_what_transformers_makes_of_them() -> None:
    """DeepSeek-V4's experts: two floats of 4 bits in an int8, and a scale that is a power of two per 32."""
    from transformers.integrations.finegrained_fp8 import Fp8Dequantize

    numbers = torch.Generator().manual_seed(2)
    packed = torch.randint(-128, 128, (6, 32), dtype=torch.int8, generator=numbers)
    scale = torch.randint(120, 130, (6, 2), dtype=torch.uint8, generator=numbers).view(torch.float8_e8m0fnu)
    theirs = Fp8Dequantize(None)._dequantize_one(packed, scale, torch.float32)
    assert torch.equal(stored.halves(packed, scale), theirs)
    with pytest.raises(ValueError, match="scales in integers"):
        stored.whole(packed, scale.view(torch.uint8))


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


def eights_form(values: Any) -> tuple[dict[str, Any], Any]:
    """DeepSeek-V4's."""
    packed = torch.randint(-128, 128, (len(values), values.shape[1] // 2), dtype=torch.int8)
    scale = torch.randint(120, 130, (len(values), values.shape[1] // 32), dtype=torch.uint8)
    plain = stored.halves(packed, scale)
    return {"weight": packed, "scale": scale.view(torch.float8_e8m0fnu)}, plain


GROUPS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "int", "strategy": "group"}}}
THREES = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 3, "type": "int", "symmetric": False}}}
SIXES = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 6, "type": "float", "group_size": 32}}}
EIGHTS = {"group_0": {"targets": ["Linear"], "weights": {"num_bits": 8, "type": "float", "strategy": "channel"}}}
SPARSE = {"sparsity_config": {"format": "sparse-24-bitmask", "sparsity_structure": "2:4"}}
QUARK = {"weight": {"dtype": "int4", "qscheme": "per_group", "group_size": 32}}
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
    "pack-quantized in 3 bits": (
        writers.threes,
        {"quant_method": "compressed-tensors", "config_groups": THREES},
        "fp32",
    ),
    "mxfp6": (writers.sixes, {"quant_method": "compressed-tensors", "config_groups": SIXES}, "fp32"),
    "2:4": (writers.sparse, {"quant_method": "compressed-tensors", "config_groups": {}, **SPARSE}, "fp32"),
    "2:4 in fp8": (
        writers.sparse_fp8,
        {"quant_method": "compressed-tensors", "config_groups": EIGHTS, **SPARSE},
        "fp32",
    ),
    "int4 awq of ModelOpt": (writers.modelopt, {"quant_method": "modelopt", "quant_algo": "W4A16_AWQ"}, "fp32"),
    "fp8 of AutoRound": (
        fp8_form,
        {
            "quant_method": "auto-round",
            "bits": 8,
            "data_type": "fp",
            "group_size": [48, 48],
            "weight_block_size": [48, 48],
        },
        "fp32",
    ),
    "fp4 in int8": (eights_form, {"quant_method": "fp8", "weight_block_size": [128, 128]}, "fp32"),
    "torchao int8": (
        writers.Torchao("Int8Tensor", block_size=[1, 32]),
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int8WeightOnlyConfig"}}},
        "fp32",
    ),
    "torchao int4": (
        writers.Torchao("Int4Tensor", block_size=[1, 32]),
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "Int4WeightOnlyConfig"}}},
        "fp32",
    ),
    "torchao mxfp8": (
        writers.Torchao("MXTensor", block_size=32, is_swizzled_scales=True),
        {"quant_method": "torchao", "quant_type": {"default": {"_type": "MXDynamicActivationMXWeightConfig"}}},
        "fp32",
    ),
    "hqq": (
        writers.hqq,
        {"quant_method": "hqq", "quant_config": {"weight_quant_params": {"nbits": 4, "group_size": 32, "axis": 1}}},
        "fp32",
    ),
    "quark": (writers.quark, {"quant_method": "quark", "global_quant_config": QUARK}, "fp32"),
    "bitnet": (writers.bitnet, {"quant_method": "bitnet", "linear_class": "autobitlinear"}, "fp32"),
    "exl2": (writers.exl2, {"quant_method": "exl2", "bits": 4.0}, "fp32"),
    "aqlm": (
        writers.aqlm,
        {"quant_method": "aqlm", "in_group_size": 8, "num_codebooks": 2, "nbits_per_codebook": 8},
        "fp32",
    ),
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
    about = {name: form.about for name in plain if name.endswith("_proj.weight") and hasattr(form, "about")}
    save_file(tensors, path / "model.safetensors", metadata=about)
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
    path, _ = quantized(tmp_path / "exl3", mxfp8_form, {"quant_method": "exl3", "bits": 4.0})
    with pytest.raises(ExplorerError, match=r"EXL3.*cannot be read here"):
        make("dequantize", path, tmp_path / "out-exl3")
    path, _ = quantized(tmp_path / "awq", gptq_form, {"quant_method": "awq", "version": "gemv"})
    with pytest.raises(ExplorerError, match=r"_proj\.qweight.*version gemv"):
        make("dequantize", path, tmp_path / "out-awq")
    ordered = writers.Torchao("Int8Tensor", block_size=[1, 32])
    ordered.about = ordered.about.replace("Int8Tensor", "Int4TilePackedTo4dTensor")
    path, _ = quantized(tmp_path / "tiles", ordered, FORMS["torchao int4"][1])
    with pytest.raises(ExplorerError, match="Int4TilePackedTo4dTensor, in the order of one kernel"):
        make("dequantize", path, tmp_path / "out-tiles")
    six = writers.Torchao("MXTensor", block_size=32, is_swizzled_scales=True, elem_dtype="fp6_e2m3")  # a byte for each
    path, _ = quantized(tmp_path / "six", six, FORMS["torchao mxfp8"][1])
    with pytest.raises(ExplorerError, match="torchao's floats of 6 bits"):
        make("dequantize", path, tmp_path / "out-six")


@pytest.mark.parametrize("name", ["up_proj.smooth_scale", "up_proj.svdquant_lora_a", "up_proj.weight_scale_3"])
def test_a_tensor_that_no_form_takes_is_never_left_out(name: str, tmp_path: Path) -> None:
    path, _ = quantized(tmp_path / "more", fp8_form, FORMS["fp8"][1])
    tensors = load_file(path / "model.safetensors")
    tensors[f"model.layers.0.mlp.{name}"] = torch.ones(64)
    save_file(tensors, path / "model.safetensors")
    with pytest.raises(ExplorerError, match=f"{name} of .* is stored in a form that is not read"):
        make("dequantize", path, tmp_path / "out-more")


def test_plain_tensors_of_whatever_name_stay(tmp_path: Path) -> None:
    """Weight norms of towers, and a scale that belongs to no quantized matrix."""
    path, _ = quantized(tmp_path / "more", fp8_form, FORMS["fp8"][1])
    tensors = load_file(path / "model.safetensors")
    more = {
        "audio_tower.conv.weight_g": torch.rand(3),
        "audio_tower.conv.parametrizations.weight.original0": torch.rand(3),
        "vision_tower.norm.scale": torch.rand(3),
    }
    save_file(tensors | more, path / "model.safetensors")
    made, _ = make("dequantize", path, tmp_path / "out-more")
    found = load_file(Path(made.path) / "model.safetensors")
    assert all(torch.equal(found[name], value) for name, value in more.items())


def test_a_declaration_beside_its_sparsity_is_read_as_a_whole(tmp_path: Path) -> None:
    """compressed-tensors before 0.4 has the two beside each other; three bits are told by the inner one alone."""
    groups = {"quant_method": "compressed-tensors", "config_groups": THREES}
    older = {
        "quant_method": "compressed-tensors",
        "quantization_config": groups,
        "sparsity_config": {"format": "dense"},
    }
    path, plain = quantized(tmp_path / "older", writers.threes, older)
    made, _ = make("dequantize", path, tmp_path / "out")
    found = load_file(Path(made.path) / "model.safetensors")
    assert all(torch.equal(found[name].float(), plain[name].float()) for name in plain)


def test_bitnet_divides_where_transformers_does() -> None:
    """Its BitLinear divides by the scale, its AutoBitLinear multiplies."""
    from transformers.integrations.bitnet import pack_weights, unpack_weights

    q = torch.randint(-1, 2, (8, 5), generator=torch.Generator().manual_seed(3)).to(torch.int8)
    packed = pack_weights(q.clone())
    with torch.compiler.set_stance("force_eager"):  # it would be compiled for eight numbers
        theirs = unpack_weights(packed, torch.float32)
    assert torch.equal(stored.ternary(packed, torch.ones(1)), theirs)

    class Parts:
        main, about, stem = packed, "", ""

        def __init__(self, kind: str) -> None:
            self.said = {"linear_class": kind}

        def get(self, *ends: str) -> Any:
            return torch.tensor([4.0]) if ".weight_scale" in ends else None

    read = forms("bitnet")[0].read
    assert torch.equal(read(Parts("bitlinear")), q / 4) and torch.equal(read(Parts("autobitlinear")), q * 4.0)


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
