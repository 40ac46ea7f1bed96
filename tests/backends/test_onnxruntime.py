"""What only the ONNX Runtime backend has: its files and their faults, other exporters' names, its profiler."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from core.backends.onnxruntime import plugin
from core.backends.onnxruntime.room import Cache, Room
from core.backends.onnxruntime.trace import Arguments, Event, fold, read
from core.models import spec as specs
from core.types import GenerationConfig, ModelSpec, Request, Session
from hardware.errors import ExplorerError
from hardware.process import resident
from tests.support.embedded import embedded
from tests.support.random_model import random_onnx
from tests.support.tiny.onnxruntime import make

pytestmark = pytest.mark.engine("onnxruntime")


def quiet(note: str, *_: object, **__: object) -> None:
    assert note


def open_folder(folder: Path, **options: Any) -> Session:
    request = Request(model="tiny", backend="onnxruntime", threads=1, options=options)
    return plugin.open(str(folder), specs.read(str(folder), "onnx"), request, quiet)


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make(tmp_path_factory.mktemp("tiny"))[0])


@pytest.fixture
def copy(tiny: Path, tmp_path: Path) -> Path:
    """The tiny model in a folder that a test may damage."""
    folder = tmp_path / "model"
    folder.mkdir()
    for file in tiny.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    return folder


def test_availability_is_told_without_the_library() -> None:
    code = "from core.backends.onnxruntime import plugin; plugin.unavailable(); import sys; print(sorted(sys.modules))"
    root = Path(__file__).parents[2]
    modules = subprocess.run([sys.executable, "-c", code], cwd=root, check=True, capture_output=True, text=True).stdout
    assert "'core.backends.onnxruntime'" in modules and "'onnxruntime'" not in modules


# ---------------------------------------------------------------- files


def test_setup_tells_what_runs(tiny: Path) -> None:
    session = open_folder(tiny)
    said = session.setup
    assert said.threads == 1 and (said.weight_dtype, said.activation_dtype, said.kv_dtype) == ("fp32", "fp32", "fp32")
    assert said.device == "cpu" and "CPUExecutionProvider" in str(said.facts["providers"])
    session.close()


def test_the_file_itself_can_be_named(tiny: Path) -> None:
    spec = specs.read(str(tiny), "onnx")
    session = plugin.open(
        str(tiny / "model.onnx"), spec, Request(model="tiny", backend="onnxruntime", threads=1), quiet
    )
    assert session.forward(np.ones((1, 2), dtype=np.int64)).numpy().shape == (1, 2, 320)
    session.close()


def no_file(folder: Path) -> None:
    (folder / "model.onnx").unlink()


def noise(folder: Path) -> None:
    (folder / "model.onnx").write_bytes(b"this is not protobuf" * 40)


def cut_graph(folder: Path) -> None:
    data = (folder / "model.onnx").read_bytes()
    (folder / "model.onnx").write_bytes(data[: len(data) // 2])


def no_weights(folder: Path) -> None:
    (folder / "model.onnx.data").unlink()


def cut_weights(folder: Path) -> None:
    data = (folder / "model.onnx.data").read_bytes()
    (folder / "model.onnx.data").write_bytes(data[: len(data) // 2])


def broken_tokenizer(folder: Path) -> None:
    (folder / "tokenizer.json").write_text('{"version": ')


def broken_settings(folder: Path) -> None:
    (folder / "tokenizer_config.json").write_text("{")


@pytest.mark.parametrize(
    "damage", [no_file, noise, cut_graph, no_weights, cut_weights, broken_tokenizer, broken_settings]
)
def test_damage_is_said_in_one_sentence(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy)
    with pytest.raises(ExplorerError) as refused:
        open_folder(copy)
    assert refused.value.message.endswith(".") and "\n" not in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize("damage", [no_weights, cut_weights])
def test_missing_weights_are_named_as_such(copy: Path, damage: Callable[[Path], None]) -> None:
    damage(copy)
    with pytest.raises(ExplorerError, match="weights beside"):
        open_folder(copy)


@pytest.mark.parametrize("options", [{"provider": "tpu"}, {"nonsense": 1}, {"optimization": "most"}])
def test_unknown_options_are_refused_with_the_known_ones(tiny: Path, options: dict[str, Any]) -> None:
    with pytest.raises(ExplorerError, match=r"provider.*optimization"):
        open_folder(tiny, **options)


def test_options_change_the_session_and_not_the_numbers(tiny: Path) -> None:
    ids = np.arange(40, 52)[None]
    found = []
    for options in ({}, {"spinning": False, "optimization": "off"}):
        session = open_folder(tiny, **options)
        found.append(session.forward(ids).numpy())
        session.close()
    np.testing.assert_allclose(found[0], found[1], atol=1e-4)
    assert session.setup.facts["graph_optimization"] == "off"


def test_real_weights_without_a_tokenizer_run_but_read_no_text(copy: Path) -> None:
    (copy / "tokenizer.json").unlink()
    session = open_folder(copy)
    assert session.forward(np.array([[1, 2, 3]])).numpy().shape[1] == 3
    with pytest.raises(ExplorerError, match="without a tokenizer"):
        session.encode("Grüße")
    session.close()


def test_special_tokens_come_from_the_files(copy: Path) -> None:
    (copy / "chat_template.jinja").unlink(missing_ok=True)
    settings = json.loads((copy / "tokenizer_config.json").read_text())
    settings |= {"bos_token": {"content": "<|im_start|>"}, "chat_template": [{"name": "default", "template": "T"}]}
    (copy / "tokenizer_config.json").write_text(json.dumps(settings))
    (copy / "generation_config.json").write_text(json.dumps({"eos_token_id": [5, 7]}))
    session = open_folder(copy)
    assert session.bos_token == "<|im_start|>" and session.chat_template == "T"
    assert {5, 7} <= session.eos_ids
    session.close()


# ---------------------------------------------------------------- other exporters

VOCAB = 8


@pytest.fixture
def foreign(tmp_path: Path) -> Path:
    """A graph with optimum's names, an fp16 cache and no choice of positions.

    Row t of the table is t in fp16; present = past and the new rows; logits = new rows + the sum of
    all that is present + the length of the mask.
    """
    from onnx import TensorProto, helper, numpy_helper, save

    table = np.arange(VOCAB, dtype=np.float16)[:, None] * np.ones(VOCAB, np.float16)
    nodes = [
        helper.make_node("Gather", ["table", "input_ids"], ["rows"], name="/model/embed_tokens/Gather"),
        helper.make_node("Unsqueeze", ["rows", "one"], ["rows4"]),
        helper.make_node("Concat", ["past_key_values.0.key", "rows4"], ["present.0.key"], axis=2),
        helper.make_node("ReduceSum", ["present.0.key", "two"], ["sum4"]),
        helper.make_node("Squeeze", ["sum4", "one"], ["sum"]),
        helper.make_node("Add", ["rows", "sum"], ["sums"]),
        helper.make_node("Cast", ["attention_mask"], ["mask"], to=TensorProto.FLOAT16),
        helper.make_node("ReduceSum", ["mask", "one"], ["length"]),
        helper.make_node("Unsqueeze", ["length", "two"], ["length3"]),
        helper.make_node("Add", ["sums", "length3"], ["logits"], name="/lm_head/Add"),
    ]
    half, whole = TensorProto.FLOAT16, TensorProto.INT64
    graph = helper.make_graph(
        nodes,
        "foreign",
        [
            helper.make_tensor_value_info("input_ids", whole, ["b", "n"]),
            helper.make_tensor_value_info("attention_mask", whole, ["b", "all"]),
            helper.make_tensor_value_info("past_key_values.0.key", half, ["b", 1, "past", VOCAB]),
        ],
        [
            helper.make_tensor_value_info("logits", half, ["b", "n", VOCAB]),
            helper.make_tensor_value_info("present.0.key", half, ["b", 1, "all", VOCAB]),
        ],
        [
            numpy_helper.from_array(table, "table"),
            numpy_helper.from_array(np.array([1]), "one"),
            numpy_helper.from_array(np.array([2]), "two"),
        ],
    )
    save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path / "model.onnx")
    return tmp_path


SPEC = ModelSpec(
    name="foreign", architecture="llama", d_model=8, n_blocks=1, vocab_size=VOCAB, max_context=32, layers=()
)


def open_foreign(folder: Path) -> Session:
    return plugin.open(str(folder), SPEC, Request(model="foreign", backend="onnxruntime", threads=1), quiet)


def test_an_export_by_others_runs(foreign: Path) -> None:
    session = open_foreign(foreign)
    assert session.capabilities == plugin.capabilities and session.setup.kv_dtype == "fp16"
    session.forward(np.array([[1, 2, 3, 7]]))
    session.commit(3)
    logits = session.forward(np.array([[4, 5]]), keep=1).numpy()
    assert logits.dtype == np.float32 and logits.shape == (1, 1, VOCAB)
    assert (logits == 5 + (1 + 2 + 3 + 4 + 5) + 5).all()
    session.close()


def test_inputs_nobody_knows_are_refused(foreign: Path) -> None:
    import onnx

    model = onnx.load(foreign / "model.onnx")
    model.graph.input.append(onnx.helper.make_tensor_value_info("pixel_values", onnx.TensorProto.FLOAT, [1]))
    onnx.save(model, foreign / "model.onnx")
    with pytest.raises(ExplorerError, match="pixel_values"):
        open_foreign(foreign)


def test_a_graph_without_logits_is_no_language_model(foreign: Path) -> None:
    import onnx

    model = onnx.load(foreign / "model.onnx")
    model.graph.output[0].name = model.graph.node[-1].output[0] = "scores"
    onnx.save(model, foreign / "model.onnx")
    with pytest.raises(ExplorerError, match="language model"):
        open_foreign(foreign)


def test_an_encoder_only_runs_forward() -> None:
    session = open_folder(random_onnx("distilbert", dim=32, hidden_dim=64, n_layers=1, n_heads=4))
    assert session.capabilities >= {"forward", "batch", "layers"}
    assert not session.capabilities & {"cache", "rollback", "stream"}
    ids = np.arange(3, 12)[None]
    first = session.forward(ids).numpy()
    np.testing.assert_array_equal(session.forward(ids, keep=2).numpy(), first[:, -2:])
    with pytest.raises(AssertionError):
        session.commit(9)
    with pytest.raises(AssertionError):
        next(session.stream(ids, GenerationConfig(limit=1)))
    assert session.n_committed == 0
    session.close()


# ---------------------------------------------------------------- layer times


@pytest.fixture
def temporary(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder in which temporary files are made; empty."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    return folder


@pytest.fixture(scope="module")
def wide() -> Iterator[Session]:
    """One block whose matrices have the proportions of a real model's."""
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "vocab_size": 4000, "num_key_value_heads": 2}
    session = open_folder(random_onnx("llama", **sizes))
    yield session
    session.close()


