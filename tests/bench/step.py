"""A forward of n tokens in PyTorch, on the embedded model: the fused step against transformers' own, and with weights
in groups against llama.cpp at the same bits, which runs in a process of its own. And what a window of 16 costs over one
token in the fused step, v(16)."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from core import plugins
from core.models import catalogue
from core.models import spec as specs
from core.stats.intervals import paired_ratio
from core.types import Request, Session
from tests.bench.alone import ROOT, alone
from tests.bench.loops import open_embedded

PAIRS, PAST, SIZES = 20, 128, (1, 2, 4, 8, 16, 32, 64)
BESIDE = 80  # pairs with another process, which scatter more
WINDOW = 16  # tokens of a decoder that guesses
GROUPED = ("q8_0", "q4_1")
REST_S = 0.02  # threads of the other side spin for a while before they sleep


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
    for kind in GROUPED:
        rows += alone("tests.bench.step", kind)
    return rows


def begun(session: Session) -> Session:
    session.forward(np.random.default_rng(0).integers(300, 40_000, (1, PAST)), keep=1)
    session.commit(PAST)
    return session


def in_turn(
    forward: Callable[[int], float], rest_s: float = 0.0, pairs: int = PAIRS
) -> tuple[list[float], list[float]]:
    """Seconds of forward(0) and of forward(1), in interleaved pairs; two pairs before them do not count."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for i in range(-2, pairs):
        for which in (0, 1) if i % 2 else (1, 0):
            time.sleep(rest_s)
            took = forward(which)
            if i >= 0:
                seconds[which].append(took)
    return seconds


def over_one(session: Session, n: int, rest_s: float = 0.0) -> dict[str, str]:
    """v(n) of the fused step, in pairs of their own; of a window alone."""
    if n != WINDOW:
        return {}
    ones, many = in_turn(lambda which: forward_s(session, n if which else 1), rest_s)
    return {"over_one": str(paired_ratio(many, ones))}


def measure() -> list[dict[str, Any]]:
    rows = []
    print(f"{'dtype':<6} {'n':>3} {'transformers':>13} {'fused':>8}   faster [95 % interval]")
    for dtype in ("fp32", "bf16"):
        sessions = [open_embedded("pytorch", dtype, {"fused": fused})[0] for fused in (False, True)]
        for session in sessions:
            begun(session)
        for n in SIZES:
            seconds = in_turn(lambda which, n=n, of=sessions: forward_s(of[which], n))
            ratio = paired_ratio(*seconds)
            plain, fused = (1000 * float(np.median(s)) for s in seconds)
            window = over_one(sessions[1], n)
            row = {"dtype": dtype, "n": n, "transformers_ms": plain, "fused_ms": fused, "ratio": str(ratio)}
            rows.append(row | window)
            print(f"{dtype:<6} {n:>3} {plain:>10.1f} ms {fused:>5.1f} ms   {ratio}   {window or ''}", flush=True)
        for session in sessions:
            session.close()
    return rows


def quantized(kind: str, folder: Path) -> str:
    """The embedded model as a GGUF in this format, in the folder where it is not in it already."""
    path = catalogue.find("smollm2-135m").files["gguf"]
    if kind != specs.read(path, "gguf").dtype:
        target = folder / "model.gguf"
        command = [sys.executable, "-m", "core.transforms._llama_quantize", path, str(target), kind.upper()]
        subprocess.run([*command, "recipe", "2"], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
        path = str(target)
    return path


@contextmanager
def llama_cpp(kind: str, folder: Path) -> Iterator[Any]:
    """A function that has llama.cpp run a forward of n tokens over the embedded model in this format: seconds."""
    path = quantized(kind, folder)
    command = [sys.executable, "-m", "tests.bench.step", "serve", path]
    child = subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert child.stdin is not None and child.stdout is not None
    asked, told = child.stdin, child.stdout

    def forward(n: int) -> float:
        print(n, file=asked, flush=True)
        return float(told.readline())

    try:
        yield forward
    finally:
        asked.close()
        child.wait(60)
        told.close()


def serve(path: str) -> None:
    """Forwards in llama.cpp, as many tokens as the next line of the input says."""
    request = Request(model="smollm2-135m", backend="llama_cpp")
    session = plugins.get("backend", "llama_cpp").open(path, specs.read(path, "gguf"), request, lambda *_: None)
    begun(session)
    for line in sys.stdin:
        print(forward_s(session, int(line)), flush=True)
    session.close()


def beside_llama_cpp(kind: str) -> list[dict[str, Any]]:
    """One row per size, of the fused step with weights in groups and of llama.cpp with such a file."""
    rows = []
    print(f"{'dtype':<6} {'n':>3} {'llama.cpp':>13} {'fused':>8}   faster [95 % interval]")
    session = begun(open_embedded("pytorch", kind, {})[0])
    with tempfile.TemporaryDirectory() as folder, llama_cpp(kind, Path(folder)) as theirs:
        for n in SIZES:
            seconds = in_turn(lambda which, n=n: forward_s(session, n) if which else theirs(n), REST_S, BESIDE)
            ratio = paired_ratio(*seconds)
            other, fused = (1000 * float(np.median(s)) for s in seconds)
            window = over_one(session, n, REST_S)
            row = {"dtype": kind, "n": n, "llama_cpp_ms": other, "fused_ms": fused, "ratio": str(ratio)}
            rows.append(row | window)
            print(f"{kind:<6} {n:>3} {other:>10.1f} ms {fused:>5.1f} ms   {ratio}   {window or ''}", flush=True)
    session.close()
    return rows


if __name__ == "__main__":
    if sys.argv[1:2] == ["serve"]:
        serve(sys.argv[2])
    else:
        print(json.dumps(beside_llama_cpp(sys.argv[1]) if len(sys.argv) > 1 else measure()))
