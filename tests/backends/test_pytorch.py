"""The PyTorch backend over tiny random models of many families, and its faults."""

from __future__ import annotations

import gc
import json
import re
import sys
import weakref
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers

from core import plugins
from core.backends.pytorch.clock import DeviceClock
from core.backends.pytorch.session import TorchSession
from core.layer_names import within
from core.models import spec as specs
from core.types import GenerationConfig, Request
from core.worker.journal import Cancelled
from hardware.errors import ExplorerError
from tests.support.tiny import hf_folder

pytestmark = pytest.mark.engine("pytorch")

SMALL = {"vocab_size": 300, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
LLAMA = {**SMALL, "intermediate_size": 64, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 128}
BERT = {**SMALL, "intermediate_size": 64, "max_position_embeddings": 64, "initializer_range": 0.3}
LONG = np.random.default_rng(1).integers(5, 250, size=(1, 40))
SHORT = np.random.default_rng(2).integers(5, 250, size=(1, 5))

CAUSAL = {
    "gpt2": lambda: transformers.GPT2Config(vocab_size=300, n_embd=32, n_layer=2, n_head=4, n_positions=128),
    "qwen3": lambda: transformers.Qwen3Config(**LLAMA),
    "mixtral": lambda: transformers.MixtralConfig(**LLAMA, num_local_experts=4, num_experts_per_tok=2),
    "mistral": lambda: transformers.MistralConfig(**LLAMA, sliding_window=16),
    "gemma3": lambda: transformers.Gemma3TextConfig(
        **LLAMA, sliding_window=16, layer_types=["sliding_attention", "full_attention"]
    ),
    "mamba": lambda: transformers.MambaConfig(
        vocab_size=300, hidden_size=32, num_hidden_layers=2, state_size=8, expand=2, conv_kernel=4
    ),
    "jamba": lambda: transformers.JambaConfig(
        **{k: v for k, v in LLAMA.items() if k != "head_dim"},
        attn_layer_period=2,
        attn_layer_offset=1,
        num_experts=4,
        num_experts_per_tok=2,
        mamba_d_state=8,
        pad_token_id=0,
    ),
}
ENCODERS = {
    "bert": lambda: transformers.BertConfig(**BERT),
    "distilbert": lambda: transformers.DistilBertConfig(
        vocab_size=300, dim=32, n_layers=2, n_heads=4, hidden_dim=64, max_position_embeddings=64
    ),
    "mobilebert": lambda: transformers.MobileBertConfig(
        **BERT, embedding_size=16, intra_bottleneck_size=16, num_feedforward_networks=2
    ),
}


def quiet(note: str, done: float | None = None, total: float | None = None, unit: str = "") -> None:
    pass


def open_config(config: Any, folder: Path, fmt: str = "config", **request: Any) -> TorchSession:
    config.save_pretrained(folder)
    return open_folder(folder, fmt, **request)


def open_folder(folder: Path, fmt: str = "hf", **request: Any) -> TorchSession:
    spec = specs.read(folder, fmt)
    made: TorchSession = plugins.get("backend", "pytorch").open(
        str(folder), spec, Request(model="tiny", backend="pytorch", threads=1, **request), quiet
    )
    return made


@pytest.fixture(params=CAUSAL)
def causal(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TorchSession]:
    torch.manual_seed(0)
    session = open_config(CAUSAL[request.param](), tmp_path)
    yield session
    session.close()


@pytest.fixture(params=ENCODERS)
def encoder(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[TorchSession]:
    session = open_config(ENCODERS[request.param](), tmp_path)
    yield session
    session.close()


def committed(session: TorchSession, ids: Any) -> Any:
    logits = session.forward(ids).numpy()
    session.commit(ids.shape[1])
    return logits


def close(got: Any, wanted: Any) -> None:
    np.testing.assert_allclose(got, wanted, atol=1e-4, rtol=0)


def n_hooks(model: Any) -> int:
    return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in model.modules())


# ---------------------------------------------------------------- families


def test_every_family_continues_from_its_cache(causal: TorchSession) -> None:
    whole = committed(causal, np.concatenate([LONG, SHORT], axis=1))
    causal.reset()
    committed(causal, LONG)
    close(committed(causal, SHORT), whole[:, LONG.shape[1] :])
    causal.reset()
    one_by_one = [committed(causal, LONG[:, i : i + 1]) for i in range(LONG.shape[1])]
    close(np.concatenate(one_by_one, axis=1), whole[:, : LONG.shape[1]])


def test_rejected_tokens_leave_no_trace_even_beyond_a_sliding_window(causal: TorchSession) -> None:
    """LONG is more than twice the window of mistral and gemma3 here; Mamba refuses instead."""
    if "rollback" not in causal.capabilities:
        assert causal.spec.architecture in ("mamba", "jamba")
        committed(causal, LONG)
        causal.forward(SHORT)
        with pytest.raises(ExplorerError, match="recurrent"):
            causal.commit(2)
        with pytest.raises(ExplorerError, match="recurrent"):
            causal.forward(SHORT)
        return
    wanted = committed(causal, np.concatenate([LONG, SHORT[:, :2], LONG], axis=1))[:, -LONG.shape[1] :]
    for start in (8, 14, 15, 16, 17, 40):  # the cache is shorter than, about as long as, and beyond the window
        causal.reset()
        committed(causal, LONG[:, :start])
        causal.forward(LONG[:, ::-1].copy())
        causal.commit(0)
        if start < LONG.shape[1]:
            committed(causal, LONG[:, start:])
        causal.forward(SHORT)
        causal.commit(2)
        causal.forward(SHORT)
        close(committed(causal, LONG), wanted)
        assert causal.n_committed == 2 * LONG.shape[1] + 2


def test_every_family_streams_what_our_loop_gives(causal: TorchSession) -> None:
    tokens, logits = [], causal.forward(LONG, keep=1)
    causal.commit(LONG.shape[1])
    for _ in range(8):
        tokens.append(logits.argmax())
        logits = causal.forward(tokens[-1], keep=1)
        causal.commit(1)
    streamed = list(causal.stream(LONG, GenerationConfig(limit=8)))
    assert np.array_equal(np.concatenate(streamed), np.concatenate(tokens))


def test_two_sequences_equal_two_runs(causal: TorchSession) -> None:
    apart = []
    for ids in (LONG, LONG[:, ::-1].copy()):
        causal.reset()
        apart.append(np.concatenate([committed(causal, ids), committed(causal, SHORT)], axis=1))
    causal.reset()
    both = committed(causal, np.concatenate([LONG, LONG[:, ::-1]]))
    close(np.concatenate([both, committed(causal, np.concatenate([SHORT, SHORT]))], axis=1), np.concatenate(apart))


def test_an_encoder_only_runs_forward(encoder: TorchSession) -> None:
    assert encoder.capabilities >= {"forward", "batch", "layers"} and encoder.max_context in (64, 512)
    assert not encoder.capabilities & {"cache", "rollback", "stream"}
    logits = encoder.forward(LONG).numpy()
    assert logits.shape == (1, LONG.shape[1], 300)
    close(encoder.forward(LONG, keep=2).numpy(), logits[:, -2:])
    close(encoder.forward(np.concatenate([SHORT, SHORT])).numpy()[1:], encoder.forward(SHORT).numpy())
    changed = LONG.copy()
    changed[0, -1] += 1
    assert abs(encoder.forward(changed).numpy()[:, 0] - logits[:, 0]).max() > 1e-6, "attention looks both ways"
    with pytest.raises(ExplorerError):
        encoder.commit(1)
    with pytest.raises(ExplorerError):
        list(encoder.stream(LONG, GenerationConfig(limit=1)))
    with pytest.raises(ExplorerError, match="context"):
        encoder.forward(np.resize(LONG, (1, encoder.max_context + 1)))


# ---------------------------------------------------------------- layer times


def wrapped(model: Any) -> list[str]:
    """Functions of transformers that are wrapped at the moment."""
    from core.backends.pytorch.trace import FUNCTIONS

    places = [vars(sys.modules[source]) for source in {type(m).__module__ for m in model.modules()}]
    places += [transformers.AttentionInterface._global_mapping, vars(transformers.Cache)]
    found = [place[name] for place in places for name in (*FUNCTIONS, "sdpa", "update") if name in place]
    return [f.__name__ for f in found if f.__code__.co_name == "timed"]


def unmeasured(session: TorchSession) -> set[str]:
    """Layers of the spec without a time (block numbers left out), after checking what all traces share."""
    before, hooks = session.forward(LONG).numpy(), n_hooks(session._model)
    session.reset()
    trace = session.trace()
    trace.phase("prefill")
    session.forward(LONG)
    assert n_hooks(session._model) > hooks and wrapped(session._model)
    rows = trace.finish()["prefill"]
    assert n_hooks(session._model) == hooks and not wrapped(session._model)
    session.reset()
    assert np.array_equal(session.forward(LONG).numpy(), before)
    layers = [layer.name for layer in session.spec.layers]
    assert all(any(within(layer, row.name) for layer in layers) for row in rows)
    assert all(row.seconds > 0 and row.calls > 0 for row in rows)
    missing = [layer for layer in layers if not any(within(layer, row.name) for row in rows)]
    return {re.sub(r"^blocks\.\d+\.", "", layer) for layer in missing}


# Written inline in the block's own code, where no hook sees it.
INLINE = {
    "mamba": {"ssm.dt_proj", "ssm.act", "ssm.gate"},
    "jamba": {"ssm.dt_proj", "ssm.act", "ssm.gate"},
    "bert": {"embed.sum"},
    "distilbert": {"embed.sum"},
    "mobilebert": {"embed.sum", "mlm.decoder"},
}


def test_layers_of_every_family_are_timed(causal: TorchSession) -> None:
    missing = {name for name in unmeasured(causal) if not name.endswith("residual")}
    assert missing <= INLINE.get(causal.spec.architecture, set())


def test_layers_of_encoders_are_timed(encoder: TorchSession) -> None:
    missing = {name for name in unmeasured(encoder) if not name.endswith("residual")}
    assert missing <= INLINE[encoder.spec.architecture]


def test_a_forward_that_fails_does_not_spoil_the_trace(tmp_path: Path) -> None:
    session = open_config(CAUSAL["qwen3"](), tmp_path)
    trace = session.trace()
    with pytest.raises(ExplorerError):
        session.forward(np.full((1, 3), 10**6))
    session.reset()
    trace.phase("decode")
    session.forward(SHORT)
    rows = {row.name: row for row in trace.finish()["decode"]}
    assert rows["blocks.1.attn.q_proj"].calls == 1
    assert rows["lm_head"].output_bytes == SHORT.shape[1] * 300 * 4
    assert rows["lm_head"].op == "aten::linear"


def test_only_the_traced_session_is_timed(tmp_path: Path) -> None:
    traced, other = (open_config(CAUSAL["qwen3"](), tmp_path) for _ in range(2))
    trace = traced.trace()
    other.forward(LONG)
    assert not trace.rows()
    traced.forward(LONG)
    other.forward(LONG)
    rows = trace.finish()["prefill"]
    assert {row.calls for row in rows} == {1}
    core = next(row for row in rows if row.name == "blocks.0.attn.core")
    assert core.op == "aten::scaled_dot_product_attention"
    assert core.output_bytes == LONG.shape[1] * 4 * 8 * 4  # tokens, heads, width of a head, fp32


class Total:
    seconds = 0.0


def test_a_device_clock_gives_each_span_its_own_time() -> None:
    """Events in the order in which a device would meet them: around [0, 10] ms, inside [1, 4] ms and [5, 6] ms."""
    times = iter([0.0, 1.0, 4.0, 5.0, 6.0, 10.0])

    class Event:
        def record(self) -> None:
            self.at_ms = next(times)

        def elapsed_time(self, end: Event) -> float:
            return end.at_ms - self.at_ms

    waits = []
    clock = DeviceClock(Event, lambda: waits.append(1))
    around, inside = Total(), Total()
    clock.enter()
    for _ in range(2):
        clock.enter()
        clock.leave(inside, clock.mark())
    clock.leave(around, clock.mark())
    assert not waits and not inside.seconds, "nothing is read before somebody asks"
    clock.resolve()
    clock.resolve()
    assert inside.seconds == pytest.approx(4e-3) and around.seconds == pytest.approx(6e-3)


def test_eager_attention_is_timed_too(tmp_path: Path) -> None:
    session = open_config(CAUSAL["qwen3"](), tmp_path, options={"attention": "eager"})
    assert session.setup.facts["attention"] == "eager"
    assert all(name.endswith("residual") for name in unmeasured(session))


# ---------------------------------------------------------------- opening


@pytest.mark.parametrize("fused", [False, True])
@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_the_setup_says_what_tensors_are(tmp_path: Path, dtype: str, fused: bool) -> None:
    """The cache's own tensors, and what a block gives to the next, are of the dtypes that the setup names."""
    session = open_config(CAUSAL["qwen3"](), tmp_path, dtype=dtype, options={"fused": fused})
    seen: list[Any] = []
    head = session._model.get_output_embeddings()
    head.register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    if not fused:
        session._model.model.layers[1].register_forward_pre_hook(lambda _, given: seen.append(given[0].dtype))
    session.forward(SHORT)
    session.commit(SHORT.shape[1])
    kept = session._cache.layers[0].keys.dtype
    named = {torch.float32: "fp32", torch.bfloat16: "bf16", torch.float16: "fp16"}
    said = session.setup
    assert {named[d] for d in seen} <= {said.activation_dtype} and (seen or fused)
    assert (named[kept], said.weight_dtype, said.fused) == (said.kv_dtype, session.spec.dtype, fused)
    assert said.activation_dtype == said.kv_dtype == dtype and said.threads == torch.get_num_threads()


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
def test_random_weights_are_made_in_the_dtype_and_from_the_seed(tmp_path: Path, dtype: str) -> None:
    def weights(seed: int) -> Any:
        session = open_config(CAUSAL["qwen3"](), tmp_path, dtype=dtype, seed=seed)
        assert session.setup.activation_dtype == session.setup.kv_dtype == dtype
        parameters = dict(session._model.named_parameters())
        assert {str(p.dtype) for p in parameters.values()} == {f"torch.{registry_dtype(dtype)}"}
        assert np.isfinite(session.forward(SHORT).numpy()).all()
        return parameters["model.layers.1.mlp.up_proj.weight"].detach().float().numpy()

    assert np.array_equal(weights(3), weights(3))
    assert not np.array_equal(weights(3), weights(4))
    assert 0.015 < weights(3).std() < 0.025


def registry_dtype(dtype: str) -> str:
    return {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}[dtype]


def test_an_architecture_without_a_tokenizer_reads_bytes(tmp_path: Path) -> None:
    session = open_config(CAUSAL["gpt2"](), tmp_path)
    assert session.decode(session.encode("Grüße")) == "Grüße"
    assert any("tokenizer" in warning for warning in session.warnings)


def test_progress_counts_the_weights(tmp_path: Path) -> None:
    folder, seen = hf_folder(tmp_path), []
    plugins.get("backend", "pytorch").open(
        str(folder),
        specs.read(folder, "hf"),
        Request(model="tiny", backend="pytorch"),
        lambda note, done=None, total=None, unit="": seen.append((note, done, total, unit)),
    )
    counted = [line for line in seen if line[3] == "tensors"]
    assert counted[0][1] == 0 and counted[-1][1] < counted[-1][2]
    assert transformers.utils.logging.set_tqdm_hook(None) is None, "the hook is gone"


def test_emulated_dtypes_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    from core.backends.pytorch.load import cpu_warnings

    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: False)
    for native in (True, False):
        monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda native=native: native)
        assert bool(cpu_warnings("bf16")) is not native
    assert cpu_warnings("fp32") == ()
    monkeypatch.setattr("platform.machine", lambda: "arm64")
    assert cpu_warnings("bf16") == ()