def test_trace_accounts_for_the_run(wide: Session, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[list[Event], Mapping[str, str | None]]] = []

    def spy(events: Iterable[Event], runs: Any, layers: Mapping[str, str | None]) -> Any:
        seen.append((list(events), layers))
        return fold(seen[0][0], runs, layers)

    monkeypatch.setattr("core.backends.onnxruntime.trace.fold", spy)
    wide.reset()
    trace = wide.trace()
    trace.phase("prefill")
    started = time.perf_counter()
    wide.forward(np.ones((1, 48), dtype=np.int64), keep=1)
    wide.commit(48)
    prefill_s = time.perf_counter() - started
    trace.phase("decode")
    for _ in range(5):
        wide.forward(np.ones((1, 1), dtype=np.int64), keep=1)
        wide.commit(1)
    phases = trace.finish()

    rows = {phase: {row.name: row for row in found} for phase, found in phases.items()}
    names = {layer.name for layer in wide.spec.layers}
    for found in rows.values():
        assert found.keys() - {"other"} == names, "every layer of the model, and nothing else"
    assert sum(row.seconds for row in rows["prefill"].values()) <= prefill_s
    ((events, layers),) = seen
    kernels = [(e, e.name.removesuffix("_kernel_time")) for e in events if e.name.endswith("_kernel_time")]
    everything_s = sum(row.seconds for found in rows.values() for row in found.values())
    assert everything_s == pytest.approx(sum(e.dur for e, _ in kernels) * 1e-6), "no kernel's time is lost"
    nameless = [e.args for e, name in kernels if layers.get(name) is None]
    assert not {args.op_name for args in nameless} & {"Gemm", "Softmax", "Sigmoid", "Pow"}
    products = {int(args.output_size or 0) for args in nameless if args.op_name == "MatMul"}
    assert products == {4 * 48 * 64, 4 * 64}, "only the angles of the positions, no weights"
    assert {row.calls for row in rows["prefill"].values()} == {1}
    assert {row.calls for row in rows["decode"].values()} == {5}
    head = rows["prefill"]["lm_head"]
    assert head.op == "MatMul" and head.output_bytes == 4 * 4000, "one position, not 48, reaches the head"
    assert rows["prefill"]["blocks.0.mlp.up_proj"].output_bytes == 4 * 48 * 2048
    assert rows["decode"]["blocks.0.attn.rope"].op in {"RotaryEmbedding", "Sin", "Cos"}  # the costliest, which may vary


