"""python -m tests.bench [loops] [app]: prints tables with intervals and writes bench-results/<date>.json.

Each comparison is made of interleaved pairs (ABBA order) in one process, quoted as a ratio with its
95 % interval. Load and steal are printed, because this may be a shared machine.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from hardware.detect import machine
from tests.bench import app, loops

PARTS = {"loops": loops.run, "app": app.run}


def main(names: list[str]) -> None:
    unknown = set(names) - set(PARTS)
    if unknown:
        sys.exit(f"Unknown part: {', '.join(sorted(unknown))}. Known: {', '.join(PARTS)}.")
    results: dict[str, Any] = {}
    for name in names or list(PARTS):
        print(f"\n## {name}   (load {os.getloadavg()[0]:.2f})", flush=True)
        results[name] = PARTS[name]()
    folder = Path("bench-results")
    folder.mkdir(exist_ok=True)
    path = folder / time.strftime("%Y%m%d-%H%M%S.json")
    path.write_text(json.dumps({"machine": machine().cpu_name, "results": results}, indent=1))
    print(f"\nWritten to {path}")


if __name__ == "__main__":
    main(sys.argv[1:])
