"""Time per layer from ggml's evaluation callback, which runs every node of the graph alone.

ggml calls before a node (ask) and after it. A node without work of its own (a view) is left to run
with the next one. Between two nodes all threads meet and Python runs, so the sum of the rows is
less than the wall time, and the wall time more than that of an untouched forward.

Knows the layout of ggml_tensor (ggml.h of ggml 0.25) for what no function tells: a node's sources.
The layout is checked against ggml's own functions on the first node; where it differs, layers are
told by the names of nodes alone.
"""

from __future__ import annotations

import ctypes
import time
from collections.abc import Callable
from functools import cache
from typing import Any, Literal

from core.layer_names import block_of, canonical_gguf
from core.types import LayerTime

VIEWS = frozenset({"NONE", "VIEW", "RESHAPE", "PERMUTE", "TRANSPOSE"})
WEIGHTED = frozenset({"MUL_MAT", "MUL_MAT_ID", "GET_ROWS", "MUL", "ADD", "ADD_ID", "SSM_CONV", "SSM_SCAN"})
# Mamba's nodes without a name, by the part of the block that ran before them
AFTER = {
    ("SILU", "ssm.conv"): "ssm.act",
    ("ADD", "ssm.scan"): "ssm.scan",
    ("SWIGLU", "ssm.scan"): "ssm.gate",
    ("ADD", "ssm.out_proj"): "ssm.residual",
}
OTHER = "other"


class Tensor(ctypes.Structure):
    """ggml_tensor."""

    _fields_ = (
        ("type", ctypes.c_int),
        ("buffer", ctypes.c_void_p),
        ("ne", ctypes.c_int64 * 4),
        ("nb", ctypes.c_size_t * 4),
        ("op", ctypes.c_int),
        ("op_params", ctypes.c_int32 * 16),
        ("flags", ctypes.c_int32),
        ("src", ctypes.c_void_p * 10),
        ("view_src", ctypes.c_void_p),
        ("view_offs", ctypes.c_size_t),
        ("data", ctypes.c_void_p),
        ("name", ctypes.c_char * 64),
    )


@cache
def ggml() -> Any:
    """ggml's functions, through libllama, which depends on it."""
    import llama_cpp.llama_cpp

    library = ctypes.CDLL(llama_cpp.llama_cpp._lib._name)
    for name, result in (
        ("ggml_get_name", ctypes.c_char_p),
        ("ggml_op_desc", ctypes.c_char_p),
        ("ggml_nbytes", ctypes.c_size_t),
    ):
        function = getattr(library, name)
        function.argtypes, function.restype = [ctypes.c_void_p], result
    return library


def layer_of(op: str, node: str, sources: tuple[str, ...], before: str = "") -> str | None:
    """The canonical layer of a graph node; None where neither its name nor its sources tell.

    A weight among the sources says most, then what ran `before`, then the node's own name, then the
    cache it reads (flash attention has no name of its own).
    """
    if op == "ROPE":
        name = canonical_gguf(node)
        block = block_of(name) if name else None
        return name if block is None else f"blocks.{block}.attn.rope"
    if op in WEIGHTED:
        for source in sources:
            if source.startswith(("blk.", "token_embd.", "output")) and (name := canonical_gguf(source)):
                return "lm_head" if name == "embed" and op == "MUL_MAT" else name  # tied to the embedding
    block = block_of(before)
    if block is not None and (part := AFTER.get((op, before.removeprefix(f"blocks.{block}.")))):
        return f"blocks.{block}.{part}"
    if name := canonical_gguf(node):
        return name
    return next((canonical_gguf(source) for source in sources if source.startswith("cache_")), None)


class Trace:
    """`callback` goes into the parameters of the traced context; on_finish takes that context away."""

    def __init__(self, on_finish: Callable[[], None]) -> None:
        import llama_cpp

        self._ggml, self._on_finish = ggml(), on_finish
        self.callback = llama_cpp.ggml_backend_sched_eval_callback(self._on_node)
        self._layout_known: bool | None = None
        self._layers: dict[tuple[str, ...], str | None] = {}
        self._phases: dict[str, _Times] = {}
        self._times = self._phases.setdefault("prefill", _Times())
        self._before = ""
        self._started_ns = 0
        self._finished = False

    def forget(self) -> None:
        """Begin anew: what was recorded so far is dropped."""
        self._phases = {}
        self._times = self._phases.setdefault("prefill", _Times())

    def phase(self, name: Literal["prefill", "decode"]) -> None:
        self._times = self._phases.setdefault(name, _Times())

    def rows(self) -> dict[str, tuple[LayerTime, ...]]:
        return {name: rows for name, times in self._phases.items() if (rows := times.rows())}

    def finish(self) -> dict[str, tuple[LayerTime, ...]]:
        if not self._finished:
            self._finished = True
            self._on_finish()
        return self.rows()

    def _on_node(self, address: int, ask: bool, _: Any) -> bool:
        if ask:
            if self._ggml.ggml_op_desc(address).decode() in VIEWS:
                return False
            self._started_ns = time.perf_counter_ns()
            return True
        seconds = (time.perf_counter_ns() - self._started_ns) / 1e9
        op = self._ggml.ggml_op_desc(address).decode()
        node = self._ggml.ggml_get_name(address).decode(errors="replace")
        key = (self._before, op, node, *self._sources(address, node))
        if key not in self._layers:
            self._layers[key] = layer_of(op, node, key[3:], self._before)
        layer = self._layers[key]
        self._before = layer or self._before
        self._times.add(layer, op, node, seconds, self._ggml.ggml_nbytes(address))
        return True

    def _sources(self, address: int, node: str) -> tuple[str, ...]:
        tensor = Tensor.from_address(address)
        if self._layout_known is None:
            self._layout_known = bool(node) and tensor.name.decode(errors="replace") == node
        if not self._layout_known:
            return ()
        names = (self._ggml.ggml_get_name(source) for source in tensor.src if source)
        return tuple(name.decode(errors="replace") for name in names)


class _Times:
    """What the nodes of one phase cost, by layer. Nodes that no name claims belong to the next that one does."""

    def __init__(self) -> None:
        self._nodes: dict[str, dict[tuple[str, str], list[float]]] = {}
        self._output_bytes: dict[str, int] = {}
        self._unclaimed: list[tuple[str, str, float]] = []

    def add(self, layer: str | None, op: str, node: str, seconds: float, n_bytes: int) -> None:
        self._unclaimed.append((op, node, seconds))
        if layer is None:
            return
        for claimed in self._unclaimed:
            self._put(layer, *claimed)
        self._unclaimed.clear()
        if op != "SET_ROWS":  # it writes into the cache: its output is the whole cache
            self._output_bytes[layer] = n_bytes

    def _put(self, layer: str, op: str, node: str, seconds: float) -> None:
        cost = self._nodes.setdefault(layer, {}).setdefault((op, node), [0.0, 0])
        cost[0] += seconds
        cost[1] += 1

    def rows(self) -> tuple[LayerTime, ...]:
        rows = [
            LayerTime(
                name=layer,
                seconds=sum(seconds for seconds, _ in nodes.values()),
                calls=int(max(calls for _, calls in nodes.values())),
                op=max(nodes, key=lambda node: nodes[node][0])[0],
                output_bytes=self._output_bytes.get(layer),
            )
            for layer, nodes in self._nodes.items()
        ]
        if self._unclaimed:
            seconds = sum(cost for _, _, cost in self._unclaimed)
            rows.append(LayerTime(name=OTHER, seconds=seconds, calls=len(self._unclaimed)))
        return tuple(rows)
