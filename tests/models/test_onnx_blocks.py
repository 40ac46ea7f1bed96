"""Which blocks of a model are of one kind, and a graph of a few of them that becomes that of all."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
import torch
from onnx.reference import ReferenceEvaluator
from onnx_ir.tensor_adapters import TorchTensor

from core.models import onnx_blocks, onnx_check, torch_to_onnx
from core.models.onnx_blocks import Plan, UnequalError, choose, repeat, shortened, weights_read
from tests.support import elsewhere
from tests.support.random_model import SIZES, random_model

pytestmark = pytest.mark.engine("pytorch")


# ---------------------------------------------------------------- kinds


def bare(model_type: str, **sizes: Any) -> Any:
    """A model without weights."""
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(AutoConfig.for_model(model_type, **(SIZES | sizes)))


def test_equal_blocks_are_traced_three_times() -> None:
    plan = choose(bare("llama", num_hidden_layers=30))
    assert plan == Plan("model.layers", (0,) * 30, (0, 1, 2))
    plan = choose(bare("gpt2", num_hidden_layers=5))
    assert plan == Plan("transformer.h", (0,) * 5, (0, 1, 2))


def test_blocks_of_several_kinds_are_traced_three_times_each() -> None:
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    plan = choose(bare("gemma2", num_hidden_layers=8, **sizes))
    assert plan == Plan("model.layers", (0, 1) * 4, (0, 1, 2, 3, 4, 5))
    kinds = ["sliding_attention"] * 4 + ["full_attention"]
    plan = choose(bare("gemma3_text", num_hidden_layers=10, layer_types=kinds * 2, **sizes))
    assert plan == Plan("model.layers", (0, 0, 0, 0, 1) * 2, (0, 1, 2, 4, 9))
    sparse = {"num_experts": 4, "moe_intermediate_size": 16, "shared_expert_intermediate_size": 16}
    plan = choose(bare("qwen2_moe", num_hidden_layers=6, mlp_only_layers=[0], num_experts_per_tok=2, **sparse))
    assert plan == Plan("model.layers", (0, 1, 1, 1, 1, 1), (0, 1, 2, 3))


@pytest.mark.parametrize("n", [1, 3])
def test_where_a_short_trace_would_save_nothing_there_is_none(n: int) -> None:
    assert choose(bare("llama", num_hidden_layers=n)) is None


def test_blocks_that_share_weights_are_not_repeated() -> None:
    model = bare("llama", num_hidden_layers=6)
    model.model.layers[5].mlp.up_proj.weight = model.model.layers[4].mlp.up_proj.weight
    assert choose(model) is None


def test_a_block_that_differs_in_a_setting_or_a_shape_is_a_kind_of_its_own() -> None:
    model = bare("llama", num_hidden_layers=8)
    model.model.layers[2].self_attn.scaling = 0.5
    model.model.layers[6].mlp.down_proj = torch.nn.Linear(64, 32, bias=True, device="meta")
    plan = choose(model)
    assert plan is not None and plan.kinds == (0, 0, 1, 0, 0, 0, 2, 0) and plan.traced == (0, 1, 2, 3, 6)


def test_a_short_model_has_the_traced_blocks_and_is_whole_again_afterwards() -> None:
    sizes = {"num_key_value_heads": 2, "head_dim": 8, "sliding_window": 8}
    kinds = ["sliding_attention"] * 4 + ["full_attention"]
    model = bare("gemma3_text", num_hidden_layers=10, layer_types=kinds * 2, **sizes)
    plan, blocks = choose(model), list(model.model.layers)
    assert plan is not None
    with pytest.raises(KeyError), shortened(model, plan):
        assert list(model.model.layers) == [blocks[i] for i in plan.traced]
        assert [block.self_attn.layer_idx for block in model.model.layers] == [0, 1, 2, 3, 4]
        assert model.config.layer_types == ["sliding_attention"] * 3 + ["full_attention"] * 2
        assert model.config.num_hidden_layers == 5
        raise KeyError
    assert list(model.model.layers) == blocks and model.config.num_hidden_layers == 10
    assert model.config.layer_types == kinds * 2
    assert [block.self_attn.layer_idx for block in blocks] == list(range(10))


# ---------------------------------------------------------------- graphs made by hand


class Toy(torch.nn.Module):
    """h -> h * w + the length of its cache, block after block; each keeps h in its cache."""

    def __init__(self, n: int) -> None:
        super().__init__()
        self.layers = torch.nn.ModuleList(torch.nn.Module() for _ in range(n))
        for i, block in enumerate(self.layers):
            block.w = torch.nn.Parameter(torch.tensor([1.0 + i, 2.0 - i]))
        self.config = SimpleNamespace(num_hidden_layers=n)
        self.config.get_text_config = lambda: self.config


def toy_graph(model: Toy, plan: Plan, *, axis: int = 0, twice: bool = False, leak: bool = False) -> ir.Graph:
    """What a trace of the short model would be. axis: of the last block's Concat; twice, leak: what it hands on."""

    def value(name: str, dtype: ir.DataType = ir.DataType.FLOAT) -> ir.Value:
        return ir.Value(name=name, type=ir.TensorType(dtype), shape=ir.Shape([None]))

    nodes: list[ir.Node] = []

    def node(
        op: str, inputs: list[ir.Value], scope: str, name: str, dtype: Any = ir.DataType.FLOAT, **given: Any
    ) -> ir.Value:
        attributes = [ir.AttrInt64(key, number) for key, number in given.items()]
        scopes = {onnx_blocks.SCOPES: f"['', {scope}'op']"}
        made = ir.Node("", op, inputs, attributes, name=f"node_{name}", metadata_props=scopes)
        made.outputs[0].name, made.outputs[0].type, made.outputs[0].shape = name, ir.TensorType(dtype), ir.Shape([None])
        nodes.append(made)
        return made.outputs[0]

    start = value("h")
    hidden = node("Identity", [start], "", "first")
    inputs, outputs, weights, n_past = [start], [], [], None
    for place, number in enumerate(plan.traced):
        scope, last = f"'layers.{place}', ", place == len(plan.traced) - 1
        weight = value(f"layers.{place}.w")
        weight.const_value = TorchTensor(model.layers[number].w, name=weight.name)
        cache = value(f"input.past_key_values.layers.{place}.keys")
        if n_past is None:  # the first block computes what all others read
            n_past = node("Size", [cache], scope, "size", ir.DataType.INT64)
            n_past.shape = ir.Shape([])
        kept = node(
            "Concat", [cache, hidden], scope, f"output.past_key_values.layers.{place}.keys", axis=axis if last else 0
        )
        product = node("Mul", [hidden, weight], scope, f"product_{place}")
        past = node("CastLike", [n_past, hidden], scope, f"past_{place}")
        hidden = node("Add", [product, past], scope, f"sum_{place}")
        inputs.append(cache)
        outputs.append(kept)
        weights.append(weight)
    end = node("Add", [hidden, product if twice else hidden], "", "logits")
    if leak:
        node("Size", [kept], "", "unused", ir.DataType.INT64)
        outputs.append(node("Cast", [past], "", "of the last block", to=1))
    return ir.Graph(inputs, [end, *outputs], nodes=nodes, initializers=weights, opset_imports={"": 21}, name="toy")


