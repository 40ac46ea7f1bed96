"""How each method's configuration is read: the form of all that it reaches, and the modules that have another."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from core.models.precision.by_module import compressed, hqq, quark, torchao
from core.models.precision.declaration import Declared, Rule
from core.models.precision.rules import (
    as_listed,
    bits_of,
    every_matrix,
    experts,
    group_of,
    left_alone,
    linear,
    linear_but_head,
    named,
)
from core.models.precision.scheme import MICROSCALED, Scheme, integer


def _gptq(found: Mapping[str, Any], method: str) -> Declared:
    """Words of packed columns, fp16 scales, packed zeros, and for GPTQ the group of every column (`g_idx`)."""
    index = 32 if method == "gptq" else 0

    def scheme(values: Mapping[str, Any]) -> Scheme:
        own = {**found, **values}
        kind, tile = str(own.get("data_type") or "int"), own.get("group_size")  # AutoRound's
        if isinstance(tile, list) and len(tile) == 2:
            return Scheme("fp8" if "fp" in kind else "int8", 8, (int(tile[0]), int(tile[1])), 16)
        bits, group = bits_of(own), group_of(own, 128)
        if "fp" in kind:
            shared = (0, 0) if tile == 0 else (1, group)
            return MICROSCALED.get(f"{kind[:2]}fp{bits}") or Scheme(f"fp{bits}", bits, shared, 16)
        return Scheme(integer(bits), bits, (1, group), 16 + bits, index)

    rules: list[Rule] = []
    special = {**(found.get("dynamic") or {}), **(found.get("extra_config") or {})}
    for pattern, values in special.items():
        own = values if isinstance(values, Mapping) else {}
        name = f"re:{pattern[2:]}" if pattern[:2] in ("+:", "-:") else pattern
        rules.append((named(name), None if pattern.startswith("-:") or own.get("bits") == 16 else scheme(own)))
    groups = [[names] if isinstance(names, str) else names for names in found.get("modules_in_block_to_quantize") or ()]
    if only := [str(name) for names in groups for name in names]:
        chosen = [named(name) for name in only]
        rules.append((lambda paths: not any(fits(paths) for fits in chosen), None))
    rules += left_alone(found, "modules_to_not_convert")
    reach = linear if found.get("lm_head") is True else linear_but_head
    return Declared(method, method.upper(), scheme({}), tuple(rules), reach)


def _tiled(found: Mapping[str, Any], method: str) -> Declared:
    """transformers' and DeepSeek's FP8, and SGLang's integers: tiles with an fp32 scale; without tiles one scale per
    matrix. DeepSeek-V4 has its experts in four bits, and scales of a byte."""
    autofp8 = "ignored_layers" in found  # AutoFP8's, as vLLM reads it: a scale per matrix
    tile = found.get("weight_block_size", None if autofp8 else (128, 128))
    shape = (int(tile[0]), int(tile[1])) if isinstance(tile, list | tuple) and len(tile) == 2 else (0, 0)
    dtype = "fp8" if method == "fp8" else "int8"
    rules, reach = (
        left_alone(found, "modules_to_not_convert", "ignored_layers"),
        as_listed(found, "modules_to_not_convert"),
    )
    kind = str(found.get("moe_quant_algo") or found.get("expert_dtype") or "").lower()
    if inner := MICROSCALED.get({"fp4": "mxfp4"}.get(kind, kind)):
        own: Rule = (lambda paths: any(".experts." in path for path in paths), inner)
        label = f"{dtype.upper()} with experts in {inner.dtype.upper()}"
        return Declared(method, label, Scheme(dtype, 8, shape, 8), (own, *rules), reach)
    return Declared(method, dtype.upper(), Scheme(dtype, 8, shape, 32), rules, reach)


def _all_but_listed(
    found: Mapping[str, Any],
    method: str,
    label: str,
    scheme: Scheme | None,
    *listed: str,
) -> Declared:
    """One form for every linear layer but the modules under the keys `listed`, by default "modules_to_not_convert"."""
    listed = listed or ("modules_to_not_convert",)
    return Declared(method, label, scheme, left_alone(found, *listed), as_listed(found, *listed))


def _rowwise(dtype: str, label: str, scale_bits: int) -> Callable[[Mapping[str, Any], str], Declared]:
    def read(found: Mapping[str, Any], method: str) -> Declared:
        return _all_but_listed(found, method, label, Scheme(dtype, 8, (1, 0), scale_bits))

    return read


def _mxfp4(found: Mapping[str, Any], method: str) -> Declared:
    rules = left_alone(found, "modules_to_not_convert", "ignore")
    return Declared(method, "MXFP4", MICROSCALED["mxfp4"], rules, experts)


def _microscaled(*keys: str, default: str = "") -> Callable[[Mapping[str, Any], str], Declared]:
    """keys: where a configuration names the format, the first of them that does; default: what it is without a word."""

    def read(found: Mapping[str, Any], method: str) -> Declared:
        dtype = next((str(found[key]).lower() for key in keys if found.get(key)), default)
        scheme = MICROSCALED.get(dtype)
        return _all_but_listed(found, method, dtype.upper(), scheme, "modules_to_not_convert", "ignore")

    return read


def _bitsandbytes(found: Mapping[str, Any], method: str) -> Declared:
    """4 bits with an fp32 maximum per 64 weights, itself in 8 bits and groups of 256 where quantized twice."""
    if found.get("load_in_8bit") or found.get("_load_in_8bit"):
        scheme, label = Scheme("int8", 8, (1, 0), 32), "bitsandbytes LLM.int8"
    else:
        kind = str(found.get("bnb_4bit_quant_type", "fp4"))
        scale_bits = 8 + 32 / 256 if found.get("bnb_4bit_use_double_quant") else 32
        scheme = Scheme("nf4" if kind == "nf4" else "fp4", 4, (1, 64), scale_bits)
        label = f"bitsandbytes {kind.upper()}"
    return _all_but_listed(found, method, label, scheme, "llm_int8_skip_modules", "modules_to_not_convert")


def _quanto(found: Mapping[str, Any], method: str) -> Declared:
    kind = str(found.get("weights", "int8"))
    bits = int(re.sub(r"\D", "", kind) or 8)
    scheme = Scheme(integer(bits), bits, (1, 128), 32) if bits < 8 else Scheme(integer(8), 8, (1, 0), 16)
    if kind.startswith("float"):
        scheme = replace(scheme, dtype="fp8")
    return _all_but_listed(found, method, "Quanto", scheme)


def mlx(found: Mapping[str, Any]) -> Declared:
    """Every matrix, tables and routers too, with a 16-bit scale and bias per group; a module may have its own.

    What a module has of its own stands alone: it takes MLX's defaults, not the model's.
    """

    def scheme(values: Mapping[str, Any]) -> Scheme:
        mode, bits = str(values.get("mode", "affine")), bits_of(values)
        if mode in ("mxfp4", "mxfp8", "nvfp4"):
            return Scheme(mode, int(mode[-1]), (1, 16 if mode == "nvfp4" else 32), 8)
        return Scheme(integer(bits), bits, (1, group_of(values, 64)), 32)

    rules = [
        (named(path), scheme(values) if isinstance(values, Mapping) else None)
        for path, values in found.items()
        if isinstance(values, Mapping) or values is False
    ]
    return Declared("mlx", "MLX", scheme(found), tuple(rules), every_matrix)


def _bitnet(found: Mapping[str, Any], method: str) -> Declared:
    """Two bits, or, for a model in training ("online"), plain weights that are rounded whenever they are used."""
    if found.get("quantization_mode") == "online":
        return Declared(method, "BitNet, whose weights are rounded as they are used", None, (), linear, plain=True)
    return _all_but_listed(found, method, "BitNet", Scheme("int2", 2, (0, 0), 16))


def _exllama(found: Mapping[str, Any], method: str) -> Declared:
    """ExLlama's mean bits of a weight, scales included, and those of the head."""

    def scheme(key: str) -> Scheme | None:
        bits = found.get(key)
        if isinstance(bits, bool) or not isinstance(bits, int | float) or not 1 <= bits <= 16:
            return None
        return Scheme(integer(round(bits)), bits)

    head = (named("lm_head"), scheme("head_bits"))
    return Declared(method, method.upper(), scheme("bits"), (head,), linear)


