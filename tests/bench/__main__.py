"""python -m tests.bench [loops] [step] [closeness] [app] [client] [waiting] [watching] [serving] [searching] [trials]
[published] [guessing] [predict] [scale] [aiperf].

watching can be shortened: --backend llama_cpp --tokens 64 --way watched --pairs 2 (each but the last may be repeated);
serving takes --model cllm --backend pytorch --draft SMALLER --seconds 60; aiperf takes --aiperf PROGRAM.
Each comparison is made of interleaved pairs (ABBA order) in one process of its engine, quoted as a ratio with its
95 % interval. They are written into a file too; with --record, each part into tests/bench/recorded, where new rows
take the place of older ones of the same kind, and out of which `make tables` makes Markdown. Load and steal are
printed, because this may be a shared machine.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from core.paths import data_dir
from core.runs.measuring import measuring
from hardware.detect import machine
from tests.bench import (
    aiperf,
    app,
    client,
    closeness,
    guessing,
    loops,
    predict,
    published,
    scale,
    searching,
    serving,
    step,
    trials,
    waiting,
    watching,
)
from tests.bench.recording import record

PARTS: dict[str, Callable[..., Any]] = {
    "loops": loops.run,
    "step": step.run,
    "closeness": closeness.run,
    "app": app.run,
    "client": client.run,
    "waiting": waiting.run,
    "watching": watching.run,
    "serving": serving.run,
    "searching": searching.run,
    "trials": trials.run,
    "guessing": guessing.run,
    "published": published.run,
    "predict": predict.run,
    "scale": scale.run,
    "aiperf": aiperf.run,
}
ROWS = {
    "watching": ("backend", "tokens", "way", "against")
}  # parts that can be measured row by row, and what a row is known by


def options(arguments: list[str]) -> tuple[list[str], dict[str, dict[str, Any]], bool]:
    """The parts to run, what each one is told, and whether to record them."""
    parser = argparse.ArgumentParser(prog="python -m tests.bench", description=__doc__.split("\n\n")[1])
    parser.add_argument("parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; without any, all of them")
    parser.add_argument("--record", action="store_true", help="keep each part's results with the project, dated")
    parser.add_argument("--small", action="store_true", help="predict: a short form that proves only itself")
    parser.add_argument("--again", action="store_true", help="predict: no old runs")
    parser.add_argument(
        "--backend", action="append", choices=watching.BACKENDS, help="watching: only this one; serving: its own"
    )
    parser.add_argument("--tokens", action="append", type=int, help="watching: how many are generated")
    parser.add_argument("--way", action="append", choices=watching.WAYS, help="watching: how it is looked at")
    parser.add_argument(
        "--against", action="append", choices=watching.AGAINST, help="watching: what a watched run is compared with"
    )
    parser.add_argument("--pairs", type=int, help="watching: in each row")
    parser.add_argument("--model", help="serving: the model behind the service")
    parser.add_argument("--draft", help="serving: a smaller model that drafts, for speculative decoding")
    parser.add_argument("--seconds", type=float, help="serving: of each window")
    parser.add_argument("--aiperf", help="aiperf: its program, in an environment of its own")
    found = parser.parse_args(arguments)
    unknown = set(found.parts) - set(PARTS)
    if unknown:
        parser.error(f"Unknown part: {', '.join(sorted(unknown))}. Known: {', '.join(PARTS)}.")
    told = {
        "pairs": found.pairs,
        "backends": found.backend,
        "tokens": found.tokens,
        "ways": found.way,
        "against": found.against,
    }
    backend = (found.backend or [None])[0]
    behind = {"model": found.model, "backend": backend, "seconds": found.seconds, "draft": found.draft}
    given: dict[str, dict[str, Any]] = {
        "predict": {name: True for name in ("small", "again") if getattr(found, name)},
        "watching": {name: value for name, value in told.items() if value},
        "aiperf": {"aiperf": found.aiperf} if found.aiperf else {},
        "serving": {name: value for name, value in behind.items() if value},
    }
    return found.parts or list(PARTS), given, found.record


def main(arguments: list[str]) -> None:
    names, given, keep = options(arguments)
    words = [word for word in arguments if word not in PARTS and word != "--record"]
    results: dict[str, Any] = {}
    for name in names:
        print(f"\n## {name}   (load {os.getloadavg()[0]:.2f})", flush=True)
        with measuring(data_dir(), f"the bench {name}", asks_service=name in ("serving", "aiperf")):
            results[name] = PARTS[name](**given.get(name, {}))
        if keep:
            told = () if name in ROWS else words  # its rows come from several calls
            record(name, results[name], shlex.join(["python", "-m", "tests.bench", name, *told]), ROWS.get(name, ()))
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps({"machine": machine().cpu, "results": results}, indent=1))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
