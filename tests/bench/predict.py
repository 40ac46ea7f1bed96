"""Prediction on this machine: every model predicted from the runs of all others, beside what was measured.

The ceilings of this machine come first (measured when there are none, else checked for drift). A run of the last
hour with the same request is used again, so that an interrupted bench can go on; --again measures all of them anew.
A model's first prompt length runs in a fresh process, the second in the same. The fitted overheads are kept for
`python -m core predict --device here` and the pages.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal

import msgspec

from core.analysis.predict_here import Observation, fit_overhead, forward_seconds
from core.paths import data_dir
from core.runs import overheads
from core.runs.ceilings import measure
from core.runs.runner import Runner
from core.runs.store import Run, Store
from core.types import Generate, Record, Request
from hardware import ceilings as roofs
from hardware.ceilings import Ceilings
from hardware.detect import machine, machine_id
from hardware.errors import ExplorerError
from tests.bench import random_gguf

GOAL = 0.15
FOLDER = Path("bench-results")
USED_AGAIN_S = 3600
PYTORCH = ("smollm2-135m", "gpt2", "opt-125m", "pythia-160m", "qwen2.5-0.5b")
ONNX = ("smollm2-135m", "gpt2", "opt-125m", "pythia-160m")
# Quantized llama-shaped models beside the embedded one, which is mostly Q4_1: kernels differ by the weights' dtype.
GGUF = (("tinyllama-1.1b", "Q4_1"), ("llama-3.2-1b", "Q4_1"))


def models(small: bool) -> Iterator[tuple[str, str, str | None]]:
    """(backend, model, dtype) of every model to run."""
    yield "llama_cpp", "smollm2-135m", None
    for preset, quant in () if small else GGUF:
        yield "llama_cpp", str(random_gguf.made(preset, quant, FOLDER / "models").resolve()), None
    for model in PYTORCH[: 2 if small else None]:
        yield "pytorch", model, "fp32"
    if small:
        return
    for model in ONNX:
        yield "onnxruntime", model, None
    for model in (*PYTORCH, "qwen3-0.6b", "tinyllama-1.1b"):
        yield "pytorch", model, "bf16"


class LeftOut(Record):
    """A measured forward beside its prediction by a fit to the runs of all other models."""

    backend: str
    weights: str
    model: str
    phase: Literal["prefill", "decode"]
    measured_s: float
    predicted_s: float

    @property
    def error(self) -> float:
        return abs(self.predicted_s / self.measured_s - 1)


def leave_models_out(backend: str, observations: Sequence[Observation]) -> tuple[LeftOut, ...]:
    """Every observation predicted without its model; empty when there is only one model."""
    found = []
    for model in dict.fromkeys(o.model for o in observations):
        others = [o for o in observations if o.model != model]
        if not others:
            continue
        overhead = fit_overhead(backend, others)
        found += [
            LeftOut(
                backend=backend,
                weights=o.weights,
                model=model,
                phase=o.phase,
                measured_s=o.seconds,
                predicted_s=forward_seconds(overhead, o.terms),
            )
            for o in observations
            if o.model == model
        ]
    return tuple(found)


def measured_ceilings(threads: int) -> Ceilings:
    """Those that are kept, with a word on drift, or new ones."""
    folder = data_dir() / "ceilings"
    found = roofs.load(folder, machine_id(), threads)
    if found is None:
        print("measuring this machine's ceilings", flush=True)
        found = measure(data_dir(), threads)
    else:
        for line in roofs.drift(found, measure(data_dir(), threads, probe=True)):
            print(f"- {line} Measure them again: python -m core ceilings --measure --threads {threads}")
    for line in found.doubts:
        print(f"- {line}")
    return found


def measured_run(runner: Runner, request: Request, again: bool) -> Run:
    """A finished run of this request: a recent one, or a new one."""
    for run in runner.store.runs():
        recent = time.time() - run.created_s < USED_AGAIN_S
        if not again and recent and run.request.key() == request.key() and run.status() == "done":
            return run
    return runner.wait(runner.start(request))


def observe_all(ceilings: Ceilings, small: bool, again: bool) -> dict[str, list[Observation]]:
    """Backend -> what its runs showed."""
    runner = Runner(Store(FOLDER / "predict"))
    lengths, new, repeats = ((32,), 8, 1) if small else ((128, 512), 32, 3)
    observed: dict[str, list[Observation]] = {}
    try:
        for backend, model, dtype in models(small):
            for i, n_prompt in enumerate(lengths):
                task = Generate(prompt_tokens=n_prompt, max_new_tokens=new)
                request = Request(
                    model=model, backend=backend, dtype=dtype, task=task, threads=ceilings.threads,
                    profilers=(), repeats=repeats, fresh_process=i == 0,
                )  # fmt: skip
                name = f"{Path(model).stem} {backend} {dtype or ''} prompt {n_prompt}"
                try:
                    run = measured_run(runner, request, again)
                except ExplorerError as error:
                    print(f"- left out: {name}: {error}", flush=True)
                    break
                result = run.result()
                if result.status != "done":
                    print(f"- left out: {name}: {result.error}", flush=True)
                    break
                observed.setdefault(backend, []).extend(overheads.observe_run(run, ceilings))
                speeds = f"prefill {result.prefill_tok_per_s:.0f}, decode {result.tok_per_s:.1f} tok/s"
                print(f"  {name}: {speeds}", flush=True)
    finally:
        runner.close()
    return observed


def run(small: bool = False, again: bool = False) -> dict[str, Any]:
    """Prints the table of errors on left-out models and keeps the overheads."""
    threads = machine().physical_cores or 1
    ceilings = measured_ceilings(threads)
    observed = observe_all(ceilings, small, again)
    rows: list[LeftOut] = []
    for backend, found in observed.items():
        for same in overheads.alike(found):
            rows += leave_models_out(backend, same)
    print(f"{'model':<28} {'backend':<12} {'dtype':<6} {'phase':<8} {'measured':>10} {'predicted':>10} {'error':>7}")
    for row in rows:
        print(
            f"{Path(row.model).stem[:28]:<28} {row.backend:<12} {row.weights:<6} {row.phase:<8} "
            f"{row.measured_s * 1e3:>7.2f} ms {row.predicted_s * 1e3:>7.2f} ms {row.error:>7.1%}"
        )
    medians = {"all": statistics.median(row.error for row in rows)}
    for phase in ("prefill", "decode"):
        medians[phase] = statistics.median(row.error for row in rows if row.phase == phase)
    for what, value in medians.items():
        print(f"median error, {what}: {value:.1%} (goal {GOAL:.0%})")
    fitted = overheads.calibrate(observed, ceilings)
    if not small:
        overheads.save(fitted, data_dir() / "overheads")
    return {
        "goal": GOAL,
        "median_error": medians,
        "rows": [msgspec.structs.asdict(row) | {"error": row.error} for row in rows],
        "overheads": msgspec.to_builtins(fitted),
        "observations": msgspec.to_builtins(observed),
        "ceilings": msgspec.to_builtins(ceilings),
    }
