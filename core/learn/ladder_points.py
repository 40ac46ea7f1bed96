"""The points of our own compression ladder that belong beside the literature's: bits per weight against quality."""

from __future__ import annotations

from typing import Literal

from core import plugins
from core.charts.literature import Measured
from core.studies.findings import Findings, Row

Figure = Literal["perplexity", "divergence", "quality"]
TITLES: dict[Figure, str] = {
    "perplexity": "Perplexity (lower is better)",
    "divergence": "KL divergence from the unquantized model (lower is better)",
    "quality": "Right answers, mean of the tasks (higher is better)",
}


def quantized(found: Findings, figure: Figure) -> tuple[Measured, ...]:
    """The ladder's variants that differ by their number format alone, with the figure that was asked for."""
    formats = {r.id for r in found.plan.recipes if all(name.endswith("_quantize") for name, _ in r.steps)}
    points = [_point(row, figure) for row in found.rows if row.id in formats]
    return tuple(sorted((p for p in points if p is not None), key=lambda p: p.bits))


def _point(row: Row, figure: Figure) -> Measured | None:
    if row.bits_per_weight is None:
        return None
    backend = plugins.label("backend", row.backend)
    if figure == "quality":
        if row.quality is None:
            return None
        return Measured(row.label, backend, row.bits_per_weight, row.quality, row.quality_low, row.quality_high)
    score = next((c.score for c in row.cells if c.evaluation == figure), None)
    if score is None:
        return None
    return Measured(row.label, backend, row.bits_per_weight, score.value, score.low, score.high)
