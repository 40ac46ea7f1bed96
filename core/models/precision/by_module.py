"""The methods that may state a form for each group of modules: compressed-tensors, ModelOpt, torchao, HQQ, Quark."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from core.models import weight_files
from core.models.precision.declaration import Declared, Rule
from core.models.precision.rules import (
    any_itself,
    any_named,
    as_listed,
    bits_of,
    every_matrix,
    group_of,
    left_alone,
    linear,
    linear_but_head,
    named,
)
from core.models.precision.scheme import MICROSCALED, Scheme, integer

_ALL = ("Linear", "MoE", "FusedMoE")  # targets that name a kind of module
_OF_FOUR = ("marlin-24", "sparse-24-bitmask")  # two of four weights are kept, and a bit for each says which
_SPARSE = Scheme("", 16 / 2 + 1)  # of weights of 16 bits that are not quantized besides


def compressed(found: Mapping[str, Any], method: str) -> Declared | None:
    """Groups of targets, each with its weights' bits, strategy and format; ModelOpt writes the same, or its formats by
    module. None where it is the cache or the activations alone that are quantized."""
    by = any_itself if method == "compressed-tensors" else any_named
    ignored = left_alone(found, "ignore", "exclude_modules", "modules_to_not_convert", by=by)
    label = {"modelopt": "ModelOpt"}.get(method, method)
    groups = found.get("config_groups")
    schemes: list[tuple[list[str], Scheme | None]] = []
    for group in groups.values() if isinstance(groups, Mapping) else ():
        if isinstance(group, Mapping):
            targets = [str(t) for t in group.get("targets") or ("Linear",)]
            weights = group.get("weights")
            form = str(group.get("format") or found.get("format") or "")
            if isinstance(sparsity := found.get("sparsity_config"), Mapping) and sparsity.get("format") in _OF_FOUR:
                form = str(sparsity["format"])
            schemes.append((targets, _arguments(weights, form) if isinstance(weights, Mapping) else None))
    of_modules = found.get("quantized_layers")
    for path, values in of_modules.items() if isinstance(of_modules, Mapping) else ():
        schemes.append(([str(path)], _modelopt(values) if isinstance(values, Mapping) else None))
    if method == "compressed-tensors" and not any(scheme for _, scheme in schemes):
        if weight_files.leaves_plain(found):
            return None
        sparsity = found["sparsity_config"]
        known = sparsity["format"] in _OF_FOUR
        ignored = left_alone(sparsity, "ignore", by=by)
        return Declared(method, f"{label}, sparse", _SPARSE if known else None, ignored, linear)
    if not schemes:
        schemes = [(["Linear"], _modelopt(found))]
    rules: list[Rule] = list(ignored)
    default: Scheme | None = None
    for scheme, group in groupby(schemes, key=lambda pair: pair[1]):
        targets = [target for listed, _ in group for target in listed]
        if modules := [target for target in targets if target not in _ALL]:
            rules.append((by(modules), scheme))
        if len(modules) < len(targets):
            default = scheme
    shown = default or next((s for _, s in schemes if s), None)
    name = f"{label} {shown.dtype}" if shown and not default else label
    return Declared(method, name, default, tuple(rules), linear)


def _modelopt(found: Mapping[str, Any]) -> Scheme | None:
    """What ModelOpt's `quant_algo` says where no groups do: W stands before the bits of weights, A of activations."""
    algorithm = str(found.get("quant_algo") or "").upper()
    words = algorithm.split("_")
    if "NVFP4" in words and "SVDQUANT" not in words:  # which stores more
        return replace(MICROSCALED["nvfp4"], tile=(1, group_of(found, 16)))
    if "MXFP4" in words:
        return MICROSCALED["mxfp4"]
    group = group_of(found, 128)
    return {
        "FP8": Scheme("fp8", 8, (0, 0), 32),
        "FP8_PER_CHANNEL_PER_TOKEN": Scheme("fp8", 8, (1, 0), 32),
        "FP8_PB_WO": Scheme("fp8", 8, (128, 128), 32),
        "FP8_BLOCK_SCALES": Scheme("fp8", 8, (128, 128), 32),
        "MXFP8": MICROSCALED["mxfp8"],
        "W4A16_AWQ": Scheme("int4", 4, (1, group), 16),
        "W4A8_AWQ": Scheme("int4", 4, (1, group), 16),
        "W8A16": Scheme("int8", 8, (1, 0), 16),
    }.get(algorithm)


