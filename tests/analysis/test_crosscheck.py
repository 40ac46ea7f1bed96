"""FLOPs three ways: computed from the architecture, counted by dispatch, taken from the graphs of ONNX and ggml."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core import plugins
from core.analysis import crosscheck
from core.analysis.crosscheck import Row, by_operator, products, rows, total, verdict
from core.models import spec as specs
from core.models.spec import from_config
from core.profilers.flops import plugin as profiler
from core.runs.recording import Recording
from core.runs.runner import Runner
from core.runs.summarize import summarize
from core.types import (
    Count,
    Counted,
    Counts,
    Generate,
    Loaded,
    OpCount,
    Phase,
    Request,
    Session,
    Step,
    from_json,
    to_json,
)
from tests.support import elsewhere, engines, tiny
from tests.support.facts import setup
from tests.support.tiny import llama_cpp as tiny_gguf
from tests.support.tiny import onnxruntime as tiny_onnx

graph_count = importlib.import_module("core.backends.onnxruntime.count")
dispatch = importlib.import_module("core.backends.pytorch.count")

FORWARDS = [(7, 0), (1, 7), (5, 3)]
CONFIG = {
    "model_type": "llama",
    "hidden_size": 8,
    "intermediate_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "vocab_size": 32,
    "tie_word_embeddings": False,
}
SPEC = from_config(CONFIG, name="tiny", source="made for a test")


def quiet(*_: Any, **__: Any) -> None:
    pass


def opened(backend: str, path: str, fmt: str, batch: int = 1) -> Session:
    request = Request(model="tiny", backend=backend, threads=1, batch=batch)
    session: Session = plugins.get("backend", backend).open(path, specs.read(path, fmt), request, quiet)
    return session


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny")


@pytest.fixture(scope="module")
def llama(folder: Path) -> Iterator[Session]:
    """The tiny llama in PyTorch: grouped queries, an untied head."""
    session = opened("pytorch", str(tiny.hf_folder(folder)), "hf")
    yield session
    session.close()


@pytest.fixture(scope="module")
def onnx_llama(folder: Path) -> Iterator[Session]:
    session = opened("onnxruntime", *tiny_onnx.make(folder))
    yield session
    session.close()


@pytest.fixture(scope="module")
def gguf_llama(folder: Path) -> Iterator[Session]:
    session = opened("llama_cpp", *tiny_gguf.make(folder), batch=2)
    yield session
    session.close()


def all_agree(spec: Any, count: Count) -> None:
    compared = products(rows(spec, count))
    assert len(compared) >= 5
    for row in compared:
        assert row.counted == row.executed, row
        assert row.difference == 0 and not row.uncounted


# ---------------------------------------------------------------- PyTorch


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize(("n_new", "n_past"), FORWARDS)
def test_dispatch_equals_the_computed_work(llama: Session, n_new: int, n_past: int) -> None:
    count = llama.count(n_new, n_past)
    assert (count.source, count.n_new, count.n_past, count.batch) == ("dispatch", n_new, n_past, 1)
    all_agree(llama.spec, count)


@pytest.mark.engine("pytorch")
@pytest.mark.parametrize("family", ["gpt2", "mixtral", "gemma3", "qwen3"])
def test_families_agree(family: str, tmp_path: Path) -> None:
    from tests.backends.test_pytorch import CAUSAL, open_config

    session = open_config(CAUSAL[family](), tmp_path)
    for n_new, n_past in FORWARDS:
        all_agree(session.spec, session.count(n_new, n_past))
    session.close()


@pytest.mark.engine("pytorch")
def test_stacked_experts_are_one_row_with_the_work_of_the_chosen_ones(tmp_path: Path) -> None:
    from tests.backends.test_pytorch import CAUSAL, open_config

    session = open_config(CAUSAL["mixtral"](), tmp_path)
    row = next(r for r in rows(session.spec, session.count(7)) if r.name == "blocks.0.mlp.experts")
    assert row.counted == 3 * 2 * 7 * 2 * 32 * 64  # gate, up, down; 2 FLOPs; 7 tokens of 2 experts; 32 x 64
    session.close()


@pytest.mark.engine("pytorch")
def test_the_attention_of_the_cpu_is_counted_although_torch_counts_none(
    llama: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FlopCounterMode counts zero for this kernel; without our formula it must be uncounted, and not zero."""
    kernel = "aten::_scaled_dot_product_flash_attention_for_cpu"
    cores = [r for r in rows(llama.spec, llama.count(7)) if r.operator == "Attention"]
    assert [r.counted for r in cores] == [2 * 4 * 7 * 7 * (16 + 16)] * 2 and kernel in cores[0].ops
    assert [r.computed for r in cores] == [2 * 4 * 28 * (16 + 16)] * 2  # causal: 28 of 49 scores are useful
    without = {k: v for k, v in dispatch.PRODUCTS.items() if "for_cpu" not in k}
    monkeypatch.setattr(dispatch, "PRODUCTS", without)
    import torch
    from torch.utils import flop_counter

    if torch.ops.aten._scaled_dot_product_flash_attention_for_cpu in flop_counter.flop_registry:
        pytest.skip("this PyTorch has the formula itself")
    for row in rows(llama.spec, llama.count(7)):
        if row.operator == "Attention":
            assert row.counted is None and row.difference is None and row.uncounted == (kernel,)


