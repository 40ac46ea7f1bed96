"""What a config.json says of the number format of its weights: bits, scales and the modules that it leaves alone.

Knows the `quantization_config` of GPTQ, AWQ, FP8, MXFP4 and MXFP8, NVFP4, bitsandbytes, compressed-tensors, torchao
and others, and MLX's `quantization`; which layers of a network each of them reaches, and the bytes of a matrix with
its scales. Reads no files, and knows nothing of who can run such weights.

Sources: the classes of transformers' utils/quantization_config.py and what their quantizers replace; the formats'
own writers for the tensors of a matrix (GPTQ and AWQ: packed words, 16-bit scales, packed zeros; bitsandbytes:
QLoRA, 2305.14314 section 3; OCP Microscaling Formats 1.0 section 5; MLX: `mlx.core.quantize`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from importlib.util import find_spec
from math import ceil
from typing import Any

import msgspec

from core.layer_names import hf_paths
from core.models.defaults import nested
from core.types import Embedding, Layer, Linear
from hardware.errors import ExplorerError

# The methods whose stored weights say plain numbers that can be written down (the transform `dequantize`).
RESTORED = frozenset(
    (
        "gptq", "awq", "auto-round", "intel/auto-round", "fp8", "fbgemm-fp8", "mxfp4", "mxfp8", "nvfp4", "bitsandbytes",
        "compressed-tensors", "modelopt", "mlx",
    )
)  # fmt: skip
OURS = "roofscope"  # integers that this program made: its files say more than their configuration


@dataclass(frozen=True)
class Scheme:
    """How one matrix is stored.

    tile: rows and columns that share a scale, 0 for all of them: (1, 128) is groups of 128 in a row, (0, 0) the whole
    matrix. scale_bits: of a scale and what stands beside it. column_bits: per column of the whole matrix.
    """

    dtype: str
    bits: float
    tile: tuple[int, int] = (0, 0)
    scale_bits: float = 0.0
    column_bits: int = 0

    def bytes(self, rows: int, columns: int) -> float:
        """Of a matrix and its scales."""
        n_scales = ceil(rows / (self.tile[0] or rows)) * ceil(columns / (self.tile[1] or columns))
        return (rows * columns * self.bits + n_scales * self.scale_bits + columns * self.column_bits) / 8

    @property
    def words(self) -> str:
        """ "4 bits in groups of 128"."""
        if not self.scale_bits:
            return f"{self.bits:g} bits a weight"
        shared = {(0, 0): "with one scale per matrix", (1, 0): "with one scale per row"}
        if self.tile in shared:
            return f"{self.bits:g} bits {shared[self.tile]}"
        if self.tile[0] == 1:
            return f"{self.bits:g} bits in groups of {self.tile[1]}"
        return f"{self.bits:g} bits in tiles of {self.tile[0]} × {self.tile[1]}"


Rule = tuple[Callable[[Sequence[str]], bool], Scheme | None]  # takes the paths that a module may have


@dataclass(frozen=True)
class Declared:
    """The precision that a configuration declares.

    scheme: of all that it reaches; None where the method's sizes are not known here. rules: a scheme of their own, or
    None for the model's dtype, for modules that a pattern names; the first that fits counts. reach: whether the
    method reaches a layer at all.
    """

    method: str
    label: str
    scheme: Scheme | None
    rules: tuple[Rule, ...]
    reach: Callable[[Layer], bool]

    @property
    def lacking(self) -> tuple[str, ...] | None:
        """The packages that transformers needs for such weights and that are not installed; None: it cannot at all."""
        needed = _NEEDS.get(self.method)
        return None if needed is None else tuple(name for name in needed if find_spec(name) is None)

    @property
    def words(self) -> str:
        """ "GPTQ, 4 bits in groups of 128"."""
        return f"{self.label}, {self.scheme.words}" if self.scheme else self.label

    def scheme_of(self, layer: Layer) -> Scheme | None:
        """How this layer's matrix is stored; None: in the model's dtype."""
        if not layer.n_params or not self.reach(layer):
            return None
        paths = hf_paths(layer.name, mlx=self.method == "mlx")
        for fits, scheme in self.rules:
            if fits(paths):
                return scheme
        return self.scheme

    def stored(self, layer: Layer, rest_dtype: str, rest_bytes: float) -> Layer:
        """The layer with its declared bytes; what has no scheme takes the model's dtype."""
        if not layer.n_params:
            return layer
        scheme = self.scheme_of(layer)
        if scheme is None:
            n_bytes = layer.n_params * rest_bytes
            return msgspec.structs.replace(layer, weight_dtype=rest_dtype, weight_bytes=round(n_bytes))
        op = layer.op
        rows, columns = (op.rows, op.d) if isinstance(op, Embedding) else (op.d_out, op.d_in)  # type: ignore[union-attr]
        n = op.n_experts if isinstance(op, Linear) else 1
        vectors = layer.n_params - n * rows * columns
        n_bytes = n * scheme.bytes(rows, columns) + vectors * rest_bytes
        return msgspec.structs.replace(layer, weight_dtype=scheme.dtype, weight_bytes=round(n_bytes))


