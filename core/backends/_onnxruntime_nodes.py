"""Which canonical layer a node of an ONNX graph belongs to.

An export by torch.onnx stores with each node the module it came from and the line of source; older
exporters put the module's path into the node's name. ONNX Runtime then fuses nodes and names the
result after one of its parts. Reads the graph without its weights.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

from core.names import canonical_hf, within
from core.types import ModelSpec

SCOPES = "pkg.torch.onnx.name_scopes"
SOURCE = "pkg.torch.onnx.stack_trace"
BLOCK = re.compile(r"\.(\d+)(?:\.|$)")
ROPE = re.compile(r"rotary|rotate_half|rope")


def layers_of_nodes(file: Path, spec: ModelSpec) -> Callable[[str], str | None]:
    """A function from a node's name, before or after fusion, to its layer; None where it has none."""
    import onnx

    graph = onnx.load(str(file), load_external_data=False).graph
    known = _name_nodes(graph, spec)

    @cache
    def layer(node: str) -> str | None:
        # a fused node: "node_silu_3/QuickGeluFusion/", "node_linear_token_12"
        for name in (node, node.split("/")[0], re.sub(r"_token_\d+$", "", node)):
            if name in known:
                return known[name]
        return None

    return layer


def _name_nodes(graph: Any, spec: ModelSpec) -> dict[str, str | None]:
    layers = [layer.name for layer in spec.layers]
    residuals = {
        str(i): [n for n in layers if n.startswith(f"blocks.{i}.") and n.endswith("residual")]
        for i in range(spec.n_blocks)
    }

    def exists(name: str | None) -> bool:
        return name is not None and any(within(layer, name) for layer in layers)

    def layer_of(node: Any) -> str | None:
        path, source = _origin(node)
        block = match.group(1) if (match := BLOCK.search(path)) else None
        if block and ROPE.search(source) and exists(rope := f"blocks.{block}.attn.rope"):
            return rope
        if exists(name := canonical_hf(path, spec.architecture)):
            return name
        # a sum outside every named module is where a part of the block joins the main stream
        if node.op_type == "Add" and residuals.get(block or ""):
            return residuals[block or ""].pop(0)
        return None

    return {node.name: layer_of(node) for node in _nodes(graph)}


def _nodes(graph: Any) -> Iterator[Any]:
    """All nodes in their order, those inside loops and branches too."""
    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.HasField("g"):
                yield from _nodes(attribute.g)


def _origin(node: Any) -> tuple[str, str]:
    """The path of the module that made the node, and the line of source, each "" where it is not known."""
    stored = {entry.key: entry.value for entry in node.metadata_props}
    if SCOPES not in stored:
        return ".".join(node.name.strip("/").split("/")[:-1]), ""
    scopes = ast.literal_eval(stored[SCOPES])  # ['', 'model', 'model.layers.0', ..., the operation]
    return (scopes[-2] if len(scopes) > 1 else ""), stored.get(SOURCE, "")
