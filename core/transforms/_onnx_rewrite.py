"""ONNX Runtime's quantizers on one graph, and what they leave undone.

    python -m core.transforms._onnx_rewrite SOURCE TARGET SETTINGS

SOURCE: model.onnx. TARGET: a folder. SETTINGS: the transform's settings as JSON. Prints lines of JSON: {"note"},
{"needed": bytes to write}, then {"facts"} or {"error"} and, from the system, {"errno"}.

The quantizers pass over a head that shares the token table, and drop the nodes' metadata, by which a layer is
found again; both are mended here. Knows nothing of runs.
"""

from __future__ import annotations

import json
import logging
import math
import sys
from collections import Counter
from pathlib import Path
from typing import Any

from core import engine

SCOPES = "pkg.torch.onnx.name_scopes"
SMALL = 1024  # bytes; smaller tensors stay in the graph's own file
ORT = "com.microsoft"


def main(source: str, target: str, settings: str) -> int:
    logging.disable(logging.WARNING)  # the quantizers report every node
    engine.claim("onnxruntime")
    try:
        _print(facts=rewrite(Path(source), Path(target), json.loads(settings)))
    except OSError as error:
        _print(error=error.strerror or str(error), errno=error.errno)
        return 1
    except Exception as error:  # onnx and onnxruntime raise their own
        _print(error=(str(error).strip().splitlines() or [type(error).__name__])[0][:200].rstrip("."))
        return 1
    return 0


def rewrite(source: Path, target: Path, settings: dict[str, Any]) -> dict[str, Any]:
    """Write target/model.onnx and its weights. Returns facts about the graph (see onnx_quantize)."""
    import onnx

    _print(note="Reading the graph")
    model = onnx.load(str(source))
    if settings["head"]:
        unfold_transposes(model.graph)
    products = constant_products(model.graph)
    _print(note=f"Quantizing {len(products)} matrices")
    origin = {node.output[0]: list(node.metadata_props) for node in model.graph.node}
    model = _dynamic(model, target) if settings["method"] == "dynamic_int8" else _nbits(model, settings)
    table_bytes = quantize_table(model, settings["block_size"]) if settings["table"] else 0
    _drop_unused(model.graph)
    _restore(model.graph, origin)
    _print(note="Writing the graph", needed=model.ByteSize())
    _save(model, target)
    left = [node for node in model.graph.node if node.op_type in ("MatMul", "Gemm")]
    tensors = {t.name for t in model.graph.initializer}
    return {
        "quantized": len(products) - sum(any(i in tensors for i in node.input) for node in left),
        "left_out": [{"node": _path(node), "why": _why(node, model.graph)} for node in left],
        "operators": dict(Counter(node.op_type for node in model.graph.node).most_common()),
        "table": "in 8 bits" if table_bytes else "left as it was",
    }


# ---------------------------------------------------------------- before


def unfold_transposes(graph: Any) -> None:
    """Give every product its own matrix where it takes a transposed view of a shared one (a tied head)."""
    import numpy as np
    from onnx import numpy_helper

    tensors = {t.name: t for t in graph.initializer}
    views = {
        node.output[0]: tensors[node.input[0]]
        for node in graph.node
        if node.op_type == "Transpose" and node.input[0] in tensors and len(tensors[node.input[0]].dims) == 2
    }
    for node in graph.node:
        if node.op_type == "MatMul" and node.input[1] in views:
            name = f"{views[node.input[1]].name}.transposed"
            if name not in tensors:
                values = np.ascontiguousarray(numpy_helper.to_array(views[node.input[1]]).T)
                tensors[name] = numpy_helper.from_array(values, name)
                graph.initializer.append(tensors[name])
            node.input[1] = name
    used = {name for node in graph.node for name in node.input}
    unused = [node for node in graph.node if node.output[0] in views and node.output[0] not in used]
    for node in unused:
        graph.node.remove(node)


def constant_products(graph: Any) -> list[Any]:
    """The matrix products with a weight of the file."""
    tensors = {t.name for t in graph.initializer if len(t.dims) == 2}
    return [node for node in graph.node if node.op_type == "MatMul" and node.input[1] in tensors]


# ---------------------------------------------------------------- the library's quantizers