def _arguments(weights: Mapping[str, Any], form: str) -> Scheme:
    """compressed-tensors' QuantizationArgs."""
    bits = bits_of(weights, 8, "num_bits")
    floating = str(weights.get("type", "int")) == "float"
    group = group_of(weights, 0)
    strategy = str(weights.get("strategy") or ("group" if group else "tensor"))
    narrow = floating and bits == 4
    micro = "mx" in form or "uint8" in str(weights.get("scale_dtype", "")) or (narrow and group == 32)
    scale_bits = 8 if micro or narrow else 16
    zeros = 0 if floating or weights.get("symmetric", True) else bits
    dtype = integer(bits) if not floating else {8: "fp8", 6: "fp6", 4: "nvfp4"}.get(bits, "fp8")
    if floating and micro:
        dtype = {8: "mxfp8", 4: "mxfp4"}.get(bits, dtype)
    tile: tuple[int, int] = {"tensor": (0, 0), "channel": (1, 0)}.get(strategy, (1, group))
    block = weights.get("block_structure")
    if strategy == "block":
        sizes = [int(n) for n in (re.findall(r"\d+", str(block)) if block else ())]
        tile = (sizes[0], sizes[1]) if len(sizes) == 2 else (128, 128)
    kept = bits / 2 + 1 if form in _OF_FOUR else bits
    ordered = weights.get("actorder") in ("group", "dynamic")  # the group of every column is stored
    return Scheme(dtype, kept, tile, scale_bits + zeros, 32 if ordered else 0)


def torchao(found: Mapping[str, Any], method: str) -> Declared:
    """`quant_type` names a configuration: a plain word with keywords beside it, or a class with its data."""
    kind = found.get("quant_type")
    rules: list[Rule] = list(left_alone(found, "modules_to_not_convert"))
    if isinstance(kind, Mapping):
        kind = kind.get("default", kind)
        per_module = kind.get("_data", {}) if str(kind.get("_type")) in ("ModuleFqnToConfig", "FqnToConfig") else {}
        if per_module:
            of_modules = next(iter(v for v in per_module.values() if isinstance(v, Mapping)), {})
            for path, value in of_modules.items():
                if path != "_default":
                    rules.append((named(path), _torchao_scheme(value, {}) if isinstance(value, Mapping) else None))
            kind = of_modules.get("_default", {})
    scheme = _torchao_scheme(kind, found.get("quant_type_kwargs") or {})
    listed = as_listed(found, "modules_to_not_convert")
    reach = every_matrix if found.get("include_input_output_embeddings") else listed
    return Declared(method, "torchao", scheme, tuple(rules), reach)


def _torchao_scheme(kind: Any, keywords: Mapping[str, Any]) -> Scheme | None:
    name, data = str(kind), dict(keywords)
    if isinstance(kind, Mapping):
        name = str(kind.get("_type", ""))
        data = dict(kind.get("_data") or {})
    if name.startswith("NVFP4"):
        return MICROSCALED["nvfp4"]
    kinds = re.findall(r"(int|float)(\d)", f"{name} {data.get('weight_dtype', '')}".lower())
    if not kinds:
        return None
    bits, floating = int(kinds[-1][1]), kinds[-1][0] == "float"  # the weights' stand behind the activations'
    if name.startswith("MX"):
        return MICROSCALED.get(f"mxfp{bits}")
    if floating or bits == 8:
        whole = "Tensor" in str(data.get("granularity", "")) and "Row" not in str(data.get("granularity", ""))
        return Scheme("fp8" if floating else "int8", bits, (0, 0) if whole else (1, 0), 32)
    grain = data.get("granularity")
    grain = grain.get("_data") if isinstance(grain, Mapping) else None
    group = group_of({**data, **(grain if isinstance(grain, Mapping) else {})}, 128)
    return Scheme(integer(bits), bits, (1, group), 32)


def hqq(found: Mapping[str, Any], method: str) -> Declared:
    """One form for all, or by module; a module that is not named then stays as it is."""

    def scheme(values: Mapping[str, Any]) -> Scheme:
        weights = values.get("weight_quant_params") or {}
        bits = bits_of(weights)
        group = group_of(weights, 64) if weights.get("group_size", 64) is not None else 0
        return Scheme(integer(bits), bits, (1, group), 32)

    inner = found.get("quant_config") or {}
    of_modules = {} if "weight_quant_params" in inner else {k: v for k, v in inner.items() if isinstance(v, Mapping)}
    rules: list[Rule] = list(left_alone(found, "skip_modules", "modules_to_not_convert"))
    rules += [(named(str(path)), scheme(values)) for path, values in of_modules.items()]
    return Declared(method, "HQQ", None if of_modules else scheme(inner), tuple(rules), linear_but_head)


def quark(found: Mapping[str, Any], method: str) -> Declared:
    def scheme(values: Any) -> Scheme | None:
        weights: Any = (values.get("weight") if isinstance(values, Mapping) else None) or {}
        weights = weights[0] if isinstance(weights, list) else weights
        kind = str(weights.get("dtype", "")) if isinstance(weights, Mapping) else ""
        match = re.match(r"(u?int|fp)(\d)", kind)
        if match is None:
            return None
        bits, group = int(match.group(2)), group_of(weights, 0)
        micro = "e8m0" in str(weights.get("scale_format", ""))
        floating = f"mxfp{bits}" if micro and bits in (4, 8) else f"fp{bits}"
        tile = (1, group) if group else (0, 0) if "tensor" in str(weights.get("qscheme")) else (1, 0)
        return Scheme(integer(bits) if "int" in kind else floating, bits, tile, 8 if micro else 32)

    rules: list[Rule] = list(left_alone(found, "exclude"))
    of_modules = found.get("layer_quant_config")
    rules += [(named(str(path)), scheme(v)) for path, v in (of_modules or {}).items()]
    return Declared(method, "Quark", scheme(found.get("global_quant_config")), tuple(rules), linear)
