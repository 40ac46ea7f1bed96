"""What a config.json says of the number format of its weights: bits, scales and the modules that it leaves alone.

Knows the `quantization_config` of GPTQ, AWQ, FP8, MXFP4 and MXFP8, NVFP4, bitsandbytes, compressed-tensors, torchao
and others, and MLX's `quantization`; which layers of a network each of them reaches, and the bytes of a matrix with
its scales. Reads no files.

`declared` finds the method; `methods.py` and `by_module.py` read each method's configuration, with the rules in
`rules.py` for layers, modules and numbers; `scheme.py` is how a matrix is stored, `declaration.py` what comes of it
for a network; `support.py` says who can do something with such weights.

Sources: the classes of transformers' utils/quantization_config.py and what their quantizers replace; the formats'
own writers for the tensors of a matrix (GPTQ and AWQ: packed words, 16-bit scales, packed zeros; bitsandbytes:
QLoRA, 2305.14314 section 3; OCP Microscaling Formats 1.0 section 5; MLX: `mlx.core.quantize`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from core.models.defaults import parts
from core.models.precision.declaration import Declared
from core.models.precision.methods import METHODS, mlx, unknown
from core.models.precision.support import RESTORED
from hardware.errors import ExplorerError

__all__ = ["FILES", "RESTORED", "Declared", "declared", "of_file"]

# where older files of ModelOpt, AutoGPTQ and AutoAWQ declare it, beside a config.json that is silent
FILES = ("hf_quant_config.json", "quantize_config.json", "quant_config.json")
OURS = "roofscope"  # integers that this program made: its files say more than their configuration


def of_file(found: Mapping[str, Any]) -> dict[str, Any]:
    """What such a file declares, as a config.json would say it; empty where it declares nothing."""
    inner = found.get("quantization")
    if isinstance(inner, Mapping) and inner.get("quant_algo"):
        return {"quant_method": "modelopt", **inner}
    if "w_bit" in found:
        return {"quant_method": "awq", **found}
    return {"quant_method": "gptq", **found} if "bits" in found else {}


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
    for values in parts(config):
        found = values.get("quantization_config") or values.get("compression_config")
        if found and not isinstance(found, Mapping):
            raise TypeError("it is not an object")
        if isinstance(found, Mapping):
            found = found.get("quantization_config") or found  # beside its sparsity, in older files
            method = _method(found)
            if method == OURS:
                return None
            if "mode" in found or (not method and "group_size" in found):
                return mlx(found)
            beside = {"expert_dtype": values["expert_dtype"]} if values.get("expert_dtype") else {}
            return METHODS.get(method, unknown)({**beside, **found}, method)
        if isinstance(found := values.get("quantization"), Mapping):
            return mlx(found)
    return None


def _method(found: Mapping[str, Any]) -> str:
    method = str(found.get("quant_method") or "").lower().replace("_", "-")
    if not method and (found.get("load_in_4bit") or found.get("load_in_8bit")):
        return "bitsandbytes"
    if method.startswith("modelopt") or (not method and "quant_algo" in found):
        return "modelopt"
    if "config_groups" in found and method not in METHODS:  # its names before it had one of its own
        return "compressed-tensors"
    return method
