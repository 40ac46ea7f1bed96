"""Number formats and what they cost: effective bits per weight, block scales included.

A format is that of a tensor, or a mix: what llama.cpp's quantize makes of a whole model when it is asked for
Q4_K_M and the like, with some tensors in better formats. A mix has no exact size before it is made.

GGUF block formats: bytes of a block times 8 over its elements (ggml-common.h of llama.cpp, the same
numbers as gguf.GGML_QUANT_SIZES). int8 and int4 are those of PyTorch and ONNX Runtime: int8 with one
scale per output channel (below 1 % and left out), int4 in blocks of 32 with an fp16 scale, and so are the other
integers; nf4 and fp4 are those of bitsandbytes, an fp32 scale per 64. What a configuration or a file declares of its
own groups and scales is in core.models.precision.
"""

from __future__ import annotations

import difflib

import msgspec

from core.types import Embedding, Layer, Linear, ModelSpec
from hardware.errors import ExplorerError

BITS_PER_WEIGHT: dict[str, float] = {
    "fp64": 64,
    "fp32": 32,
    "fp16": 16,
    "bf16": 16,
    "fp8": 8,
    "int8": 8,
    "int16": 16,
    "int32": 32,
    "int64": 64,
    "int2": 2.5,
    "int3": 3.5,
    "int4": 4.5,
    "int5": 5.5,
    "int6": 6.5,
    "nf4": 4.5,
    "fp4": 4.5,
    "fp6": 6.25,
    "q4_0": 4.5,
    "q4_1": 5,
    "q5_0": 5.5,
    "q5_1": 6,
    "q8_0": 8.5,
    "q8_1": 10,
    "q2_k": 2.625,
    "q3_k": 3.4375,
    "q4_k": 4.5,
    "q5_k": 5.5,
    "q6_k": 6.5625,
    "q8_k": 9.125,
    "q1_0": 1.125,
    "iq1_s": 1.5625,
    "iq1_m": 1.75,
    "iq2_xxs": 2.0625,
    "iq2_xs": 2.3125,
    "iq2_s": 2.5625,
    "iq3_xxs": 3.0625,
    "iq3_s": 3.4375,
    "iq4_nl": 4.5,
    "iq4_xs": 4.25,
    "tq1_0": 1.6875,
    "tq2_0": 2.0625,
    "mxfp4": 4.25,
    "mxfp8": 8.25,
    "nvfp4": 4.5,
}

# Bits per weight of whole models. Source: the table of tools/quantize/README.md of llama.cpp for Llama-3.1-8B;
# Q3_K_M from its older table for Llama-2-7B. Typical, not exact: small models have larger tables, which
# are stored better than the rest, so they come out some percent larger.
MIX_BITS_PER_WEIGHT: dict[str, float] = {
    "iq1_s": 2.0042,
    "iq1_m": 2.1460,
    "iq2_xxs": 2.3824,
    "iq2_xs": 2.5882,
    "iq2_s": 2.7403,
    "iq2_m": 2.9294,
    "iq3_xxs": 3.2548,
    "iq3_xs": 3.4977,
    "iq3_s": 3.6606,
    "iq3_m": 3.7628,
    "iq4_xs": 4.4597,
    "iq4_nl": 4.6818,
    "q2_k_s": 2.9697,
    "q2_k": 3.1593,
    "q3_k_s": 3.6429,
    "q3_k_m": 3.91,
    "q3_k_l": 4.2979,
    "q4_k_s": 4.6672,
    "q4_k_m": 4.8944,
    "q5_k_s": 5.5704,
    "q5_k_m": 5.7036,
    "q6_k": 6.5633,
}

# What a model's token table and head are stored as where its other matrices are stored so: four bits cost most there.
# llama.cpp's quantize does it for a table that is also the head, and the PyTorch backend for any.
TABLES = {"q4_1": "q8_0"}