@pytest.mark.engine("pytorch")
def test_an_operator_of_no_table_is_uncounted() -> None:
    import torch

    @torch.library.custom_op("roofscope_test::mystery", mutates_args=(), schema="(Tensor x) -> Tensor")
    def mystery(x: Any) -> Any:
        return x * 2

    def run() -> None:
        x = torch.ones(3, 8)
        mystery(x @ torch.ones(8, 16))
        x.long().topk(2)  # indices and choices are no arithmetic

    found = dispatch.count(run, lambda: "blocks.0.mlp.up_proj", SPEC)
    by_op = {op.op: op.flops for op in found}
    assert by_op == {"aten::mm": 2 * 3 * 8 * 16, "roofscope_test::mystery": None}
    count = Count(source="dispatch", n_new=3, n_past=0, batch=1, ops=found)
    row = next(r for r in rows(SPEC, count) if r.name == "blocks.0.mlp.up_proj")
    assert row.uncounted == ("roofscope_test::mystery",) and row.difference is None and row.counted == 768
    assert "roofscope_test::mystery" in total(rows(SPEC, count)).uncounted


@pytest.mark.engine("pytorch")
def test_grouped_queries_count_every_query_head() -> None:
    import torch

    def run() -> None:
        q, k = torch.ones(2, 4, 5, 8), torch.ones(2, 2, 9, 8)
        torch.nn.functional.scaled_dot_product_attention(q, k, torch.ones(2, 2, 9, 8), enable_gqa=True)

    found = dispatch.count(run, lambda: None, SPEC)
    assert sum(op.flops or 0 for op in found if op.product) == 2 * 2 * 4 * 5 * 9 * (8 + 8)
    assert {op.layer for op in found} == {"other"}


# ---------------------------------------------------------------- ONNX


def dispatched_in(path: str, n_new: int, n_past: int) -> dict[str, float | None]:
    """Layer -> FLOPs that PyTorch counts."""
    session = opened("pytorch", path, "hf")
    found = {r.name: r.counted for r in products(rows(session.spec, session.count(n_new, n_past)))}
    session.close()
    return found


@pytest.mark.engine("onnxruntime")
@pytest.mark.parametrize(("n_new", "n_past"), FORWARDS)
def test_the_onnx_graph_equals_both(onnx_llama: Session, folder: Path, n_new: int, n_past: int) -> None:
    count = onnx_llama.count(n_new, n_past)
    all_agree(onnx_llama.spec, count)
    dispatched = elsewhere.call("pytorch", dispatched_in, str(tiny.hf_folder(folder)), n_new, n_past)
    assert {r.name: r.counted for r in products(rows(onnx_llama.spec, count))} == dispatched
    assert count.source == "ONNX graph"


def graph_file(folder: Path, nodes: list[Any], shape: list[Any], weights: list[Any]) -> Path:
    import onnx
    from onnx import helper

    x = helper.make_tensor_value_info("input_ids", onnx.TensorProto.FLOAT, shape)
    y = helper.make_tensor_value_info("logits", onnx.TensorProto.FLOAT, None)
    graph = helper.make_graph(nodes, "g", [x], [y], [onnx.numpy_helper.from_array(w, n) for n, w in weights])
    opsets = [helper.make_opsetid("", 20), helper.make_opsetid("com.example", 1)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), folder / "model.onnx")
    return folder / "model.onnx"


def test_a_node_of_no_table_and_a_shape_that_is_lost_are_uncounted(tmp_path: Path) -> None:
    from onnx import helper

    nodes = [
        helper.make_node("MatMul", ["input_ids", "w"], ["a"], name="/lm_head/MatMul"),
        helper.make_node("Mystery", ["a"], ["b"], name="/lm_head/Mystery", domain="com.example"),
        helper.make_node("MatMul", ["b", "w"], ["logits"], name="/lm_head/MatMul_1"),
    ]
    file = graph_file(tmp_path, nodes, ["batch", "new"], [("w", np.ones((6, 6), np.float32))])
    first = graph_count.count(file, SPEC, n_new=6, n_past=0)
    assert {(op.layer, op.op, op.flops) for op in first} == {("lm_head", "MatMul", None), ("lm_head", "Mystery", None)}
    file = graph_file(tmp_path, [helper.make_node("MatMul", ["input_ids", "w"], ["logits"], name="/lm_head/MatMul")],
                      ["batch", "new"], [("w", np.ones((6, 4), np.float32))])  # fmt: skip
    (known,) = graph_count.count(file, SPEC, n_new=6, n_past=0, batch=3)
    assert known.flops == 2 * 3 * 6 * 4 and known.product


