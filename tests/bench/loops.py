"""Our loop over forward and commit against each library's bare loop, on the embedded model."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np

from core import plugins
from core.models import catalogue
from core.stats.intervals import paired_ratio
from core.types import GenerationConfig, Ids, Request, Scalar, Session
from core.worker.sessions import Sessions, provide
from tests.bench.alone import alone
from tests.support.beside import Book

PAIRS, TOKENS, PROMPT = 20, 64, 48
TARGETS = {"llama_cpp": 0.97, "pytorch": 1.0, "onnxruntime": 0.97}
Loop = Callable[[], float]  # seconds per decoded token


def ours(session: Session, ids: Ids) -> Loop:
    """The worker's own way: time inside next(steps) plus sync."""
    strategy = plugins.get("strategy", "autoregressive")

    def loop() -> float:
        steps = strategy.decode(session, ids, GenerationConfig(limit=TOKENS), strategy.Params())
        seconds, n = 0.0, 0
        while True:
            started = time.perf_counter()
            step = next(steps, None)
            if step is None:
                return seconds / n
            session.sync()
            if step.phase == "decode":
                seconds += time.perf_counter() - started
                n += 1

    return loop


def bare_llama_cpp(session: Any, path: str, ids: Ids, threads: int) -> Loop:
    """llama_decode and llama.cpp's greedy sampler on a context of its own, nothing of ours in between."""
    import llama_cpp as lib

    model = lib.llama_model_load_from_file(path.encode(), lib.llama_model_default_params())
    params = lib.llama_context_default_params()
    params.n_ctx, params.n_batch, params.n_threads, params.n_threads_batch = 4096, 512, threads, threads
    context = lib.llama_init_from_model(model, params)
    sampler = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
    lib.llama_sampler_chain_add(sampler, lib.llama_sampler_init_greedy())

    def loop() -> float:
        lib.llama_memory_clear(lib.llama_get_memory(context), True)
        prompt = (lib.llama_token * ids.shape[1])(*ids[0].tolist())
        lib.llama_decode(context, lib.llama_batch_get_one(prompt, ids.shape[1]))
        token = lib.llama_sampler_sample(sampler, context, -1)
        started = time.perf_counter()
        for _ in range(TOKENS - 1):
            one = (lib.llama_token * 1)(token)
            lib.llama_decode(context, lib.llama_batch_get_one(one, 1))
            token = lib.llama_sampler_sample(sampler, context, -1)
        return (time.perf_counter() - started) / (TOKENS - 1)

    return loop


def bare_pytorch(session: Any, path: str, ids: Ids, threads: int) -> Loop:
    """Hugging Face generate on the same model object; its prefill and set-up are taken off."""
    import torch

    model = session._model
    prompt = torch.from_numpy(ids)
    mask = torch.ones_like(prompt)

    def seconds(n: int) -> float:
        started = time.perf_counter()
        with torch.inference_mode():
            model.generate(prompt, attention_mask=mask, max_new_tokens=n, min_new_tokens=n, do_sample=False)
        return time.perf_counter() - started

    return lambda: (seconds(TOKENS) - seconds(1)) / (TOKENS - 1)


def bare_onnxruntime(session: Any, path: str, ids: Ids, threads: int) -> Loop:
    """One InferenceSession, IO binding, argmax: the shortest loop that keeps the cache out of NumPy."""
    from pathlib import Path

    import onnxruntime as ort

    options = ort.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    graph = ort.InferenceSession(str(Path(path) / "model.onnx"), options, providers=["CPUExecutionProvider"])
    inputs = {value.name: value.shape for value in graph.get_inputs()}
    pasts = [name for name in inputs if "past_key_values" in name]
    outputs = [value.name for value in graph.get_outputs()]
    presents = [name for name in outputs if "past_key_values" in name or "present" in name]
    (logits_name,) = set(outputs) - set(presents)

    def step(tokens: Ids, past: list[Any], n_past: int) -> tuple[int, list[Any]]:
        n = tokens.shape[1]
        given = {
            "input_ids": tokens,
            "attention_mask": np.ones((1, n_past + n), dtype=np.int64),
            "position_ids": np.arange(n_past, n_past + n, dtype=np.int64)[None],
            "logits_to_keep": np.array([n - 1], dtype=np.int64),
        }
        binding = graph.io_binding()
        for name in inputs:
            if name in given:
                binding.bind_cpu_input(name, given[name])
        for name, value in zip(pasts, past, strict=True):
            binding.bind_ortvalue_input(name, value)
        for name in [logits_name, *presents]:
            binding.bind_output(name)
        graph.run_with_iobinding(binding)
        logits, *present = binding.get_outputs()
        return int(logits.numpy()[0, -1].argmax()), present

    def loop() -> float:
        shapes = [[1, *(0 if isinstance(s, str) else s for s in inputs[name][1:])] for name in pasts]
        past = [ort.OrtValue.ortvalue_from_numpy(np.zeros(shape, dtype=np.float32)) for shape in shapes]
        token, past = step(ids, past, 0)
        started = time.perf_counter()
        for i in range(TOKENS - 1):
            token, past = step(np.array([[token]]), past, ids.shape[1] + i)
        return (time.perf_counter() - started) / (TOKENS - 1)

    return loop


BARE = {"llama_cpp": bare_llama_cpp, "pytorch": bare_pytorch, "onnxruntime": bare_onnxruntime}


def open_embedded(name: str, dtype: str | None, options: dict[str, Scalar]) -> tuple[Session, str]:
    """The embedded model in a backend, and the path of what was opened."""
    request = Request(model="smollm2-135m", backend=name, dtype=dtype, options=options)
    book: Any = Book()
    _, path = provide(catalogue.find(request.model), plugins.get("backend", name).formats, book)
    return Sessions().open(request, book).session, path


def run() -> list[dict[str, Any]]:
    """One row per backend and dtype: tokens per second of both, and ours over bare."""
    rows = []
    print(f"{'backend':<12} {'dtype':<6} {'ours tok/s':>10} {'bare tok/s':>10}  ours/bare [95 % interval]   target")
    for name, dtype in (("llama_cpp", ""), ("pytorch", "fp32"), ("pytorch", "bf16"), ("onnxruntime", "")):
        row = alone("tests.bench.loops", name, dtype)
        rows.append(row)
        speeds = f"{row['ours_tok_per_s']:>10.1f} {row['bare_tok_per_s']:>10.1f}"
        print(f"{name:<12} {dtype or '-':<6} {speeds}  {row['ratio']:<28} {TARGETS[name]}", flush=True)
    return rows


def measure(name: str, dtype: str | None) -> dict[str, Any]:
    """The row of one backend and dtype."""
    session, path = open_embedded(name, dtype, {})
    threads = int(session.setup.threads or 0)
    ids = np.random.default_rng(0).integers(300, 40_000, (1, PROMPT))
    mine, theirs = ours(session, ids), BARE[name](session, path, ids, threads)
    mine(), theirs()  # warm both
    a, b = [], []
    for i in range(PAIRS):
        order = ((mine, a), (theirs, b)) if i % 2 == 0 else ((theirs, b), (mine, a))
        for loop, times in order:
            times.append(loop())
    session.close()
    ratio = paired_ratio(b, a)  # speeds: bare seconds over our seconds
    speeds = {"ours_tok_per_s": float(1 / np.median(a)), "bare_tok_per_s": float(1 / np.median(b))}
    return {"backend": name, "dtype": dtype, **speeds, "ratio": str(ratio)}


if __name__ == "__main__":
    print(json.dumps(measure(sys.argv[1], sys.argv[2] or None)))