_ALIASES = {
    "float64": "fp64",
    "f64": "fp64",
    "float32": "fp32",
    "float": "fp32",
    "f32": "fp32",
    "float16": "fp16",
    "half": "fp16",
    "f16": "fp16",
    "bfloat16": "bf16",
    **dict.fromkeys(
        ("float8", "float8_e4m3fn", "float8_e4m3fnuz", "float8_e5m2", "float8_e5m2fnuz", "float8_e8m0fnu"), "fp8"
    ),
    **dict.fromkeys(("f8_e4m3", "f8_e4m3fnuz", "f8_e5m2", "f8_e5m2fnuz", "f8_e8m0"), "fp8"),
    **dict.fromkeys(("f4", "f4_e2m1", "float4_e2m1fn_x2"), "fp4"),
    **dict.fromkeys(("f6_e2m3", "f6_e3m2"), "fp6"),
    **dict.fromkeys(("bool", "uint8"), "int8"),
    "u16": "int16",
    "u32": "int32",
    "u64": "int64",
    "uint16": "int16",
    "uint32": "int32",
    "uint64": "int64",
    "i8": "int8",
    "u8": "int8",
    "i16": "int16",
    "i32": "int32",
    "i64": "int64",
    "i4": "int4",
}

_FLOATS = ("fp64", "fp32", "fp16", "bf16")


def canonical_dtype(name: str) -> str:
    """Our name of a number format (`torch.bfloat16`, `BF16` -> `bf16`); raises ExplorerError for an unknown one."""
    key = name.removeprefix("torch.").lower()
    key = _ALIASES.get(key, key)
    if key not in BITS_PER_WEIGHT and key not in MIX_BITS_PER_WEIGHT:
        near = difflib.get_close_matches(key, [*BITS_PER_WEIGHT, *MIX_BITS_PER_WEIGHT], n=3, cutoff=0.5)
        hint = f"Did you mean {' or '.join(near)}?" if near else "Use a name such as fp32, bf16, int8, q8_0 or q4_k_m."
        raise ExplorerError(f"The number format '{name}' is not known here.", hint)
    return key


def bytes_per_element(dtype: str) -> float:
    """Effective bytes of one element of a tensor; a fraction for block formats, a mean for a mix."""
    key = canonical_dtype(dtype)
    return BITS_PER_WEIGHT.get(key, MIX_BITS_PER_WEIGHT.get(key, 0.0)) / 8


def mix_note(dtype: str) -> str:
    """One sentence for a format that is a mix in a whole model; empty for all others."""
    bits = MIX_BITS_PER_WEIGHT.get(canonical_dtype(dtype))
    if bits is None:
        return ""
    return f"{dtype.upper()} is a mix of formats: {bits:.3g} bits per weight are typical (Llama-3.1-8B), not exact."


def is_quantized(dtype: str) -> bool:
    """Whether the format stores matrices below 16 bits and leaves vectors as they are."""
    return canonical_dtype(dtype) not in _FLOATS


def retype(spec: ModelSpec, dtype: str) -> ModelSpec:
    """The same network with its weights stored as `dtype`.

    A quantized dtype applies to matrices: norms, biases, convolutions, recurrences, routers and
    position tables stay fp32, as llama.cpp's quantize leaves them. The embedding is quantized too, as it
    is there; PyTorch's dynamic int8 leaves it, and a table tied to the head with it; see also TABLES. A name that
    llama.cpp's quantize knows as a mix means the mix, spread evenly over the matrices.
    """
    dtype = canonical_dtype(dtype)
    tables = TABLES.get(dtype, dtype)
    layers = tuple(_retyped(x, tables if x.kind in ("embedding", "head") else dtype) for x in spec.layers)
    return msgspec.structs.replace(spec, layers=layers, dtype=dtype)


def _retyped(layer: Layer, dtype: str) -> Layer:
    if not layer.n_params:
        return layer
    n_matrix = layer.n_params
    if is_quantized(dtype):
        n_matrix = _matrix_params(layer)
    bits = MIX_BITS_PER_WEIGHT.get(dtype) or 8 * bytes_per_element(dtype)
    n_bytes = n_matrix * bits / 8 + (layer.n_params - n_matrix) * 4
    stored_as = dtype if n_matrix else "fp32"
    return msgspec.structs.replace(layer, weight_dtype=stored_as, weight_bytes=round(n_bytes))


def _matrix_params(layer: Layer) -> int:
    if layer.kind == "router" or layer.name in ("embed.position", "embed.token_type"):
        return 0
    if isinstance(layer.op, Embedding):
        return layer.n_params
    if isinstance(layer.op, Linear):
        return layer.n_params - layer.op.n_experts * layer.op.d_out * layer.op.bias
    return 0
