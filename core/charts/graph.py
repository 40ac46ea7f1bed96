"""The network as a graph that can be zoomed: an ECharts option, nodes coloured and sized by numbers.

A node's shape tells its kind, its colour one quantity, its area another (time, as a rule). An option is
made of plain numbers only, and equal inputs give an equal option, so that a click keeps the viewport.
"""

from __future__ import annotations

import html
import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any, Literal, NamedTuple

from core.charts.chart import Chart
from core.charts.graph_layout import RANK, Node, Placed, edges, nodes, place
from core.charts.labels import short, si
from core.charts.palette import DIVERGING, GREY, RED, SEQUENTIAL
from core.types import Layer, LayerKind

SHAPES: dict[LayerKind, str] = {
    "attention": "circle",
    "mlp": "roundRect",
    "norm": "diamond",
    "head": "triangle",
    "embedding": "pin",
    "ssm": "rect",
    "router": "arrow",
    "other": "circle",
}
CANVAS = (860, 440)  # pixels that a page gives the nodes, about
SHAPE_WORDS = "circle attention · square MLP · diamond norm · triangle head · pin embedding · small dot sum"


class Colour(NamedTuple):
    """What colours the nodes. values: per layer; a node's is their sum, divided by the sum of `per` if given.

    ramp "diverging": symmetric around zero, for the difference of two runs.
    """

    title: str
    unit: str
    values: Mapping[str, float]
    per: Mapping[str, float] | None = None
    ramp: Literal["sequential", "diverging"] = "sequential"

    def of(self, node: Node) -> float | None:
        known = [self.values[n] for n in node.layers if n in self.values]
        if not known:
            return None
        if self.per is None:
            return sum(known)
        whole = sum(self.per.get(n, 0.0) for n in node.layers if n in self.values)
        return sum(known) / whole if whole else None

    def text(self, value: float | None) -> str:
        return f"{value:.0%}" if self.unit == "%" and value is not None else si(value, self.unit)


class Graph(NamedTuple):
    """The chart and its nodes in the order in which a selection counts them."""

    chart: Chart
    nodes: tuple[Node, ...]


def layer_graph(
    layers: Sequence[Layer],
    colour: Colour,
    sizes: Mapping[str, float],
    open_blocks: Collection[int] = (),
    merge: bool = True,
) -> Graph:
    """The graph of a network. sizes: per layer, the area of a node grows with their sum (plain numbers, seconds)."""
    columns = nodes(layers, open_blocks, merge)
    placed = place(columns, layers)
    kinds = {x.name: x.kind for x in layers}
    own = [sum(sizes.get(name, 0.0) for name in p.node.layers) for p in placed]
    biggest, whole, unit = max(own) or 1.0, sum(sizes.values()) or 1.0, _unit(placed)
    values = [colour.of(p.node) for p in placed]
    limit = max((abs(v) for v in values if v is not None), default=1.0) or 1.0
    data = []
    for p, value, size in zip(placed, values, own, strict=True):
        kind = kinds[p.node.layers[0]] if not p.node.blocks else None
        tooltip = _tooltip(p.node, kind, colour, value, size, f"{size / whole:.1%} of the time")
        data.append(_drawn(p, kind, value, _diameter(p.node, size, biggest, unit), tooltip))
    links = [
        {
            "source": e.source,
            "target": e.target,
            "lineStyle": {"curveness": 0.28 if e.skips else 0, "type": "dashed" if e.skips else "solid"},
        }
        for e in edges(columns, layers)
    ]
    option = {
        "tooltip": {"confine": True},
        "animationDurationUpdate": 300,
        "visualMap": _ramp(colour, limit),
        "series": [_series(data, links, wide=unit > 20)],
    }
    words = f"The network as {len(placed)} nodes, coloured by {colour.title}"
    measured = [(v, p.node) for v, p in zip(values, placed, strict=True) if v is not None]
    if measured:
        value, node = max(measured, key=lambda m: abs(m[0]))
        words += f"; the largest is {_label(node)} with {colour.text(value)}"
    return Graph(Chart(option, words), tuple(p.node for p in placed))


def _diameter(node: Node, size: float, biggest: float, unit: float) -> float:
    """Pixels of a node: its area grows with its size; a sum without one is small."""
    low, high = _pixels(node, unit)
    if node.label.endswith(("residual", "sum", "combine")) and not size:
        return round(low * 0.6, 1)
    return round(low + (high - low) * math.sqrt(size / biggest), 1)


