"""Layer rows grouped and compared: by layer, by kind, by block, and one run against another.

Knows sums and differences, not where the numbers come from and not what to do about them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from core.layer_names import block_of
from core.types import LayerKind, LayerResult, LayerTimes, Record

Quantity = Literal["seconds", "flops", "bytes", "weight_bytes", "output_bytes"]
Phase = Literal["prefill", "decode"]


class Group(Record, omit_defaults=False):
    """Some layers of one phase together. value: their sum, None when none of them has one. share: of the phase."""

    name: str
    kind: LayerKind
    phase: Phase
    value: float | None
    share: float | None
    n_layers: int


class Change(Record, omit_defaults=False):
    """One layer in two runs. change: second minus first; None where either is not measured."""

    name: str
    kind: LayerKind
    phase: Phase
    first: float | None
    second: float | None
    change: float | None
    ratio: float | None


class Attribution(Record):
    """How much of an instrumented phase the profiler gave to layers, over all its steps."""

    phase: Phase
    seconds_total: float
    seconds_attributed: float

    @property
    def unattributed_share(self) -> float:
        return max(0.0, 1 - self.seconds_attributed / self.seconds_total) if self.seconds_total > 0 else 0.0


def value_of(layer: LayerResult, quantity: Quantity) -> float | None:
    value = getattr(layer, quantity)
    return None if value is None else float(value)


def by_layer(layers: Iterable[LayerResult], phase: Phase, quantity: Quantity = "seconds") -> list[Group]:
    """Every layer of a phase that has a value, largest first."""
    chosen = _of(layers, phase, quantity)
    return _grouped(chosen, phase, quantity, key=lambda x: x.name, kind=lambda x: x.kind)


def by_kind(layers: Iterable[LayerResult], phase: Phase, quantity: Quantity = "seconds") -> list[Group]:
    """Attention, MLP, norm, head and so on, largest first."""
    chosen = _of(layers, phase, quantity)
    return _grouped(chosen, phase, quantity, key=lambda x: x.kind, kind=lambda x: x.kind)


def by_block(layers: Iterable[LayerResult], phase: Phase, quantity: Quantity = "seconds") -> list[Group]:
    """Each kind within each block, in the order of the network; what lies outside the blocks keeps its name."""
    chosen = _of(layers, phase, quantity)
    groups: dict[tuple[str, LayerKind], list[LayerResult]] = {}
    for layer in chosen:
        block = block_of(layer.name)
        groups.setdefault((layer.name if block is None else str(block), layer.kind), []).append(layer)
    whole = _sum(chosen, quantity)
    return [_group(name, kind, phase, members, quantity, whole) for (name, kind), members in groups.items()]


def compare(
    first: Iterable[LayerResult], second: Iterable[LayerResult], phase: Phase, quantity: Quantity = "seconds"
) -> list[Change]:
    """Layers of the same canonical name side by side, largest change first; unpaired ones last."""
    left = {x.name: x for x in first if x.phase == phase}
    right = {x.name: x for x in second if x.phase == phase}
    rows = []
    for name in dict.fromkeys([*left, *right]):
        a, b = left.get(name), right.get(name)
        one = value_of(a, quantity) if a else None
        two = value_of(b, quantity) if b else None
        if one is None and two is None:
            continue
        both = one is not None and two is not None
        rows.append(
            Change(
                name=name,
                kind=(a or b).kind,  # type: ignore[union-attr]
                phase=phase,
                first=one,
                second=two,
                change=two - one if both else None,  # type: ignore[operator]
                ratio=two / one if both and one else None,  # type: ignore[operator]
            )
        )
    return sorted(rows, key=lambda r: (r.change is None, -abs(r.change or 0.0)))


def attribution(events: Iterable[object]) -> list[Attribution]:
    """From a run's events: the last layer times of each phase against the wall time of the same steps."""
    latest = {e.phase: e for e in events if isinstance(e, LayerTimes)}
    return [
        Attribution(phase=e.phase, seconds_total=e.seconds_total, seconds_attributed=sum(row.seconds for row in e.rows))
        for e in latest.values()
    ]


def _of(layers: Iterable[LayerResult], phase: Phase, quantity: Quantity) -> list[LayerResult]:
    return [x for x in layers if x.phase == phase and value_of(x, quantity) is not None]


def _sum(layers: Sequence[LayerResult], quantity: Quantity) -> float:
    return sum(value_of(x, quantity) or 0.0 for x in layers)


def _grouped(
    layers: Sequence[LayerResult],
    phase: Phase,
    quantity: Quantity,
    key: Callable[[LayerResult], str],
    kind: Callable[[LayerResult], LayerKind],
) -> list[Group]:
    groups: dict[str, list[LayerResult]] = {}
    for layer in layers:
        groups.setdefault(key(layer), []).append(layer)
    whole = _sum(layers, quantity)
    rows = [_group(name, kind(members[0]), phase, members, quantity, whole) for name, members in groups.items()]
    return sorted(rows, key=lambda g: -(g.value or 0.0))


def _group(
    name: str, kind: LayerKind, phase: Phase, members: Sequence[LayerResult], quantity: Quantity, whole: float
) -> Group:
    value = _sum(members, quantity)
    return Group(
        name=name, kind=kind, phase=phase, value=value, share=value / whole if whole else None, n_layers=len(members)
    )
