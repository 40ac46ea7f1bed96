"""Computed against counted FLOPs of one forward: per layer, per kind of operator, and in all.

Matrix products, attention and convolutions are compared alone: there both sides count 2 FLOPs per
multiply-add, so they must agree. Norms, rotations and activations are compared as whole layers, and there
a library may take more or fewer elementary steps than the formula does. Attention is compared with the
executed FLOPs, masked scores and a padded cache included, since operators do not tell what their kernels skip.

What no operator was counted for is None, never zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from core.analysis.work import LayerWork, work
from core.layer_names import fit, within
from core.types import Attention, Conv, Count, Layer, Linear, ModelSpec, OpCount, Record

PRODUCTS = (Linear, Attention, Conv)
AGREES = 1e-6  # relative: both are sums of whole numbers


class Row(Record, omit_defaults=False):
    """A layer, or several that the library runs as one.

    operator: what the layer does ("Linear", "Attention", "Norm", ...). computed: useful FLOPs; executed:
    with masked scores. difference: counted over executed, minus 1. ops: the library's operators.
    uncounted: those of them that nobody can count.
    """

    name: str
    operator: str
    computed: float | None
    executed: float | None
    counted: float | None
    difference: float | None
    ops: tuple[str, ...] = ()
    uncounted: tuple[str, ...] = ()


class Total(Record, omit_defaults=False):
    """Rows of one operator together. executed, counted and difference are of the n_counted rows alone."""

    operator: str
    n_layers: int
    n_counted: int
    executed: float | None
    counted: float | None
    difference: float | None
    uncounted: tuple[str, ...] = ()


def rows(spec: ModelSpec, count: Count) -> tuple[Row, ...]:
    """One row per layer of `spec` that computes or was seen, in its order, then what belongs to no layer."""
    pruned = count.prunes_last_block
    works = {w.name: w for w in work(spec, count.n_new, count.n_past, count.batch, prunes_last_block=pruned)}
    works |= {
        layer.name: _padded(works[layer.name], layer, count) for layer in spec.layers if layer.name in count.cells
    }
    ops: dict[str, list[OpCount]] = {}
    for op in count.ops:
        ops.setdefault(fit(op.layer, works), []).append(op)
    found: list[Row] = []
    groups = [name for name in ops if name not in works]
    for group in groups:
        members = [layer for layer in spec.layers if within(layer.name, group)]
        if members:  # stacked experts, which a library runs as one
            products = [layer for layer in members if isinstance(layer.op, PRODUCTS)]
            inner = [op for name in ops if name != group and within(name, group) for op in ops[name]]
            found.append(_row(group, products or members, works, [*ops[group], *inner]))
        else:
            found.append(_row(group, [], works, ops[group]))
    for layer in spec.layers:
        grouped = any(within(layer.name, group) for group in groups)
        if not grouped and (works[layer.name].flops_executed or layer.name in ops):
            found.append(_row(layer.name, [layer], works, ops.get(layer.name, [])))
    order = {layer.name: i for i, layer in enumerate(spec.layers)}
    first = {row.name: next((i for n, i in order.items() if within(n, row.name)), len(order)) for row in found}
    return tuple(sorted(found, key=lambda row: first[row.name]))


def by_operator(rows: Iterable[Row]) -> tuple[Total, ...]:
    """Rows of each operator together, the most work first; what belongs to no layer comes last."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        groups.setdefault(row.operator, []).append(row)
    totals = [total(members, operator) for operator, members in groups.items()]
    return tuple(sorted(totals, key=lambda t: -(t.executed or 0.0)))


def total(rows: Sequence[Row], operator: str = "Total") -> Total:
    """The sum of `rows`."""
    counted = [row for row in rows if row.difference is not None]
    executed = sum(row.executed or 0.0 for row in counted)
    seen = [row.counted for row in counted or rows if row.counted is not None]
    return Total(
        operator=operator,
        n_layers=len(rows),
        n_counted=len(counted),
        executed=executed if counted else None,
        counted=sum(seen) if seen else None,
        difference=sum(seen) / executed - 1 if executed else None,
        uncounted=tuple(dict.fromkeys(op for row in rows for op in row.uncounted)),
    )


def products(rows: Iterable[Row]) -> tuple[Row, ...]:
    """The rows that must agree."""
    names = {kind.__name__ for kind in PRODUCTS}
    return tuple(row for row in rows if row.operator in names)


def verdict(rows: Sequence[Row], source: str) -> str:
    """One sentence on the matrix products, attention and convolutions."""
    compared = products(rows)
    off = [row for row in compared if row.difference is not None and abs(row.difference) > AGREES]
    unseen = sum(row.difference is None for row in compared)
    whole = total(compared)
    if whole.difference is None:
        return f"The {source} shows no matrix product that can be compared."
    text = f"{whole.n_counted - len(off)} of {len(compared)} matrix products, attentions and convolutions are exactly "
    text += f"as counted ({source})"
    if off:
        worst = max(off, key=lambda row: abs(row.difference or 0.0))
        text += f"; {len(off)} {'differs' if len(off) == 1 else 'differ'}, most of all {worst.name} by "
        text += f"{worst.difference:+.1%}"
    if unseen:
        text += f"; {unseen} {'is' if unseen == 1 else 'are'} uncounted"
    if abs(whole.difference) <= AGREES:
        return f"{text}. In all the two agree."
    return f"{text}. In all the count is {abs(whole.difference):.2%} {'higher' if whole.difference > 0 else 'lower'}."


def _padded(row: LayerWork, layer: Layer, count: Count) -> LayerWork:
    """Attention over every place of a cache that is longer than its tokens: all those scores are executed."""
    if not isinstance(layer.op, Attention):
        return row
    pairs = count.batch * count.n_new * count.cells[layer.name]
    return msgspec.structs.replace(
        row, flops_executed=2 * layer.op.n_heads * (layer.op.qk_dim + layer.op.v_dim) * pairs
    )


def _row(name: str, layers: Sequence[Layer], works: dict[str, LayerWork], ops: Sequence[OpCount]) -> Row:
    computed = sum(works[layer.name].flops for layer in layers) if layers else None
    executed = sum(works[layer.name].flops_executed for layer in layers) if layers else None
    is_product = bool(layers) and all(isinstance(layer.op, PRODUCTS) for layer in layers)
    compared = [op for op in ops if op.product or op.flops is None or not is_product]
    flops = [op.flops for op in compared if op.flops is not None]
    uncounted = tuple(dict.fromkeys(op.op for op in compared if op.flops is None))
    counted = sum(flops) if flops else None
    return Row(
        name=name,
        operator=type(layers[0].op).__name__ if layers else "in no layer",
        computed=computed,
        executed=executed,
        counted=counted,
        difference=counted / executed - 1 if counted is not None and executed and not uncounted else None,
        ops=tuple(dict.fromkeys(op.op for op in ops)),
        uncounted=uncounted,
    )