def declared(config: Mapping[str, Any]) -> Declared | None:
    """What the configuration declares; None where it is silent, or where this program wrote it."""
    try:
        return _declared(config)
    except (TypeError, ValueError, AttributeError, KeyError, IndexError) as error:
        raise ExplorerError(
            "The quantization of this configuration is not of the form that its method has.",
            "Correct config.json, or download it again.",
        ) from error


def _declared(config: Mapping[str, Any]) -> Declared | None:
    for values in (config, nested(config) or {}):
        found = values.get("quantization_config") or values.get("compression_config")
        if found and not isinstance(found, Mapping):
            raise TypeError("it is no object")
        if isinstance(found, Mapping):
            found = found.get("quantization_config") or found  # beside its sparsity, in older files
            method = _method(found)
            if method == OURS:
                return None
            if "mode" in found or (not method and "group_size" in found):
                return _mlx(found)
            return _METHODS.get(method, _unknown)(found, method)
        if isinstance(found := values.get("quantization"), Mapping):
            return _mlx(found)
    return None


def _method(found: Mapping[str, Any]) -> str:
    method = str(found.get("quant_method") or "").lower().replace("_", "-")
    if not method and (found.get("load_in_4bit") or found.get("load_in_8bit")):
        return "bitsandbytes"
    if method.startswith("modelopt") or (not method and "quant_algo" in found):
        return "modelopt"
    if "config_groups" in found and method not in _METHODS:  # its names before it had one of its own
        return "compressed-tensors"
    return method


# ---------------------------------------------------------------- which layers


def _linear(layer: Layer) -> bool:
    return isinstance(layer.op, Linear) and layer.kind != "router"


def _linear_but_head(layer: Layer) -> bool:
    return _linear(layer) and layer.kind != "head"


def _as_listed(found: Mapping[str, Any], *keys: str) -> Callable[[Layer], bool]:
    """transformers leaves the head alone by itself, and where modules are listed, those alone."""
    return _linear if any(found.get(key) is not None for key in keys) else _linear_but_head


def _experts(layer: Layer) -> bool:
    return isinstance(layer.op, Linear) and layer.op.n_experts > 1


def _every_matrix(layer: Layer) -> bool:
    return isinstance(layer.op, Linear | Embedding)


def matcher(pattern: str) -> Callable[[str], bool]:
    """Whether a module's path is one that `pattern` names: itself, a module around it, a wildcard, a regex."""
    if pattern.startswith("re:"):
        return _regex(pattern[3:])
    if re.search(r"[\\^$(|+]", pattern):
        return _regex(pattern)
    if "*" in pattern or "?" in pattern:
        return lambda path: fnmatchcase(path, pattern) or fnmatchcase(path, f"{pattern}.*")
    wanted, block = f".{pattern.strip('.')}.", re.search(r"layers\.(\d+)(?:\.|$)", pattern)
    index = f".{block.group(1)}." if block else ""

    def fits(path: str) -> bool:
        around = f".{path}."
        return index in around and wanted in around

    return fits