def test_tracing_keeps_the_cache_and_leaves_no_files(wide: Session, temporary: Path) -> None:
    ids = np.random.default_rng(3).integers(0, 4000, (1, 12))
    wide.reset()
    wanted = wide.forward(ids).numpy()
    wide.reset()
    wide.forward(ids[:, :8])
    wide.commit(8)
    trace = wide.trace()
    assert wide.n_committed == 8
    np.testing.assert_allclose(wide.forward(ids[:, 8:]).numpy(), wanted[:, 8:], atol=1e-3)
    wide.commit(2)
    assert not list(temporary.iterdir()), "the profile is being written, and a killed process would leave it"
    first = trace.finish()
    assert first["prefill"] and trace.finish() is first and not list(temporary.iterdir())
    np.testing.assert_allclose(wide.forward(ids[:, 10:]).numpy(), wanted[:, 10:], atol=1e-3)
    wide.trace().finish()
    np.testing.assert_allclose(wide.forward(ids[:, 10:]).numpy(), wanted[:, 10:], atol=1e-3)


def test_closing_ends_a_trace(tiny: Path, temporary: Path) -> None:
    session = open_folder(tiny)
    session.trace()
    session.close()
    assert not list(temporary.iterdir())


def test_a_trace_that_cannot_start_leaves_no_files(copy: Path, temporary: Path) -> None:
    session = open_folder(copy)
    cut_graph(copy)
    with pytest.raises(ExplorerError, match="damaged"):
        session.trace()
    assert not list(temporary.iterdir())
    session.close()


