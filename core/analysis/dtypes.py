"""Number formats and what they cost: effective bits per weight, block scales included.

GGUF block formats: bytes of a block times 8 over its elements (ggml-common.h of llama.cpp, the same
numbers as gguf.GGML_QUANT_SIZES). int8 and int4 are those of PyTorch and ONNX Runtime: int8 with one
scale per output channel (below 1 % and left out), int4 in blocks of 32 with an fp16 scale.
"""

from __future__ import annotations

import msgspec

from core.errors import ExplorerError
from core.types import Embedding, Layer, Linear, ModelSpec

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
    "int4": 4.5,
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
    "nvfp4": 4.5,
}

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
    "float8_e4m3fn": "fp8",
    "f8_e4m3": "fp8",
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
    if key not in BITS_PER_WEIGHT:
        raise ExplorerError(f"The number format '{name}' is not known here.", f"Known: {', '.join(BITS_PER_WEIGHT)}.")
    return key


def bytes_per_element(dtype: str) -> float:
    """Effective bytes of one element; a fraction for block formats."""
    return BITS_PER_WEIGHT[canonical_dtype(dtype)] / 8


def is_quantized(dtype: str) -> bool:
    """Whether the format stores matrices below 16 bits and leaves vectors as they are."""
    return canonical_dtype(dtype) not in _FLOATS


def retype(spec: ModelSpec, dtype: str) -> ModelSpec:
    """The same network with its weights stored as `dtype`.

    A quantized dtype applies to matrices: norms, biases, convolutions, recurrences, routers and
    position tables stay fp32, as llama.cpp's quantize leaves them. The embedding is quantized too, as it
    is there; PyTorch's dynamic int8 leaves it, and a table tied to the head with it.
    """
    dtype = canonical_dtype(dtype)
    layers = tuple(_retyped(layer, dtype) for layer in spec.layers)
    return msgspec.structs.replace(spec, layers=layers, dtype=dtype)


def _retyped(layer: Layer, dtype: str) -> Layer:
    if not layer.n_params:
        return layer
    n_matrix = layer.n_params
    if is_quantized(dtype):
        n_matrix = _matrix_params(layer)
    n_bytes = n_matrix * bytes_per_element(dtype) + (layer.n_params - n_matrix) * 4
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