def _regex(pattern: str) -> Callable[[str], bool]:
    try:
        compiled = re.compile(pattern)
    except re.error as error:
        raise ExplorerError(
            f"'{pattern}' in the quantization of this configuration is no regular expression ({error}).",
            "Correct config.json, or download it again.",
        ) from error
    return lambda path: compiled.match(path) is not None


def _named(pattern: str) -> Callable[[Sequence[str]], bool]:
    fits = matcher(pattern)
    return lambda paths: any(fits(path) for path in paths)


def _itself(pattern: str) -> Callable[[Sequence[str]], bool]:
    """Modules of compressed-tensors are named whole, or by a regex: a module's name says nothing of those inside it."""
    return _named(pattern) if pattern.startswith("re:") else lambda paths: pattern in paths


def _left_alone(
    found: Mapping[str, Any], *keys: str, by: Callable[[str], Callable[[Sequence[str]], bool]] = _named
) -> tuple[Rule, ...]:
    names: list[str] = []
    for key in keys:
        value = found.get(key)
        names += [value] if isinstance(value, str) else [str(name) for name in value or ()]
    return tuple((by(name), None) for name in names)


# ---------------------------------------------------------------- numbers


def _number(found: Mapping[str, Any], keys: Iterable[str], default: int, least: int, most: int) -> int:
    for key in keys:
        if (value := found.get(key)) is not None:
            if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
                raise ExplorerError(
                    f"'{key}' is {value!r} in the quantization of this configuration, but must be a whole number from "
                    f"{least} to {most}.",
                    "Correct config.json, or download it again.",
                )
            return value
    return default


def _bits(found: Mapping[str, Any], default: int = 4, *keys: str) -> int:
    return _number(found, (*keys, "bits", "w_bit", "nbits"), default, 1, 16)


def _group(found: Mapping[str, Any], default: int, *keys: str) -> int:
    """Columns that share a scale; 0 for a whole row, which files write as -1."""
    return max(_number(found, (*keys, "group_size", "q_group_size"), default, -1, 1 << 20), 0)


def _integer(bits: int) -> str:
    return f"int{bits}" if bits in (2, 3, 4, 5, 6, 8, 16) else "int4" if bits < 4 else "int8"


# ---------------------------------------------------------------- the methods


def _gptq(found: Mapping[str, Any], method: str) -> Declared:
    """Words of packed columns, fp16 scales, packed zeros, and for GPTQ the group of every column (`g_idx`)."""
    index = 32 if method == "gptq" else 0

    def scheme(values: Mapping[str, Any]) -> Scheme:
        bits = _bits({**found, **values})
        group = _group({**found, **values}, 128)
        return Scheme(_integer(bits), bits, (1, group), 16 + bits, index)

    rules: list[Rule] = []
    special = {**(found.get("dynamic") or {}), **(found.get("extra_config") or {})}
    for pattern, values in special.items():
        own = values if isinstance(values, Mapping) else {}
        name = f"re:{pattern[2:]}" if pattern[:2] in ("+:", "-:") else pattern
        rules.append((_named(name), None if pattern.startswith("-:") or own.get("bits") == 16 else scheme(own)))
    groups = [[names] if isinstance(names, str) else names for names in found.get("modules_in_block_to_quantize") or ()]
    if only := [str(name) for names in groups for name in names]:
        chosen = [_named(name) for name in only]
        rules.append((lambda paths: not any(fits(paths) for fits in chosen), None))
    rules += _left_alone(found, "modules_to_not_convert")
    reach = _linear if found.get("lm_head") is True else _linear_but_head
    return Declared(method, method.upper(), scheme({}), tuple(rules), reach)


def _fp8(found: Mapping[str, Any], method: str) -> Declared:
    """transformers' and DeepSeek's: tiles with an fp32 scale; without tiles one scale per matrix."""
    autofp8 = "ignored_layers" in found  # AutoFP8's, as vLLM reads it: a scale per matrix
    tile = found.get("weight_block_size", None if autofp8 else (128, 128))
    shape = (int(tile[0]), int(tile[1])) if isinstance(tile, list | tuple) and len(tile) == 2 else (0, 0)
    scheme = Scheme("fp8", 8, shape, 32)
    rules = _left_alone(found, "modules_to_not_convert", "ignored_layers")
    return Declared(method, "FP8", scheme, rules, _as_listed(found, "modules_to_not_convert"))


