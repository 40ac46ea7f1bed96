"""Prediction on published machines: the errors on devices and families that were left out of the fit."""

from __future__ import annotations

from typing import Any

import msgspec

from core.analysis.calibrate import calibration_table
from hardware.published import runs


def run() -> list[dict[str, Any]]:
    """One row per phase and method. Nothing is timed here: measured values are those of the published runs."""
    table = calibration_table(runs())
    for row in table:
        method = f"{row.method} ({row.left_out} left out)" if row.left_out else row.method
        held = row.coverage is not None and row.interval_score is not None
        inside = f"{row.coverage:7.0%} inside, interval score {row.interval_score:.2f}" if held else ""
        print(f"{row.phase:8}{method:52}n {row.n:3}  median {row.median_error:6.1%}  p90 {row.p90_error:7.1%}{inside}")
    return [msgspec.structs.asdict(row) for row in table]