def test_a_profile_cut_short_is_read_as_far_as_it_goes() -> None:
    lines = [
        "[",
        '{"name": "a_kernel_time", "dur": 7, "args": {"op_name": "MatMul"}},',
        '{"name": "model_run"},',
        '{"na',
    ]
    assert [event.name for event in read(lines)] == ["a_kernel_time", "model_run"]


def test_fused_nodes_get_the_layer_they_swallowed() -> None:
    """ONNX Runtime makes BiasGelu and SkipLayerNormalization of BERT's nodes and calls them just that."""
    session = open_folder(random_onnx("bert"))
    trace = session.trace()
    session.forward(np.ones((2, 9), dtype=np.int64))
    ops = {row.name: row.op for row in trace.finish()["prefill"]}
    assert ops["blocks.0.mlp.act"] == "BiasGelu"
    assert ops["blocks.0.attn_norm"] == ops["blocks.0.mlp_norm"] == "SkipLayerNormalization"
    assert ops["embed.sum"] == "Add" and ops["lm_head"]
    session.close()


def node(name: str, op: str, microseconds: int, output_bytes: int = 4) -> Event:
    return Event(f"{name}_kernel_time", microseconds, Arguments(op, str(output_bytes)))


def test_rows_are_summed_by_phase_and_layer() -> None:
    run = [node("a", "MatMul", 30), node("b", "Add", 5, 8), node("c", "Shape", 1), Event("model_run", 50)]
    loop = node("d", "Loop", 1000)
    rows = fold([*run, *run, loop, *run], ["prefill", "decode", "decode"], {"a": "x", "b": "x", "c": None, "d": "x"})
    prefill, decode = ({row.name: row for row in rows[phase]} for phase in ("prefill", "decode"))
    assert prefill["x"].seconds == pytest.approx(35e-6) and prefill["x"].calls == 1
    assert decode["x"].seconds == pytest.approx(70e-6) and decode["x"].calls == 2
    assert decode["x"].op == "MatMul" and decode["x"].output_bytes == 8
    assert decode["other"].seconds == pytest.approx(2e-6) and decode["other"].output_bytes is None