def _rowwise(dtype: str, label: str, scale_bits: int) -> Callable[[Mapping[str, Any], str], Declared]:
    def read(found: Mapping[str, Any], method: str) -> Declared:
        rules = _left_alone(found, "modules_to_not_convert")
        reach = _as_listed(found, "modules_to_not_convert")
        return Declared(method, label, Scheme(dtype, 8, (1, 0), scale_bits), rules, reach)

    return read


_MICROSCALED = {
    "mxfp4": Scheme("mxfp4", 4, (1, 32), 8),
    "mxfp8": Scheme("mxfp8", 8, (1, 32), 8),
    "nvfp4": Scheme("nvfp4", 4, (1, 16), 8),
}


def _mxfp4(found: Mapping[str, Any], method: str) -> Declared:
    rules = _left_alone(found, "modules_to_not_convert", "ignore")
    return Declared(method, "MXFP4", _MICROSCALED["mxfp4"], rules, _experts)


def _microscaled(*keys: str, default: str = "") -> Callable[[Mapping[str, Any], str], Declared]:
    """keys: where a configuration names the format, the first of them that does; default: what it is without a word."""

    def read(found: Mapping[str, Any], method: str) -> Declared:
        dtype = next((str(found[key]).lower() for key in keys if found.get(key)), default)
        rules = _left_alone(found, "modules_to_not_convert", "ignore")
        reach = _as_listed(found, "modules_to_not_convert", "ignore")
        return Declared(method, dtype.upper(), _MICROSCALED.get(dtype), rules, reach)

    return read


def _bitsandbytes(found: Mapping[str, Any], method: str) -> Declared:
    """4 bits with an fp32 maximum per 64 weights, itself in 8 bits and groups of 256 where quantized twice."""
    listed = ("llm_int8_skip_modules", "modules_to_not_convert")
    rules = _left_alone(found, *listed)
    if found.get("load_in_8bit") or found.get("_load_in_8bit"):
        scheme, label = Scheme("int8", 8, (1, 0), 32), "bitsandbytes LLM.int8"
    else:
        kind = str(found.get("bnb_4bit_quant_type", "fp4"))
        scale_bits = 8 + 32 / 256 if found.get("bnb_4bit_use_double_quant") else 32
        scheme = Scheme("nf4" if kind == "nf4" else "fp4", 4, (1, 64), scale_bits)
        label = f"bitsandbytes {kind.upper()}"
    return Declared(method, label, scheme, rules, _as_listed(found, *listed))


def _compressed(found: Mapping[str, Any], method: str) -> Declared:
    """Groups of targets, each with its weights' bits, strategy and format; ModelOpt writes the same, or its formats by
    module."""
    named = _itself if method == "compressed-tensors" else _named
    ignored = _left_alone(found, "ignore", "exclude_modules", "modules_to_not_convert", by=named)
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
    if not schemes:
        schemes = [(["Linear"], _modelopt(found))]
    rules: list[Rule] = list(ignored)
    default: Scheme | None = None
    for targets, scheme in schemes:
        for target in targets:
            if target in ("Linear", "MoE", "FusedMoE"):
                default = scheme
            else:
                rules.append((named(target), scheme))
    shown = default or next((s for _, s in schemes if s), None)
    name = f"{label} {shown.dtype}" if shown and not default else label
    return Declared(method, name, default, tuple(rules), _linear)


def _modelopt(found: Mapping[str, Any]) -> Scheme | None:
    """What ModelOpt's `quant_algo` says where no groups do."""
    groups = {"NVFP4": 16, "NVFP4_AWQ": 16, "W4A16_AWQ": 128, "W4A8_AWQ": 128}
    algorithm = str(found.get("quant_algo") or "").upper()
    group = _group(found, groups.get(algorithm, 0))
    return {
        "FP8": Scheme("fp8", 8, (0, 0), 32),
        "FP8_PER_CHANNEL_PER_TOKEN": Scheme("fp8", 8, (1, 0), 32),
        "FP8_PB_WO": Scheme("fp8", 8, (128, 128), 32),
        "MXFP8": Scheme("mxfp8", 8, (1, 32), 8),
        "NVFP4": Scheme("nvfp4", 4, (1, group), 8),
        "NVFP4_AWQ": Scheme("nvfp4", 4, (1, group), 8),
        "W4A16_AWQ": Scheme("int4", 4, (1, group), 16),
        "W4A8_AWQ": Scheme("int4", 4, (1, group), 16),
        "W8A16": Scheme("int8", 8, (1, 0), 16),
    }.get(algorithm)