def test_bad_options_are_explained(tmp_path: Path) -> None:
    hf_folder(tmp_path)
    for options in ({"device": "cuda:99"}, {"attention": "flashy"}, {"device": "abacus"}):
        with pytest.raises(ExplorerError) as error:
            open_folder(tmp_path / "tiny-llama", options=options)
        assert error.value.hint
    with pytest.raises(ExplorerError, match="int3"):
        open_folder(tmp_path / "tiny-llama", dtype="int3")


def test_a_folder_without_weights_is_refused(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    spec = specs.read(folder, "hf")
    (folder / "model.safetensors").unlink()
    open_it = plugins.get("backend", "pytorch").open
    with pytest.raises(ExplorerError, match="no weights"):
        open_it(str(folder), spec, Request(model="tiny", backend="pytorch"), quiet)
    (folder / "pytorch_model.bin").write_bytes(b"\x80\x02")
    with pytest.raises(ExplorerError, match="pickle"):
        open_it(str(folder), spec, Request(model="tiny", backend="pytorch"), quiet)


def test_a_stop_while_a_model_is_opened_is_no_error_of_the_library(tmp_path: Path) -> None:
    """Wherever progress is told, which is where a stop is heard."""
    folder = hf_folder(tmp_path)
    spec = specs.read(folder, "hf")
    for last in range(1, 100):
        told = 0

        def tell(*_: Any, last: int = last, **__: Any) -> None:
            nonlocal told
            told += 1
            if told == last:
                raise Cancelled

        try:
            plugins.get("backend", "pytorch").open(
                str(folder), spec, Request(model="t", backend="pytorch"), tell
            ).close()
        except Cancelled:
            continue
        break
    assert told == last - 1 > 0


@pytest.mark.parametrize("n_bytes", [4, 2000])
def test_truncated_weights_are_explained(tmp_path: Path, n_bytes: int) -> None:
    folder = hf_folder(tmp_path)
    spec = specs.read(folder, "hf")
    file = folder / "model.safetensors"
    file.write_bytes(file.read_bytes()[:n_bytes])
    with pytest.raises(ExplorerError, match="tiny-llama") as error:
        plugins.get("backend", "pytorch").open(str(folder), spec, Request(model="t", backend="pytorch"), quiet)
    assert error.value.hint and "\n" not in error.value.message


def test_missing_weights_are_told(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    folder = hf_folder(tmp_path)
    file = folder / "model.safetensors"
    weights = load_file(file)
    del weights["model.layers.1.mlp.up_proj.weight"]
    save_file(weights, file, metadata={"format": "pt"})
    session = open_folder(folder, "config")
    assert any("model.layers.1.mlp.up_proj.weight" in warning for warning in session.warnings)


def test_remote_code_is_never_run(tmp_path: Path) -> None:
    config = {"model_type": "evil", "auto_map": {"AutoConfig": "evil.C", "AutoModelForCausalLM": "evil.M"}}
    (tmp_path / "evil.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\n")
    llama = tmp_path / "llama"
    CAUSAL["qwen3"]().save_pretrained(llama)
    spec = specs.read(llama, "config")
    (tmp_path / "config.json").write_text(json.dumps(config))
    with pytest.raises(ExplorerError):
        plugins.get("backend", "pytorch").open(str(tmp_path), spec, Request(model="t", backend="pytorch"), quiet)
    assert not (tmp_path / "ran").exists()


def test_running_out_of_memory_is_explained(tmp_path: Path) -> None:
    session = open_config(CAUSAL["qwen3"](), tmp_path, options={"fused": False})
    session._model.lm_head.forward = lambda x: torch.empty(1 << 55)
    with pytest.raises(ExplorerError, match="memory") as error:
        session.forward(SHORT)
    assert error.value.hint


def test_a_compiled_model_says_the_same_and_cannot_be_traced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # dynamo with its eager backend: the same path without minutes of C++
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    plain = open_config(CAUSAL["qwen3"](), tmp_path)
    compiled = open_config(CAUSAL["qwen3"](), tmp_path, options={"compile": "true"})
    assert plain.capabilities - compiled.capabilities >= {"layers"} and compiled.n_committed == 0
    assert compiled.capabilities >= {"forward", "cache", "rollback", "stream", "batch"}
    close(compiled.forward(LONG).numpy(), plain.forward(LONG).numpy())


def test_a_failed_compilation_is_explained(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no C++ compiler")

    monkeypatch.setattr(torch, "compile", lambda forward, **_: fail)
    with pytest.raises(ExplorerError, match=r"torch\.compile failed: no C\+\+ compiler"):
        open_config(CAUSAL["qwen3"](), tmp_path, options={"compile": True})


# ---------------------------------------------------------------- generate


def test_generate_runs_only_while_somebody_waits(tmp_path: Path) -> None:
    """Closing the stream ends its thread, and between two steps the model stands still."""
    import threading
    import time

    session = open_config(CAUSAL["qwen3"](), tmp_path)
    calls = []
    session._model.register_forward_hook(lambda *_: calls.append(1))
    stream = session.stream(SHORT, GenerationConfig(limit=50))
    next(stream), next(stream)
    time.sleep(0.05)
    assert len(calls) == 2
    assert session.n_committed == SHORT.shape[1] + 1
    stream.close()  # type: ignore[attr-defined]
    assert len(calls) == 2 and session.n_committed == 0
    assert not [t for t in threading.enumerate() if t.name == "generate"]


def test_what_generate_raises_arrives(tmp_path: Path) -> None:
    session = open_config(CAUSAL["qwen3"](), tmp_path)
    session._model.lm_head.forward = lambda x: torch.empty(1 << 55)
    with pytest.raises(ExplorerError, match="memory"):
        list(session.stream(SHORT, GenerationConfig(limit=3)))


def test_the_models_own_generation_settings_are_left_out(tmp_path: Path) -> None:
    """A benchmark asks for greedy tokens without a stop; a repetition penalty or an end token must not creep in."""
    folder = hf_folder(tmp_path)
    plain = [t.tolist() for t in open_folder(folder).stream(SHORT, GenerationConfig(limit=30))]
    file = folder / "generation_config.json"
    first = plain[2][0][0]
    file.write_text(json.dumps({"eos_token_id": first, "repetition_penalty": 5.0, "do_sample": True, "max_length": 9}))
    session = open_folder(folder)
    assert first in session.eos_ids
    assert [t.tolist() for t in session.stream(SHORT, GenerationConfig(limit=30))] == plain


# ---------------------------------------------------------------- the end


def test_close_frees_the_model(tmp_path: Path) -> None:
    session = open_config(CAUSAL["qwen3"](), tmp_path)
    trace = session.trace()
    session.forward(SHORT)
    list(session.stream(SHORT, GenerationConfig(limit=2)))
    alive = [weakref.ref(session._model), weakref.ref(session._model.lm_head.weight)]
    session.close()
    gc.collect()
    assert [ref() for ref in alive] == [None, None]
    assert trace.finish()["prefill"], "what was measured is kept"
    with pytest.raises(ExplorerError, match="closed"):
        session.reset()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_cuda_equals_cpu(tmp_path: Path) -> None:
    folder = hf_folder(tmp_path)
    on_cpu, on_gpu = (open_folder(folder, options={"device": d}) for d in ("cpu", "cuda"))
    assert on_gpu.setup.device_name and on_gpu.device_bytes() > 0 and on_cpu.device_bytes() is None
    np.testing.assert_allclose(on_gpu.forward(LONG).numpy(), on_cpu.forward(LONG).numpy(), atol=1e-2)
    on_gpu.reset()
    trace = on_gpu.trace()
    on_gpu.forward(LONG)
    rows = trace.finish()["prefill"]
    assert {"lm_head", "blocks.1.attn.core"} <= {row.name for row in rows} and all(r.seconds >= 0 for r in rows)
    on_gpu.close()