def run(graph: ir.Graph, h: Any, caches: list[Any]) -> dict[str, Any]:
    model = ir.to_proto(ir.Model(graph, ir_version=10))
    onnx.checker.check_model(model)
    names = [value.name for value in model.graph.output]
    feeds = {f"input.past_key_values.layers.{i}.keys": cache for i, cache in enumerate(caches)}
    return dict(zip(names, ReferenceEvaluator(model).run(None, {"h": h, **feeds}), strict=True))


TOY_PLANS = {
    "one kind": Plan("layers", (0,) * 6, (0, 1, 2)),
    "two kinds": Plan("layers", (0, 0, 0, 0, 1, 0, 0, 1, 0), (0, 1, 2, 4, 7)),
    "many of both": Plan("layers", (1, 0) * 5, (0, 1, 2, 3, 4, 5)),
}


@pytest.mark.parametrize("plan", TOY_PLANS.values(), ids=TOY_PLANS)
def test_the_repeated_graph_computes_the_whole_model(plan: Plan) -> None:
    n = len(plan.kinds)
    model = Toy(n)
    graph = toy_graph(model, plan)
    repeat(graph, plan, model, weights_read(graph, plan, model))
    h, caches = np.array([3.0, 5.0], np.float32), [np.full(4 if i else 3, i, np.float32) for i in range(n)]
    found = run(graph, h, caches)
    assert list(found) == ["logits", *(f"output.past_key_values.layers.{i}.keys" for i in range(n))]
    assert [value.name for value in graph.inputs][1:] == [f"input.past_key_values.layers.{i}.keys" for i in range(n)]
    for i, block in enumerate(model.layers):
        np.testing.assert_array_equal(found[f"output.past_key_values.layers.{i}.keys"], [*caches[i], *h])
        h = h * block.w.detach().numpy() + 3
    np.testing.assert_array_equal(found["logits"], 2 * h)
    scopes = Counter(node.metadata_props[onnx_blocks.SCOPES] for node in graph)
    assert [scopes[f"['', 'layers.{i}', 'op']"] for i in range(n)] == [5, *[4] * (n - 1)]
    assert len({node.name for node in graph}) == len(graph)