@pytest.mark.parametrize(
    ("op", "inputs", "output", "attributes", "flops"),
    [
        ("Gemm", [(5, 8), (16, 8)], (5, 16), {"transB": 1}, 2 * 5 * 8 * 16),
        ("Gemm", [(8, 5), (8, 16)], (5, 16), {"transA": 1}, 2 * 5 * 8 * 16),
        ("Einsum", [(2, 3, 4), (2, 4, 5)], (2, 3, 5), {"equation": b"bij,bjk->bik"}, 2 * 2 * 3 * 4 * 5),
        ("Conv", [(1, 8, 10), (8, 1, 4)], (1, 8, 7), {"group": 8}, 2 * 8 * 7 * 4),
        ("MatMulNBits", [(1, 5, 64)], None, {"N": 32, "K": 64}, 2 * 5 * 64 * 32),
        (
            "Attention",
            [(1, 5, 32), (1, 9, 16), (1, 9, 16)],
            None,
            {"q_num_heads": 4, "kv_num_heads": 2},
            2 * 4 * 5 * 9 * 16,
        ),
        (
            "GroupQueryAttention",
            [(1, 5, 32), (1, 5, 16), (1, 5, 16), (1, 2, 4, 8)],
            None,
            {"num_heads": 4, "kv_num_heads": 2},
            4 * 5 * 9 * 32,
        ),
    ],
)
def test_products_of_other_exports(op: str, inputs: Any, output: Any, attributes: Any, flops: float) -> None:
    assert graph_count.PRODUCTS[op](inputs, output, attributes) == flops


# ---------------------------------------------------------------- ggml


@pytest.mark.engine("llama_cpp")
@pytest.mark.parametrize(("n_new", "n_past"), FORWARDS)
def test_the_ggml_graph_equals_the_computed_work(gguf_llama: Session, n_new: int, n_past: int) -> None:
    """Attention over the padded cache, too, and the last block, pruned to the position whose logits are wanted.

    A cache of 256 places where 8 hold tokens means 32 times the scores: computed so, it explains what was counted.
    """
    count = gguf_llama.count(n_new, n_past)
    assert count.batch == 2 and count.source == "ggml graph"
    up = {row.name: row for row in rows(gguf_llama.spec, count)}
    first, last = (up[f"blocks.{i}.mlp.up_proj"].executed for i in (0, gguf_llama.spec.n_blocks - 1))
    assert first is not None and last == first / n_new == 2 * 2 * 64 * 128, "two sequences, a row of each"
    for row in products(rows(gguf_llama.spec, count)):
        assert row.counted is not None and row.executed is not None
        if row.operator == "Attention":
            assert row.counted == row.executed and row.difference == 0
            heads, width = 4, 16
            per_place = 2 * 2 * heads * (width + width) * n_new  # two sequences, queries and values of each head
            assert row.executed == per_place * count.cells[row.name] and count.cells[row.name] >= n_new + n_past
        else:
            assert row.counted == row.executed, row


@pytest.mark.parametrize(
    "backend",
    [
        engines.param("llama", "pytorch"),
        engines.param("onnx_llama", "onnxruntime"),
        engines.param("gguf_llama", "llama_cpp"),
    ],
)
def test_counting_leaves_the_session_as_it_was(backend: str, request: pytest.FixtureRequest) -> None:
    session: Session = request.getfixturevalue(backend)
    n_rows = 2 if backend == "gguf_llama" else 1
    ids = np.tile(np.arange(40, 52), (n_rows, 1))
    session.reset()
    wanted = session.forward(ids).numpy().copy()
    session.reset()
    session.forward(ids[:, :8])
    session.commit(8)
    session.count(3, 2)
    assert session.n_committed == 8
    np.testing.assert_allclose(session.forward(ids[:, 8:]).numpy(), wanted[:, 8:], atol=1e-3)
    session.commit(4)
    session.reset()


# ---------------------------------------------------------------- comparison


