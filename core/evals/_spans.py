"""Named entities as the shared task of CoNLL-2003 scores them: right are those with exact limits and the right kind.

Reads entities out of an answer of lines like `person: Ada Lovelace`, finds where each stands in the text, and counts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from core.types import Record

KINDS = ("person", "place", "organization", "other")
SAME = {"location": "place", "organisation": "organization"}
LINE = re.compile(r"[\s\-*•\d.)]*(\w+)\s*:\s*(.+)")
AROUND = " \t\"'“”‘’.,;"


class Entity(Record):
    """A name in a text. start: of its first character; None for a name that the text does not hold."""

    kind: str
    name: str
    start: int | None


def listed(answer: str) -> Iterator[tuple[str, str]]:
    """(kind, name) of every line that is a word, a colon and a name; other lines name nothing."""
    for line in answer.splitlines():
        if found := LINE.fullmatch(line.rstrip()):
            kind, name = found[1].lower(), found[2].strip(AROUND)
            if name and name.lower() != "none":
                yield SAME.get(kind, kind), name


def entities(text: str, answer: str) -> frozenset[Entity]:
    """The entities that an answer names, each at its place: one named twice is its second occurrence, if there is one.

    Longer names are placed first, so that "Oslo" beside "University of Oslo" is the one that stands alone. What is
    named more often than it occurs counts once.
    """
    found: dict[Entity, tuple[int, int]] = {}
    for kind, name in sorted(listed(answer), key=lambda pair: -len(pair[1])):
        where = [(m.start(), m.end()) for m in re.finditer(rf"(?<!\w){re.escape(name)}(?!\w)", text)]
        free = [(a, b) for a, b in where if not any(a < end and start < b for start, end in found.values())]
        if not free and any(e.kind == kind and e.name == name for e in found):
            continue
        places = free or where
        found[Entity(kind=kind, name=name, start=places[0][0] if places else None)] = places[0] if places else (0, 0)
    return frozenset(found)


def values(text: str, answer: str, gold: str) -> dict[str, float]:
    """The terms of an answer's scores, to be summed over texts before they are divided (micro average).

    F1 is twice_right, the entities in common by limits and kind, over named_and_gold; without the kinds it is
    twice_placed over spans_and_gold. complete: 1 if nothing is missing and nothing too much.
    """
    said, wanted = entities(text, answer), entities(text, gold)
    right = said & wanted
    said_spans, spans = ({(e.start, e.name) for e in found} for found in (said, wanted))
    return {
        "right": float(len(right)),
        "gold": float(len(wanted)),
        "twice_right": 2.0 * len(right),
        "named_and_gold": float(len(said) + len(wanted)),
        "twice_placed": 2.0 * len(said_spans & spans),
        "spans_and_gold": float(len(said_spans) + len(spans)),
        "complete": float(said == wanted),
    }