_OF_FOUR = ("marlin-24", "sparse-24-bitmask")  # two of four weights are kept, and a bit for each says which


def _arguments(weights: Mapping[str, Any], form: str) -> Scheme:
    """compressed-tensors' QuantizationArgs."""
    bits = _bits(weights, 8, "num_bits")
    floating = str(weights.get("type", "int")) == "float"
    group = _group(weights, 0)
    strategy = str(weights.get("strategy") or ("group" if group else "tensor"))
    narrow = floating and bits == 4
    micro = "mx" in form or "uint8" in str(weights.get("scale_dtype", "")) or (narrow and group == 32)
    scale_bits = 8 if micro or narrow else 16
    zeros = 0 if floating or weights.get("symmetric", True) else bits
    dtype = _integer(bits) if not floating else {8: "fp8", 6: "fp6", 4: "nvfp4"}.get(bits, "fp8")
    if floating and micro:
        dtype = {8: "mxfp8", 4: "mxfp4"}.get(bits, dtype)
    tile: tuple[int, int] = {"tensor": (0, 0), "channel": (1, 0)}.get(strategy, (1, group))
    block = weights.get("block_structure")
    if strategy == "block":
        sizes = [int(n) for n in (re.findall(r"\d+", str(block)) if block else ())]
        tile = (sizes[0], sizes[1]) if len(sizes) == 2 else (128, 128)
    kept = bits / 2 + 1 if form in _OF_FOUR else bits
    return Scheme(dtype, kept, tile, scale_bits + zeros)


def _torchao(found: Mapping[str, Any], method: str) -> Declared:
    """`quant_type` names a configuration: a plain word with keywords beside it, or a class with its data."""
    kind = found.get("quant_type")
    rules: list[Rule] = list(_left_alone(found, "modules_to_not_convert"))
    if isinstance(kind, Mapping):
        kind = kind.get("default", kind)
        per_module = kind.get("_data", {}) if str(kind.get("_type")) in ("ModuleFqnToConfig", "FqnToConfig") else {}
        if per_module:
            named = next(iter(v for v in per_module.values() if isinstance(v, Mapping)), {})
            for path, value in named.items():
                if path != "_default":
                    rules.append((_named(path), _torchao_scheme(value, {}) if isinstance(value, Mapping) else None))
            kind = named.get("_default", {})
    scheme = _torchao_scheme(kind, found.get("quant_type_kwargs") or {})
    listed = _as_listed(found, "modules_to_not_convert")
    reach = _every_matrix if found.get("include_input_output_embeddings") else listed
    return Declared(method, "torchao", scheme, tuple(rules), reach)


def _torchao_scheme(kind: Any, keywords: Mapping[str, Any]) -> Scheme | None:
    name, data = str(kind), dict(keywords)
    if isinstance(kind, Mapping):
        name = str(kind.get("_type", ""))
        data = dict(kind.get("_data") or {})
    kinds = re.findall(r"(int|float)(\d)", f"{name} {data.get('weight_dtype', '')}".lower())
    if not kinds:
        return None
    bits, floating = int(kinds[-1][1]), kinds[-1][0] == "float"  # the weights' stand behind the activations'
    if floating or bits == 8:
        whole = "Tensor" in str(data.get("granularity", "")) and "Row" not in str(data.get("granularity", ""))
        return Scheme("fp8" if floating else "int8", bits, (0, 0) if whole else (1, 0), 32)
    grain = data.get("granularity")
    grain = grain.get("_data") if isinstance(grain, Mapping) else None
    return Scheme(_integer(bits), bits, (1, _group({**data, **(grain if isinstance(grain, Mapping) else {})}, 128)), 32)


