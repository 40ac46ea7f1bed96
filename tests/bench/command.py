"""The command line in a data folder of its own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def core(home: Path, *arguments: str) -> str:
    """What `python -m core` prints; its words to a person go on to this terminal. Raises CalledProcessError."""
    home.mkdir(parents=True, exist_ok=True)
    told = {**os.environ, "ROOFSCOPE_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-m", "core", *arguments], cwd=ROOT, env=told, stdout=subprocess.PIPE, text=True, check=True
    )
    return done.stdout
