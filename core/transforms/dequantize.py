"""Weights that another program has quantized, written once as plain numbers, which every backend runs.

Of GPTQ, AWQ, AutoRound, FP8, MXFP4 and MXFP8, NVFP4, compressed-tensors (2:4 sparse, too), ModelOpt, bitsandbytes, MLX,
torchao, HQQ, Quark, BitNet, ExLlamaV2 and AQLM, each a form in `_stored_forms.py`. The model answers as its quantized
weights say, and takes the memory and the time of the plain ones. What a method rounds in the activations besides is
not done. Tensors are read, turned and written one at a time, so that memory stays small.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, Literal

from core.layer_names import OF_ACTIVATIONS
from core.models import safetensors_file, weight_files
from core.models.config import QUANTIZATION
from core.models.precision import RESTORED, Declared, declared
from core.models.spec import stored_dtype
from core.transforms import _hf_folder
from core.transforms import _torch_model as torch_model
from core.transforms._stored_forms import FLOATS, Form, forms
from core.transforms._torch_model import DTYPES
from core.types import Job, Layer, ModelSpec, Outcome, Record, Source, Transform
from hardware.errors import ExplorerError

EXACT_IN_BF16 = ("mxfp4", "mxfp8")  # of few significant bits, times powers of two
PLAIN = {"bf16": 2, "fp16": 2, "fp32": 4, "fp64": 8}  # bytes of a number

_PLAIN_STORED = FLOATS | {"I64", "BOOL"}
# what is never a weight of its own: where none of the forms has taken it, the matrix would not be itself without it
_LEFT = re.compile(
    r"\.(qweight|qzeros|scales|g_idx|biases|SCB|W_q|bitmask|compressed|pre_quant_scale|_\w+_(scale|zero_point)"
    r"|weight_(packed|scale\w*|shape|zero_point|global_scale|g_idx|format|SCB)"
    r"|weight\.(absmax|quant_map|nested_\w+|quant_state\.\w+))$"
    r"|(?<=_proj)_(blocks|scales|scale|scale_inv)$"
)
_CHANGES_MORE = re.compile(r"\.(act\.scales|smooth_scale|svdquant_\w+)$")


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
        if all(_is_plain(layer) for layer in spec.layers if layer.n_params):
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


def _is_plain(layer: Layer) -> bool:
    """Whether a layer is stored as so many plain numbers: one of which two of four are kept is not."""
    if layer.weight_dtype is None:
        return True
    size = PLAIN.get(layer.weight_dtype, 0)
    return size > 0 and layer.weight_bytes in (None, layer.n_params * size)


def exact_dtype(method: str, rest: str | None) -> str:
    """The smallest number format that keeps each value of such weights. rest: of what is not quantized."""
    return "bf16" if method in EXACT_IN_BF16 and rest == "bf16" else "fp32"


def plain_config(config: Mapping[str, Any], dtype: str) -> dict[str, Any]:
    """The configuration of the same model with weights in `dtype`."""
    gone = (*QUANTIZATION, "torch_dtype")
    kept = {key: value for key, value in config.items() if key not in gone}
    for key, value in kept.items():
        if isinstance(value, Mapping) and "hidden_size" in value:
            inner = {k: v for k, v in value.items() if k not in gone}
            kept[key] = inner | ({"dtype": dtype} if "dtype" in inner else {})
    return kept | {"dtype": dtype}


def quantization_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The declaration itself, wherever the configuration has it."""
    for values in (config, *(v for v in config.values() if isinstance(v, Mapping))):
        for key in QUANTIZATION:
            if isinstance(found := values.get(key), Mapping):
                inner = found.get("quantization_config")  # beside its sparsity, in older files
                return {**found, **inner} if isinstance(inner, Mapping) else dict(found)
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