def test_forwards_beyond_the_profilers_limit_cost_the_mean() -> None:
    run = [node("a", "MatMul", 30), Event("model_run", 50)]
    rows = fold([*run, *run, *run], ["prefill", *["decode"] * 6], {"a": "x"})
    assert rows["decode"][0].seconds == pytest.approx(6 * 30e-6) and rows["decode"][0].calls == 6
    assert rows["prefill"][0].seconds == pytest.approx(30e-6)


# ---------------------------------------------------------------- the embedded model


@pytest.mark.model
def test_the_embedded_model_knows_the_capital_of_france_and_frees_its_memory() -> None:
    fmt, path = embedded(*plugin.formats)
    before = resident()
    session = open_folder(Path(path))
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    tokens = session.stream(np.array([session.encode(text)]), GenerationConfig(limit=16, stop=session.eos_ids))
    assert "Paris" in session.decode([int(token[0, 0]) for token in tokens])
    opened = resident()
    session.close()
    closed = resident()
    assert fmt == "onnx" and opened.rss_bytes - before.rss_bytes > 400e6
    assert closed.rss_bytes - before.rss_bytes < 100e6


# ---------------------------------------------------------------- the cache's memory


def test_a_cut_cache_lies_where_the_longer_one_lay() -> None:
    room = Room([(3, 2), (1, 4)], [np.float32, np.float16])
    written = room.beside(Cache([]), 2, 5)
    wanted = []
    for value, (heads, width) in zip(written.values, ((3, 2), (1, 4)), strict=True):
        given = np.arange(2 * heads * 5 * width).reshape(2, heads, 5, width).astype(value.numpy().dtype)
        value.update_inplace(given)
        wanted.append(given[:, :, :3])
    short = room.cut(written, 3)
    for value, before, part in zip(short.values, written.values, wanted, strict=True):
        assert value.data_ptr() == before.data_ptr() and np.array_equal(value.numpy(), part)
    other = room.beside(short, 2, 4)
    assert other.place != short.place and room.beside(other, 2, 6).place == short.place
    assert other.values[0].data_ptr() != short.values[0].data_ptr()
    grown = room.beside(short, 2, 2000)
    assert grown.values[0].numpy().shape == (2, 3, 2000, 2), "and what is read meanwhile stays"
    assert np.array_equal(short.values[0].numpy(), wanted[0])


def test_tokens_taken_back_leave_what_a_fresh_session_has(tiny: Path) -> None:
    """Guesses of which a part is kept, a longer past than there was room for, and tokens that are rewound."""
    session, fresh = open_folder(tiny), open_folder(tiny)
    ids = np.random.default_rng(0).integers(1, 300, (1, 60))
    at = 0
    for n_fed, n_kept in ((20, 20), (8, 3), (1, 1), (6, 0), (7, 2), (30, 30), (4, 1)):
        session.forward(ids[:, at : at + n_fed])
        session.commit(n_kept)
        at += n_kept
    session.rewind(5)
    at -= 5
    fresh.forward(ids[:, :at])
    fresh.commit(at)
    wanted = fresh.forward(ids[:, at : at + 2]).numpy()
    np.testing.assert_allclose(session.forward(ids[:, at : at + 2]).numpy(), wanted, rtol=1e-4, atol=1e-5)
    for one in (session, fresh):
        one.close()