@pytest.mark.parametrize(
    ("changed", "why"),
    [({"axis": -1}, "other attributes"), ({"twice": True}, "hands on both"), ({"leak": True}, "hands on both")],
)
def test_what_cannot_be_repeated_is_said(changed: dict[str, Any], why: str) -> None:
    plan = TOY_PLANS["one kind"]
    model = Toy(6)
    graph = toy_graph(model, plan, **changed)
    with pytest.raises(UnequalError, match=why):
        repeat(graph, plan, model, weights_read(graph, plan, model))


def test_a_weight_that_the_optimizer_merged_is_missed() -> None:
    """Two blocks' weights may be equal and a third's not: the merged graph must not stand for it."""
    plan = TOY_PLANS["one kind"]
    model = Toy(6)
    graph = toy_graph(model, plan)
    weights = weights_read(graph, plan, model)
    assert weights == (frozenset({"w"}),) * 3
    first = graph.initializers["layers.0.w"]
    for place in (1, 2):
        graph.initializers[f"layers.{place}.w"].replace_all_uses_with(first)
    with pytest.raises(UnequalError, match="block 2 has lost w"):
        repeat(graph, plan, model, weights)


# ---------------------------------------------------------------- a real export


def test_the_export_of_a_few_blocks_is_the_whole_model(tmp_path: Path) -> None:
    """Every block has the operators of the first, its own weights and cache, and the logits are PyTorch's."""
    model = random_model(tmp_path / "hf", "llama", num_hidden_layers=5, num_key_value_heads=2)
    with torch.no_grad():
        for parameter in model.parameters():  # norms that differ, or the optimizer would merge them
            parameter.add_(torch.rand(parameter.shape) * 0.1 if parameter.dim() == 1 else 0)
    model.save_pretrained(tmp_path / "hf")
    told: list[str] = []
    out, samples = tmp_path / "onnx", tmp_path / "samples.npz"
    torch_to_onnx.convert(tmp_path / "hf", out, told.append, samples)
    assert any("3 of 5 blocks" in note for note in told) and not any("the network" in note for note in told)
    elsewhere.call("onnxruntime", onnx_check.check, out / "model.onnx", samples)
    graph = onnx.load(out / "model.onnx").graph
    blocks: dict[str, list[str]] = {}
    for node in graph.node:
        scopes = {entry.key: entry.value for entry in node.metadata_props}[onnx_blocks.SCOPES]
        if found := re.search(r"'model\.layers\.(\d+)'", scopes):
            inside = scopes.rpartition(", ")[0].replace(f"layers.{found[1]}", "layers.N")
            blocks.setdefault(found[1], []).append(f"{node.op_type} {inside}")
    assert list(blocks) == ["0", "1", "2", "3", "4"] and len(blocks["4"]) > 20
    assert blocks["1"] == blocks["2"] == blocks["3"] == blocks["4"] and set(blocks["4"]) <= set(blocks["0"])
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor, str(out)) for tensor in graph.initializer}
    for name, weight in model.named_parameters():
        if "norm" in name:
            np.testing.assert_array_equal(stored[name], weight.detach().numpy())
