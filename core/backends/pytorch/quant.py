"""Linear layers over integers, and how transformers loads a folder that holds them.

Such a folder (format "torch-int", written by core.transforms.torch_quantize) has in its config.json

    "quantization_config": {"quant_method": "roofscope", "activations": "int8" | "bf16",
                            "compute_dtype": "float32" | "bfloat16", "group": 32, "int8": [...], "int4": [...]}

the lists naming modules, and in its safetensors, in place of a module's `weight` of shape (out, in):

    weight_int8         int8 (out, in)
    weight_scale        bf16 (out,)                weight = weight_int8 * scale, per row
    weight_int4         uint8 (out, in / 2)        two columns in a byte, the even one in the low half: q in 0..15
    weight_scale_zero   bf16 (in / group, out, 2)  weight = (q - 8) * scale + zero, per row and group of columns

A head that the model ties to its token table has nothing of its own: it multiplies with the table's integers.

The kernels are PyTorch's for the CPU. With activations in int8 (one scale per token) the product is exact
integer arithmetic, so what comes of a token does not depend on the tokens beside it. The weight-only kernels
work in bf16 alone and are written for one token: they lose to a plain bf16 product on a prompt.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

METHOD = "roofscope"
ALIGNED = 64  # bytes; the weight-only kernels of torch 2.13 crash on rows that begin elsewhere
MANY_ROWS = 32  # from here on a bf16 product over unpacked weights beats the int8 weight-only kernel


def stored(folder: Path) -> dict[str, Any] | None:
    """The quantization_config of a folder of this kind; None for any other folder."""
    import json

    try:
        found = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("quantization_config")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, dict) and found.get("quant_method") == METHOD else None


def warnings() -> tuple[str, ...]:
    """What a reader of results with int8 activations must know of this processor."""
    import torch

    if not torch.cpu._is_vnni_supported():
        return ("This CPU has no int8 dot products (VNNI): int8 activations run slower than fp32 here.",)
    return ()


def register() -> None:
    """Let transformers open such folders."""
    from transformers.quantizers import auto

    if METHOD not in auto.AUTO_QUANTIZER_MAPPING:
        config, quantizer = _quantizer()
        auto.register_quantization_config(METHOD)(config)
        auto.register_quantizer(METHOD)(quantizer)


@cache
def modules() -> SimpleNamespace:
    """The module classes, made once torch is imported. Buffers are those of the file until `prepare`."""
    dynamic, int8 = _int8_linears()
    return SimpleNamespace(dynamic=dynamic, int8=int8, int4=_int4_linear(), embedding=_int8_embedding())


def _int8_linears() -> tuple[type, type]:
    """With activations in int8, and with those in bf16."""
    import torch
    from torch import nn

    class Int8Module(nn.Module):  # type: ignore[misc]
        """A matrix of int8 with a scale per row. table: the module whose matrix it shares; it then owns none."""

        def __init__(self, n_out: int, n_in: int, bias: bool, table: Any = None) -> None:
            super().__init__()
            if table is None:
                self.register_buffer("weight_int8", torch.empty(n_out, n_in, dtype=torch.int8))
                self.register_buffer("weight_scale", torch.empty(n_out, dtype=torch.bfloat16))
            self.bias = nn.Parameter(torch.empty(n_out), requires_grad=False) if bias else None
            self._owner = (table or self,)  # in a tuple it is no child

    class Int8DynamicLinear(Int8Module):
        """y = (x_int8 W_int8^T) * scale_x * scale_w (+ b), x rounded to 127 steps of each token's largest value."""

        def prepare(self) -> None:
            (owner,) = self._owner
            self._columns, self._step = owner.weight_int8.t(), owner.weight_scale.float() / 127

        def forward(self, x: Any) -> Any:
            rows = _rows_of(x).float()
            peak = rows.abs().amax(-1, keepdim=True).clamp_min_(1e-12)
            product = torch._int_mm((rows * (127 / peak)).round_().to(torch.int8), self._columns)
            y = product.float().mul_(peak).mul_(self._step).to(x.dtype).view(*x.shape[:-1], -1)
            return y if self.bias is None else y.add_(self.bias)

    class Int8Linear(Int8Module):
        """y = (x_bf16 W_int8^T) * scale (+ b)."""

        def prepare(self) -> None:
            (owner,) = self._owner
            owner.weight_int8 = _aligned(owner.weight_int8)
            self._weight, self._scale = owner.weight_int8, owner.weight_scale.to(torch.bfloat16)
            self._kernel = self._weight.shape[1] % ALIGNED == 0

        def forward(self, x: Any) -> Any:
            rows = _aligned(_rows_of(x).to(torch.bfloat16))
            if self._kernel and len(rows) < MANY_ROWS:
                y = torch._weight_int8pack_mm(rows, self._weight, self._scale)
            else:
                y = nn.functional.linear(rows, self._weight.to(torch.bfloat16)).mul_(self._scale)
            y = y.to(x.dtype).view(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias

    return Int8DynamicLinear, Int8Linear


def _int4_linear() -> type:
    import torch
    from torch import nn

    class Int4Linear(nn.Module):  # type: ignore[misc]
        """y = x_bf16 ((q - 8) * scale + zero)^T (+ b), with a scale and a zero per row and group of columns."""

        weight_int4: Any

        def __init__(self, n_out: int, n_in: int, bias: bool, group: int) -> None:
            super().__init__()
            self.group = group
            self.register_buffer("weight_int4", torch.empty(n_out, n_in // 2, dtype=torch.uint8))
            self.register_buffer("weight_scale_zero", torch.empty(n_in // group, n_out, 2, dtype=torch.bfloat16))
            self.bias = nn.Parameter(torch.empty(n_out), requires_grad=False) if bias else None

        def prepare(self) -> None:
            halves = torch.stack((self.weight_int4 & 15, self.weight_int4 >> 4), -1)
            self._packed = torch._convert_weight_to_int4pack_for_cpu(halves.flatten(1).int(), 2)
            self._scale_zero = self.weight_scale_zero.to(torch.bfloat16)
            self.weight_int4 = None  # the kernel has an order of its own

        def forward(self, x: Any) -> Any:
            rows = _aligned(_rows_of(x).to(torch.bfloat16))
            y = torch._weight_int4pack_mm_for_cpu(rows, self._packed, self.group, self._scale_zero)
            y = y.to(x.dtype).view(*x.shape[:-1], -1)
            return y if self.bias is None else y + self.bias

    return Int4Linear


def _int8_embedding() -> type:
    import torch
    from torch import nn

    class Int8Embedding(nn.Module):  # type: ignore[misc]
        """Rows of a table of int8, each with a scale, as `dtype`."""

        weight_scale: Any

        def __init__(self, n_rows: int, d: int, dtype: Any) -> None:
            super().__init__()
            self._dtype = dtype
            self.register_buffer("weight_int8", torch.empty(n_rows, d, dtype=torch.int8))
            self.register_buffer("weight_scale", torch.empty(n_rows, dtype=torch.bfloat16))

        def prepare(self) -> None:
            self.weight_scale = self.weight_scale.to(self._dtype)

        def forward(self, ids: Any) -> Any:
            return self.weight_int8[ids].to(self._dtype) * self.weight_scale[ids].unsqueeze(-1)

    return Int8Embedding


def _rows_of(x: Any) -> Any:
    return x.reshape(-1, x.shape[-1])


def _aligned(tensor: Any) -> Any:
    return tensor.clone() if tensor.data_ptr() % ALIGNED else tensor


def replace(model: Any, config: dict[str, Any], dtype: Any) -> None:
    """Put integer modules, still empty, in the places that the config names. dtype: of the model's activations."""
    from torch import nn

    kinds = modules()
    linear = kinds.dynamic if config["activations"] == "int8" else kinds.int8
    head = model.get_output_embeddings()
    for path, old in list(model.named_modules()):
        new: Any = None
        if path in config["int4"]:
            new = kinds.int4(old.out_features, old.in_features, old.bias is not None, config["group"])
        elif path in config["int8"] and isinstance(old, nn.Embedding):
            new = kinds.embedding(old.num_embeddings, old.embedding_dim, dtype)
        elif path in config["int8"]:
            new = linear(old.out_features, old.in_features, old.bias is not None)
        elif old is head and model.config.tie_word_embeddings:  # the table stands before the head
            new = linear(old.out_features, old.in_features, old.bias is not None, model.get_input_embeddings())
            model.all_tied_weights_keys = {}
        if new is not None:
            model.set_submodule(path, new)


def _quantizer() -> tuple[type, type]:
    from transformers.quantizers.base import HfQuantizer
    from transformers.utils.quantization_config import QuantizationConfigMixin

    class Config(QuantizationConfigMixin):  # type: ignore[misc]
        def __init__(self, **stored: Any) -> None:
            self.quant_method = METHOD
            self.stored = stored

    class Quantizer(HfQuantizer):  # type: ignore[misc]
        is_trainable = False

        def is_serializable(self) -> bool:
            return False

        def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
            import torch

            with torch.device("meta"):
                replace(model, self.quantization_config.stored, model.dtype)

        def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
            for module in model.modules():
                if hasattr(module, "prepare"):
                    module.prepare()
            return model

    return Config, Quantizer
