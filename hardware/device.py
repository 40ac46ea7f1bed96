"""A computing device as its data sheet (or a measurement) describes it, and what makes a description absurd.

This module knows nothing of files or of this machine. Peaks are dense (no sparsity), decimal units
(1 GB/s = 1e9 bytes/s); memory capacity is binary (1 GB on a data sheet = 2**30 bytes, as JEDEC counts it).
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import msgspec

from hardware.errors import ExplorerError

DTYPES = ("fp32", "tf32", "fp16", "fp16_acc16", "bf16", "fp8", "int8", "int4", "fp4")
Kind = Literal["cpu", "gpu", "soc", "tpu", "accelerator"]

_LABELS = {
    "mem_bytes": "memory",
    "mem_bandwidth_bytes_per_s": "memory bandwidth",
    "tdp_w": "thermal design power",
    "peak_flop_per_s": "peak",
}


class Device(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True, forbid_unknown_fields=True):
    """One device. None means that no figure is published.

    peak_flop_per_s: operations per second by dtype (DTYPES); fp16 is with fp32 accumulation,
    fp16_acc16 with fp16 accumulation; integer dtypes count integer operations.
    uncertain_fields: whose figure was worked out from others or is disputed: "tdp_w", "peak_flop_per_s.int8".
    confidence: A agrees with a source that was read, B recalled and partly checked, C worked out or disputed.
    provenance: "stated" (a data sheet) or "measured" (ceilings of a machine).
    """

    name: str
    kind: Kind
    mem_bandwidth_bytes_per_s: float
    mem_bytes: float
    sources: tuple[str, ...]
    vendor: str = ""
    peak_flop_per_s: dict[str, float] = {}
    tdp_w: float | None = None
    year: int | None = None
    clock_hz: float | None = None
    confidence: Literal["A", "B", "C"] | None = None
    uncertain_fields: tuple[str, ...] = ()
    checked_against: str = ""
    notes: str = ""
    provenance: Literal["stated", "measured"] = "stated"

    def is_uncertain(self, field: str) -> bool:
        """Whether the figure is doubtful: a field's name, or `peak_flop_per_s.<dtype>`, or a bare dtype."""
        return field in self.uncertain_fields or f"peak_flop_per_s.{field}" in self.uncertain_fields

    def doubts(self) -> str:
        """One sentence that names the doubtful figures, or an empty string."""
        if not self.uncertain_fields:
            return ""
        names = [describe(field) for field in self.uncertain_fields]
        return f"Doubtful figures of {self.name}: {', '.join(names)}."


def describe(field: str) -> str:
    """A field in words: `peak_flop_per_s.int8` is "int8 peak"."""
    head, _, dtype = field.partition(".")
    label = _LABELS.get(head, head)
    return f"{dtype} {label}" if dtype else label


class _Range(NamedTuple):
    """The least and the largest figure that one could mean, its unit in a file, and its unit in a form."""

    low: float
    high: float
    in_file: str
    in_form: str = ""
    scale: float = 1.0  # one of the form's units in one of the file's


# The slowest and the fastest things one could mean: a microcontroller's figures to a rack's.
_RANGES = {
    "mem_bandwidth_bytes_per_s": _Range(1e8, 1e15, "bytes per second (900 GB/s is 900e9)", "GB/s", 1e9),
    "mem_bytes": _Range(2**26, 1e15, "bytes (a data sheet's 24 GB are 24 * 2**30 = 25769803776)", "GB", 1e9),
    "tdp_w": _Range(0.1, 2e5, "watts"),
    "year": _Range(1980, 2100, "a calendar year"),
    "clock_hz": _Range(1e6, 2e10, "hertz (2.5 GHz is 2.5e9)"),
}
_PEAK_RANGE = _Range(1e8, 1e18, "operations per second (100 TFLOP/s is 100e12)", "tera-operations per second", 1e12)


def validate(device: Device, where: str, form: bool = False) -> Device:
    """The same device; raises ExplorerError with one sentence for the first thing that cannot be true.

    form: the figures were typed in the units of data sheets (GB, GB/s, TFLOP/s), and are spoken of in these.
    """

    def check(field: str, value: float, found: _Range) -> None:
        unit = found.in_form if form and found.in_form else found.in_file
        told = f"{value / found.scale:g} {unit}" if form and found.in_form else f"{value:g}"
        if not math.isfinite(value) or value <= 0:
            raise ExplorerError(
                f"{where}: {describe(field)} of '{device.name}' is {told}, and must be above zero.",
                f"Give it in {unit}, or leave it out when it is not known.",
            )
        if not found.low <= value <= found.high:
            raise ExplorerError(
                f"{where}: {describe(field)} of '{device.name}' is {told}, which no device has.",
                f"The unit is probably wrong: give it in {unit}.",
            )

    if not device.name.strip():
        raise ExplorerError(f"{where}: a device has no name.", "Give the field 'name'.")
    if not any(source.strip() for source in device.sources):
        raise ExplorerError(
            f"{where}: '{device.name}' has no source.",
            "Say in 'sources' where the figures come from, for instance the name of a data sheet.",
        )
    for field, found in _RANGES.items():
        value = getattr(device, field)
        if value is not None:
            check(field, value, found)
    if not device.peak_flop_per_s:
        raise ExplorerError(
            f"{where}: '{device.name}' has no peak at all.",
            f"Give at least one of {', '.join(DTYPES)} in 'peak_flop_per_s'.",
        )
    for dtype, peak in device.peak_flop_per_s.items():
        if dtype not in DTYPES:
            raise ExplorerError(
                f"{where}: '{device.name}' has a peak for the unknown dtype '{dtype}'.", f"Known: {', '.join(DTYPES)}."
            )
        check(f"peak_flop_per_s.{dtype}", peak, _PEAK_RANGE)
    known = {*_LABELS, *(f"peak_flop_per_s.{dtype}" for dtype in DTYPES), "year", "clock_hz"}
    for field in device.uncertain_fields:
        if field not in known:
            raise ExplorerError(
                f"{where}: '{device.name}' marks the unknown field '{field}' as uncertain.",
                "Use a field's own name, such as 'tdp_w' or 'peak_flop_per_s.int8'.",
            )
    return device
