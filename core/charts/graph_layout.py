"""Where the nodes of a network's graph stand: blocks from left to right, layers of an open block by rank.

A closed block is one node, or several equal neighbours are one node. Inside an open block a layer's
rank is the longest path that leads to it. Open neighbours run down and up in turn, so that the end of
one is next to the start of the other. Knows positions, not colours or sizes.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from typing import NamedTuple

from core.layer_names import block_of
from core.types import Layer

_ENCODER = "encoder.blocks."
COLUMN, RANK, GAP = 1.8, 1.5, 1.2  # distances between parallel layers, ranks, and columns


class Node(NamedTuple):
    """One circle of the graph. layers: the canonical names it stands for. blocks: their indices, if it is closed."""

    id: str
    label: str
    layers: tuple[str, ...]
    blocks: tuple[int, ...] = ()


class Placed(NamedTuple):
    node: Node
    x: float
    y: float


class Edge(NamedTuple):
    source: str
    target: str
    skips: bool  # passes by at least one other rank or node: drawn bent


def nodes(layers: Sequence[Layer], open_blocks: Collection[int], merge: bool) -> list[list[Node]]:
    """Columns of nodes in the order of the network. merge: equal closed neighbours become "Block ×30".

    The blocks of an encoder are one node while every block is closed.
    """
    runs: list[tuple[int | str | None, list[Layer]]] = []
    for layer in layers:
        block: int | str | None = block_of(layer.name)
        if block is None and not open_blocks and layer.name.startswith(_ENCODER):
            block = _ENCODER
        if runs and runs[-1][0] == block:
            runs[-1][1].append(layer)
        else:
            runs.append((block, [layer]))
    columns: list[list[Node]] = []
    previous: tuple[object, ...] | None = None
    for block, members in runs:
        if block == _ENCODER:
            columns.append([_encoder(tuple(x.name for x in members))])
            previous = None
            continue
        if not isinstance(block, int) or block in open_blocks:
            opened = [Node(x.name, _tail(x.name), (x.name,)) for x in members]
            columns += [opened] if isinstance(block, int) else [[node] for node in opened]
            previous = None
            continue
        shape = tuple((_tail(x.name), x.kind, x.op) for x in members)
        names = tuple(x.name for x in members)
        if merge and previous == shape:
            last = columns[-1][0]
            columns[-1] = [_closed((*last.blocks, block), (*last.layers, *names))]
        else:
            columns.append([_closed((block,), names)])
        previous = shape
    return columns


def place(columns: Sequence[Sequence[Node]], layers: Sequence[Layer], aspect: float = 2.2) -> list[Placed]:
    """Coordinates for all nodes, in rows of columns whose whole has about the asked width over height."""
    inputs = {x.name: x.inputs for x in layers}
    grids = [_ranked(column, inputs) for column in columns]
    widths = [max(len(rank) for rank in grid) * COLUMN + GAP for grid in grids]
    heights = [len(grid) * RANK for grid in grids]
    rows = _rows(widths, heights, aspect)
    placed: list[Placed] = []
    top = 0.0
    for number, row in enumerate(rows):
        tall = max(heights[i] for i in row)
        left, down = 0.0, True
        for i in row if number % 2 == 0 else reversed(row):
            centre = left + widths[i] / 2
            for rank, members in enumerate(grids[i]):
                depth = rank if down else len(grids[i]) - 1 - rank
                y = top + (depth + 0.5) * RANK + (tall - heights[i]) / 2
                for k, node in enumerate(members):
                    placed.append(Placed(node, centre + (k - (len(members) - 1) / 2) * COLUMN, y))
            if len(grids[i]) > 1:
                down = not down
            left += widths[i]
        top += tall + RANK
    order = {node.id: k for k, node in enumerate(n for column in columns for n in column)}
    return sorted(placed, key=lambda p: order[p.node.id])


def edges(columns: Sequence[Sequence[Node]], layers: Sequence[Layer]) -> list[Edge]:
    """Data flow between the nodes, each pair once."""
    flat = [node for column in columns for node in column]
    owner = {name: node.id for node in flat for name in node.layers}
    order = {node.id: k for k, node in enumerate(flat)}
    pairs: dict[tuple[str, str], None] = {}
    for layer in layers:
        for source in layer.inputs:
            if source in owner and owner[source] != owner[layer.name]:
                pairs[owner[source], owner[layer.name]] = None
    distance = _ranks_over(columns, {x.name: x.inputs for x in layers})
    return [
        Edge(a, b, skips=abs(distance[b] - distance[a]) > 1)
        for a, b in sorted(pairs, key=lambda p: (order[p[0]], order[p[1]]))
    ]


def _encoder(names: tuple[str, ...]) -> Node:
    n = len({name.split(".")[2] for name in names})
    return Node("encoder", f"Encoder ×{n}", names)


def _closed(blocks: tuple[int, ...], names: tuple[str, ...]) -> Node:
    if len(blocks) == 1:
        return Node(f"block {blocks[0]}", f"{blocks[0]}", names, blocks)
    return Node(f"blocks {blocks[0]}-{blocks[-1]}", f"Block ×{len(blocks)}", names, blocks)


def _tail(name: str) -> str:
    return name if block_of(name) is None else ".".join(name.split(".")[2:])


def _ranked(column: Sequence[Node], inputs: dict[str, tuple[str, ...]]) -> list[list[Node]]:
    """The nodes of a column by rank: the longest path from outside the column."""
    ranks: dict[str, int] = {}
    for node in column:  # layers come in the order in which they run
        ranks[node.id] = max((ranks[i] + 1 for i in inputs.get(node.id, ()) if i in ranks), default=0)
    grid: list[list[Node]] = [[] for _ in range(max(ranks.values()) + 1)]
    for node in column:
        grid[ranks[node.id]].append(node)
    return grid


def _ranks_over(columns: Sequence[Sequence[Node]], inputs: dict[str, tuple[str, ...]]) -> dict[str, int]:
    """One running rank over all columns, to tell a step from a skip."""
    found: dict[str, int] = {}
    start = 0
    for column in columns:
        grid = _ranked(column, inputs)
        for rank, members in enumerate(grid):
            for node in members:
                found[node.id] = start + rank
        start += len(grid)
    return found


def _rows(widths: Sequence[float], heights: Sequence[float], aspect: float) -> list[list[int]]:
    """Break the columns into rows so that the whole comes closest to the aspect."""

    def broken(limit: float) -> list[list[int]]:
        rows: list[list[int]] = [[]]
        used = 0.0
        for i, width in enumerate(widths):
            if rows[-1] and used + width > limit:
                rows.append([])
                used = 0.0
            rows[-1].append(i)
            used += width
        return rows

    def misfit(rows: list[list[int]]) -> float:
        wide = max(sum(widths[i] for i in row) for row in rows)
        high = sum(max(heights[i] for i in row) + RANK for row in rows)
        return abs(math.log(wide / high / aspect))

    total = sum(widths)
    return min((broken(total / n * 1.02) for n in range(1, min(len(widths), 40) + 1)), key=misfit)
