"""The forms in which quantizers store a matrix: how its tensors are called, and who turns them into plain numbers.

A form is told by names and by the number format of its main tensor. Knows nothing of files; what a configuration
says besides comes with the tensors.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from core.transforms import _stored_matrix as stored

FLOATS = frozenset(("F16", "BF16", "F32", "F64"))
_WORDS = frozenset(("I32", "U32"))
_FLOATS_OF_8 = frozenset(("F8_E4M3", "F8_E5M2"))


class Matrix(Protocol):
    """The tensors of one matrix and what is said about them.

    main: its numbers. said: the declaration of the whole model. about: what the file says of the matrix itself. stem:
    its module's name.
    """

    @property
    def main(self) -> Any: ...

    @property
    def said(self) -> Mapping[str, Any]: ...

    @property
    def about(self) -> str: ...

    @property
    def stem(self) -> str: ...

    def get(self, *ends: str) -> Any:
        """The first tensor there is of those whose names end so; None where there is none."""


class UnreadError(ValueError):
    """Why a matrix is not read: some words."""


@dataclass(frozen=True)
class Form:
    """How one matrix is stored in several tensors.

    main: an expression of how the name of its numbers ends. plain: how the matrix itself is called, in words of that
    expression, as are the others. needed: one of these is there, or it is another form. beside: what else may be.
    dtypes: of the numbers; empty for any.
    """

    main: re.Pattern[str]
    needed: tuple[str, ...]
    read: Callable[[Matrix], Any]
    beside: tuple[str, ...] = ()
    plain: str = ".weight"
    dtypes: Collection[str] = ()


def _of_weight(read: Callable[[Matrix], Any], *needed: str, beside: tuple[str, ...] = (), dtypes: Any) -> Form:
    return Form(re.compile(r"\.weight$"), needed, read, beside, dtypes=dtypes)


def _named(main: str, read: Callable[[Matrix], Any], *needed: str, beside: tuple[str, ...] = ()) -> Form:
    return Form(re.compile(rf"\.{main}$"), needed, read, beside)


def forms(method: str) -> tuple[Form, ...]:
    """Those that files of a method may hold; the first that fits counts."""
    return (*_OWN.get(method, ()), *_SHARED)


# ---------------------------------------------------------------- what is said


def weights_of(said: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    """What each group of compressed-tensors says of weights."""
    groups = said.get("config_groups")
    found = groups.values() if isinstance(groups, Mapping) else ()
    return [g["weights"] for g in found if isinstance(g, Mapping) and isinstance(g.get("weights"), Mapping)]


def _group(said: Mapping[str, Any]) -> int:
    sizes = [said.get("group_size"), *(w.get("group_size") for w in weights_of(said))]
    return next((size for size in sizes if isinstance(size, int) and size > 0), 0)


def _tile(said: Mapping[str, Any]) -> tuple[int, ...]:
    sizes = [said.get("weight_block_size"), *(w.get("block_structure") for w in weights_of(said))]
    found = next((s for s in sizes if isinstance(s, list | tuple) and len(s) == 2), (1, _group(said)))
    return tuple(int(n) for n in found)


# ---------------------------------------------------------------- readers


def _words(matrix: Matrix) -> Any:
    """GPTQ's or AWQ's."""
    said, scales = matrix.said, matrix.get(".scales")
    version = str(said.get("version") or "gemm").lower()
    packing = str(said.get("packing_format") or said.get("checkpoint_format") or "")
    bits = int(said.get("bits") or said.get("w_bit") or 4)
    if said.get("quant_method") == "awq" or "awq" in packing:
        if version != "gemm" or bits != 4:
            raise UnreadError(f"{bits} bits, version {version}")
        return stored.awq(matrix.main, matrix.get(".qzeros"), scales, _group(said))
    if packing not in ("", "gptq", "gptq_v2") and "gptq" not in packing:
        raise UnreadError(f"packed for {packing}")
    index = matrix.get(".g_idx")
    if index is not None and len(index):
        bits = 32 * matrix.main.shape[0] // len(index)
    else:
        index = None
    one_less = packing != "gptq_v2"
    return stored.gptq(matrix.main, matrix.get(".qzeros"), scales, index, bits, _group(said), one_less)


def _packed(matrix: Matrix) -> Any:
    """compressed-tensors'."""
    import torch

    packed, scale = matrix.main, matrix.get(".weight_scale")
    zero, index = matrix.get(".weight_zero_point"), matrix.get(".weight_g_idx")
    if packed.dtype == torch.uint8:
        if zero is not None:
            raise UnreadError("floats with zeros")
        if packed.shape[-1] == 24 * scale.shape[-1]:
            return stored.sixes(packed, scale, 2)
        overall = matrix.get(".weight_global_scale")
        return stored.halves(packed, scale, None if overall is None else 1 / overall.float())
    shape = [int(n) for n in matrix.get(".weight_shape")]
    asked = [w["num_bits"] for w in weights_of(matrix.said) if isinstance(w.get("num_bits"), int)]
    widths = {b: (-(-shape[1] * b // 32), -(-shape[1] // (32 // b))) for b in (*asked, 4, 8) if 0 < b <= 8}
    bits = next((b for b, fits in widths.items() if packed.shape[1] in fits), 0)
    if not bits:
        raise UnreadError(f"{packed.shape[1]} words for {shape[1]} numbers")
    return stored.packed_integers(packed, scale, zero, index, shape, bits, _group(matrix.said))


def _marlin24(matrix: Matrix) -> Any:
    bits = {w.get("num_bits") for w in weights_of(matrix.said)}
    if bits not in ({4}, {8}):
        raise UnreadError(f"{' and '.join(sorted(map(str, bits)))} bits")
    return stored.marlin24(matrix.main, matrix.get(".scale_packed"), matrix.get(".meta"), int(bits.pop()))


def _unmasked(matrix: Matrix) -> Any:
    shape = [int(n) for n in matrix.get(".shape").flatten()]
    made = stored.unmasked(matrix.main, matrix.get(".bitmask"), shape)
    scale = matrix.get(".weight_scale")
    return made if scale is None else _scaled_numbers(made, scale, matrix)


def _stacked_halves(matrix: Matrix) -> Any:
    return stored.stacked_halves(matrix.main, matrix.get("_scales"))


def _scaled(matrix: Matrix) -> Any:
    """With ModelOpt's scale of the activations, which is one of the columns, where there is one."""
    made, before = _scaled_numbers(matrix.main, matrix.get(*_SCALES), matrix), matrix.get(".pre_quant_scale")
    return made if before is None else made * before.float()


def _scaled_numbers(weight: Any, scale: Any, matrix: Matrix) -> Any:
    """Numbers of 8 bits or less beside their scales: what they are is told by both number formats."""
    import torch

    if weight.dtype == torch.uint8 and scale.is_floating_point() and scale.ndim == 2 and len(scale) == 2 * len(weight):
        if matrix.get(".weight_scale_2") is not None:
            raise UnreadError("integers that are scaled twice")
        return stored.paired_rows(weight, scale)
    if weight.dtype == torch.uint8 or (weight.dtype == torch.int8 and scale.dtype == torch.float8_e8m0fnu):
        return stored.halves(weight, scale, matrix.get(".weight_scale_2"))
    if weight.dtype == torch.int8:
        zero, index = matrix.get(".weight_zero_point"), matrix.get(".weight_g_idx")
        return stored.whole(weight, scale, zero, index, _tile(matrix.said))
    return stored.scaled(weight, scale, _tile(matrix.said))


def _mlx(matrix: Matrix) -> Any:
    own = matrix.said.get(matrix.stem)  # which stands alone: it takes nothing of the model's
    values = own if isinstance(own, Mapping) else matrix.said
    scales, mode = matrix.get(".scales"), str(values.get("mode", "affine"))
    bits = matrix.main.shape[-1] * 32 // (scales.shape[-1] * int(values.get("group_size") or 64))
    return stored.mlx(matrix.main, scales, matrix.get(".biases"), bits, mode)


def _bnb_integers(matrix: Matrix) -> Any:
    return stored.scaled(matrix.main, matrix.get(".SCB", ".weight_SCB").flatten()) / 127


def _bnb_halves(matrix: Matrix) -> Any:
    about = json.loads(bytes(matrix.get(*_BNB_STATES).tolist()))
    absmax, nested = matrix.get(r"\1.absmax"), matrix.get(r"\1.nested_absmax")
    if nested is not None:
        block, offset = int(about["nested_blocksize"]), float(about["nested_offset"])
        absmax = stored.bnb_absmax(absmax, nested, matrix.get(r"\1.nested_quant_map"), block, offset)
    block, shape = int(about["blocksize"]), about["shape"]
    return stored.bnb_halves(matrix.main, absmax, matrix.get(r"\1.quant_map"), block, shape)


def _hqq(matrix: Matrix) -> Any:
    packing = "".join(map(chr, matrix.get(".packing").tolist()))  # "4bit_u8"
    shape = [int(n) for n in matrix.get(".shape")]
    return stored.hqq(matrix.main, matrix.get(".scale"), matrix.get(".zero"), int(packing[0]), shape)


def _torchao(matrix: Matrix) -> Any:
    """A tensor of torchao's; the file says of which class it is, and with which blocks and order of scales."""
    about = json.loads(matrix.about or "{}")
    kind, values = str(about.get("_type")), about.get("_data") or {}
    scale, zero, q = matrix.get(r"._\1_scale"), matrix.get(r"._\1_zero_point"), matrix.main
    if kind in ("Int8Tensor", "IntxUnpackedToInt8Tensor"):
        made = stored.whole(q, scale, zero, None, values["block_size"])
    elif kind == "Int4Tensor":
        made = stored.shifted_halves(q, scale, zero)
    elif kind == "Float8Tensor":
        made = stored.scaled(q, scale, values["block_size"])
    elif kind in ("MXTensor", "NVFP4Tensor"):
        narrow = q.element_size() == 1 and not q.is_floating_point()
        if values.get("is_swizzled_scales"):
            columns = q.shape[-1] * (2 if narrow else 1) // int(values["block_size"])
            rows = q.numel() // q.shape[-1]
            scale = stored.unblocked(scale, rows, columns).reshape(*q.shape[:-1], columns)
        if "fp6" in str(values.get("elem_dtype")):
            raise UnreadError("torchao's floats of 6 bits")
        overall = matrix.get(r"._\1_per_tensor_scale")
        made = stored.halves(q, scale, overall) if narrow else stored.scaled(q, scale)
    else:
        raise UnreadError(f"torchao's {kind}, in the order of one kernel")
    before = matrix.get(r"._\1_act_pre_scale")  # of the activations, so of the columns
    return made if before is None else made * before.float()


def _quark(matrix: Matrix) -> Any:
    """amd-quark's: integers of 4 bits in words; those with groups lie with their columns down."""
    import torch

    export = matrix.said.get("export")
    ordered = isinstance(export, Mapping) and export.get("pack_method") == "order"
    kinds = _quark_kinds(matrix.said)
    scale, zero, q = matrix.get(".weight_scale"), matrix.get(".weight_zero_point"), matrix.main
    if q.dtype == torch.uint8 and (sixes := kinds & {"fp6_e2m3", "fp6_e3m2"}) and q.shape[-1] == 24 * scale.shape[-1]:
        if len(sixes) > 1:
            raise UnreadError("of two kinds of six bits")
        return stored.sixes(q, scale, 2 if sixes == {"fp6_e2m3"} else 3)
    if not kinds & {"int4", "uint4", "int8", "uint8", "int2"} or (q.dtype == torch.uint8 and "uint8" not in kinds):
        return _scaled_numbers(q, scale, matrix)
    if q.dtype == torch.int32 and "int2" not in kinds:
        if len(fours := kinds & {"int4", "uint4"}) != 1:
            raise UnreadError("of two kinds of four bits")
        places = range(8) if ordered else stored.AWQ_PLACES
        q, zero = stored.nibbles(q, places), None if zero is None else stored.nibbles(zero, places)
        if fours == {"int4"}:
            q, zero = stored.signed(q, 4), None if zero is None else stored.signed(zero, 4)
        if zero is not None:
            zero = zero[..., : scale.shape[-1]]
    if scale.ndim < 2:
        return stored.whole(q, scale, zero)
    q = q[:, : scale.shape[-1]]
    return stored.whole(q.T, scale.T.contiguous(), None if zero is None else zero.T.contiguous()).contiguous()


def _quark_kinds(said: Mapping[str, Any]) -> set[str]:
    """The number formats of weights that the model has. Raises UnreadError where one is quantized twice."""
    of_modules = said.get("layer_quant_config")
    configs = [said.get("global_quant_config"), *(of_modules.values() if isinstance(of_modules, Mapping) else ())]
    kinds = set()
    for weights in (c.get("weight") for c in configs if isinstance(c, Mapping)):
        stages = weights if isinstance(weights, list) else [weights]
        if len(stages) > 1:
            raise UnreadError("quantized in two stages")
        kinds |= {str(stage.get("dtype")) for stage in stages if isinstance(stage, Mapping)}
    return kinds


def _bitnet(matrix: Matrix) -> Any:
    """transformers multiplies by the scale where layers are called autobitlinear, and else divides by it."""
    scale = matrix.get(".weight_scale").float()
    return stored.ternary(matrix.main, scale if matrix.said.get("linear_class") == "autobitlinear" else 1 / scale)


def _exl2(matrix: Matrix) -> Any:
    parts = (".q_scale", ".q_scale_max", ".q_groups", ".q_invperm")
    return stored.exl2(matrix.main, *(matrix.get(part) for part in parts))


def _aqlm(matrix: Matrix) -> Any:
    return stored.aqlm(matrix.main, matrix.get(".codebooks"), matrix.get(".scales"))


# ---------------------------------------------------------------- which there are

_SCALES = (r"\1_scale_inv", r"\1_scale", ".scale")
_BNB_STATES = (r"\1.quant_state.bitsandbytes__nf4", r"\1.quant_state.bitsandbytes__fp4")
_BESIDE_INTEGERS = (".weight_zero_point", ".weight_g_idx", ".weight_shape")
_ANY = re.compile(r"(\.\w+)$")  # a matrix of a module, or experts that are one tensor

_SHARED = (
    _named("qweight", _words, ".scales", beside=(".qzeros", ".g_idx")),
    _named("weight_packed", _marlin24, ".scale_packed", beside=(".meta",)),
    _named("weight_packed", _packed, ".weight_scale", beside=(".weight_global_scale", *_BESIDE_INTEGERS)),
    _named("compressed", _unmasked, ".bitmask", beside=(".shape", ".row_offsets", ".weight_scale", *_BESIDE_INTEGERS)),
    Form(re.compile(r"_blocks$"), ("_scales",), _stacked_halves, plain=""),
    _named("W_q", _hqq, ".scale", beside=(
        ".zero", ".shape", ".packing", ".nbits", ".group_size", ".axis", ".unpack_view_dtype", ".view_as_float",
        ".quant_scale", ".quant_zero", ".compute_dtype", ".offload_meta", ".encoded_state_dict",
        ".stores_quant_config", ".channel_wise", ".optimize", ".round_zero",
    )),
    Form(re.compile(r"\._(\w+)_qdata$"), (r"._\1_scale", r"._\1_scale_and_zero"), _torchao, plain=r".\1", beside=(
        r"._\1_zero_point", r"._\1_per_tensor_scale", r"._\1_act_pre_scale",
    )),
    _named("q_weight", _exl2, ".q_scale", beside=(".q_scale_max", ".q_groups", ".q_invperm", ".q_perm")),
    _named("codes", _aqlm, ".codebooks", beside=(".scales",)),
    Form(_ANY, (r"\1.quant_map", r"\1.absmax"), _bnb_halves, plain=r"\1", beside=(
        r"\1.nested_absmax", r"\1.nested_quant_map", *_BNB_STATES,
    )),
    _of_weight(_bnb_integers, ".SCB", ".weight_SCB", beside=(".weight_format",), dtypes=("I8",)),
    Form(_ANY, _SCALES, _scaled, plain=r"\1", dtypes=(*_FLOATS_OF_8, "U8", "I8"), beside=(
        ".weight_scale_2", ".pre_quant_scale", *_BESIDE_INTEGERS,
    )),
)  # fmt: skip
_OWN = {
    "mlx": (_of_weight(_mlx, ".scales", beside=(".biases",), dtypes=_WORDS),),
    "quark": (_of_weight(_quark, ".weight_scale", beside=(".weight_zero_point",), dtypes=("I8", "U8", "I32")),),
    "bitnet": (_of_weight(_bitnet, ".weight_scale", dtypes=("U8",)),),
}
