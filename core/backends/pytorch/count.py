"""FLOPs of PyTorch's operators as they are dispatched, by canonical layer.

Products count 2 FLOPs per multiply-add with the shapes that arrive, masked scores included, since a kernel's
skipping of them cannot be seen from here. Pointwise operators count one FLOP per element of their result,
reductions one per element of their input. An operator in no table is uncounted.

PyTorch's own FlopCounterMode counts zero for the attention kernel of the CPU (pytorch issue 195460),
so all attention kernels are counted here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from core.layer_names import block_of
from core.types import ModelSpec, OpCount

OTHER = "other"
# They move, choose, compare or make up values, or only describe them.
_MOVES = """
_to_copy _unsafe_view alias amax amin arange argmax bernoulli cat clone constant_pad_nd copy copy_ detach detach_
embedding empty empty_like empty_strided expand fill fill_ full full_like gather histc index index_add_ index_copy_
index_put index_put_ index_select lift_fresh masked_fill masked_fill_ max min new_empty new_full new_ones new_zeros ones
ones_like pad repeat repeat_interleave roll scalar_tensor scatter scatter_ select_scatter slice_scatter sort split stack
topk tril triu unbind unfold where zero_ zeros zeros_like
"""
MOVES = frozenset(_MOVES.split())
REDUCTIONS = frozenset({"sum", "mean", "cumsum", "cumsum_", "prod", "var", "std", "linalg_vector_norm"})
# FLOPs per element of the first input
PER_ELEMENT = {"_softmax": 4, "_log_softmax": 4, "_safe_softmax": 4, "native_layer_norm": 7, "_fused_rms_norm": 4}


def _grouped_mm(a: Any, b: Any) -> float:
    """Groups share the rows (or columns) among them, so two matrices say it all; stacks of both are a bmm."""
    groups = a.shape[0] if a.dim() == b.dim() == 3 else 1
    return float(2 * groups * a.shape[-2] * a.shape[-1] * b.shape[-1])


def _attention(query: Any, key: Any, value: Any) -> float:
    """Query (batch, heads, n, d_qk), key and value (batch, kv heads, context, d): every score is computed."""
    batch, heads, n, d_qk = query.shape
    return float(2 * batch * heads * n * key.shape[-2] * (d_qk + value.shape[-1]))


def _int_mm(a: Any, b: Any) -> float:
    return float(2 * a.shape[0] * a.shape[1] * b.shape[1])


# What PyTorch's own table lacks, or refuses for grouped queries.
PRODUCTS: dict[str, Callable[[Any, dict[str, Any], Any], float]] = {
    "_grouped_mm": lambda args, kwargs, out: _grouped_mm(*args[:2]),
    "_int_mm": lambda args, kwargs, out: _int_mm(*args[:2]),
    "_weight_int8pack_mm": lambda args, kwargs, out: 2.0 * args[0].numel() * out.shape[-1],
    "_weight_int4pack_mm_for_cpu": lambda args, kwargs, out: 2.0 * args[0].numel() * out.shape[-1],
    "_weight_int4pack_mm": lambda args, kwargs, out: 2.0 * args[0].numel() * out.shape[-1],
    **{
        f"_scaled_dot_product_{kernel}": lambda args, kwargs, out: _attention(*args[:3])
        for kernel in (
            "flash_attention_for_cpu",
            "flash_attention",
            "efficient_attention",
            "cudnn_attention",
            "attention_math_for_mps",
            "fused_attention_overrideable",
        )
    },
}


class Ops:
    """What was dispatched, summed by layer and operator."""

    def __init__(self, spec: ModelSpec) -> None:
        self._layers = {layer.name for layer in spec.layers}
        self._found: dict[tuple[str, str], OpCount] = {}
        self._last = ""

    def add(self, layer: str | None, op: str, flops: float | None, product: bool) -> None:
        """layer: the named module that is running; None between them."""
        self._last = layer or self._last
        name = layer or (self._sum() if op in ("aten::add", "aten::add_") else None) or OTHER
        before = self._found.get((name, op))
        if before is not None:
            flops = None if flops is None or before.flops is None else flops + before.flops
        calls = before.calls + 1 if before else 1
        self._found[name, op] = OpCount(layer=name, op=op, calls=calls, flops=flops, product=product)

    def _sum(self) -> str | None:
        """A sum outside every named module is where a part of the block joins the main stream."""
        block = block_of(self._last)
        if block is None:
            return None
        part = self._last.split(".")[2].split("_")[0]
        name = f"blocks.{block}.{part}.residual"
        return name if name in self._layers else None

    def rows(self) -> tuple[OpCount, ...]:
        return tuple(self._found.values())


def count(run: Callable[[], Any], layer: Callable[[], str | None], spec: ModelSpec) -> tuple[OpCount, ...]:
    """Count what `run` dispatches. layer: the canonical layer that is running at the moment of the call."""
    from torch.utils._python_dispatch import TorchDispatchMode

    ops = Ops(spec)

    class Mode(TorchDispatchMode):  # type: ignore[misc]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            kwargs = kwargs or {}
            if not _is_known(func):  # in inference mode an operator arrives whole; its parts may be known
                with self:
                    result = func.decompose(*args, **kwargs)
                if result is not NotImplemented:
                    return result
            result = func(*args, **kwargs)
            if not func.is_view and func.namespace != "prim":
                flops, product = _flops(func, args, kwargs, result)
                if flops != 0:
                    ops.add(layer(), f"{func.namespace}::{_name(func)}", flops, product)
            return result

    with Mode():
        run()
    return ops.rows()


def _name(func: Any) -> str:
    return str(func.overloadpacket.__name__)


def _is_known(func: Any) -> bool:
    from torch.utils.flop_counter import flop_registry

    return func.overloadpacket in flop_registry or _name(func) in PRODUCTS or func.namespace == "prim"


def _flops(func: Any, args: Any, kwargs: dict[str, Any], result: Any) -> tuple[float | None, bool]:
    """(FLOPs or None, whether it is a product)."""
    import torch
    from torch.utils.flop_counter import flop_registry

    name = _name(func)
    if func.namespace in ("aten", "quantized", "mkldnn"):
        if name in PRODUCTS:
            return PRODUCTS[name](args, kwargs, result), True
        if name in MOVES:
            return 0, False
    if formula := flop_registry.get(func.overloadpacket):
        return float(formula(*args, **kwargs, out_val=result)), True
    outputs = [t for t in _tensors(result) if t.is_floating_point()]
    if not outputs:
        return 0, False  # indices and masks: no floating-point arithmetic
    if name in PER_ELEMENT:
        return float(PER_ELEMENT[name] * args[0].numel()), False
    if name in REDUCTIONS:
        return float(args[0].numel()), False
    if torch.Tag.pointwise in func.tags:
        return float(sum(t.numel() for t in outputs)), False
    return None, False


def _tensors(result: Any) -> Iterable[Any]:
    values = result if isinstance(result, tuple | list) else (result,)
    return [v for v in values if hasattr(v, "is_floating_point")]