def _metal(found: Mapping[str, Any], method: str) -> Declared:
    """transformers' own for Apple's processors: a 16-bit scale and bias per group, as MLX has them."""
    bits = bits_of(found)
    return _all_but_listed(found, method, "Metal", Scheme(integer(bits), bits, (1, group_of(found, 64)), 32))


def _gemma(found: Mapping[str, Any], method: str) -> Declared:
    """Gemma's own: an fp32 scale per row; modules by regexes that may stand anywhere in a name, the first counts."""

    def scheme(values: Mapping[str, Any]) -> Scheme:
        bits = bits_of({**found, **values}, 4, "num_bits")
        return Scheme(integer(bits), bits, (1, 0), 32)

    rules: list[Rule] = list(left_alone(found, "modules_to_not_convert"))
    for pattern, values in (found.get("module_quant_configs") or {}).items():
        rules.append((named(f"re:.*(?:{pattern})"), scheme(values or {})))
    reach = every_matrix if found.get("quantize_embeddings") else as_listed(found, "modules_to_not_convert")
    return Declared(method, "Gemma", scheme({}), tuple(rules), reach)


def unknown(found: Mapping[str, Any], method: str) -> Declared:
    """A method whose sizes are not known here: by the bits that it states, else in the model's dtype, and said so."""
    label = f"'{method or 'unnamed'}' quantization"
    keys = ("num_codebooks", "nbits_per_codebook", "in_group_size")
    codes = [n for key in keys if isinstance(n := found.get(key), int) and n > 0]
    if len(codes) == len(keys):  # AQLM: so many codes per group of weights
        bits = codes[0] * codes[1] / codes[2]
        scheme = Scheme(integer(max(round(bits), 2)), bits, (1, 0), 16)
        return Declared(method, label, scheme, left_alone(found, "modules_to_not_convert"), linear_but_head)
    if any(isinstance(found.get(key), int) for key in ("bits", "nbits", "num_bits")):
        bits = bits_of(found, 4, "num_bits")
        scheme = Scheme(integer(bits), bits, (1, group_of(found, 128)), 16)
        rules = left_alone(found, "modules_to_not_convert", "ignore")
        return Declared(method, f"{label} (its scales guessed as 16 bits)", scheme, rules, linear_but_head)
    return Declared(method, label, None, (), linear)


