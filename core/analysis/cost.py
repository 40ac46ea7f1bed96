"""What a device costs to build, from its parts: dies from wafers, memory, the package.

Dies per wafer and yield: the usual circle minus its edge, and the negative binomial (Stapper 1989) with alpha 3. A die
that fails is thrown away; vendors sell many of them with units switched off, so this is an upper estimate. Prices
are inputs with a date (hardware/prices.csv). This module knows no price.
"""

from __future__ import annotations

import math

from core.types import Record
from hardware.errors import ExplorerError

DIAMETER_MM = 300.0
DEFECTS_PER_CM2 = 0.10
ALPHA = 3.0
LARGEST_MM2 = 858.0  # a reticle, 26 by 33 mm


class Bill(Record, omit_defaults=False):
    """Dollars by part. total: their sum."""

    dies: float
    memory: float
    rest: float

    @property
    def total(self) -> float:
        return self.dies + self.memory + self.rest


def dies_per_wafer(area_mm2: float) -> float:
    """Whole dies on a round wafer: pi r^2 / A - pi d / sqrt(2 A)."""
    return math.pi * (DIAMETER_MM / 2) ** 2 / area_mm2 - math.pi * DIAMETER_MM / math.sqrt(2 * area_mm2)


def die_yield(area_mm2: float) -> float:
    """Share of dies without a defect."""
    return math.pow(1 + area_mm2 / 100 * DEFECTS_PER_CM2 / ALPHA, -ALPHA)


def die_dollars(area_mm2: float, wafer_dollars: float) -> float:
    """Price of one good die; raises ExplorerError for a size that no scanner prints or a price that is none."""
    _positive("price of a wafer", wafer_dollars)
    if not 1 <= area_mm2 <= LARGEST_MM2:
        raise ExplorerError(
            f"A die of {area_mm2:g} mm² cannot be made.", f"Give 1 to {LARGEST_MM2:g} mm², or several dies."
        )
    return wafer_dollars / (dies_per_wafer(area_mm2) * die_yield(area_mm2))


def bill(
    *,
    die_mm2: float,
    n_dies: int,
    wafer_dollars: float,
    memory_bytes: float,
    dollars_per_gb: float,
    rest_dollars: float,
) -> Bill:
    """What the parts come to. rest_dollars: package, board, assembly and test."""
    _positive("price of memory", dollars_per_gb)
    if not math.isfinite(rest_dollars) or rest_dollars < 0:
        raise ExplorerError("The price of the package is below zero.", "Give 0 or more dollars.")
    if n_dies < 1:
        raise ExplorerError("A device has at least one die.", "Give a whole number from 1.")
    return Bill(
        dies=n_dies * die_dollars(die_mm2, wafer_dollars),
        memory=memory_bytes / 2**30 * dollars_per_gb,
        rest=rest_dollars,
    )


def _positive(what: str, value: float) -> None:
    if not math.isfinite(value) or value <= 0:
        raise ExplorerError(f"The {what} is {value:g}, and must be above zero.", "Give it in dollars.")
