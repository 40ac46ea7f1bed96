"""One layer's place under the roof, written out: formula, the numbers in it, and the outcome.

Formulas are LaTeX. Knows what core.analysis.work counts and how a roof decides; computes nothing new.
"""

from __future__ import annotations

from core.analysis.bottlenecks import Ceiling
from core.analysis.work import LayerWork
from core.types import Attention, Conv, Elementwise, Embedding, Layer, Linear, Norm, Record, Rope, Scan


class Line(Record):
    """One line of the calculation. formula and numbers are LaTeX; value in `unit`."""

    name: str
    formula: str
    numbers: str
    value: float | None
    unit: str


def written_out(
    layer: Layer, row: LayerWork, ceiling: Ceiling | None = None, seconds: float | None = None
) -> tuple[Line, ...]:
    """FLOPs, bytes, intensity; with a ceiling also ridge, bound and attainable rate; with seconds the distance.

    row: the work that `seconds` belongs to (one forward).
    """
    formula, numbers = _flops(layer, row)
    lines = [Line(name="Work", formula=rf"F = {formula}", numbers=numbers, value=row.flops, unit="FLOP")]
    parts = [
        ("w", row.weight_bytes),
        ("a", row.activation_bytes),
        ("kv", row.kv_read_bytes + row.kv_write_bytes),
    ]
    present = [(name, b) for name, b in parts if b]
    lines.append(
        Line(
            name="Bytes: weights, activations, cache or state",
            formula="B = " + (" + ".join(f"B_{{{name}}}" for name, _ in present) or "0"),
            numbers=" + ".join(_si(b) for _, b in present),
            value=row.bytes,
            unit="B",
        )
    )
    return (*lines, *under_roof(row.flops, row.bytes, ceiling, seconds))


def under_roof(
    flops: float, n_bytes: float, ceiling: Ceiling | None = None, seconds: float | None = None
) -> tuple[Line, ...]:
    """From FLOPs and bytes of anything to its intensity, bound, fastest time and distance from the roof."""
    if not n_bytes:
        return ()
    intensity = flops / n_bytes
    lines = [
        Line(
            name="Intensity",
            formula="I = F / B",
            numbers=f"{_si(flops)} / {_si(n_bytes)}",
            value=intensity,
            unit="FLOP/B",
        )
    ]
    if ceiling is None:
        return tuple(lines)
    bound = ceiling.bound(intensity)
    sign, peak = (r"<", r"\beta I") if bound == "memory" else (r"\ge", r"\pi")
    ideal = ceiling.ideal_s(flops, n_bytes)
    pi, beta = _si(ceiling.flop_per_s), _si(ceiling.bytes_per_s)
    lines += [
        Line(name="Ridge", formula=r"I^* = \pi / \beta", numbers=f"{pi} / {beta}", value=ceiling.ridge, unit="FLOP/B"),
        Line(
            name=f"{bound.capitalize()}-bound, attainable",
            formula=rf"I {sign} I^* \Rightarrow P = {peak}",
            numbers=rf"{beta} \cdot {intensity:.3g}" if bound == "memory" else pi,
            value=min(ceiling.flop_per_s, ceiling.bytes_per_s * intensity),
            unit="FLOP/s",
        ),
        Line(
            name="Fastest possible",
            formula=r"t_{\min} = \max(F / \pi,\; B / \beta)",
            numbers=rf"\max({_time(flops / ceiling.flop_per_s)},\; {_time(n_bytes / ceiling.bytes_per_s)})",
            value=ideal,
            unit="s",
        ),
    ]
    if seconds:
        lines += [
            Line(name="Measured", formula="t", numbers="", value=seconds, unit="s"),
            Line(
                name="Of the roof",
                formula=r"t_{\min} / t",
                numbers=f"{_time(ideal)} / {_time(seconds)}",
                value=ideal / seconds,
                unit="%",
            ),
        ]
    return tuple(lines)


def _flops(layer: Layer, row: LayerWork) -> tuple[str, str]:
    """The formula of its useful FLOPs and the same with numbers; tokens follow from the count."""
    match layer.op:
        case Linear(d_in=i, d_out=o, n_active=k):
            tokens = _whole(row.flops / (2 * k * i * o))
            experts, shown = (r" \cdot k", rf" \cdot {k}") if layer.op.n_experts > 1 else ("", "")
            return (
                rf"2 \cdot T \cdot d_{{in}} \cdot d_{{out}}{experts}",
                rf"2 \cdot {tokens} \cdot {i} \cdot {o}{shown}",
            )
        case Attention(n_heads=h, qk_dim=q, v_dim=v):
            pairs = _whole(row.flops / (2 * h * (q + v)))
            return (
                r"2 \cdot H \cdot (d_{qk} + d_v) \cdot n_{pairs}",
                rf"2 \cdot {h} \cdot ({q} + {v}) \cdot {pairs}",
            )
        case Norm(d=d, n_groups=n):
            per = row.flops / (d * n) if d * n else 0.0
            return r"c \cdot T \cdot d", rf"{_whole(per)} \cdot {d * n}" if per else "0"
        case Rope(d=d):
            return r"3 \cdot T \cdot d", rf"3 \cdot {_whole(row.flops / (3 * d))} \cdot {d}"
        case Conv(channels=c, kernel=k):
            return r"2 \cdot T \cdot c \cdot k", rf"2 \cdot {_whole(row.flops / (2 * c * k))} \cdot {c} \cdot {k}"
        case Scan(d_inner=d, d_state=n):
            tokens = _whole(row.flops / (7 * d * n + 3 * d))
            return r"T \cdot (7 \cdot d \cdot n + 3 \cdot d)", rf"{tokens} \cdot (7 \cdot {d} \cdot {n} + 3 \cdot {d})"
        case Elementwise(d=d, flops_per_element=f):
            tokens = _whole(row.flops / (f * d)) if f * d else "T"
            return r"f \cdot T \cdot d", rf"{f} \cdot {tokens} \cdot {d}"
        case Embedding():
            return "0", r"\text{a row is copied, nothing is computed}"


def _whole(value: float) -> str:
    return f"{value:.0f}" if abs(value - round(value)) < 1e-6 * max(1.0, value) else f"{value:.4g}"


def _si(value: float) -> str:
    """1771008 as `1.77\\,M`."""
    for factor, prefix in ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return rf"{value / factor:.3g}\,\text{{{prefix}}}"
    return f"{value:.3g}"


def _time(seconds: float) -> str:
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "µs")):
        if seconds >= factor:
            return rf"{seconds / factor:.3g}\,\text{{{unit}}}"
    return rf"{seconds / 1e-9:.3g}\,\text{{ns}}"
