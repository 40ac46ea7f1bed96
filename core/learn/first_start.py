"""The first start: whether this person has seen the app before, and the stops of a short tour."""

from __future__ import annotations

import contextlib
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

MARK = "welcomed"  # a file in the data folder


class Stop(NamedTuple):
    """A page of the tour and what to look for there, in one sentence."""

    page: str
    title: str
    words: str


TOUR = (
    Stop(
        "pages/measure/run.py", "Run", "A recorded run stands here; Run makes one of your own, first live, then timed."
    ),
    Stop(
        "pages/understand/roofline.py",
        "Roofline",
        "How far each phase is from what the machine can do, and what limits it.",
    ),
    Stop("pages/understand/layers.py", "Layers", "The network as a graph: which layers take the time and the bytes."),
    Stop(
        "pages/understand/memory.py", "Memory", "Weights, KV cache and workspace, and how they grow with the context."
    ),
    Stop(
        "pages/understand/decoding.py",
        "Decoding",
        "What several tokens per forward pass cost here, and when guessing pays.",
    ),
    Stop("pages/compare/tradeoffs.py", "Trade-offs", "Two recorded studies: what compression and decoding really buy."),
    Stop("pages/learn/lessons.py", "Lessons", "Thirteen short lessons; each ends with a number of your own."),
)


def first(root: Path, runs: Iterable[str], recorded: str | None) -> bool:
    """Whether nobody has run anything here nor sent the card away. With a run of one's own it never comes again."""
    if (root / MARK).exists():
        return False
    if set(runs) - {recorded}:
        settle(root)
        return False
    return True


def settle(root: Path) -> None:
    """The card has done its work."""
    with contextlib.suppress(OSError):
        root.mkdir(parents=True, exist_ok=True)
        (root / MARK).touch()
