"""FLOPs of an ONNX graph, node by node, for one shape of forward, by canonical layer.

Counts the file's nodes as they stand, before ONNX Runtime fuses them. Shapes come from onnx's own inference
over the graph without its weights. Products count 2 FLOPs per multiply-add, masked scores included; other
arithmetic a few FLOPs per element. A node of an unknown kind or with an unknown shape is uncounted.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from core.backends.onnxruntime.nodes import name_nodes
from core.types import ModelSpec, OpCount

OTHER = "other"
Shape = tuple[int, ...]
_MOVES = """
ArgMax ArgMin Cast Compress Concat Constant ConstantOfShape DequantizeLinear DynamicQuantizeLinear Equal Expand
Flatten Gather GatherBlockQuantized GatherElements GatherND Greater GreaterOrEqual Identity IsInf IsNaN Less
LessOrEqual Max Min NonZero Not OneHot Pad QuantizeLinear Range Reshape ScatterElements ScatterND Shape Size Slice
Split Squeeze Tile TopK Transpose Trilu Unsqueeze Where And Or Xor
"""
MOVES = frozenset(_MOVES.split())  # move, choose, compare or convert values
_POINTWISE = """
Abs Add BiasGelu Ceil Clip Cos Div Erf Exp FastGelu Floor Gelu HardSigmoid HardSwish LeakyRelu Log Mean Mish Mod Mul Neg
Pow QuickGelu Reciprocal Relu Round Sigmoid Sign Silu Sin Softplus Sqrt Sub Sum Swish Tanh
"""
# FLOPs per element of the result
PER_ELEMENT = {
    **dict.fromkeys(_POINTWISE.split(), 1),
    "Softmax": 4,
    "LogSoftmax": 4,
    "LayerNormalization": 7,
    "SkipLayerNormalization": 8,
    "RMSNormalization": 4,
    "SimplifiedLayerNormalization": 4,
    "SkipSimplifiedLayerNormalization": 5,
    "RotaryEmbedding": 3,
}
_REDUCTIONS = "CumSum ReduceSum ReduceMean ReduceProd ReduceL2 ReduceSumSquare ReduceLogSumExp"
REDUCTIONS = frozenset(_REDUCTIONS.split())
FLOATS = frozenset({1, 10, 11, 16})  # TensorProto: float, float16, double, bfloat16


def count(file: Path, spec: ModelSpec, n_new: int, n_past: int, batch: int = 1) -> tuple[OpCount, ...]:
    """The FLOPs of every layer's nodes in one forward with the logits of the last position."""
    import onnx

    model = onnx.load(str(file), load_external_data=False)
    layers = name_nodes(model.graph, spec)
    shapes, floats = _shapes(model, n_new, n_past, batch)
    found: dict[tuple[str, str], OpCount] = {}
    for node in model.graph.node:
        flops, product = _flops(node, shapes, floats)
        if flops == 0:
            continue
        layer = layers.get(node.name) or OTHER
        before = found.get((layer, node.op_type))
        if before is not None:
            flops = None if flops is None or before.flops is None else flops + before.flops
        found[layer, node.op_type] = OpCount(
            layer=layer, op=node.op_type, calls=before.calls + 1 if before else 1, flops=flops, product=product
        )
    return tuple(found.values())


def _shapes(model: Any, n_new: int, n_past: int, batch: int) -> tuple[dict[str, Shape], frozenset[str]]:
    """(shape of every value whose shape is known, names of the values that are floating-point numbers)."""
    import onnx

    given, model = model, onnx.ModelProto()
    model.CopyFrom(given)
    graph = model.graph
    known = {
        "input_ids": (batch, n_new),
        "position_ids": (batch, n_new),
        "token_type_ids": (batch, n_new),
        "attention_mask": (batch, n_past + n_new),
        "logits_to_keep": (1,),
    }
    for value in graph.input:
        for axis, dimension in enumerate(value.type.tensor_type.shape.dim):
            if not dimension.HasField("dim_value"):
                cache = batch if axis == 0 else n_past
                dimension.dim_value = known[value.name][axis] if value.name in known else cache
    _as_standard(graph)
    # what the exporter wrote holds for every shape, and would stand in the way of this one
    del graph.value_info[:]
    for value in graph.output:
        value.type.tensor_type.ClearField("shape")
    inferred = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    shapes = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    floats = {tensor.name for tensor in graph.initializer if tensor.data_type in FLOATS}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        if kind.elem_type in FLOATS or not kind.elem_type:
            floats.add(value.name)
        if kind.HasField("shape") and all(d.HasField("dim_value") for d in kind.shape.dim):
            shapes[value.name] = tuple(d.dim_value for d in kind.shape.dim)
    seen = {value.name for value in (*inferred.input, *inferred.value_info, *inferred.output)} | set(shapes)
    unknown = {name for node in graph.node for name in node.output if name and name not in seen}
    return shapes, frozenset(floats | unknown)


