"""Which canonical layer a node of an ONNX graph belongs to.

An export by torch.onnx stores with each node the module it came from and the line of source; older
exporters put the module's path into the node's name. ONNX Runtime then fuses nodes and names the
result after one of its parts. Reads the graph without its weights.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from core.layer_names import canonical_hf, kind_of, within
from core.types import ModelSpec

SCOPES = "pkg.torch.onnx.name_scopes"
SOURCE = "pkg.torch.onnx.stack_trace"
BLOCK = re.compile(r"\.(\d+)(?:\.|$)")
ROPE = re.compile(r"rotary|rotate_half|rope")


def layers_of_run(file: Path, spec: ModelSpec, executed: Sequence[str]) -> dict[str, str | None]:
    """The layer of every node in `executed`, the nodes of one run in their order; None where there is none.

    A node that the file does not have was made by ONNX Runtime out of several that it has, and is
    named after the last of those: "BiasGelu" behind an up projection is the activation.
    """
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    layers = name_nodes(graph, spec)
    # fused nodes often keep a part's name: "node_silu_3/QuickGeluFusion/", "fused node_Gemm_7"
    own = {name: next((part for part in re.split(r"[/ ]", name) if part in layers), None) for name in executed}
    flow = _Flow(graph, {part for part in own.values() if part})
    found: dict[str, str | None] = {}
    for name in executed:
        part = own[name]
        parts = [part] if part else flow.swallowed()
        flow.ran(parts)
        found[name] = next((layers[p] for p in reversed(parts) if layers[p]), None)
    return found


class _Flow:
    """Follows a run through the graph of the file, to tell what a node that the file lacks has computed.

    visible: the nodes that run under their own name.
    """

    def __init__(self, graph: Any, visible: set[str]) -> None:
        self._visible = visible
        self._inputs = {node.name: list(node.input) for node in graph.node}
        self._outputs = {node.name: list(node.output) for node in graph.node}
        self._maker = {value: node.name for node in graph.node for value in node.output}
        self._users: dict[str, list[str]] = {}
        for node in graph.node:
            for value in node.input:
                self._users.setdefault(value, []).append(node.name)
        self._ran: list[str] = []
        self._done: set[str] = set()
        constants = {"", *(tensor.name for tensor in graph.initializer)}
        for node in graph.node:  # such nodes are computed when the file is opened
            if constants.issuperset(node.input):
                constants.update(node.output)
                self._done.add(node.name)

    def ran(self, nodes: Sequence[str]) -> None:
        """These have run, and with them all that they need."""
        self._ran += nodes
        waiting = list(nodes)
        while waiting:
            node = waiting.pop()
            if node not in self._done:
                self._done.add(node)
                waiting += [self._maker[value] for value in self._inputs[node] if value in self._maker]

    def swallowed(self) -> list[str]:
        """What can be computed now from the latest results, by nodes that do not run under their own name."""
        for latest in reversed(self._ran):
            found: list[str] = []
            waiting = list(self._users_of(latest))
            while waiting:
                node = waiting.pop(0)
                if node not in found and self._is_ready(node, found):
                    found.append(node)
                    waiting += self._users_of(node)
            if found:
                return found
        return []

    def _users_of(self, node: str) -> Iterator[str]:
        for value in self._outputs[node]:
            yield from self._users.get(value, ())

    def _is_ready(self, node: str, found: list[str]) -> bool:
        if node in self._visible or node in self._done:
            return False
        makers = (self._maker.get(value) for value in self._inputs[node])
        return all(maker is None or maker in self._done or maker in found for maker in makers)


def name_nodes(graph: Any, spec: ModelSpec) -> dict[str, str | None]:
    """The layer of every node of the file."""
    layers = [layer.name for layer in spec.layers]
    residuals = {
        str(i): [n for n in layers if n.startswith(f"blocks.{i}.") and n.endswith("residual")]
        for i in range(spec.n_blocks)
    }
    made_by: dict[str, str | None] = {}  # value -> the layer that computes it

    def exists(name: str | None) -> bool:
        return name is not None and (
            name in layers or (name.endswith(".experts") and any(within(layer, name) for layer in layers))
        )

    def layer_of(node: Any) -> str | None:
        path, source = _origin(node)
        before = [made_by[value] for value in node.input if value in made_by]
        if path is None:  # made by the exporter's optimizer, out of what feeds it
            return next((layer for layer in before if layer), None)
        block = match.group(1) if (match := BLOCK.search(path)) else None
        if block and ROPE.search(source) and exists(rope := f"blocks.{block}.attn.rope"):
            return rope
        if exists(name := canonical_hf(path, spec.architecture)):
            return name
        if node.op_type == "Add" and block and residuals[block]:
            # a sum outside every named module is where a part of the block joins the main stream
            return residuals[block].pop(0)
        if node.op_type == "Add" and before and all(kind_of(layer or "") == "embedding" for layer in before):
            return "embed.sum" if exists("embed.sum") else None
        return None

    found: dict[str, str | None] = {}
    for node in _nodes(graph):
        found[node.name] = layer = layer_of(node)
        made_by.update(dict.fromkeys(node.output, layer))
    return found


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes in their order, those inside loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _origin(node: Any) -> tuple[str | None, str]:
    """The path of the module that made the node, None where nothing tells, and the line of source, or ""."""
    stored = {entry.key: entry.value for entry in node.metadata_props}
    if SCOPES not in stored:
        return ".".join(node.name.split("/")[1:-1]) or None, ""  # "/model/layers.0/self_attn/q_proj/MatMul"
    scopes = ast.literal_eval(stored[SCOPES])  # ['', 'model', 'model.layers.0', ..., the operation]
    return (scopes[-2] if len(scopes) > 1 else ""), stored.get(SOURCE, "")
