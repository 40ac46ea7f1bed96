"""Threads that wait for each other: the library's own way against hardware.process.patient, alone and in company."""

from __future__ import annotations

import contextlib
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np

from core.runs.runner import Runner
from core.runs.store import Store
from core.stats.intervals import paired_ratio
from core.types import Generate, Request
from hardware.process import patient

LIBRARY = {"GOMP_SPINCOUNT": "300000"}  # what libgomp does by itself
ENGINES = (("llama_cpp", None), ("pytorch", "bf16"))
CASES = ((0, 20, 96), (1, 3, 8))  # busy processes beside it, pairs, new tokens


@contextlib.contextmanager
def busy(n: int) -> Iterator[None]:
    """n processes that compute without an end."""
    loops = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(n)]
    try:
        yield
    finally:
        for loop in loops:
            loop.kill()
            loop.wait()


def seconds_per_token(runner: Runner, request: Request, waiting: dict[str, str]) -> float:
    """TPOT of one run in a process of its own."""
    with mock.patch.dict(os.environ, waiting):
        result = runner.wait(runner.start(request)).result()
    assert result.tpot_s is not None, result.error
    return result.tpot_s


def run() -> list[dict[str, Any]]:
    """One row per engine and company: tokens per second both ways, and how many times faster the patient one is."""
    rows = []
    print(f"{'engine':<16} {'beside it':>10} {'library':>12} {'patient':>12}   faster [95 % interval]")
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(Store(Path(folder)))
        for backend, dtype in ENGINES:
            for others, pairs, tokens in CASES:
                request = Request(
                    model="smollm2-135m", backend=backend, dtype=dtype, warmup=0, fresh_process=True, profilers=(),
                    task=Generate(prompt="Write about the sea.", max_new_tokens=tokens, ignore_eos=True), threads=2,
                )  # fmt: skip
                seconds: tuple[list[float], list[float]] = ([], [])
                with busy(others):
                    for i in range(pairs):
                        for which in (0, 1) if i % 2 else (1, 0):
                            seconds[which].append(seconds_per_token(runner, request, (LIBRARY, patient({}))[which]))
                ratio = paired_ratio(*seconds)
                library, ours = (1 / float(np.median(s)) for s in seconds)
                name = f"{backend} {dtype or ''}".strip()
                rows.append({"engine": name, "beside": others, "library_tok_per_s": library, "patient_tok_per_s": ours,
                             "ratio": str(ratio)})  # fmt: skip
                print(f"{name:<16} {others:>10} {library:>6.1f} tok/s {ours:>6.1f} tok/s   {ratio}", flush=True)
        runner.close()
    return rows
