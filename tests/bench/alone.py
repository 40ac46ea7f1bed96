"""A part of the bench in a process of its own, because a process has one native engine."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def alone(module: str, *arguments: str) -> Any:
    """What `python -m module arguments` prints last, as JSON; its other lines are printed as they come."""
    command = [sys.executable, "-m", module, *arguments]
    child = subprocess.Popen(command, cwd=ROOT, env={**os.environ, "PYTHONUNBUFFERED": "1"}, stdout=subprocess.PIPE)
    assert child.stdout is not None
    last = b""
    with child.stdout:
        for line in child.stdout:
            if last:
                sys.stdout.write(last.decode())
                sys.stdout.flush()
            last = line
    if child.wait():
        sys.exit(f"{module} ended with status {child.returncode}.")
    return json.loads(last)
