"""How good advice is: fresh runs of the embedded model, what is advised after each, and a trial of every piece.

All runs are there before anything is advised, so that engines can be compared; the ceilings are measured with one
thread and with all. A trial runs baseline and change in interleaved pairs.
"""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import msgspec

from core.stats.intervals import Ratio
from hardware.detect import usable_cores
from tests.bench.command import core

PROMPT = ("--prompt", "Write a short story about the sea.", "--max-new-tokens", "64")
RUNS = {
    "llama.cpp, 1 thread": ("--backend", "llama_cpp", "--threads", "1"),
    "llama.cpp": ("--backend", "llama_cpp"),
    "PyTorch, fp32": ("--backend", "pytorch", "--dtype", "fp32"),
    "ONNX Runtime": ("--backend", "onnxruntime"),
    "llama.cpp, a quantized cache": ("--backend", "llama_cpp", "--option", "kv_dtype=q8_0"),
    "PyTorch, guessing": ("--backend", "pytorch", "--strategy", "prompt_lookup"),
}


def run(pairs: int = 5) -> list[dict[str, Any]]:
    """One row per run and rule that had something to say."""
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        for threads in dict.fromkeys((1, usable_cores())):
            core(home, "ceilings", "--measure", "--threads", str(threads))
        ids = {name: json.loads(core(home, "run", *how, *PROMPT, "--json"))["run_id"] for name, how in RUNS.items()}
        rows = []
        for name, run_id in ids.items():
            for case in _advice(home, run_id):
                rule = case["advice"]["rule"]
                core(home, "advice", run_id, "--try", rule, "--pairs", str(pairs))
                tried = next(c for c in _advice(home, run_id) if c["advice"]["rule"] == rule)
                rows.append(_row(name, tried))
        return rows


def _advice(home: Path, run_id: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(core(home, "advice", run_id, "--json"))["advice"]
    return found


def _row(name: str, case: dict[str, Any]) -> dict[str, Any]:
    advice, verdict = case["advice"], case["verdict"] or {}
    gain = advice["gain"] or {}
    return {
        "after": name,
        "rule": advice["rule"],
        "advice": advice["change"],
        "of": advice["metric"],
        "promised": gain.get("likely"),
        "promised_low": gain.get("low"),
        "promised_high": gain.get("high"),
        "measured": str(msgspec.convert(ratio, Ratio)) if (ratio := verdict.get("ratio")) else None,
        "verdict": verdict.get("outcome"),
        "disturbed": verdict.get("n_disturbed"),
    }
