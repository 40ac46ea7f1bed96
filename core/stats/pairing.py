"""Which items of two runs asked the same question, and what is left out of their comparison.

Items are joined by id. An id is a name, not a question: where both items carry the fingerprint of what was asked, the
two must be equal. Nothing here knows of runs.
"""

from __future__ import annotations

from collections.abc import Sequence

from core.types import Item, Record


class Pairing(Record):
    """Pairs of items under one id, in the first side's order.

    alone: ids that only one side has. changed: ids under which the two sides asked different questions. verified:
    whether every pair's questions are known to be equal; runs made before there were fingerprints cannot tell.
    """

    pairs: tuple[tuple[Item, Item], ...]
    alone: tuple[str, ...] = ()
    changed: tuple[str, ...] = ()
    verified: bool = True


def pair(one: Sequence[Item], other: Sequence[Item]) -> Pairing:
    """The items that both sides have, where nothing says that they asked different things."""
    left, right = ({i.id: i for i in items} for items in (one, other))
    both = [(item, right[name]) for name, item in left.items() if name in right]
    pairs = tuple((a, b) for a, b in both if not _differ(a, b))
    return Pairing(
        pairs=pairs,
        alone=tuple(sorted(left.keys() ^ right.keys())),
        changed=tuple(a.id for a, b in both if _differ(a, b)),
        verified=all(a.fingerprint and b.fingerprint for a, b in pairs),
    )


def shared(sides: Sequence[Sequence[Item]]) -> frozenset[str]:
    """The ids of the items that all sides have and, as far as their fingerprints tell, asked alike."""
    if not sides:
        return frozenset()
    kept = {i.id: i for i in sides[0]}
    for side in sides[1:]:
        kept = {a.id: a if a.fingerprint else b for a, b in pair(list(kept.values()), side).pairs}
    return frozenset(kept)


def _differ(a: Item, b: Item) -> bool:
    return bool(a.fingerprint and b.fingerprint and a.fingerprint != b.fingerprint)
