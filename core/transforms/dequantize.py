"""Weights that another program has quantized, written once as plain numbers, which every backend runs.

Of GPTQ, AWQ, AutoRound, FP8, MXFP4 and MXFP8, NVFP4, compressed-tensors, ModelOpt, bitsandbytes and MLX. The model
answers as its quantized weights say, and takes the memory and the time of the plain ones. What a method rounds in the
activations besides is not done. Tensors are read, turned and written one at a time, so that memory stays small.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from core import weight_files
from core.layer_names import OF_ACTIVATIONS
from core.models.precision import RESTORED, Declared, declared
from core.models.spec import stored_dtype
from core.transforms import _hf_folder, _stored_matrix
from core.transforms import _torch_model as torch_model
from core.types import Job, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

EXACT_IN_BF16 = ("mxfp4", "mxfp8")  # of few significant bits, times powers of two
DTYPES = {"bf16": "bfloat16", "fp16": "float16", "fp32": "float32"}
PLAIN = (*DTYPES, "fp64", None)

_BESIDE = re.compile(
    r"\.(qzeros|scales|g_idx|biases|weight_(scale|scale_inv|scale_2|shape|zero_point|global_scale|g_idx|format)|scale"
    r"|SCB|weight_SCB|weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.\w+))$"
    r"|(?<=_proj)_(scales|scale|scale_inv)$"
)
_CHANGES_MORE = re.compile(r"\.(pre_quant_scale|act\.scales|smooth_scale|bitmask|compressed)$")
_WEIGHT = ("weight", "qweight", "weight_packed")


class Dequantization(Record):
    """dtype: of the new weights; exact takes the smallest that keeps every value: bf16 for MXFP4, MXFP8; else fp32."""

    dtype: Literal["exact", "bf16", "fp16", "fp32"] = "exact"


class Dequantize:
    name = "dequantize"
    label = "Dequantize"
    backend = "pytorch"
    formats: tuple[str, ...] = ("hf",)
    trains = False
    reads_quantized = True
    Params = Dequantization

    def unavailable(self) -> str | None:
        return torch_model.unavailable()

    def check(self, spec: ModelSpec, params: Dequantization) -> None:
        if all(layer.weight_dtype in PLAIN for layer in spec.layers if layer.n_params):
            raise ExplorerError(
                f"The weights of {spec.name} are not quantized: there is nothing to dequantize.",
                "Choose a model whose config.json declares a quantization.",
            )

    def suffix(self, params: Dequantization) -> str:
        return "dequantized" if params.dtype == "exact" else f"dequantized-{params.dtype}"

    def run(self, source: Source, params: Dequantization, out: Path, job: Job) -> Outcome:
        folder, config = Path(source.path), torch_model.config_of(source)
        found = declared(config)
        if found is None:
            raise ExplorerError(
                f"The config.json of {source.entry.label} declares no quantization.", "Choose a model that has one."
            )
        if found.method not in RESTORED:
            raise ExplorerError(
                f"{source.entry.label} is quantized as {found.words}, which cannot be read here.",
                "Choose the model unquantized, or its GGUF.",
            )
        dtype = params.dtype if params.dtype != "exact" else exact_dtype(found.method, stored_dtype(config))
        stored = Stored(folder, source.entry.label, quantization_of(config), found.method)
        told = Told(dtype)
        tensors = told.cast(stored.plain(job))
        _hf_folder.write_one_by_one(out, folder, plain_config(config, DTYPES[dtype]), tensors, stored.n_bytes, job)
        return Outcome(note=told.note(found), facts={"dtype": dtype, "from": found.words, "rounded": told.share})


def exact_dtype(method: str, rest: str | None) -> str:
    """The smallest number format that keeps each value of such weights. rest: of what is not quantized."""
    return "bf16" if method in EXACT_IN_BF16 and rest == "bf16" else "fp32"


def plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration of the same model with weights in `dtype`."""
    gone = ("quantization_config", "compression_config", "quantization", "torch_dtype")
    kept = {key: value for key, value in config.items() if key not in gone}
    for key, value in kept.items():
        if isinstance(value, Mapping) and "hidden_size" in value:
            inner = {k: v for k, v in value.items() if k not in gone}
            kept[key] = inner | ({"dtype": dtype} if "dtype" in inner else {})
    return kept | {"dtype": dtype}


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration itself, wherever the configuration has it."""
    for values in (config, *(v for v in config.values() if isinstance(v, Mapping))):
        for key in ("quantization_config", "compression_config", "quantization"):
            if isinstance(found := values.get(key), Mapping):
                return dict(found)
    return {}


class Told:
    """Casts to the new number format and keeps count of what that rounds."""

    def __init__(self, dtype: str) -> None:
        self.dtype, self.n, self.n_rounded = dtype, 0, 0

    @property
    def share(self) -> float:
        return self.n_rounded / self.n if self.n else 0.0

    def cast(self, tensors: Iterator[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        import torch

        dtype = getattr(torch, DTYPES[self.dtype])
        for name, tensor in tensors:
            if not tensor.is_floating_point():
                yield name, tensor
                continue
            new = tensor.to(dtype)
            self.n += tensor.numel()
            self.n_rounded += int((new.to(torch.float32) != tensor.float()).sum()) if new.dtype != tensor.dtype else 0
            yield name, new.contiguous()

    def note(self, found: Declared) -> str:
        """What was made of what, and how far it is the same."""
        kept = (
            f"{self.share:.1%} of the weights were rounded to {self.dtype}."
            if self.n_rounded
            else f"Every weight is in {self.dtype} what its stored integers or floats and their scales say."
        )
        return f"The weights of {found.words} as plain numbers. {kept}"


class Stored:
    """The tensors of a folder, and how its matrices become plain ones."""

    def __init__(self, folder: Path, label: str, quantization: Mapping[str, Any], method: str) -> None:
        self._label, self._quantization, self._method = label, quantization, method
        weights = weight_files.of(folder)
        self._files = {name: file for file in weights.files for name in _names(file) if weights.has(file, name)}
        self.n_bytes = sum(file.stat().st_size for file in set(self._files.values()))
        self._opened: tuple[Path, Any] | None = None

    def plain(self, job: Job) -> Iterator[tuple[str, Any]]:
        """Each tensor of the unquantized model under its name. Raises ExplorerError for a form that is not read."""
        self._refuse_more()
        for done, name in enumerate(self._files):
            job.progress("Dequantizing", done, len(self._files), "tensors")
            job.check()
            if OF_ACTIVATIONS.search(name):
                continue
            if beside := _BESIDE.search(name):
                stem = name[: beside.start()]
                if not any(self._has(f"{stem}{end}") for end in ("", "_blocks", *(f".{leaf}" for leaf in _WEIGHT))):
                    raise self._unread(name)
                continue
            try:
                yield self._one(name)
            except (ValueError, RuntimeError, IndexError, KeyError, TypeError, AttributeError) as error:
                raise self._unread(name, str(error).splitlines()[0] if str(error) else "") from error

    def _refuse_more(self) -> None:
        odd = next((name for name in self._files if _CHANGES_MORE.search(name)), None)
        if odd is not None:
            raise self._unread(odd)
        sparsity = self._quantization.get("sparsity_config")
        sparse = isinstance(sparsity, Mapping) and sparsity.get("format") not in (None, "dense")
        if sparse or self._quantization.get("transform_config"):
            raise ExplorerError(
                f"{self._label} is {'sparse' if sparse else 'rotated'} besides quantized, which is not read here.",
                "Choose the model unquantized, or its GGUF.",
            )

    def _unread(self, name: str, why: str = "") -> ExplorerError:
        reason = f" ({why})" if why else ""
        return ExplorerError(
            f"The tensor {name} of {self._label} is stored in a form that is not read here{reason}.",
            "Choose the model unquantized, or its GGUF.",
        )

    def _has(self, name: str) -> bool:
        return name in self._files

    def _get(self, name: str) -> Any:
        from safetensors import safe_open

        file = self._files[name]
        if self._opened is None or self._opened[0] != file:
            self._opened = (file, safe_open(file, "pt"))
        return self._opened[1].get_tensor(name)

    def _maybe(self, name: str) -> Any:
        return self._get(name) if self._has(name) else None

    def _one(self, name: str) -> tuple[str, Any]:
        import torch

        stem, _, leaf = name.rpartition(".")
        if leaf == "qweight":
            return f"{stem}.weight", self._words(stem)
        if leaf == "weight_packed":
            return f"{stem}.weight", self._packed(stem)
        if name.endswith("_blocks"):
            plain = name.removesuffix("_blocks")
            return plain, _stored_matrix.stacked_halves(self._get(name), self._get(f"{plain}_scales"))
        tensor = self._get(name)
        if any(self._has(f"{name}.{part}") for part in ("absmax", "quant_map")):  # in bytes, or in words of a float
            return name, self._bitsandbytes(name, tensor)
        if tensor.dtype in (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.bool):
            return name, tensor
        if self._method == "mlx":
            return name, self._mlx(stem, tensor)
        form = f"{stem}." if leaf == "weight" else f"{name}_"
        at = f"{form}weight_" if leaf == "weight" else form
        scale = self._maybe(f"{at}scale_inv")
        scale = self._maybe(f"{at}scale") if scale is None else scale
        scale = self._maybe(f"{stem}.scale") if scale is None and leaf == "weight" else scale
        if tensor.dtype in (torch.float8_e4m3fn, torch.float8_e5m2) and scale is not None:
            return name, _stored_matrix.scaled(tensor, scale, self._tile())
        if tensor.dtype == torch.uint8 and scale is not None:
            return name, _stored_matrix.halves(tensor, scale, self._maybe(f"{stem}.weight_scale_2"))
        if tensor.dtype == torch.int8 and (rows := self._first(f"{stem}.SCB", f"{stem}.weight_SCB")) is not None:
            return name, _stored_matrix.scaled(tensor, rows.flatten()) / 127
        if tensor.dtype == torch.int8 and scale is not None:
            zero, index = self._maybe(f"{stem}.weight_zero_point"), self._maybe(f"{stem}.weight_g_idx")
            return name, _stored_matrix.whole(tensor, scale, zero, index, self._group())
        raise self._unread(name)

    def _first(self, *names: str) -> Any:
        return next((self._get(name) for name in names if self._has(name)), None)

    def _words(self, stem: str) -> Any:
        """GPTQ's or AWQ's."""
        packed, zeros, scales = (self._get(f"{stem}.{leaf}") for leaf in ("qweight", "qzeros", "scales"))
        version = str(self._quantization.get("version") or "gemm").lower()
        packing = str(self._quantization.get("packing_format") or self._quantization.get("checkpoint_format") or "")
        bits = int(self._quantization.get("bits") or self._quantization.get("w_bit") or 4)
        if self._method == "awq" or "awq" in packing:
            if version != "gemm" or bits != 4:
                raise self._unread(f"{stem}.qweight", f"{bits} bits, version {version}")
            return _stored_matrix.awq(packed, zeros, scales, self._group())
        if packing not in ("", "gptq", "gptq_v2") and "gptq" not in packing:
            raise self._unread(f"{stem}.qweight", f"packed for {packing}")
        index = self._maybe(f"{stem}.g_idx")
        if index is not None and len(index):
            bits = 32 * packed.shape[0] // len(index)
        else:
            index = None
        return _stored_matrix.gptq(packed, zeros, scales, index, bits, self._group(), packing != "gptq_v2")

    def _packed(self, stem: str) -> Any:
        """compressed-tensors'."""
        import torch

        packed, scale = self._get(f"{stem}.weight_packed"), self._get(f"{stem}.weight_scale")
        if packed.dtype == torch.uint8:
            overall = self._maybe(f"{stem}.weight_global_scale")
            return _stored_matrix.halves(packed, scale, None if overall is None else 1 / overall.float())
        shape = [int(n) for n in self._get(f"{stem}.weight_shape")]
        asked = [w["num_bits"] for w in self._weights() if isinstance(w.get("num_bits"), int)]
        bits = next((b for b in (*asked, 4, 8) if 0 < b <= 8 and -(-shape[1] // (32 // b)) == packed.shape[1]), 0)
        if not bits:
            raise self._unread(f"{stem}.weight_packed")
        zero, index = self._maybe(f"{stem}.weight_zero_point"), self._maybe(f"{stem}.weight_g_idx")
        return _stored_matrix.packed_integers(packed, scale, zero, index, shape, bits, self._group())

    def _mlx(self, stem: str, words: Any) -> Any:
        own = self._quantization.get(stem)  # which stands alone: it takes nothing of the model's
        values = own if isinstance(own, Mapping) else self._quantization
        scales, mode = self._get(f"{stem}.scales"), str(values.get("mode", "affine"))
        bits = words.shape[-1] * 32 // (scales.shape[-1] * int(values.get("group_size") or 64))
        return _stored_matrix.mlx(words, scales, self._maybe(f"{stem}.biases"), bits, mode)

    def _bitsandbytes(self, name: str, packed: Any) -> Any:
        state = next(self._get(n) for n in self._files if n.startswith(f"{name}.quant_state."))
        about = json.loads(bytes(state.tolist()))
        absmax = self._get(f"{name}.absmax")
        if self._has(f"{name}.nested_absmax"):
            absmax = _stored_matrix.bnb_absmax(
                absmax,
                self._get(f"{name}.nested_absmax"),
                self._get(f"{name}.nested_quant_map"),
                int(about["nested_blocksize"]),
                float(about["nested_offset"]),
            )
        values, block = self._get(f"{name}.quant_map"), int(about["blocksize"])
        return _stored_matrix.bnb_halves(packed, absmax, values, block, about["shape"])

    def _weights(self) -> list[Mapping[str, Any]]:
        """What each group of compressed-tensors says of weights."""
        groups = self._quantization.get("config_groups")
        found = groups.values() if isinstance(groups, Mapping) else ()
        return [g["weights"] for g in found if isinstance(g, Mapping) and isinstance(g.get("weights"), Mapping)]

    def _group(self) -> int:
        sizes = [self._quantization.get("group_size"), *(w.get("group_size") for w in self._weights())]
        return next((size for size in sizes if isinstance(size, int) and size > 0), 0)

    def _tile(self) -> tuple[int, ...]:
        sizes = [self._quantization.get("weight_block_size"), *(w.get("block_structure") for w in self._weights())]
        found = next((s for s in sizes if isinstance(s, list | tuple) and len(s) == 2), ())
        return tuple(int(n) for n in found)


def _names(file: Path) -> list[str]:
    from safetensors import safe_open

    with safe_open(file, "pt") as opened:
        return list(opened.keys())


plugin: Transform = Dequantize()