def test_rows_totals_and_verdict_of_hand_made_counts() -> None:
    up, gate = "blocks.0.mlp.up_proj", "blocks.0.mlp.gate_proj"
    ops = (
        OpCount(layer=up, op="mm", calls=1, flops=2 * 4 * 8 * 16, product=True),
        OpCount(layer=up, op="add", calls=1, flops=64.0),  # a bias is no product
        OpCount(layer=gate, op="mm", calls=1, flops=4 * 4 * 8 * 16, product=True),
        OpCount(layer="blocks.0.mlp_norm", op="pow", calls=1, flops=100.0),
        OpCount(layer="other", op="cos", calls=1, flops=5.0),
    )
    found = {r.name: r for r in rows(SPEC, Count(source="dispatch", n_new=4, n_past=0, batch=1, ops=ops))}
    assert found[up].difference == 0 and found[up].ops == ("mm", "add")
    assert found[gate].difference == pytest.approx(1.0)
    assert found["blocks.0.mlp_norm"].counted == 100
    unseen = found["blocks.0.mlp.down_proj"]
    assert unseen.counted is None and unseen.difference is None and unseen.executed == 2 * 4 * 8 * 16
    assert found["other"].executed is None and list(found)[-1] == "other"
    linear = next(t for t in by_operator(found.values()) if t.operator == "Linear")
    assert (linear.n_counted, linear.n_layers) == (2, 8)
    assert linear.executed == 2 * (2 * 4 * 8 * 16) and linear.counted == 3 * (2 * 4 * 8 * 16)
    assert linear.difference == pytest.approx(0.5)
    text = verdict(list(found.values()), "dispatch")
    assert "1 of 9 " in text and "1 differs, most of all blocks.0.mlp.gate_proj by +100.0%" in text
    assert "7 are uncounted" in text and "50.00% higher." in text


def test_a_verdict_without_anything_to_compare() -> None:
    row = Row(name="x", operator="Linear", computed=1, executed=1, counted=None, difference=None)
    assert verdict([row], "ONNX graph") == "The ONNX graph shows no matrix product that can be compared."
    assert crosscheck.total([]).counted is None


# ---------------------------------------------------------------- the profiler


class Recorded:
    """A session that only remembers what it was asked to count."""

    capabilities = frozenset({"count"})

    def __init__(self) -> None:
        self.asked: list[tuple[int, int]] = []

    def count(self, n_new: int, n_past: int = 0) -> Count:
        self.asked.append((n_new, n_past))
        return Count(source="dispatch", n_new=n_new, n_past=n_past, batch=1, ops=())


def step(phase: Any, n_input: int, n_forward: int = 1, n_context: int = 0) -> Step:
    return Step(
        t_s=0,
        pass_no=3,
        phase=phase,
        seconds=1,
        counts=Counts(tokens=1, forwards=n_forward, inputs=n_input),
        n_context=n_context,
    )


def attached(*steps: Step) -> tuple[Recorded, list[Any]]:
    session: Any = Recorded()
    attachment = profiler.attach(session, 3)
    for one in steps:
        attachment.step(one)
        assert list(attachment.events()) == []  # nothing is counted between steps
    attachment.close()
    return session, [e for e in attachment.events() if not isinstance(e, Phase)]


def test_the_profiler_counts_the_prompt_and_the_first_step_that_runs_a_forward() -> None:
    session, events = attached(
        step("prefill", 5), step("prefill", 2), step("prefill", 0, 0), step("decode", 1), step("decode", 1)
    )
    assert session.asked == [(7, 0), (1, 7)]
    assert [(e.phase, e.pass_no, e.count.n_new) for e in events] == [("prefill", 3, 7), ("decode", 3, 1)]
    encoder, events = attached(step("prefill", 9))
    assert encoder.asked == [(9, 0)] and len(events) == 1
    assert attached()[1] == []


def test_guesses_behind_the_prompt_are_none_of_it() -> None:
    session, _ = attached(
        step("prefill", 5, n_context=5), step("prefill", 2 + 15, n_context=7), step("decode", 16, n_context=9)
    )
    assert session.asked == [(7, 0), (16, 7)]


def test_counts_survive_json_and_reach_the_result() -> None:
    ops = (OpCount(layer="lm_head", op="mm", calls=1, flops=None, product=True),)
    event = Counted(
        t_s=1, pass_no=3, phase="decode", count=Count(source="dispatch", n_new=1, n_past=4, batch=1, ops=ops)
    )
    assert from_json(to_json(event), Counted) == event
    loaded = Loaded(t_s=0, seconds=1, warm=False, spec=SPEC, n_prompt_tokens=4, prompt_text="", setup=setup(),
                    capabilities=())  # fmt: skip
    assert summarize("r", Recording(Request(model="t", backend="fake"), [loaded, event]), "done").counts == (event,)


@pytest.mark.model
def test_a_run_counts_its_phases(runner: Runner) -> None:
    request = Request(
        model="smollm2-135m", backend="llama_cpp", task=Generate(prompt="Hello", max_new_tokens=4),
        profilers=("flops",), threads=1, retries=0,
    )  # fmt: skip
    result = runner.wait(runner.start(request)).result()
    assert [c.phase for c in result.counts] == ["prefill", "decode"]
    decode = result.counts[1].count
    assert decode.n_new == 1 and decode.n_past == result.n_prompt_tokens