def _dynamic(model: Any, target: Path) -> Any:
    """8-bit weights, one scale per output channel; activations in 8 bits, scaled anew in every forward."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    written = target / "dynamic.onnx"
    try:
        quantize_dynamic(
            model,
            written,
            op_types_to_quantize=["MatMul"],
            per_channel=True,
            weight_type=QuantType.QInt8,
            use_external_data_format=True,
        )
        return onnx.load(str(written))
    finally:
        for file in target.glob("dynamic.onnx*"):
            file.unlink()


def _nbits(model: Any, settings: dict[str, Any]) -> Any:
    """4- or 8-bit weights in blocks along the input, as MatMulNBits takes them."""
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer

    quantizer = MatMulNBitsQuantizer(
        model,
        bits=4 if settings["method"] == "weights_4bit" else 8,
        block_size=settings["block_size"],
        is_symmetric=settings["symmetric"],
        accuracy_level=settings["accuracy_level"],
        op_types_to_quantize=("MatMul",),
    )
    quantizer.process()
    return quantizer.model.model


# ---------------------------------------------------------------- after


def quantize_table(model: Any, block_size: int) -> int:
    """The token table in 8 bits, symmetric, in blocks along a row: GatherBlockQuantized. Returns its bytes, or 0."""
    import numpy as np
    from onnx import helper, numpy_helper

    graph = model.graph
    tensors = {t.name: t for t in graph.initializer}
    n_bytes = 0
    for index, node in enumerate(graph.node):
        table = tensors.get(node.input[0]) if node.op_type == "Gather" else None
        if table is None or len(table.dims) != 2 or math.prod(table.dims) < 1 << 12:
            continue
        values = numpy_helper.to_array(table).astype(np.float32)
        rows, width = values.shape
        padded = np.zeros((rows, -(-width // block_size) * block_size), np.float32)
        padded[:, :width] = values
        blocks = padded.reshape(rows, -1, block_size)
        scales = np.abs(blocks).max(-1) / 127
        steps = np.rint(blocks / np.where(scales, scales, 1)[..., None]) + 128  # 128 is the operator's own zero
        data = steps.astype(np.uint8).reshape(padded.shape)[:, :width]
        new = [
            numpy_helper.from_array(np.ascontiguousarray(data), f"{table.name}.table_8bit"),
            numpy_helper.from_array(scales.astype(np.float32), f"{table.name}.table_scales"),
        ]
        graph.initializer.extend(new)
        replacement = helper.make_node(
            "GatherBlockQuantized",
            [new[0].name, node.input[1], new[1].name],
            list(node.output),
            name=node.name,
            domain=ORT,
            bits=8,
            block_size=block_size,
            quantize_axis=1,
            gather_axis=0,
        )
        replacement.metadata_props.extend(node.metadata_props)
        graph.node.remove(node)
        graph.node.insert(index, replacement)
        n_bytes += data.nbytes + scales.nbytes
    if n_bytes and not any(o.domain == ORT for o in model.opset_import):
        model.opset_import.append(helper.make_opsetid(ORT, 1))
    return n_bytes


def _drop_unused(graph: Any) -> None:
    used = {name for node in graph.node for name in node.input} | {value.name for value in graph.output}
    for tensor in [t for t in graph.initializer if t.name not in used]:
        graph.initializer.remove(tensor)


def _restore(graph: Any, origin: dict[str, list[Any]]) -> None:
    """A node that a quantizer made gets the metadata of the node whose output it computes, or helps to compute."""
    for node in graph.node:
        if not node.metadata_props and node.output[0] in origin:
            node.metadata_props.extend(origin[node.output[0]])
    users: dict[str, Any] = {}
    for node in graph.node:
        for name in node.input:
            users.setdefault(name, node)
    for node in reversed(graph.node):
        if not node.metadata_props and node.output[0] not in origin and node.output[0] in users:
            node.metadata_props.extend(users[node.output[0]].metadata_props)


def _save(model: Any, target: Path) -> None:
    import onnx

    del model.graph.value_info[:]
    onnx.save_model(
        model,
        str(target / "model.onnx"),
        save_as_external_data=True,
        all_tensors_to_one_file=True,
        location="model.onnx.data",
        size_threshold=SMALL,
    )


def _path(node: Any) -> str:
    stored = {entry.key: entry.value for entry in node.metadata_props}
    scopes = stored.get(SCOPES, "")
    return scopes.split("'")[-4] if scopes.count("'") >= 4 else str(node.name)


def _why(node: Any, graph: Any) -> str:
    tensors = {t.name for t in graph.initializer}
    if not any(name in tensors for name in node.input):
        shared = [n for n in graph.node if n.op_type == "Transpose" and n.output[0] in node.input]
        if any(n.input[0] in tensors for n in shared):
            return "its matrix is a view of the token table"
        return "neither side is a stored weight"
    return "the quantizer does not take its shape"


def _print(**line: Any) -> None:
    print(json.dumps(line), flush=True)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
