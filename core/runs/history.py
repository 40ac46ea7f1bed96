"""Finding runs among the rows of the history by words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

_SEARCHED = (
    *("run_id", "name", "note", "model", "backend", "strategy", "task", "did", "dtype", "status"),
    *("machine", "text", "error"),
)


def matching(rows: Sequence[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """The rows in which every word occurs somewhere, whatever its case."""
    wanted = words.casefold().split()
    return [r for r in rows if all(w in " ".join(str(r.get(k) or "") for k in _SEARCHED).casefold() for w in wanted)]
