"""What the ledger of a search for architectures says of its shapes: which were chosen, and who is finished."""

from __future__ import annotations

from typing import Final

from core.analysis.cuts import Cut, parsed, peeled, union
from core.studies.ledger import State
from core.studies.plan import Architectures

WHOLE: Final = "whole"


def influences(state: State[Architectures]) -> list[float]:
    """Of every block, as the scorer told."""
    found = {int(k.partition("/")[2]): v for k, v in state.scores.items() if k.startswith("influence/")}
    return [found[i] for i in range(len(found))]


def chosen(state: State[Architectures]) -> dict[str, Cut]:
    """The shapes that are masked, without the whole model; in the order chosen."""
    names = dict.fromkeys(key.partition("@")[0] for key in state.ranges)
    mine = whole_of(state)
    return {name: parsed(name) for name in names if mine is None or name != mine.id}


def whole_of(state: State[Architectures]) -> Cut | None:
    """The whole model as a shape; None before anything was priced."""
    parts = {n: int(state.scores.get(f"whole/{n}", 0)) for n in Cut.__struct_fields__}
    return Cut(**parts) if all(parts.values()) else None


def finishers(state: State[Architectures]) -> tuple[Cut, ...]:
    """The shapes that are cut, trained and measured: the best by masking over all prices, in each place, then the
    random ones. Empty before every chosen shape was masked."""
    plan = state.plan
    every = chosen(state)
    losses = {name: state.scores[name] for name in every if name in state.scores}
    if not every or len(losses) < len(every):
        return ()
    checks = sorted((k for k in state.scores if k.startswith("check/")), key=state.scores.__getitem__)
    drawn = [k.partition("/")[2] for k in checks]
    n = plan.finished - len(drawn)
    listed = [
        peeled({name: state.ranges[f"{name}@{place}"]["tpot_s"].likely for name in every}, losses, n + len(drawn))
        for place in dict.fromkeys((plan.target, *plan.places))
    ]
    best = [name for name in union(listed, n + len(drawn)) if name not in drawn][:n]
    return tuple(every[name] for name in (*best, *drawn))