def _as_standard(graph: Any) -> None:
    """ONNX's inference knows no operators of ONNX Runtime: quantized ones get the shapes of those they stand for."""
    from onnx import TensorProto, helper

    dims = {tensor.name: list(tensor.dims) for tensor in graph.initializer}
    for index, node in enumerate(list(graph.node)):
        if node.op_type == "MatMulNBits":
            attributes = _attributes(node)
            operator, inputs, shape = "MatMul", [node.input[0]], [attributes["K"], attributes["N"]]
        elif node.op_type == "GatherBlockQuantized" and node.input[0] in dims:
            operator, inputs, shape = "Gather", [node.input[1]], dims[node.input[0]]
        else:
            continue
        weight = f"{node.output[0]}.weight"
        inputs.insert(1 if operator == "MatMul" else 0, weight)
        standard = helper.make_node(operator, inputs, list(node.output), name=node.name)
        standard.metadata_props.extend(node.metadata_props)
        graph.input.append(helper.make_tensor_value_info(weight, TensorProto.FLOAT, shape))
        graph.node.remove(node)
        graph.node.insert(index, standard)


def _flops(node: Any, shapes: Mapping[str, Shape], floats: frozenset[str]) -> tuple[float | None, bool]:
    """(FLOPs or None, whether it is a product)."""
    product = node.op_type in PRODUCTS
    if not product and (node.op_type in MOVES or not any(name in floats for name in node.output)):
        return 0, False  # indices, masks and shapes need no floating-point arithmetic
    inputs = [shapes.get(name) for name in node.input]
    output = shapes.get(node.output[0])
    try:
        if product:
            return float(PRODUCTS[node.op_type](inputs, output, _attributes(node))), True
        if node.op_type in PER_ELEMENT and output is not None:
            return float(PER_ELEMENT[node.op_type] * math.prod(output)), False
        if node.op_type in REDUCTIONS and inputs[0] is not None:
            return float(math.prod(inputs[0])), False
    except (TypeError, IndexError, KeyError):
        pass  # a shape that is not known
    return None, product


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {attribute.name: onnx.helper.get_attribute_value(attribute) for attribute in node.attribute}


def _matmul(inputs: list[Any], output: Any, _: dict[str, Any]) -> Any:
    return 2 * math.prod(output) * inputs[0][-1]


def _gemm(inputs: list[Any], output: Any, attributes: dict[str, Any]) -> Any:
    return 2 * math.prod(output) * inputs[0][0 if attributes.get("transA") else 1]


def _einsum(inputs: list[Any], output: Any, attributes: dict[str, Any]) -> Any:
    """Every combination of the letters is one multiply-add per operand beyond the first."""
    letters = attributes["equation"].decode().replace(" ", "").split("->")[0].split(",")
    sizes = {
        letter: size
        for term, shape in zip(letters, inputs, strict=True)
        for letter, size in zip(term, shape, strict=True)
    }
    return 2 * (len(letters) - 1) * math.prod(sizes.values())


def _conv(inputs: list[Any], output: Any, _: dict[str, Any]) -> Any:
    return 2 * math.prod(output) * math.prod(inputs[1][1:])  # weight: (out, in of a group, kernel...)


def _attention(inputs: list[Any], output: Any, attributes: dict[str, Any]) -> Any:
    """Query (batch, heads, n, d_qk), key and value (batch, kv heads, context, d), or flat with the heads inside."""
    query, key, value = inputs[:3]
    past = inputs[4][2] if len(inputs) > 4 and inputs[4] else 0
    if len(query) == 4:
        batch, heads, n, d_qk = query
        return 2 * batch * heads * n * (key[2] + past) * (d_qk + value[3])
    heads, kv_heads = attributes["q_num_heads"], attributes["kv_num_heads"]
    batch, n, width = query
    return 2 * batch * heads * n * (key[1] + past) * (width / heads + value[2] / kv_heads)


def _packed_matmul(inputs: list[Any], output: Any, attributes: dict[str, Any]) -> Any:
    return 2 * math.prod(inputs[0]) * attributes["N"]


def _grouped_query(inputs: list[Any], output: Any, attributes: dict[str, Any]) -> Any:
    """com.microsoft: query (batch, n, width), past key (batch, kv heads, past, d)."""
    batch, n, width = inputs[0]
    past = inputs[3][2] if len(inputs) > 3 and inputs[3] else 0
    if inputs[1] is None:  # query, key and value packed into one
        width = width * attributes["num_heads"] / (attributes["num_heads"] + 2 * attributes["kv_num_heads"])
    return 4 * batch * n * (n + past) * width


PRODUCTS: dict[str, Callable[[list[Any], Any, dict[str, Any]], Any]] = {
    "MatMul": _matmul,
    "MatMulInteger": _matmul,
    "MatMulIntegerToFloat": _matmul,
    "DynamicQuantizeMatMul": _matmul,
    "FusedMatMul": _matmul,
    "QLinearMatMul": _matmul,
    "Gemm": _gemm,
    "FusedGemm": _gemm,
    "Einsum": _einsum,
    "Conv": _conv,
    "Attention": _attention,
    "MatMulNBits": _packed_matmul,
    "GroupQueryAttention": _grouped_query,
}