def _drawn(p: Placed, kind: LayerKind | None, value: float | None, diameter: float, tooltip: str) -> dict[str, Any]:
    """A node as ECharts has it; one without a value is grey."""
    found: dict[str, Any] = {
        "id": p.node.id,
        "name": p.node.id,
        "x": round(p.x * 100, 2),
        "y": round(p.y * 100, 2),
        "symbol": SHAPES[kind] if kind else "roundRect",
        "symbolSize": diameter,
        "label": {"formatter": _label(p.node), "show": True},
        "tooltip": {"formatter": tooltip},
    }
    if value is None:
        return found | {"visualMap": False, "itemStyle": {"color": GREY, "opacity": 0.55}}
    return found | {"value": value}


def _series(data: list[dict[str, Any]], links: list[dict[str, Any]], wide: bool) -> dict[str, Any]:
    """wide: there is room between the nodes."""
    return {
        "type": "graph",
        "layout": "none",
        "roam": True,
        "preserveAspect": "contain",
        "selectedMode": "single",
        "top": 44,
        "bottom": 64,
        "left": 36,
        "right": 36,
        "scaleLimit": {"min": 0.6, "max": 14},
        "nodeScaleRatio": 0.7,
        "edgeSymbol": ["none", "arrow"],
        "edgeSymbolSize": [0, 7 if wide else 4],
        "emphasis": {"focus": "adjacency", "label": {"show": True}},
        "select": {"itemStyle": {"borderColor": RED, "borderWidth": 3}},
        "label": {"position": "bottom", "fontSize": 11 if wide else 9, "distance": 4},
        "labelLayout": {"hideOverlap": True},
        "lineStyle": {"color": GREY, "opacity": 0.55, "width": 1.2 if wide else 0.8},
        "data": data,
        "links": links,
    }


def _unit(placed: Sequence[Placed]) -> float:
    """Pixels between two neighbouring ranks: the layout is scaled to the canvas, its shape kept."""
    xs, ys = [p.x for p in placed], [p.y for p in placed]
    wide, high = max(max(xs) - min(xs), 1.0), max(max(ys) - min(ys), 1.0)
    return RANK * min(CANVAS[0] / wide, CANVAS[1] / high)


def _pixels(node: Node, unit: float) -> tuple[float, float]:
    """Smallest and largest size of a node: a layer stays within its rank, a closed block may be larger."""
    high = max(7.0, min(48.0, unit * 0.85)) if not node.blocks else max(12.0, min(52.0, unit * 0.95))
    return max(4.0, min(14.0, high * 0.35)), high


def _ramp(colour: Colour, limit: float) -> dict[str, Any]:
    diverging = colour.ramp == "diverging"
    whole = 1.0 if colour.unit == "%" and not diverging else limit
    low = -limit if diverging else 0.0
    return {
        "type": "continuous",
        "min": low,
        "max": whole,
        "calculable": False,
        "orient": "horizontal",
        "left": "center",
        "bottom": 8,
        "itemWidth": 12,
        "itemHeight": 180,
        "text": [colour.text(whole), colour.text(low) if low else "0"],
        "inRange": {"color": list(DIVERGING if diverging else SEQUENTIAL)},
        "textStyle": {"color": GREY},
    }


def _label(node: Node) -> str:
    if len(node.blocks) == 1:
        return f"Block {node.blocks[0]}"
    return node.label


def _tooltip(node: Node, kind: str | None, colour: Colour, value: float | None, size: float, share: str) -> str:
    """HTML: every word that comes from a model is escaped."""
    title = (
        f"Blocks {node.blocks[0]} to {node.blocks[-1]}"
        if len(node.blocks) > 1
        else (_label(node) if node.blocks else short(node.id))
    )
    lines = [f"<b>{html.escape(title)}</b>", html.escape(kind or f"{len(node.layers)} layers")]
    lines.append(f"{html.escape(colour.title)}: <b>{html.escape(colour.text(value))}</b>")
    if size:
        lines.append(html.escape(f"time {si(size, 's')}, {share}"))
    if node.blocks:
        lines.append("<i>click to open</i>")
    return "<br/>".join(lines)
