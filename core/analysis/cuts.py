"""Shapes cut from a model: which there are, what they would lose by an additive estimate, which are worth a look.

A shape is a depth and one width for all blocks, because a config.json has one width for all. What it loses is first
estimated from one-at-a-time scores (one block dropped, one width everywhere): their sum. Blocks leave in the order of
their influence. Nothing here measures, trains or reads a file.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Mapping, Sequence

import msgspec

from core.types import Record
from hardware.errors import ExplorerError

MOST_SHAPES = 5000


WIDTHS = ("d_ff", "kv_heads", "queries")  # what of a shape is the same in every block


class Cut(Record, omit_defaults=False):
    """A shape. blocks: how many. d_ff: MLP channels, kv_heads: key/value heads, of each. queries: query heads on every
    key/value head."""

    blocks: int
    d_ff: int
    kv_heads: int
    queries: int

    @property
    def id(self) -> str:
        return f"b{self.blocks}-f{self.d_ff}-kv{self.kv_heads}-q{self.queries}"

    @property
    def label(self) -> str:
        return f"{self.blocks} blocks · MLP {self.d_ff} · {self.kv_heads * self.queries}/{self.kv_heads} heads"


def parsed(name: str) -> Cut:
    """The shape of this id."""
    blocks, d_ff, kv_heads, queries = (int("".join(filter(str.isdigit, part))) for part in name.split("-"))
    return Cut(blocks=blocks, d_ff=d_ff, kv_heads=kv_heads, queries=queries)


class Space(Record, omit_defaults=False):
    """How far a model is cut. deepest: blocks out at most. narrowest: least share of the MLP, in steps of `step`
    channels. kv_heads, queries: how many of each may leave."""

    deepest: int = 12
    narrowest: float = 1 / 3
    step: int = 128
    kv_heads: int = 2
    queries: int = 2


def shapes(whole: Cut, space: Space) -> tuple[Cut, ...]:
    """Every shape of the space, the whole model first. Raises ExplorerError for too many, and for none but that."""
    blocks = range(whole.blocks, max(1, whole.blocks - space.deepest) - 1, -1)
    step = max(1, space.step)
    least = max(1, round(whole.d_ff * space.narrowest))
    widths = [w for w in range(whole.d_ff, least - 1, -step) if w >= least]
    groups = range(whole.kv_heads, max(1, whole.kv_heads - space.kv_heads) - 1, -1)
    queries = range(whole.queries, max(1, whole.queries - space.queries) - 1, -1)
    n = len(blocks) * len(widths) * len(groups) * len(queries)
    if n > MOST_SHAPES:
        raise ExplorerError(
            f"The space has {n:,} shapes, and at most {MOST_SHAPES:,} are looked at.",
            f"Take a larger step of the MLP than {step} channels.",
        )
    if n < 2:
        raise ExplorerError("The space holds nothing but the whole model.", "Let blocks, channels or heads leave.")
    every = itertools.product(blocks, widths, groups, queries)
    return tuple(Cut(blocks=b, d_ff=f, kv_heads=g, queries=q) for b, f, g, q in every)


def extremes(whole: Cut, space: Space) -> tuple[Cut, ...]:
    """The shape of fewest blocks and the one of the narrowest MLP, each else whole; none that is the whole model.

    Their times beside the whole model's tell apart what a layer costs an engine and what a byte does.
    """
    every = shapes(whole, space)
    fewest = msgspec.structs.replace(whole, blocks=min(cut.blocks for cut in every))
    narrowest = msgspec.structs.replace(whole, d_ff=min(cut.d_ff for cut in every))
    return tuple(cut for cut in (fewest, narrowest) if cut != whole)


def singles(whole: Cut, found: Sequence[Cut]) -> dict[str, Cut]:
    """The widths to be scored one at a time: key -> the whole model with that one width; see `estimate`."""
    every: dict[str, Cut] = {}
    for name in WIDTHS:
        for value in sorted({getattr(cut, name) for cut in found} - {getattr(whole, name)}, reverse=True):
            every[f"{name}/{value}"] = msgspec.structs.replace(whole, **{name: value})
    return every


def dropped(influence: Sequence[float], n: int) -> tuple[int, ...]:
    """The n blocks of least influence."""
    return tuple(sorted(range(len(influence)), key=influence.__getitem__)[:n])


def estimate(whole: Cut, cut: Cut, influence: Sequence[float], scores: Mapping[str, float]) -> float:
    """What a shape loses if losses add up. scores: "block/3", "d_ff/1024" -> what that alone loses."""
    found = sum(scores[f"block/{i}"] for i in dropped(influence, whole.blocks - cut.blocks))
    for name in WIDTHS:
        if getattr(cut, name) != getattr(whole, name):
            found += scores[f"{name}/{getattr(cut, name)}"]
    return found


def spread(costs: Mapping[str, float], losses: Mapping[str, float], n: int) -> tuple[str, ...]:
    """At most n of the things in `losses`, cheapest first: the range of costs is divided into n equal parts, and of
    each the one that loses least is taken, unless one already taken, which is cheaper, loses no more."""
    known = sorted((c, losses[name], name) for name, c in costs.items() if name in losses)
    if not known or n < 1:
        return ()
    low, high = known[0][0], known[-1][0]
    width = (high - low) / n or 1.0
    best: dict[int, tuple[float, float, str]] = {}
    for cost, loss, name in known:
        part = min(n - 1, int((cost - low) / width))
        if part not in best or (loss, cost) < (best[part][1], best[part][0]):
            best[part] = (cost, loss, name)
    found: list[str] = []
    least = float("inf")
    for part in sorted(best):
        if best[part][1] < least:
            least = best[part][1]
            found.append(best[part][2])
    return tuple(found)


def peeled(costs: Mapping[str, float], losses: Mapping[str, float], n: int) -> tuple[str, ...]:
    """n of the things in `losses`, or all there are: those of `spread`, then those of what is left, and so on."""
    found: list[str] = []
    left = dict(losses)
    while len(found) < n and (layer := spread(costs, left, n)):
        found += layer
        left = {name: loss for name, loss in left.items() if name not in layer}
    return tuple(found[:n])


def union(listed: Sequence[Sequence[str]], n: int) -> tuple[str, ...]:
    """The first n different ones, in turn from each list."""
    found: dict[str, None] = {}
    for row in itertools.zip_longest(*listed):
        for name in row:
            if name is not None and len(found) < n:
                found[name] = None
    return tuple(found)


def stratified(sizes: Mapping[str, float], n: int, seed: int) -> tuple[str, ...]:
    """n of the things at random, one from each n-th of them by size."""
    order = sorted(sizes, key=lambda name: (sizes[name], name))
    n = min(n, len(order))
    rng = random.Random(f"{seed}-strata")
    edges = [round(i * len(order) / n) for i in range(n + 1)] if n else [0]
    return tuple(order[rng.randrange(a, b)] for a, b in itertools.pairwise(edges) if b > a)
