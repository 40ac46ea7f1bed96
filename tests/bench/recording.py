"""What a measurement leaves with the project: a JSON file of its results, date, machine and the command to repeat it.

Files in `stated` hold figures that somebody once wrote down by hand: each names the note that it comes from. `make
tables` makes Markdown of both.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hardware.detect import machine

RECORDED = Path(__file__).with_name("recorded")


def recorded(name: str) -> dict[str, Any] | None:
    """The recording of this name, if there is one."""
    file = RECORDED / f"{name}.json"
    return dict(json.loads(file.read_bytes())) if file.exists() else None


def record(name: str, results: Any, command: str, known_by: Sequence[str] = ()) -> None:
    """Keep these results under this name, in place of older ones.

    known_by: what tells rows apart; those of this machine's last recording that are not measured anew stay.
    """
    before = recorded(name)
    if known_by and before and before["machine"] == machine().cpu:
        results = merged(before["results"], results, known_by)
    about = {"date": time.strftime("%Y-%m-%d"), "machine": machine().cpu, "command": command, "results": results}
    RECORDED.mkdir(exist_ok=True)
    (RECORDED / f"{name}.json").write_text(json.dumps(about, indent=1) + "\n", encoding="utf-8")


def merged(old: Sequence[dict[str, Any]], new: Sequence[dict[str, Any]], keys: Sequence[str]) -> list[dict[str, Any]]:
    """The rows of both; of two that agree in `keys`, the new one in the old one's place."""
    rows = {tuple(row.get(key) for key in keys): row for row in old}
    return list((rows | {tuple(row.get(key) for key in keys): row for row in new}).values())