def _hqq(found: Mapping[str, Any], method: str) -> Declared:
    """One form for all, or by module; a module that is not named then stays as it is."""

    def scheme(values: Mapping[str, Any]) -> Scheme:
        weights = values.get("weight_quant_params") or {}
        bits = _bits(weights)
        return Scheme(_integer(bits), bits, (1, _group(weights, 64)), 32)

    inner = found.get("quant_config") or {}
    of_modules = {} if "weight_quant_params" in inner else {k: v for k, v in inner.items() if isinstance(v, Mapping)}
    rules: list[Rule] = list(_left_alone(found, "skip_modules", "modules_to_not_convert"))
    rules += [(_named(str(path)), scheme(values)) for path, values in of_modules.items()]
    return Declared(method, "HQQ", None if of_modules else scheme(inner), tuple(rules), _linear_but_head)


def _quanto(found: Mapping[str, Any], method: str) -> Declared:
    kind = str(found.get("weights", "int8"))
    bits = int(re.sub(r"\D", "", kind) or 8)
    scheme = Scheme(_integer(bits), bits, (1, 128), 32) if bits < 8 else Scheme(_integer(8), 8, (1, 0), 16)
    if kind.startswith("float"):
        scheme = replace(scheme, dtype="fp8")
    rules = _left_alone(found, "modules_to_not_convert")
    return Declared(method, "Quanto", scheme, rules, _as_listed(found, "modules_to_not_convert"))


def _quark(found: Mapping[str, Any], method: str) -> Declared:
    def scheme(values: Any) -> Scheme | None:
        weights: Any = (values.get("weight") if isinstance(values, Mapping) else None) or {}
        weights = weights[0] if isinstance(weights, list) else weights
        kind = str(weights.get("dtype", "")) if isinstance(weights, Mapping) else ""
        match = re.match(r"(u?int|fp)(\d)", kind)
        if match is None:
            return None
        bits, group = int(match.group(2)), _group(weights, 0)
        micro = "e8m0" in str(weights.get("scale_format", ""))
        floating = f"mxfp{bits}" if micro and bits in (4, 8) else f"fp{bits}"
        tile = (1, group) if group else (0, 0) if "tensor" in str(weights.get("qscheme")) else (1, 0)
        return Scheme(_integer(bits) if "int" in kind else floating, bits, tile, 8 if micro else 32)

    rules: list[Rule] = list(_left_alone(found, "exclude"))
    of_modules = found.get("layer_quant_config")
    rules += [(_named(str(path)), scheme(v)) for path, v in (of_modules or {}).items()]
    return Declared(method, "Quark", scheme(found.get("global_quant_config")), tuple(rules), _linear)


def _mlx(found: Mapping[str, Any]) -> Declared:
    """Every matrix, tables and routers too, with a 16-bit scale and bias per group; a module may have its own.

    What a module has of its own stands alone: it takes MLX's defaults, not the model's.
    """

    def scheme(values: Mapping[str, Any]) -> Scheme:
        mode, bits = str(values.get("mode", "affine")), _bits(values)
        if mode in ("mxfp4", "mxfp8", "nvfp4"):
            return Scheme(mode, int(mode[-1]), (1, 16 if mode == "nvfp4" else 32), 8)
        return Scheme(_integer(bits), bits, (1, _group(values, 64)), 32)

    rules = [
        (_named(path), scheme(values) if isinstance(values, Mapping) else None)
        for path, values in found.items()
        if isinstance(values, Mapping) or values is False
    ]
    return Declared("mlx", "MLX", scheme(found), tuple(rules), _every_matrix)


def _bitnet(found: Mapping[str, Any], method: str) -> Declared:
    rules = _left_alone(found, "modules_to_not_convert")
    reach = _as_listed(found, "modules_to_not_convert")
    return Declared(method, "BitNet", Scheme("int2", 2, (0, 0), 16), rules, reach)


