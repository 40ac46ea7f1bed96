"""Numbers as words inside charts: SI prefixes, one space, the unit."""

from __future__ import annotations

import math

UNITS = {"seconds": "s", "flops": "FLOP", "bytes": "B", "weight_bytes": "B", "output_bytes": "B"}
_PREFIXES = {-4: "p", -3: "n", -2: "µ", -1: "m", 0: "", 1: "k", 2: "M", 3: "G", 4: "T", 5: "P", 6: "E"}


def si(value: float | None, unit: str, digits: int = 3) -> str:
    """1.53e9, "FLOP/s" is "1.53 GFLOP/s"; None is "not measured"."""
    if value is None or not math.isfinite(value):
        return "not measured"
    if value == 0:
        return f"0 {unit}"
    power = max(-4, min(6, math.floor(math.log10(abs(value)) / 3 + 1e-12)))
    scaled = value / 1000.0**power
    if abs(float(f"{scaled:.{digits}g}")) >= 1000 and power < 6:
        power, scaled = power + 1, scaled / 1000
    text = f"{scaled:.{digits}g}" if abs(scaled) < 1000 else f"{scaled:,.0f}"
    return f"{text} {_PREFIXES[power]}{unit}".strip()


def short(name: str) -> str:
    """A layer's name for a narrow axis: `blocks.7.attn.q_proj` is `7 · attn.q_proj`."""
    head, _, rest = name.partition(".")
    if head not in ("blocks", "layers") or not rest:
        return name
    number, _, tail = rest.partition(".")
    return f"{number} · {tail}" if tail else name