class _Matrix:
    """The tensors of one matrix, as core.transforms._stored_forms reads them. plain: its name as plain numbers."""

    def __init__(self, folder: Stored, form: Form, match: re.Match[str]) -> None:
        self._folder, self._form, self._match = folder, form, match
        self.said, self.stem = folder.said, match.string[: match.start()]
        self.plain = self._name(form.plain)

    @property
    def main(self) -> Any:
        return self._folder.get(self._match.string)

    @property
    def about(self) -> str:
        return self._folder.about(self._match.string, self.plain)

    def get(self, *ends: str) -> Any:
        return next((self._folder.get(self._name(end)) for end in ends if self.has(end)), None)

    def has(self, end: str) -> bool:
        return self._folder.has(self._name(end))

    def beside(self) -> set[str]:
        """The names of all its tensors but the main one."""
        return {self._name(end) for end in (*self._form.needed, *self._form.beside) if self.has(end)}

    def numbers(self) -> Any:
        return self._form.read(self)

    def _name(self, end: str) -> str:
        return self.stem + self._match.expand(end)


class Stored:
    """The tensors of a folder, and how its matrices become plain ones."""

    def __init__(self, folder: Path, label: str, quantization: Mapping[str, Any], method: str) -> None:
        self._label, self.said = label, dict(quantization) | {"quant_method": method}
        weights = weight_files.of(folder)
        self._files: dict[str, Path] = {}
        self._dtypes: dict[str, str] = {}
        for file in weights.files:
            for name, entry in safetensors_file.header(file).items():
                if weights.has(file, name):
                    self._files[name], self._dtypes[name] = file, str(entry["dtype"])
        self._forms = forms(method)
        self.n_bytes = sum(file.stat().st_size for file in set(self._files.values()))
        self._opened: tuple[Path, Any] | None = None

    def plain(self, job: Job) -> Iterator[tuple[str, Any]]:
        """Each tensor of the unquantized model under its name. Raises ExplorerError for a form that is not read."""
        self._refuse_more()
        found = self._matrices()
        for done, (name, matrix) in enumerate(found.items()):
            job.progress("Dequantizing", done, len(found), "tensors")
            job.check()
            try:
                yield (name, self.get(name)) if matrix is None else (matrix.plain, matrix.numbers())
            except (ValueError, RuntimeError, IndexError, KeyError, TypeError, AttributeError) as error:
                raise self._unread(name, str(error).splitlines()[0] if str(error) else "") from error

    def _matrices(self) -> dict[str, _Matrix | None]:
        """Every tensor that is a matrix's numbers with what stands beside it, and every plain one, as they are."""
        found: dict[str, _Matrix] = {}
        taken: set[str] = set()
        for form in self._forms:
            for name, dtype in self._dtypes.items():
                match = form.main.search(name)
                if match is None or name in found or name in taken or (form.dtypes and dtype not in form.dtypes):
                    continue
                matrix = _Matrix(self, form, match)
                if any(matrix.has(end) for end in form.needed):
                    found[name] = matrix
                    taken |= matrix.beside()
        left = [name for name in self._dtypes if name not in taken and not OF_ACTIVATIONS.search(name)]
        for name in left:
            if name not in found and (_LEFT.search(name) or self._dtypes[name] not in _PLAIN_STORED):
                raise self._unread(name)
        return {name: found.get(name) for name in left}

    def _refuse_more(self) -> None:
        odd = next((name for name in self._files if _CHANGES_MORE.search(name)), None)
        if odd is not None:
            raise self._unread(odd)
        more = "rotated" if self.said.get("transform_config") else "normed" if self.said.get("use_rms_norm") else ""
        if more:
            raise ExplorerError(
                f"{self._label} is {more} besides quantized, which is not read here.",
                "Choose the model unquantized, or its GGUF.",
            )

    def _unread(self, name: str, why: str = "") -> ExplorerError:
        reason = f" ({why})" if why else ""
        return ExplorerError(
            f"The tensor {name} of {self._label} is stored in a form that is not read here{reason}.",
            "Choose the model unquantized, or its GGUF.",
        )

    def has(self, name: str) -> bool:
        return name in self._files

    def get(self, name: str) -> Any:
        return self._open(name).get_tensor(name)

    def about(self, name: str, matrix: str) -> str:
        """What the file that holds a tensor says of the matrix behind it, as torchao's do."""
        return str((self._open(name).metadata() or {}).get(matrix, ""))

    def _open(self, name: str) -> Any:
        from safetensors import safe_open

        file = self._files[name]
        if self._opened is None or self._opened[0] != file:
            self._opened = (file, safe_open(file, "pt"))
        return self._opened[1]


plugin: Transform = Dequantize()
