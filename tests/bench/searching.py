"""What a search finds with a part of the measurements: against a sweep of the same grid, of the embedded model.

Sweep and search have data folders of their own, so that neither stands on the other's runs; both know this machine's
ceilings. What each cell is worth is the sweep's figure of it: the volume of those that the search measured, over the
volume of all. Both times count everything, the search's also the final rounds in fresh processes.
"""

from __future__ import annotations

import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from core.stats.pareto import hypervolume
from core.studies.search import SearchReport
from core.types import from_json

ROOT = Path(__file__).parents[2]
GRID = (
    "backend=pytorch,onnxruntime,llama_cpp",
    "threads=1,2",
    "strategy=autoregressive,native,prompt_lookup,jacobi",
    "prompt_lookup.draft_length=2,4,8",
    "jacobi.window=4,8,16",
    "dtype=own,bf16,q8_0,q4_1",
    "llama_cpp.flash_attn=on,off",
    "llama_cpp.kv_dtype=f16,q8_0",
    "onnxruntime.spinning=true,false",
)
GOALS = {"tok_per_s": "higher", "peak_memory_bytes": "lower"}
WORKLOAD = ("--prompt", "Write a short story about the sea.", "--new-tokens", "48")
MEASUREMENTS, FINAL_ROUNDS = 16, 3


def run(axes: Sequence[str] = GRID, measurements: int = MEASUREMENTS, minutes: float = 60.0) -> list[dict[str, Any]]:
    """One row: both times, the share of the volume, and the audit."""
    asked = [*WORKLOAD, "--minutes", str(minutes), *(part for axis in axes for part in ("--axis", axis))]
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "sweep", Path(folder) / "search"
        for threads in ("1", "2"):
            _core(whole, "ceilings", "--measure", "--threads", threads)
        for backend in ("pytorch", "onnxruntime", "llama_cpp"):  # what is made of the model once
            _core(whole, "run", "--backend", backend, "--prompt", "The sea", "--max-new-tokens", "2", "--profilers", "")
        shutil.copytree(whole / "data" / "ceilings", part / "data" / "ceilings")
        (part / "cache").symlink_to(whole / "cache")
        swept = json.loads(_core(whole, "sweep", *asked, "--reference-every", "0", "--json"))
        goals = [word for goal in GOALS for word in ("--goal", goal)]
        often = ["--measurements", str(measurements), "--final-rounds", str(FINAL_ROUNDS)]
        found = from_json(_core(part, "search", *asked, *goals, *often, "--json"), SearchReport)
        spent_s = _spent_s(whole)
    return [_row(swept, found, spent_s)]


def _row(swept: dict[str, Any], found: SearchReport, sweep_s: float) -> dict[str, Any]:
    cells = {row["id"]: _worth(row) for row in swept["rows"]}
    known = {name: point for name, point in cells.items() if point is not None}
    measured = [known[row.id] for row in found.rows if row.n and row.id in known]
    final = [known[row.id] for row in found.rows if row.final and row.id in known]
    corner = [min(p[0] for p in known.values()), max(p[1] for p in known.values())]
    better = list(GOALS.values())
    whole = hypervolume(list(known.values()), corner, better)
    best = next((row for row in found.rows if row.id == found.answer.cell), None)
    return {
        "cells": len(known),
        "cannot_run": sum(row.stage == "cannot run" for row in found.rows),
        "measurements": found.measured,
        "sweep_s": sweep_s,
        "search_s": found.spent_s,
        "share_of_time": found.spent_s / sweep_s,
        "share_of_volume": hypervolume(measured, corner, better) / whole,
        "finalists_share": hypervolume(final, corner, better) / whole if final else None,
        "dropped": found.dropped,
        "audited": found.audited,
        "missed": found.missed,
        "missed_at_most": found.bound,
        "answer": best.label if best else "",
        "answer_rank_in_sweep": _rank(known, found.answer.cell),
        "shrinkage": _median([row.shrinkage["tok_per_s"] for row in found.rows if "tok_per_s" in row.shrinkage]),
    }


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _worth(row: dict[str, Any]) -> tuple[float, ...] | None:
    values = {name: row["values"].get(name) for name in GOALS}
    return None if None in values.values() else tuple(float(v["value"]) for v in values.values())


def _rank(known: dict[str, tuple[float, ...]], name: str) -> int | None:
    """Of the answer by the first goal, in the sweep's figures; 1 is the fastest."""
    if name not in known:
        return None
    return 1 + sum(point[0] > known[name][0] for point in known.values())


def _spent_s(home: Path) -> float:
    (file,) = (home / "data" / "studies").glob("*/study.json")
    return float(json.loads(file.read_bytes())["spent_s"])


def _core(home: Path, *arguments: str) -> str:
    """What a command prints; its words go on to this terminal."""
    home.mkdir(parents=True, exist_ok=True)
    told = {**os.environ, "ROOFSCOPE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "core", *arguments], cwd=ROOT, env=told, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
