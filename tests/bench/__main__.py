"""python -m tests.bench [loops] [step] [app] [waiting] [published] [predict [--small] [--again]]: tables and a file.

Each comparison is made of interleaved pairs (ABBA order) in one process of its engine, quoted as a ratio with its
95 % interval. Load and steal are printed, because this may be a shared machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hardware.detect import machine
from tests.bench import app, loops, predict, published, step, waiting

PARTS: dict[str, Callable[..., Any]] = {
    "loops": loops.run,
    "step": step.run,
    "app": app.run,
    "waiting": waiting.run,
    "published": published.run,
    "predict": predict.run,
}
FLAGS = {"--small": "small", "--again": "again"}  # of predict: a short form that proves only itself; no old runs


def main(arguments: list[str]) -> None:
    flags = {FLAGS[a]: True for a in arguments if a in FLAGS}
    names = [a for a in arguments if a not in FLAGS]
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"Unknown part: {', '.join(sorted(unknown))}. Known: {', '.join(PARTS)}.")
    results: dict[str, Any] = {}
    for name in names or list(PARTS):
        print(f"\n## {name}   (load {os.getloadavg()[0]:.2f})", flush=True)
        results[name] = PARTS[name](**(flags if name == "predict" else {}))
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps({"machine": machine().cpu, "results": results}, indent=1))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
