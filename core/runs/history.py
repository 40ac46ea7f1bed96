"""Finding runs among the rows of the history by words, those of the interface and those of the command line."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache
from typing import Any

from core import plugins

_SEARCHED = (
    *("run_id", "name", "note", "model", "backend", "strategy", "task", "did", "dtype", "status"),
    *("machine", "text", "error"),
)


def matching(rows: Sequence[dict[str, Any]], words: str) -> list[dict[str, Any]]:
    """The rows in which every word occurs somewhere, whatever its case."""
    wanted = words.casefold().split()
    label = cache(plugins.label)

    def found(row: dict[str, Any]) -> bool:
        said = [str(row.get(field) or "") for field in _SEARCHED]
        said += [
            label(kind, name)
            for kind in plugins.KINDS
            for name in (row.get("backend"), row.get("did"), row.get("strategy"))
            if name
        ]
        return all(word in " ".join(said).casefold() for word in wanted)

    return [row for row in rows if found(row)] if wanted else list(rows)
