"""A forward of n tokens in PyTorch: the fused step against transformers' own, on the embedded model."""

from __future__ import annotations

import json
import time
from typing import Any

import numpy as np

from core.stats.intervals import paired_ratio
from core.types import Session
from tests.bench.alone import alone
from tests.bench.loops import open_embedded

PAIRS, PAST, SIZES = 20, 128, (1, 2, 4, 8, 16, 32, 64)


def forward_s(session: Session, n: int) -> float:
    """One forward of n tokens behind what is committed, and the argmax of every row, as a decoder does it."""
    ids = np.full((1, n), 300)
    started = time.perf_counter()
    session.forward(ids).argmax()
    session.sync()
    seconds = time.perf_counter() - started
    session.commit(0)
    return seconds


def run() -> list[dict[str, Any]]:
    """One row per dtype and size: milliseconds of both, and how many times faster the fused one is."""
    rows: list[dict[str, Any]] = alone("tests.bench.step")
    return rows


def measure() -> list[dict[str, Any]]:
    rows = []
    print(f"{'dtype':<6} {'n':>3} {'transformers':>13} {'fused':>8}   faster [95 % interval]")
    for dtype in ("fp32", "bf16"):
        sessions = [open_embedded("pytorch", dtype, {"fused": fused})[0] for fused in (False, True)]
        for session in sessions:
            session.forward(np.random.default_rng(0).integers(300, 40_000, (1, PAST)), keep=1)
            session.commit(PAST)
        for n in SIZES:
            seconds: tuple[list[float], list[float]] = ([], [])
            for i in range(-2, PAIRS):
                for which in (0, 1) if i % 2 else (1, 0):
                    took = forward_s(sessions[which], n)
                    if i >= 0:
                        seconds[which].append(took)
            ratio = paired_ratio(*seconds)
            plain, fused = (1000 * float(np.median(s)) for s in seconds)
            rows.append({"dtype": dtype, "n": n, "transformers_ms": plain, "fused_ms": fused, "ratio": str(ratio)})
            print(f"{dtype:<6} {n:>3} {plain:>10.1f} ms {fused:>5.1f} ms   {ratio}", flush=True)
        for session in sessions:
            session.close()
    return rows


if __name__ == "__main__":
    print(json.dumps(measure()))
