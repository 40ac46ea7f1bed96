"""What a search finds with a part of the measurements: against a sweep of the same grid, of the embedded model.

Sweep and search have data folders of their own, so that neither stands on the other's runs; both know this machine's
ceilings. Both times count everything, the search's also the final rounds in fresh processes.

Their volumes are compared twice. By the sweep's figures, one run of each cell: the volume of those that the search
measured, over the volume of all. The best of 144 noisy figures is too good (search.md, the winner's curse), so what a
user would have of either is measured after both: the front of the sweep and the search's finalists, once in each round
in a fresh process and a new order, and the ratio of their volumes in each round.

Every cell's figures, seconds and predicted ranges are left in bench-results/searching-cells.json, from which other
plans can be tried without measuring anew.
"""

from __future__ import annotations

import json
import os
import random
import shutil
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from core.runs.runner import Runner
from core.runs.store import Store
from core.stats.intervals import paired_ratio
from core.stats.pareto import Direction, front, hypervolume
from core.studies.grid import cells
from core.studies.measures import values_of
from core.studies.search import SearchReport
from core.types import Request, from_json
from tests.bench.command import core

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
GOALS: dict[str, Direction] = {"tok_per_s": "higher", "peak_memory_bytes": "lower"}
BETTER = list(GOALS.values())
WORKLOAD = ("--prompt", "Write a short story about the sea.", "--new-tokens", "48")
MEASUREMENTS, FINAL_ROUNDS = 20, 3
ROUNDS = 6  # of both fronts, after both
Point = tuple[float, ...]


def run(axes: Sequence[str] = GRID, measurements: int = MEASUREMENTS, minutes: float = 60.0) -> list[dict[str, Any]]:
    """One row: both times, the share of the volume, and the audit."""
    asked = [*WORKLOAD, "--minutes", str(minutes), *(part for axis in axes for part in ("--axis", axis))]
    with tempfile.TemporaryDirectory() as folder:
        whole, part = Path(folder) / "sweep", Path(folder) / "search"
        for threads in ("1", "2"):
            core(whole, "ceilings", "--measure", "--threads", threads)
        for backend in ("pytorch", "onnxruntime", "llama_cpp"):  # what is made of the model once
            core(whole, "run", "--backend", backend, "--prompt", "The sea", "--max-new-tokens", "2", "--profilers", "")
        shutil.copytree(whole / "data" / "ceilings", part / "data" / "ceilings")
        (part / "cache").symlink_to(whole / "cache")
        swept = json.loads(core(whole, "sweep", *asked, "--reference-every", "0", "--json"))
        goals = [word for goal in GOALS for word in ("--goal", goal)]
        often = ["--measurements", str(measurements), "--final-rounds", str(FINAL_ROUNDS)]
        found = from_json(core(part, "search", *asked, *goals, *often, "--json"), SearchReport)
        spent_s = _ledger(whole)["spent_s"]
        _keep(swept["rows"], _ledger(whole)["took_s"], found)
        worth = {row["id"]: point for row in swept["rows"] if (point := _worth(row["values"]))}
        best = [n for n, on in zip(worth, front(list(worth.values()), BETTER), strict=True) if on]
        finalists = [row.id for row in found.rows if row.stage == "finalist"]
        requests = {cell.id: cell.request for cell in cells(found.plan.grid)}
        rounds = _rounds(part, {name: requests[name] for name in dict.fromkeys((*best, *finalists))})
    return [{**_row(worth, found, spent_s), **_anew(worth, best, finalists, rounds)}]


def _rounds(home: Path, requests: dict[str, Request]) -> list[dict[str, Point]]:
    """In each round every cell once, in a fresh process and a new order."""
    os.environ["ROOFSCOPE_HOME"] = str(home)
    runner = Runner(Store(home / "data"))
    rounds: list[dict[str, Point]] = []
    try:
        for number in range(ROUNDS):
            points = {}
            for name in random.Random(number).sample(list(requests), len(requests)):
                request = msgspec.structs.replace(requests[name], fresh_process=True)
                point = _worth(values_of(runner.wait(runner.start(request)).result()))
                assert point is not None, name
                points[name] = point
            rounds.append(points)
    finally:
        runner.close()
    return rounds


