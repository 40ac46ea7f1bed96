"""FLOPs of ggml's graph, node by node, while a forward runs, by canonical layer.

ggml asks about every node before it runs it; the answer "not needed" lets the graph run on undisturbed.
Products count 2 FLOPs per multiply-add with the shapes of the graph: a KV cache that ggml reads in whole
steps counts with its padding. Other arithmetic counts a few FLOPs per element; a node of no known kind is
uncounted.
"""

from __future__ import annotations

import math
from typing import Any

from core.backends.llama_cpp.trace import VIEWS, Tensor, ggml, layer_of
from core.types import OpCount

OTHER = "other"
_MOVES = "ARGMAX ARGSORT CONCAT CONT CPY DUP FILL GET_ROWS PAD REPEAT ROLL SET SET_ROWS TOP_K"
MOVES = VIEWS | frozenset(_MOVES.split())
_POINTWISE = """
ABS ACC ADD ADD1 ADD_ID CLAMP COS DIV ELU EXP GELU GELU_ERF GELU_QUICK HARDSIGMOID HARDSWISH LOG MUL NEG RELU SCALE
SIGMOID SILU SIN SOFTPLUS SQR SQRT SUB TANH
"""
# FLOPs per element of the result; the weight of a norm is a MUL of its own
PER_ELEMENT = {
    **dict.fromkeys(_POINTWISE.split(), 1),
    **dict.fromkeys(("GEGLU", "GEGLU_ERF", "GEGLU_QUICK", "REGLU", "SWIGLU", "SWIGLU_OAI"), 2),
    "L2_NORM": 3,
    "NORM": 5,
    "RMS_NORM": 3,
    "ROPE": 3,
    "SOFT_MAX": 4,
}
REDUCTIONS = frozenset({"CUMSUM", "MEAN", "SUM", "SUM_ROWS"})


class Counter:
    """`callback` goes into the parameters of the context that runs; nodes count while `on` is set."""

    def __init__(self) -> None:
        import llama_cpp

        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)
        self.on = False
        self.readable = True  # False: this ggml lays its tensors out otherwise than we know
        self._checked = False
        self.cells: dict[str, int] = {}  # layer -> places of the cache that its attention reads
        self._found: dict[tuple[str, str], OpCount] = {}
        self._before = ""
        self._unclaimed: list[tuple[str, float | None, bool]] = []

    def rows(self) -> tuple[OpCount, ...]:
        for node in self._unclaimed:
            self._put(OTHER, *node)
        self._unclaimed.clear()
        return tuple(self._found.values())

    def _on_node(self, address: int, ask: bool, _: Any) -> bool:
        if ask and self.on and self.readable:
            self._count(address)
        return False

    def _count(self, address: int) -> None:
        tensor = Tensor.from_address(address)
        node = ggml().ggml_get_name(address).decode(errors="replace")
        if not self._checked:
            self._checked = bool(node)
            self.readable = tensor.name.decode(errors="replace") == node
        op = ggml().ggml_op_desc(address).decode()
        if op in VIEWS or not self.readable:
            return
        sources = [Tensor.from_address(source) for source in tensor.src if source]
        names = tuple(source.name.decode(errors="replace") for source in sources)
        layer = layer_of(op, node, names, self._before)
        self._before = layer or self._before
        if layer is not None and op == "FLASH_ATTN_EXT":
            self.cells[layer] = int(sources[1].ne[1])
        elif layer is not None and op == "MUL_MAT" and layer.endswith(".core") and layer not in self.cells:
            self.cells[layer] = int(tensor.ne[0])  # the scores, which come before their product with the values
        self._unclaimed.append((op, *_flops(op, tensor, sources)))
        if layer is not None:  # nodes that no name claims belong to the next that one does
            for claimed in self._unclaimed:
                self._put(layer, *claimed)
            self._unclaimed.clear()

    def _put(self, layer: str, op: str, flops: float | None, product: bool) -> None:
        if flops == 0:
            return
        before = self._found.get((layer, op))
        if before is not None:
            flops = None if flops is None or before.flops is None else flops + before.flops
        calls = before.calls + 1 if before else 1
        self._found[layer, op] = OpCount(layer=layer, op=op, calls=calls, flops=flops, product=product)


def _flops(op: str, result: Tensor, sources: list[Tensor]) -> tuple[float | None, bool]:
    """(FLOPs or None, whether it is a product). A tensor's `ne` has its fastest axis first."""
    if op in ("MUL_MAT", "MUL_MAT_ID"):
        return float(2 * sources[0].ne[0] * math.prod(result.ne)), True
    if op == "FLASH_ATTN_EXT":
        query, key, value = sources[:3]
        return float(2 * math.prod(query.ne[1:]) * key.ne[1] * (query.ne[0] + value.ne[0])), True
    if op == "SSM_CONV":
        return float(2 * sources[1].ne[0] * math.prod(result.ne)), True
    if op in MOVES:
        return 0.0, False
    if op in PER_ELEMENT:
        return float(PER_ELEMENT[op] * math.prod(result.ne)), False
    if op in REDUCTIONS:
        return float(math.prod(sources[0].ne)), False
    return None, False
