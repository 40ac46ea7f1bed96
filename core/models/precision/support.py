"""Who can do something with the weights of a method."""

from __future__ import annotations

from importlib.util import find_spec

# The methods whose stored weights say plain numbers that can be written down (the transform `dequantize`).
RESTORED = frozenset(
    (
        "gptq", "awq", "auto-round", "intel/auto-round", "fp8", "fbgemm-fp8", "mxfp4", "mxfp8", "nvfp4", "bitsandbytes",
        "compressed-tensors", "modelopt", "mlx", "torchao", "hqq", "quark", "bitnet", "exl2", "aqlm", "blockwise-int8",
        "w8a8-int8", "w8a8-fp8",
    )
)  # fmt: skip

# The modules that transformers 5.17 imports before it runs a method's weights (its quantizers' validate_environment).
NEEDS: dict[str, tuple[str, ...]] = {
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


def lacking(method: str) -> tuple[str, ...] | None:
    """The packages that transformers needs for such weights and that are not installed; None: it cannot at all."""
    needed = NEEDS.get(method)
    return None if needed is None else tuple(name for name in needed if find_spec(name) is None)
