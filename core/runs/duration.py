"""How long a run will take, judged by the newest one like it on this machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from core.types import Generate, Request


def expected_s(request: Request, rows: Sequence[Mapping[str, Any]], machine_id: str) -> float | None:
    """Seconds of all passes of a generation, without loading; None where nothing like it ran here.

    rows: of the history, newest first. Like it: the same model, backend and strategy; a step is taken to last as long
    as it did there, and a prompt, too.
    """
    if not isinstance(request.task, Generate):
        return None
    wanted = {"model": request.model, "backend": request.backend, "strategy": request.strategy, "status": "done"}
    for row in rows:
        if row.get("machine_id") != machine_id or any(row.get(name) != value for name, value in wanted.items()):
            continue
        rate, first_s = row.get("tok_per_s"), row.get("ttft_s")
        if not rate or first_s is None:
            continue
        once_s = first_s + (request.task.max_new_tokens - 1) * (row.get("batch") or 1) / rate
        return float(passes(request) * once_s)
    return None


def passes(request: Request) -> int:
    """How many times the whole answer is made: to warm up, to be watched, to be timed, once for each profiler."""
    return request.warmup + request.live + request.repeats + len(request.profilers)