def _exllama(found: Mapping[str, Any], method: str) -> Declared:
    """ExLlama's mean bits of a weight, scales included, and those of the head."""

    def scheme(key: str) -> Scheme | None:
        bits = found.get(key)
        if isinstance(bits, bool) or not isinstance(bits, int | float) or not 1 <= bits <= 16:
            return None
        return Scheme(_integer(round(bits)), bits)

    head = (_named("lm_head"), scheme("head_bits"))
    return Declared(method, method.upper(), scheme("bits"), (head,), _linear)


def _metal(found: Mapping[str, Any], method: str) -> Declared:
    """transformers' own for Apple's processors: a 16-bit scale and bias per group, as MLX has them."""
    bits = _bits(found)
    rules = _left_alone(found, "modules_to_not_convert")
    scheme = Scheme(_integer(bits), bits, (1, _group(found, 64)), 32)
    return Declared(method, "Metal", scheme, rules, _as_listed(found, "modules_to_not_convert"))


def _gemma(found: Mapping[str, Any], method: str) -> Declared:
    """Gemma's own: an fp32 scale per row; modules by regexes that may stand anywhere in a name, the first counts."""

    def scheme(values: Mapping[str, Any]) -> Scheme:
        bits = _bits({**found, **values}, 4, "num_bits")
        return Scheme(_integer(bits), bits, (1, 0), 32)

    rules: list[Rule] = list(_left_alone(found, "modules_to_not_convert"))
    for pattern, values in (found.get("module_quant_configs") or {}).items():
        rules.append((_named(f"re:.*(?:{pattern})"), scheme(values or {})))
    reach = _every_matrix if found.get("quantize_embeddings") else _as_listed(found, "modules_to_not_convert")
    return Declared(method, "Gemma", scheme({}), tuple(rules), reach)


def _unknown(found: Mapping[str, Any], method: str) -> Declared:
    """A method whose sizes are not known here: by the bits that it states, else in the model's dtype, and said so."""
    label = f"'{method or 'unnamed'}' quantization"
    keys = ("num_codebooks", "nbits_per_codebook", "in_group_size")
    codes = [n for key in keys if isinstance(n := found.get(key), int) and n > 0]
    if len(codes) == len(keys):  # AQLM: so many codes per group of weights
        bits = codes[0] * codes[1] / codes[2]
        scheme = Scheme(_integer(max(round(bits), 2)), bits, (1, 0), 16)
        return Declared(method, label, scheme, _left_alone(found, "modules_to_not_convert"), _linear_but_head)
    if any(isinstance(found.get(key), int) for key in ("bits", "nbits", "num_bits")):
        bits = _bits(found, 4, "num_bits")
        scheme = Scheme(_integer(bits), bits, (1, _group(found, 128)), 16)
        rules = _left_alone(found, "modules_to_not_convert", "ignore")
        return Declared(method, f"{label} (its scales guessed as 16 bits)", scheme, rules, _linear_but_head)
    return Declared(method, label, None, (), _linear)


_METHODS: dict[str, Callable[[Mapping[str, Any], str], Declared]] = {
    "gptq": _gptq,
    "awq": _gptq,
    "auto-round": _gptq,
    "intel/auto-round": _gptq,
    "fp8": _fp8,
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
    "compressed-tensors": _compressed,
    "modelopt": _compressed,
    "torchao": _torchao,
    "hqq": _hqq,
    "quanto": _quanto,
    "quark": _quark,
    "bitnet": _bitnet,
}

# The modules that transformers 5.17 imports before it runs a method's weights (its quantizers' validate_environment).
_NEEDS: dict[str, tuple[str, ...]] = {
    "gptq": ("optimum", "gptqmodel"),
    "awq": ("accelerate", "gptqmodel"),
    "auto-round": ("auto_round",),
    "fp8": ("accelerate",),
    "fbgemm-fp8": ("accelerate", "fbgemm_gpu"),
    "eetq": ("accelerate", "kernels"),
    "mxfp4": ("accelerate", "kernels"),
    "mxfp8": ("accelerate",),
    "nvfp4": ("kernels",),
    "bitsandbytes": ("accelerate", "bitsandbytes"),
    "compressed-tensors": ("compressed_tensors",),
    "torchao": ("torchao",),
    "hqq": ("hqq",),
    "quanto": ("accelerate", "optimum"),
    "quark": ("quark",),
    "bitnet": ("accelerate",),
}