def _anew(
    worth: dict[str, Point], best: Sequence[str], finalists: Sequence[str], rounds: Sequence[dict[str, Point]]
) -> dict[str, Any]:
    """The finalists' volume over that of the sweep's front, both as the rounds measured them."""
    corner = _corner(list(worth.values()))
    found, whole = ([hypervolume([r[n] for n in names], corner, BETTER) for r in rounds] for names in (finalists, best))
    share = paired_ratio(found, whole)
    return {
        "sweep_front": len(best),
        "finalists": len(finalists),
        "volume_anew": share.value,
        "volume_anew_low": share.low,
        "volume_anew_high": share.high,
        "rounds": share.n,
    }


def _row(known: dict[str, Point], found: SearchReport, sweep_s: float) -> dict[str, Any]:
    measured = [known[row.id] for row in found.rows if row.n and row.id in known]
    corner = _corner(list(known.values()))
    whole = hypervolume(list(known.values()), corner, BETTER)
    best = next((row for row in found.rows if row.id == found.answer.cell), None)
    return {
        "cells": len(known),
        "cannot_run": sum(row.stage == "cannot run" for row in found.rows),
        "measurements": found.measured,
        "sweep_s": sweep_s,
        "search_s": found.spent_s,
        "share_of_time": found.spent_s / sweep_s,
        "share_of_volume": hypervolume(measured, corner, BETTER) / whole,
        "dropped": found.dropped,
        "audited": found.audited,
        "missed": found.missed,
        "missed_at_most": found.bound,
        "answer": best.label if best else "",
        "answer_rank_in_sweep": _rank(known, found.answer.cell),
        "shrinkage": _median([row.shrinkage["tok_per_s"] for row in found.rows if "tok_per_s" in row.shrinkage]),
    }


def _corner(points: Sequence[Point]) -> Point:
    """The worst of each goal that the sweep saw."""
    pick = {"higher": min, "lower": max}
    return tuple(pick[b](values) for b, values in zip(BETTER, zip(*points, strict=True), strict=True))


def _median(values: Sequence[float]) -> float | None:
    return statistics.median(values) if values else None


def _worth(values: Mapping[str, Any]) -> Point | None:
    """The goals of a cell: of a row of the sweep's report, or of a run's figures."""
    found = [v["value"] if isinstance(v := values.get(name), dict) else v for name in GOALS]
    return None if None in found else tuple(float(v) for v in found if v is not None)


def _rank(known: dict[str, Point], name: str) -> int | None:
    """Of the answer by the first goal, in the sweep's figures; 1 is the fastest."""
    if name not in known:
        return None
    return 1 + sum(point[0] > known[name][0] for point in known.values())


def _ledger(home: Path) -> dict[str, Any]:
    (file,) = (home / "data" / "studies").glob("*/study.json")
    found: dict[str, Any] = json.loads(file.read_bytes())
    return found


def _keep(swept: Sequence[dict[str, Any]], took_s: Mapping[str, float], found: SearchReport) -> None:
    """What a replay needs of each cell; in the sweep's order, so that a load is in the seconds of its first cell."""
    told = {row.id: row for row in found.rows}
    rows = [
        {
            "label": row["label"],
            "at": row["at"],
            "figures": dict(zip(GOALS, point, strict=True)),
            "seconds": took_s.get(f"{row['id']}/0"),
            "predicted": msgspec.to_builtins(told[row["id"]].predicted),
        }
        for row in swept
        if (point := _worth(row["values"])) is not None
    ]
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    (folder / "searching-cells.json").write_text(json.dumps(rows, indent=1))