METHODS: dict[str, Callable[[Mapping[str, Any], str], Declared | None]] = {
    "gptq": _gptq,
    "awq": _gptq,
    "auto-round": _gptq,
    "intel/auto-round": _gptq,
    "fp8": _tiled,
    "blockwise-int8": _tiled,
    "w8a8-int8": _rowwise("int8", "W8A8", 32),
    "w8a8-fp8": _rowwise("fp8", "W8A8", 32),
    "fbgemm-fp8": _rowwise("fp8", "FP8", 32),
    "eetq": _rowwise("int8", "EETQ", 16),
    "mxfp4": _mxfp4,
    "mxfp8": _microscaled(default="mxfp8"),
    "nvfp4": _microscaled(default="nvfp4"),
    "fp-quant": _microscaled("forward_dtype", default="nvfp4"),
    "fouroversix": _microscaled("weight_dtype", "dtype", default="nvfp4"),
    "metal": _metal,
    "exl2": _exllama,
    "exl3": _exllama,
    "gemma": _gemma,
    "bitsandbytes": _bitsandbytes,
    "compressed-tensors": compressed,
    "modelopt": compressed,
    "torchao": torchao,
    "hqq": hqq,
    "quanto": _quanto,
    "quark": quark,
    "bitnet": _bitnet,
}
